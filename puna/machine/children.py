"""Runs programs with limits on their time and output, and ends them when puna ends.

Each program has its own process group, which puna ends as a whole: a grandchild that keeps a pipe open does not block puna, and
Ctrl-C leaves no process behind. Windows has no groups: there puna ends the process tree.
"""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO

MAX_OUTPUT_BYTES = 4 << 20  # of stdout, and of stderr; the longest honest answer (mokutil's keys) has some ten KB
PIECE_BYTES = 1 << 16
TICK_S = 0.05  # interval of checks whether a program has ended while its pipes are still open
DEATH_S = 0.5  # a killed program that still exists after this hangs in a system call
ON_WINDOWS = os.name == "nt"


@dataclass(eq=False)
class Child:
    """A started program. `stdout` and `stderr` hold the output read so far."""

    process: subprocess.Popen[bytes]
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    timed_out: bool = False
    too_long: bool = False  # it printed more than MAX_OUTPUT_BYTES; the rest was dropped

    @property
    def pipes(self) -> tuple[tuple[IO[bytes], bytearray], ...]:
        pairs = ((self.process.stdout, self.stdout), (self.process.stderr, self.stderr))
        return tuple((pipe, kept) for pipe, kept in pairs if pipe is not None)

    def keep(self, kept: bytearray, piece: bytes) -> None:
        """Append output, up to the limit."""
        room = MAX_OUTPUT_BYTES - len(kept)
        kept += piece[:room]
        self.too_long = self.too_long or len(piece) > room

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
            (_read_by_threads if ON_WINDOWS else _read)(child, until)
        finally:
            self._forget(child)
        return child

    def end_all(self) -> None:
        """End the running programs when puna ends."""
        is_mine = self._lock.acquire(timeout=DEATH_S)  # waits for a thread that is starting a program
        self._is_over = True
        running = list(self._running)
        for child in running:
            _kill(child.process)
        if is_mine:
            self._lock.release()

    def _start(self, command: tuple[str, ...], environment: Mapping[str, str]) -> Child | None:
        with self._lock:  # otherwise `end_all` would miss a program that is not yet in the set
            if self._is_over:
                return None
            child = Child(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
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
                for pipe, _ in child.pipes:
                    pipe.close()


CHILDREN = Children()
atexit.register(CHILDREN.end_all)


def _read(child: Child, until: float) -> None:
    """Read until the program ends, or a limit is met. Needs no thread: when memory is short, none can start."""
    with selectors.DefaultSelector() as selector:
        for pipe, kept in child.pipes:
            selector.register(pipe, selectors.EVENT_READ, kept)
        while selector.get_map() and not child.too_long:
            has_ended = child.process.poll() is not None  # poll first: all its output is then in the pipes
            left = until - time.monotonic()
            if left <= 0:
                child.timed_out = not has_ended
                return
            ready = selector.select(0 if has_ended else min(TICK_S, left))
            if has_ended and not ready:
                return  # other processes keep the pipes open
            for key, _ in ready:
                piece = os.read(key.fd, PIECE_BYTES)
                child.keep(key.data, piece)
                if not piece:
                    selector.unregister(key.fileobj)
    if not child.too_long:
        _wait(child, until)


def _read_by_threads(child: Child, until: float) -> None:
    """The same on systems that cannot poll pipes."""
    readers = [threading.Thread(target=_pump, args=(child, pipe, kept), daemon=True) for pipe, kept in child.pipes]
    for reader in readers:
        reader.start()
    _wait(child, until)
    for reader in readers:
        reader.join(DEATH_S)  # it lives longer only if other processes keep the pipe open


def _pump(child: Child, pipe: IO[bytes], kept: bytearray) -> None:
    with suppress(OSError, ValueError):
        while not child.too_long and (piece := os.read(pipe.fileno(), PIECE_BYTES)):
            child.keep(kept, piece)
    if child.too_long:
        _kill(child.process)


def _wait(child: Child, until: float) -> None:
    try:
        child.process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        child.timed_out = True


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
