"""Output: messages and progress go to stderr, only results to stdout. UTF-8 whatever the locale."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from puna.cli.standard_input import read_all
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.errors import PunaError, UsageError
from puna.progress import StageReporter
from puna.progress import printable as printable

if TYPE_CHECKING:
    from rich.progress import Progress

# Characters that JSON allows, but that control a terminal (also direction marks), end a line for a line reader, or have no
# UTF-8 (surrogates).
RAW = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def setup_streams() -> None:
    """Set UTF-8 for input and output. Bytes of file names that are not UTF-8 stay unchanged.

    A closed stdin or stderr becomes the null device, before any other file can take its number. PunaError for a closed stdout.
    """
    if sys.stdin is None:
        sys.stdin = _null("r")
    if sys.stderr is None:
        sys.stderr = _null("w")
    if sys.stdout is None:
        raise PunaError("standard output is closed", hint=f"Give it a place: > FILE, or > {os.devnull}")
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _null(mode: Literal["r", "w"]) -> TextIO:
    """The null device; it stays open until the process ends."""
    return os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8", closefd=False)


def discard(stream: TextIO) -> None:
    """Send further output to the null device, also at exit, because nobody reads it any more."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
    except (OSError, ValueError):  # not a file (in a test), or closed
        pass


def tell(*lines: str) -> None:
    """Write lines for a person to stderr, without empty ones after the first. On a terminal they wrap at words.

    Control characters are escaped, also a line end inside a line, because many lines hold texts of files.
    """
    print("\n".join(_rows([lines[0], *filter(None, lines[1:])], sys.stderr)), file=sys.stderr, flush=True)


def _rows(lines: Iterable[str], stream: TextIO) -> Iterator[str]:
    """Lines as `stream` gets them. They are wrapped only for a terminal: a log keeps one line per message."""
    for line in map(printable, lines):
        if stream.isatty():
            indent = line[: len(line) - len(line.lstrip())]
            yield from wrapped(line.strip(), report_width(stream), indent)
        else:
            yield line


def print_json(report: dict[str, Any]) -> None:
    """Print the one line of JSON of `--json`, whatever texts it holds."""
    text = json.dumps(report, ensure_ascii=False, allow_nan=False)
    print(RAW.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def given_text(text: str, what: str = "the text") -> str:
    """A text from the command line, or standard input if it is `-`. UsageError if it is not Unicode text."""
    if text == "-" and sys.stdin.isatty():
        tell("Type or paste the text, then press Enter and Ctrl-D.")
    return read_all() if text == "-" else argument_text(text, what)


def argument_text(argument: str, what: str) -> str:
    """The text of an argument, whatever the locale. UsageError, which calls it `what`, if it is not UTF-8.

    Do not use it for file names: they must stay as they came, so that any file can be opened.
    """
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError as error:
        raise UsageError(f"{what} is not UTF-8: {argument[:60]!a}", hint="Write it in UTF-8.") from error


def shown_path(path: Path) -> str:
    r"""A path as text for JSON; bytes that are not UTF-8 are escaped.

    >>> shown_path(Path(os.fsdecode(b"m-\xc3\xa9-\xff.gguf")))
    'm-é-\\xff.gguf'
    """
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


class TerminalReporter(StageReporter):
    """Draws the bars of the command line."""

    _bar: Progress | None = None

    def notice(self, text: str) -> None:
        print("\n".join(_rows([f"puna: {text}"], self._stream)), file=self._stream, flush=True)

    def _draw(self, stage: str, done: int, total: int, unit: str) -> None:
        if self._bar is None:
            self._bar = _bar(stage, done, total, unit, self._stream)
        else:
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)

    def _remove(self) -> None:
        if self._bar is not None:
            done, total, _ = self._state
            self._bar.update(self._bar.task_ids[0], completed=done, total=total)
            self._bar.stop()
            self._bar = None


def _bar(stage: str, done: int, total: int, unit: str, stream: TextIO) -> Progress:
    """A bar for bytes and for several pieces of work; a spinner with the time for a single piece."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    text = TextColumn("{task.description}", markup=False)
    columns: tuple[ProgressColumn, ...] = (SpinnerColumn(), text, TimeElapsedColumn())
    if unit == "bytes":
        columns = (text, BarColumn(bar_width=None), DownloadColumn(), TimeRemainingColumn())
    elif total > 1:
        share = TextColumn("{task.completed:.0f} of {task.total:.0f}")
        columns = (text, BarColumn(bar_width=None), share, TimeElapsedColumn())
    bar = Progress(*columns, console=Console(file=stream), transient=True, redirect_stdout=False)
    bar.add_task(printable(stage), completed=done, total=total)
    bar.start()
    return bar
