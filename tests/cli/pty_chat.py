"""Runs a program in a real pseudo-terminal: sends typed input and reads the screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

# The model's words come from the environment, so that a test can say what is answered and how slowly.
CHILD = """
import json, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.cli.conftest import FakeLLM, FakeStream
words, pause = json.loads(os.environ["FAKE_WORDS"]), float(os.environ.get("FAKE_PAUSE", "0"))
class Slow(FakeStream):
    def __iter__(self):
        for output in super().__iter__():
            time.sleep(pause)
            yield output
import tests.cli.conftest as conftest
conftest.FakeStream = Slow
fake = FakeLLM(answer=words)
fake.plan.max_context = int(os.environ.get("FAKE_CONTEXT", "1000"))
sys.modules["puna.llm"] = type("llm", (), {"LLM": fake})
from puna.cli import main
try:
    main.main(sys.argv[1:])
finally:
    if "FAKE_SHELL" in os.environ:
        print("the shell reads", repr(sys.stdin.readline()), flush=True)
"""
ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07|[=>()][A-Z0-9]?)")
DEADLINE_S = 30.0  # the machine may be busy


class Terminal:
    """`python -c PROGRAM arguments` with its own terminal of `columns` columns."""

    program, rows = CHILD, 40

    def __init__(self, *arguments: str, columns: int = 80, **environment: str) -> None:
        self.screen = ""  # all that was written, without escape sequences
        self._raw = b""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            os.environ.update(environment, TERM="xterm", PROMPT_TOOLKIT_NO_CPR="1", PYTHONPATH=str(Path(__file__).parents[2]))
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, columns, 0, 0))
            os.execv(sys.executable, [sys.executable, "-c", self.program, *arguments])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        os.close(self._master)

    @property
    def written(self) -> str:
        """All that was written, with escape sequences."""
        return self._raw.decode("utf-8", "replace")

    def resize(self, columns: int, rows: int) -> None:
        """Give the window another size; the program hears of it."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def echoes(self) -> bool:
        """Whether the terminal shows what is typed, and gives it to programs line by line: its ordinary mode."""
        local = termios.tcgetattr(self._master)[3]
        return bool(local & termios.ECHO) and bool(local & termios.ICANON)

    def set_echo(self) -> None:
        """Set the terminal's ordinary mode, as a shell does when a program stops."""
        modes = termios.tcgetattr(self._master)
        modes[3] |= termios.ECHO | termios.ICANON
        termios.tcsetattr(self._master, termios.TCSANOW, modes)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """AssertionError with the screen if that takes too long."""
        end = time.monotonic() + DEADLINE_S
        while not is_so():
            assert time.monotonic() < end and self._read(), f"it never came:\n{self.screen}"

    def wait_for(self, text: str, count: int = 1) -> None:
        """Wait until `text` was written `count` times. AssertionError with the screen if that takes too long."""
        end = time.monotonic() + DEADLINE_S
        while self.screen.count(text) < count:
            assert time.monotonic() < end and self._read(), f"no {text!r} on the screen:\n{self.screen}"

    def wait_for_prompt(self) -> None:
        """Until the last thing on the screen is a prompt: what is typed earlier meets a terminal in its ordinary mode."""
        end = time.monotonic() + DEADLINE_S
        while not self.screen.rstrip(" \r\b").endswith("\n>"):
            assert time.monotonic() < end and self._read(), f"no prompt on the screen:\n{self.screen}"

    def exit_code(self) -> int:
        """Of the program, once it has ended. AssertionError with the screen if it goes on."""
        end = time.monotonic() + DEADLINE_S
        while (ended := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < end, f"it goes on:\n{self.screen}"
            self._read(wait_s=0.05)
        while self._read(wait_s=0.0):
            pass
        return os.waitstatus_to_exitcode(ended[1])

    def _read(self, wait_s: float = DEADLINE_S) -> bool:
        """Whether the program wrote something."""
        ready, _, _ = select.select([self._master], [], [], wait_s)
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # Linux: the other end was closed
            data = b""
        self._raw += data
        self.screen = ESCAPES.sub("", self._raw.decode("utf-8", "replace")).replace("\r\n", "\n")
        return bool(data)
