"""Files, commands and variables of a machine: the real one, or a folder that simulates one.

The doctor reads everything through a Host, so a test can simulate any machine. Nothing here raises for what a machine lacks: a
missing file or program is None; a program that hangs or prints without end is stopped, and its answer says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from puna.machine.children import CHILDREN
from puna.resources import Machine, ThisMachine

COMMAND_LIMIT_S = 3.0  # a healthy nvidia-smi needs 0.05 to 2 s; with a lost driver it hangs forever


@dataclass(frozen=True, slots=True)
class Output:
    """A program's output. `timed_out`: puna stopped it after its limit; `too_long`: puna stopped it because it printed too
    much."""

    code: int
    text: str = ""
    errors: str = ""
    timed_out: bool = False
    too_long: bool = False


class Host(Machine, Protocol):
    """A machine: its files, variables and programs."""

    @property
    def environ(self) -> Mapping[str, str]: ...

    def exists(self, path: str) -> bool: ...

    def may(self, path: str, mode: int) -> bool:
        """Whether this user may read (os.R_OK) or write (os.W_OK) the path."""

    def listing(self, path: str) -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder."""

    def run(self, *command: str, limit_s: float = COMMAND_LIMIT_S) -> Output | None:
        """Run a program without a shell, in the C locale. None if it is not installed."""


@dataclass(frozen=True, slots=True)
class ThisHost(ThisMachine):
    """The machine that puna runs on."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def may(self, path: str, mode: int) -> bool:
        return os.access(path, mode)

    def listing(self, path: str) -> list[str]:
        try:
            return sorted(entry.name for entry in Path(path).iterdir())
        except OSError:
            return []

    def run(self, *command: str, limit_s: float = COMMAND_LIMIT_S) -> Output | None:
        environment = {**self.environ, "LC_ALL": "C", "LANG": "C"}
        try:
            child = CHILDREN.run(command, environment, limit_s)
        except (OSError, ValueError):
            return None
        if child is None or child.timed_out:
            return Output(-1, timed_out=True)
        texts = (child.stdout.decode("utf-8", "replace"), child.stderr.decode("utf-8", "replace"))
        return Output(child.process.returncode or 0, *texts, too_long=child.too_long)
