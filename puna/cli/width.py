"""Width of text on a terminal: measures cells, and cuts or pads to a width.

A wide character (CJK, most emoji) takes two cells, a combining mark none. A grapheme is what a reader calls one character:
a letter with its accents, a family of emoji, a flag. Nothing here splits a grapheme.
"""

from __future__ import annotations

import os
from typing import TextIO

PLAIN_WIDTH = 80  # cells of a report that does not go to a terminal
NARROWEST = 20  # cells; reports are not wrapped narrower
WIDEST = 100  # cells; longer lines are hard to read
ELLIPSIS = "…"


def graphemes(text: str) -> list[str]:
    r"""The characters as a reader counts them (UAX 29).

    >>> graphemes("e\u0301🇵🇪") == ["e\u0301", "🇵🇪"]
    True
    """
    if text.isascii() and "\r" not in text:
        return list(text)
    from wcwidth import iter_graphemes  # 15 ms, so only for text that is not ASCII

    return list(iter_graphemes(text))


def display_width(text: str) -> int:
    """Cells of a text without control characters.

    >>> display_width("llama"), display_width("日本"), display_width("🦙")
    (5, 4, 2)
    """
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    return sum(max(0, wcswidth(grapheme)) for grapheme in graphemes(text))


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells; an ellipsis marks a cut.

    >>> cut("llama", 5), cut("llamas", 5), cut("日本語", 4)
    ('llama', 'llam…', '日…')
    """
    if display_width(text) <= width:
        return text
    kept, used = "", 0
    for grapheme in graphemes(text):
        used += display_width(grapheme)
        if used > width - 1:
            break
        kept += grapheme
    return kept + ELLIPSIS if width > 0 else ""


def pad(text: str, width: int) -> str:
    """`text` padded with spaces to `width` cells.

    >>> pad("日", 4)
    '日  '
    """
    return text + " " * (width - display_width(text))


def terminal_width(stream: TextIO) -> int:
    """Current columns of the terminal behind `stream`; PLAIN_WIDTH if there is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or PLAIN_WIDTH
    except (OSError, ValueError):  # no terminal, or closed
        return PLAIN_WIDTH


def report_width(stream: TextIO) -> int:
    """The width to which sentences and tables on `stream` are wrapped, 20 to 100 cells."""
    return max(NARROWEST, min(WIDEST, terminal_width(stream)))
