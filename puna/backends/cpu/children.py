"""Kernels compiled in child processes, on several cores at once, while this process does something else.

Numba holds Python's lock most of the time, so threads would not help. A child also keeps the compiler's harm (memory, a crash,
a signal inside it) out of this process. Where no child can start, this process compiles the kernels.
"""

from __future__ import annotations

import atexit
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import IO

from puna.errors import DeviceError

READY = b"puna compiles kernels\n"  # precedes the answers; skip what Python's start printed before
CODE, ERROR = b"C", b"E"  # an answer is its kind, its length, and then the machine code or a traceback
HEAD = struct.Struct("<cQ")

MAX_CHILDREN = 4  # each imports Numba first, and the largest kernel takes half of the time
# The child uses this process's module path, without the current folder unless this process has it too.
START = "import sys; sys.path[:] = sys.argv[1:]; from puna.backends.cpu.child import main; main()"


class NoChildError(Exception):
    """No child process can compile here."""


class Compilation(threading.Thread):
    """Compiles kernels in the background.

    `compile_here` compiles one in this process; `keep` receives each machine code, from any thread. `turn(give_up)` waits for
    another process that may do the same work, or until `give_up()`; afterwards `missing` returns the names that are left.
    """

    def __init__(
        self,
        names: Sequence[str],
        cores: int,
        compile_here: Callable[[str], bytes],
        keep: Callable[[str, bytes], None],
        turn: Callable[[Callable[[], bool]], AbstractContextManager[None]],
        missing: Callable[[Sequence[str]], list[str]],
    ) -> None:
        super().__init__(name="puna-compiles", daemon=True)
        self.total, self.num_done, self.is_waiting = len(names), 0, True
        self._names, self._cores = names, cores
        self._compile_here, self._keep, self._turn, self._missing = compile_here, keep, turn, missing
        self._queue: deque[str] = deque()
        self._error: BaseException | None = None
        self._is_stopped = False
        self._children: set[subprocess.Popen[bytes]] = set()
        self._guard = threading.Lock()
        atexit.register(self.stop)

    def run(self) -> None:
        try:
            with self._turn(lambda: self._is_stopped):
                self._compile(self._missing(self._names))
        except BaseException as error:  # noqa: BLE001 - the thread that waits for the kernels raises it
            self._fail(error)
        atexit.unregister(self.stop)

    def _compile(self, names: Sequence[str]) -> None:
        self.num_done, self.is_waiting = self.total - len(names), False
        with self._guard:
            if not self._is_stopped:
                self._queue.extend(names)
        lanes = [threading.Thread(target=self._lane, daemon=True) for _ in range(min(self._cores, MAX_CHILDREN, len(names)))]
        for lane in lanes:
            lane.start()
        for lane in lanes:
            lane.join()

    def require_success(self) -> None:
        """Raise the error of the compilation, once the thread has ended."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End the children, and wait until none runs."""
        with self._guard:
            self._is_stopped = True
            self._queue.clear()
            for child in self._children:
                child.kill()
        self.join()

    def _lane(self) -> None:
        """Compile one kernel after another in one child."""
        try:
            try:
                self._with_child()
            except NoChildError:
                while (name := self._next()) is not None:
                    self._done(name, self._compile_here(name))
        except BaseException as error:  # noqa: BLE001 - as in `run`
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._guard:
            self._error = self._error or error
            self._queue.clear()

    def _with_child(self) -> None:
        with tempfile.TemporaryFile() as errors, self._child(errors) as child:
            try:
                _require_ready(child)
                while (name := self._next()) is not None:
                    self._done(name, _answer(child, name, errors))
            finally:
                child.kill()
                with self._guard:
                    self._children.discard(child)

    def _child(self, errors: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a child. It has a session of its own, so that only this process receives Ctrl-C."""
        command = [sys.executable, "-P", "-c", START, *sys.path]
        pipe = subprocess.PIPE
        try:
            child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, start_new_session=True)
        except (OSError, ValueError) as error:
            raise NoChildError from error
        with self._guard:
            self._children.add(child)
            if self._is_stopped:
                child.kill()
        return child

    def _next(self) -> str | None:
        with self._guard:
            return self._queue.popleft() if self._queue else None

    def _done(self, name: str, code: bytes) -> None:
        self._keep(name, code)
        with self._guard:
            self.num_done += 1


def _require_ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    if not any(line == READY for line in child.stdout) and child.wait() >= 0:
        raise NoChildError


def _answer(child: subprocess.Popen[bytes], name: str, errors: IO[bytes]) -> bytes:
    """A kernel's machine code. DeviceError if the child ended, RuntimeError if the compiler failed."""
    assert child.stdin is not None and child.stdout is not None
    with suppress(BrokenPipeError):  # the child has ended; the read below finds that out
        os.write(child.stdin.fileno(), f"{name}\n".encode())
    head = child.stdout.read(HEAD.size)
    kind, length = HEAD.unpack(head) if len(head) == HEAD.size else (b"", 0)
    content = child.stdout.read(length)
    if not kind or len(content) < length:
        raise DeviceError(
            f"the process that compiled the kernel {name} ended: {_cause(child.wait(), errors)}",
            hint="The system ends processes when memory is short: free some, then start again.",
        )
    if kind == ERROR:
        error = RuntimeError(f"the kernel {name} cannot be compiled: {content.decode().strip().splitlines()[-1]}")
        error.add_note(content.decode())
        raise error
    return content


def _cause(code: int, errors: IO[bytes]) -> str:
    if code < 0:
        with suppress(ValueError):
            return signal.Signals(-code).name
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return f"exit code {code}, {lines[-1] if lines else 'no message'}"
