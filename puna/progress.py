"""Progress of long work. `LLM` draws plain lines on stderr; the command line draws its own bars."""

from __future__ import annotations

import shutil
import sys
import textwrap
import threading
import time
from abc import ABC, abstractmethod
from typing import Protocol, Self, TextIO, runtime_checkable

from puna.keywords import in_python
from puna.units import counted, megabytes

MAX_WIDTH = 80  # columns; fewer on a narrower terminal
BAR_WIDTH = 20
BAR_AFTER_S = 0.3  # shorter stages are not shown (importing rich, which draws the bars of commands, takes 60 ms)
LINE_AFTER_S = 1.0  # the same if stderr is not a terminal
EVERY_S = 0.1  # how often a bar is drawn
LINE_EVERY_S = 10.0  # how often a line shows a batch's progress if stderr is not a terminal


@runtime_checkable
class Reporter(Protocol):
    """Receives progress and notices. The thread that does the work calls it, so it must return quickly."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """`stage` has finished `done` of `total` (`unit` "bytes" is shown in MB); `done == total` ends it."""

    def notice(self, text: str) -> None:
        """One line that a person should read, e.g. that a limit was lowered."""


class SilentReporter:
    """A reporter that shows nothing."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        pass


SILENT: Reporter = SilentReporter()


class StderrReporter:
    """Writes notices to stderr, and shows no progress."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


class KeepingReporter:
    """Keeps notices for the caller to show, and ignores progress."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        self.texts.append(text)


class StageReporter(ABC):
    """A reporter that shows only what takes long: a bar on a terminal, elsewhere one line for each stage.

    The worker's thread reports, and a timer's thread shows the stage if it still runs after a while.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()
        self._stage = ""
        self._state = (0, 0, "")  # done, total, unit
        self._is_shown = False
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    @abstractmethod
    def notice(self, text: str) -> None:
        """Show one line that stays."""

    @abstractmethod
    def _draw(self, stage: str, done: int, total: int, unit: str) -> None:
        """Draw the bar of a stage, or draw it anew. Called on a terminal only."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove the bar, if there is one."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        with self._lock:
            if stage != self._stage:
                self._end()
                self._begin(stage)
            self._state = (done, total, unit)
            if done >= total:
                self._end()
            elif self._is_shown and self._is_terminal:
                self._draw(stage, done, total, unit)

    def close(self) -> None:
        """Remove the bar: the work has ended, perhaps with an error."""
        with self._lock:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._timer = threading.Timer(BAR_AFTER_S if self._is_terminal else LINE_AFTER_S, self._show, [stage])
        self._timer.daemon = True
        try:
            self._timer.start()
        except RuntimeError:  # no thread can be started: nothing is shown
            self._timer = None

    def _show(self, stage: str) -> None:
        with self._lock:
            if stage != self._stage:
                return
            self._is_shown = True
            if self._is_terminal:
                self._draw(stage, *self._state)
            else:
                self.notice(f"{stage} ...")

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._remove()
        self._stage, self._timer, self._is_shown = "", None, False


class PlainReporter(StageReporter):
    """`LLM`'s default. It draws with spaces and carriage returns only: any terminal shows them, and nothing must be imported."""

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._line = StatusLine(self._stream)

    def notice(self, text: str) -> None:
        with self._lock:
            self._line.clear()
            for line in wrapped(f"puna: {in_python(text)}"):
                self._stream.write(f"{line}\n")
            self._stream.flush()

    def _draw(self, stage: str, done: int, total: int, unit: str) -> None:
        self._line.draw(bar_text(stage, done, total, unit))

    def _remove(self) -> None:
        self._line.clear()


class BatchProgress:
    """Progress of a batch of prompts: one line that is redrawn on a terminal, else a line every 10 s."""

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._line = StatusLine(sys.stderr if stream is None else stream)
        self._started = self._drawn = time.perf_counter()

    @property
    def is_due(self) -> bool:
        """Whether it is time to redraw the line."""
        return time.perf_counter() - self._drawn >= (EVERY_S if self._line.is_terminal else LINE_EVERY_S)

    def show(self, done: int, num_tokens: int) -> None:
        self._drawn = time.perf_counter()
        text = f"{bar_text('generating', done, self._total)} | {self._speed(num_tokens)}"
        self._line.draw(text) if self._line.is_terminal else self._line.end(text)

    def end(self, done: int, num_tokens: int) -> None:
        """Write the last line, which stays."""
        seconds = time.perf_counter() - self._started
        answers, tokens = counted(self._total, "answer"), counted(num_tokens, "token")
        self._line.end(f"{done} of {answers}, {tokens}, {seconds:.1f} s, {self._speed(num_tokens)}")

    def _speed(self, num_tokens: int) -> str:
        return f"{num_tokens / max(time.perf_counter() - self._started, 1e-9):.1f} tok/s"


class StatusLine:
    """One terminal line that is redrawn, at most MAX_WIDTH columns wide."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._length = 0  # characters on the line now

    def draw(self, text: str) -> None:
        text = printable(text)[: min(MAX_WIDTH, shutil.get_terminal_size().columns) - 1]
        self._stream.write(f"\r{text}{' ' * (self._length - len(text))}")
        self._stream.flush()
        self._length = len(text)

    def clear(self) -> None:
        if self._length:
            self._stream.write(f"\r{' ' * self._length}\r")
            self._stream.flush()
            self._length = 0

    def end(self, text: str) -> None:
        """Write a line that stays."""
        self.clear()
        self._stream.write(f"{printable(text)}\n")
        self._stream.flush()


def bar_text(stage: str, done: int, total: int, unit: str = "") -> str:
    """
    >>> bar_text("loading weights", 40_000_000, 160_000_000, "bytes")
    'puna: loading weights [#####...............] 40 of 160 MB'
    >>> bar_text("compiling kernels", 0, 1)
    'puna: compiling kernels ...'
    """
    if total <= 1:
        return f"puna: {stage} ..."
    filled = BAR_WIDTH * min(done, total) // total
    count = f"{done / 1e6:.0f} of {megabytes(total)}" if unit == "bytes" else f"{done} of {total}"
    return f"puna: {stage} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {count}"


def wrapped(text: str) -> list[str]:
    """Lines of at most MAX_WIDTH columns, broken between words."""
    return textwrap.wrap(printable(text), MAX_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def printable(text: str) -> str:
    """`text` with control characters escaped, so that a model file cannot control the terminal.

    >>> printable("a\\x1b[2Jé")
    'a\\\\x1b[2Jé'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
