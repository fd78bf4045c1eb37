"""How long work tells of itself. The library is silent by default; the command line draws bars from these calls."""

from __future__ import annotations

import sys
from typing import Protocol


class Reporter(Protocol):
    """Receives progress and notices. Called from the thread that does the work; must return quickly."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """`stage` has done `done` of `total` (`unit` "bytes" is shown in MB); `done == total` ends it."""

    def notice(self, text: str) -> None:
        """One line that a person should know: a type packed to another, a limit lowered."""


class SilentReporter:
    """A reporter that says nothing."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        pass


SILENT: Reporter = SilentReporter()


class StderrReporter:
    """Notices as lines on stderr; progress is not shown."""

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


class KeepingReporter:
    """Keeps notices, for whoever shows them in its own place; progress is not kept."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
        pass

    def notice(self, text: str) -> None:
        self.texts.append(text)
