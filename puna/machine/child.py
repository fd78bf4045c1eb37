"""Runs a module of puna in a child of this Python; the module prints one line of JSON.

Code that may hang (a name server), crash (an instruction that the CPU lacks) or load half a GB of libraries runs there. The
current folder is not in the child's path, so no file of the user's is imported.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from puna.machine.host import COMMAND_LIMIT_S, Host

LAUNCHER = str(Path(__file__).with_name("launch.py"))
MAX_NUMBER = 1e24  # larger than any count, size or rate of a machine


@dataclass(frozen=True, slots=True)
class Answer:
    """The facts; if there are none, `problem` says why."""

    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    died_by: str = ""  # the signal that ended it, "SIGILL"; "" if it exited by itself
    timed_out: bool = False
    has_run: bool = True  # False: Python could not be started, which says nothing about the module

    def text(self, name: str) -> str:
        """A fact as text; "" if it is not text."""
        value = self.facts.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> float | None:
        """A fact as a number; None if it is not a number."""
        value = self.facts.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return value if -MAX_NUMBER < value < MAX_NUMBER else None


def command_of(module: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """How a module is run in a child."""
    return (python, "-P", LAUNCHER, module, *arguments)


def ask(host: Host, module: str, *arguments: str, limit_s: float = COMMAND_LIMIT_S) -> Answer:
    """Run a module and read the last line that it printed."""
    output = host.run(*command_of(module, *arguments), limit_s=limit_s)
    if output is None:
        return Answer(problem=f"{sys.executable} could not be started", has_run=False)
    if output.timed_out:
        return Answer(problem=f"it did not end within {limit_s:g} s", timed_out=True)
    if output.too_long:
        return Answer(problem="it printed without end and was stopped")
    if output.code < 0:
        name = signal_name(-output.code)
        return Answer(problem=f"it was ended by {name}", died_by=name)
    facts = _last_object(output.text)
    if facts is None:
        said = _last_line(output.errors) or _last_line(output.text) or "nothing"
        return Answer(problem=f"it ended with code {output.code} and said: {said}")
    return Answer(facts)


def signal_name(number: int) -> str:
    """The name of a signal, "SIGILL"."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_object(text: str) -> dict[str, Any] | None:
    """
    >>> _last_object('noise\\n{"a": 1}\\n'), _last_object("[1]"), _last_object("")
    ({'a': 1}, None, None)
    """
    try:
        facts = json.loads(_last_line(text, length=1 << 20))
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def _last_line(text: str, length: int = 200) -> str:
    return (text.strip().splitlines() or [""])[-1].strip()[:length]
