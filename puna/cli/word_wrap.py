"""Breaks lines between words, for streamed text and for whole text.

Words stay whole unless one is wider than a line. Chinese and Japanese break between characters, but not before closing
punctuation. Text between ``` fences is code and keeps its lines; the terminal breaks those that are too long.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from puna.cli.width import display_width, graphemes

TAB = 8
FENCES = ("```", "~~~")
NEVER_FIRST = frozenset("、。，．・：；？！）］｝〕〉》」』】’”…ー々ゝゞぁぃぅぇぉっゃゅょァィゥェォッャュョ,.!?:;)]}%'\"")
NEVER_LAST = frozenset("（［｛〔〈《「『【‘“([{'\"")
KEPT = "\u00a0"  # a space at which no line ends
# An option with its value, a command of puna's with its first argument, a number with its unit.
_KEPT_WHOLE = re.compile(r"(?<![\w-])(--[a-z][\w-]*|puna [a-z]+) (?=[^\s-])|(?<=\d) (?=[KMGT]i?B\b|tok/s)")
_COMMAND_AT_END = re.compile(r"(?<=: )puna [a-z]+ (?:(?!\. |; |, ).)+$")
DIRECTION_MARKS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # they reorder what a terminal shows


class WordWrap:
    """Takes a text in pieces of any size, and returns it with line breaks, each word once it is whole.

    >>> wrap = WordWrap(lambda: 10)
    >>> wrap.feed("the llama ea") + wrap.feed("ts grass") + wrap.finish()
    'the llama\\neats grass'
    """

    def __init__(self, width: Callable[[], int], *, breaks_long_words: bool = True) -> None:
        """`width` returns the cells of a line. It is called for every word, because a window can change its size."""
        self._width = width
        self._breaks_long_words = breaks_long_words
        self._column = 0
        self._last = ""  # the last grapheme: the next piece may extend it
        self._spaces = ""  # not written yet: a line break may replace them
        self._word: list[str] = []  # graphemes of a word that may continue
        self._word_width = 0
        self._line_start = ""  # the first characters of the line, which may be a fence
        self._is_code = False
        self._out: list[str] = []

    def feed(self, text: str) -> str:
        """Take the next piece of the text; return what can be written now."""
        clusters = graphemes(self._last + text)
        self._last = clusters.pop() if clusters and clusters[-1] != "\n" else ""
        return self._written(clusters)

    def finish(self) -> str:
        """The held-back text, at the end of the text."""
        clusters, self._last = graphemes(self._last), ""
        written = self._written(clusters)
        self._end_word()
        return written + self._taken()

    def _written(self, clusters: list[str]) -> str:
        for cluster in clusters:
            self._put(cluster)
        return self._taken()

    def _taken(self) -> str:
        text, self._out = "".join(self._out), []
        return text

    def _put(self, cluster: str) -> None:
        if cluster in ("\n", "\r\n"):
            self._end_line()
            return
        if len(self._line_start) < 16:
            self._line_start += cluster
        if cluster in (" ", "\t", "\u3000"):
            self._end_word()
            self._spaces += cluster
        else:
            self._add(_shown(cluster))

    def _add(self, cluster: str) -> None:
        if self._word and _may_break(self._word[-1], cluster):
            self._end_word()
        self._word.append(cluster)
        self._word_width += display_width(cluster)
        if self._breaks_long_words and self._word_width >= self._width() and not self._is_verbatim():
            self._end_word()

    def _is_verbatim(self) -> bool:
        """Whether this line is code, or the fence before it."""
        return self._is_code or self._line_start.lstrip().startswith(FENCES)

    def _end_line(self) -> None:
        self._end_word()
        if self._is_code:
            self._out.append(self._spaces)
        if self._line_start.lstrip().startswith(FENCES):
            self._is_code = not self._is_code
        self._out.append("\n")
        self._column, self._spaces, self._line_start = 0, "", ""

    def _end_word(self) -> None:
        """Write the word: on this line if it fits, else on the next."""
        if not self._word:
            return
        width = self._width()
        gap = self._gap_width()
        if not self._is_verbatim() and self._column + gap + self._word_width > width and self._column + gap:
            self._out.append("\n" if self._column else "")
            self._column, self._spaces, gap = 0, "", 0
        self._out.append(self._spaces)
        self._column += gap
        self._write_word(width)
        self._spaces, self._word, self._word_width = "", [], 0

    def _write_word(self, width: int) -> None:
        breaks = self._breaks_long_words and not self._is_verbatim()
        for cluster in self._word:
            size = display_width(cluster)
            if breaks and self._column and self._column + size > width:
                self._out.append("\n")
                self._column = 0
            self._out.append(cluster)
            self._column += size

    def _gap_width(self) -> int:
        column = self._column
        for space in self._spaces:
            column += TAB - column % TAB if space == "\t" else display_width(space)
        return column - self._column


def wrapped(text: str, width: int, first: str = "", rest: str | None = None) -> list[str]:
    """One paragraph as lines of at most `width` cells. The first line begins with `first`, others with `rest`.

    A word wider than a line, such as a path or an address, gets a line of its own, unbroken, so that it can be copied. An option
    and its value are one word, and so are a command at the end, a number and its unit, and what `KEPT` joins.

    >>> wrapped("the llama eats grass", 12, "- ", "  ")
    ['- the llama', '  eats grass']
    >>> wrapped("with --batch 1 it fits", 12)
    ['with', '--batch 1 it', 'fits']
    >>> wrapped("Fetch it: puna pull qwen3-4b", 20)
    ['Fetch it:', 'puna pull qwen3-4b']
    """
    rest = first if rest is None else rest
    wrap = WordWrap(lambda: max(1, width - max(display_width(first), display_width(rest))), breaks_long_words=False)
    for kept in (_COMMAND_AT_END, _KEPT_WHOLE):
        text = kept.sub(lambda found: found[0].replace(" ", KEPT), text)
    lines = (wrap.feed(text) + wrap.finish()).replace(KEPT, " ").split("\n")
    return [first + lines[0], *(rest + line for line in lines[1:])]


def _may_break(before: str, after: str) -> bool:
    """Whether a line may end between two graphemes that are not spaces."""
    if before in NEVER_LAST or after in NEVER_FIRST:
        return False
    return _stands_alone(before) or _stands_alone(after)


def _stands_alone(cluster: str) -> bool:
    """Whether lines may break on both sides: wide characters except Korean, which puts spaces between words."""
    return not cluster.isascii() and display_width(cluster) == 2 and not "\uac00" <= cluster[0] <= "\ud7a3"


def _shown(cluster: str) -> str:
    """A grapheme without control characters, because a model may have learned escape sequences."""
    if cluster.isascii() and cluster.isprintable():
        return cluster
    return "".join(
        c.encode("unicode_escape").decode("ascii") if unicodedata.category(c) == "Cc" or c in DIRECTION_MARKS else c
        for c in cluster
        if c != "\r"
    )
