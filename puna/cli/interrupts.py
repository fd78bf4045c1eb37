"""Ctrl-C: the exit code of an interrupted program; in a conversation it stops an answer, and never ends the program in a step."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALLED = 128  # + the number of the signal: an exit code, as a shell reports it
INTERRUPTED = SIGNALLED + signal.SIGINT


class CtrlC:
    """Decides what Ctrl-C does: during an answer it sets a flag that is read between steps; else it raises KeyboardInterrupt.

    It does not interrupt a step, because an exception could leave the engine's pages half written. A second Ctrl-C during an
    answer raises, in case a step takes too long.
    """

    def __init__(self) -> None:
        self.is_pressed = False
        self._is_answering = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Handle Ctrl-C until the end of the block. Does nothing in a thread, or if the signal is ignored (nohup)."""
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, self._hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def during_answer(self) -> Iterator[None]:
        """The block makes an answer: `is_pressed` becomes True on Ctrl-C."""
        self.is_pressed, self._is_answering = False, True
        try:
            yield
        finally:
            self._is_answering = False

    def _hear(self, number: int, frame: Any) -> None:
        if not self._is_answering or self.is_pressed:
            raise KeyboardInterrupt
        self.is_pressed = True
