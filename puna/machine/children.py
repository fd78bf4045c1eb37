"""Runs programs with limits on their time and output, and ends them when puna ends.

Each program has its own process group, which puna ends as a whole: a grandchild that keeps a pipe open does not block puna, and
Ctrl-C leaves no process behind. Windows has no groups: there puna ends the process tree, and reads output only at its end.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

MAX_OUTPUT_BYTES = 4 << 20  # of stdout, and of stderr; the longest honest answer (mokutil's keys) has some ten KB
TICK_S = 0.02  # interval of checks; meanwhile a program that prints without end prints some 20 MB
LAST_S = 1.0  # for the output of a program that has ended; it takes that long only if another process keeps the pipes open
DEATH_S = 0.5  # a killed program that still exists after this hangs in a system call
ON_WINDOWS = os.name == "nt"


@dataclass(eq=False)
class Child:
    """A started program. `stdout` and `stderr` hold the output read so far."""

    process: subprocess.Popen[bytes]
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    too_long: bool = False  # it printed more than MAX_OUTPUT_BYTES; the rest was dropped

    def read(self, until: float) -> None:
        """Read until the program ends or meets a limit. Needs no thread: when memory is short, none can start."""
        has_ended = False
        while not (has_ended or self.timed_out or self.too_long):
            has_ended = self.process.poll() is not None  # first: all its output is then in the pipes
            try:
                self._keep(*self.process.communicate(timeout=LAST_S if has_ended else TICK_S))
                return
            except subprocess.TimeoutExpired as so_far:
                self._keep(so_far.stdout, so_far.stderr)
            self.timed_out = not has_ended and time.monotonic() >= until

    def _keep(self, stdout: bytes | None, stderr: bytes | None) -> None:
        """Take the output so far, up to the limit. None: no more has come."""
        outputs = stdout or self.stdout, stderr or self.stderr
        self.stdout, self.stderr = (output[:MAX_OUTPUT_BYTES] for output in outputs)
        self.too_long = max(map(len, outputs)) > MAX_OUTPUT_BYTES

    def end(self) -> bool:
        """End it and all its children; return whether it is gone."""
        _kill(self.process)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(DEATH_S)
        return self.process.returncode is not None


class Children:
    """The running programs. After `end_all` no new one can start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Child] = set()
        self._is_over = False

    def run(self, command: tuple[str, ...], environment: Mapping[str, str], limit_s: float) -> Child | None:
        """Run a program to its end or its limits. OSError or ValueError if it cannot start; None after `end_all`."""
        until = time.monotonic() + limit_s
        child = self._start(command, environment)
        if child is None:
            return None
        try:
            child.read(until)
        finally:
            self._forget(child)
        return child

    @contextmanager
    def talking(self, command: tuple[str, ...], environment: Mapping[str, str], stderr: IO[bytes]) -> Iterator[Child | None]:
        """A program that is written to and read from while it runs; it ends with the block. OSError or ValueError if it cannot
        start; None after `end_all`."""
        child = self._start(command, environment, subprocess.PIPE, stderr)
        try:
            yield child
        finally:
            if child is not None:
                self._forget(child)

    def end_all(self) -> None:
        """End the running programs when puna ends."""
        is_mine = self._lock.acquire(timeout=DEATH_S)  # waits for a thread that is starting a program
        self._is_over = True
        running = list(self._running)
        for child in running:
            _kill(child.process)
        if is_mine:
            self._lock.release()

    def _start(
        self,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        stdin: int = subprocess.DEVNULL,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> Child | None:
        with self._lock:  # otherwise `end_all` would miss a program that is not yet in the set
            if self._is_over:
                return None
            child = Child(
                subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env=environment,
                    start_new_session=True,
                    creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
                )
            )
            self._running.add(child)
        return child

    def _forget(self, child: Child) -> None:
        """End what is left of it. If that fails, puna tries again when it ends."""
        if child.end():
            with self._lock:
                self._running.discard(child)
            if not ON_WINDOWS:  # on Windows a thread may still read them
                for pipe in filter(None, (child.process.stdin, child.process.stdout, child.process.stderr)):
                    with suppress(OSError):  # what was not yet written to a program that has ended
                        pipe.close()


CHILDREN = Children()
atexit.register(CHILDREN.end_all)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program and what it started, as far as that is in its group."""
    if not ON_WINDOWS:
        with suppress(OSError):  # none is left
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, timeout=2, check=False)
        with suppress(OSError):
            process.kill()
