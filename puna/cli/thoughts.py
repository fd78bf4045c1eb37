"""Shows a model's reasoning on stderr while it is made, dimmed on a terminal: stdout gets the answer alone."""

from __future__ import annotations

import sys

from puna.cli.width import terminal_width
from puna.cli.word_wrap import WordWrap

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


class Thoughts:
    """The reasoning of one answer. `end` is called before the answer's first text, and at the end."""

    def __init__(self, is_shown: bool) -> None:
        self._stream = sys.stderr
        self._is_shown = is_shown
        self._is_open = False
        self._wrap = WordWrap(lambda: terminal_width(self._stream)) if self._stream.isatty() else None

    def show(self, text: str) -> None:
        if self._is_shown and text:
            self._is_open = True
            self._write(text if self._wrap is None else self._wrap.feed(text))

    def end(self) -> None:
        """End the reasoning with an empty line. Does nothing without any."""
        if self._is_open:
            self._write("" if self._wrap is None else self._wrap.finish())
            self._stream.write("\n\n")
            self._stream.flush()
            self._is_open = False

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(f"{DIM}{text}{PLAIN}" if self._wrap is not None else text)
            self._stream.flush()
