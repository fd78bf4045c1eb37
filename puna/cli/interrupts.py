"""Ctrl-C: the exit code of an interrupted program; in a conversation it stops an answer, and never ends the program in a step."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from puna.cli.terminal import tell

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


GRACE_S = 0.5  # to end as always: with the model closed, and the terminal's line cleared


@contextlib.contextmanager
def ending_soon(grace_s: float = GRACE_S) -> Iterator[None]:
    """The block has nothing to lose: Ctrl-C ends it or, after `grace_s`, the process.

    Python hears a signal between two of its own lines, and a step of a large model has none for seconds. A second thread hears it
    at once. Does nothing in a thread, or if the signal is ignored (nohup).
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    heard, bell = socket.socketpair()
    bell.setblocking(False)
    is_over = threading.Event()
    before = signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_end_after, args=(heard, is_over, grace_s), name="puna-ctrl-c", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        signal.set_wakeup_fd(before)
        bell.close()
        watcher.join()
        heard.close()


def _end_after(heard: socket.socket, is_over: threading.Event, grace_s: float) -> None:
    """End the process if the block is not over some time after Ctrl-C. Returns once the other end is closed."""
    while numbers := heard.recv(64):
        if signal.SIGINT in numbers and not is_over.wait(grace_s):
            tell("", "puna: interrupted")
            os._exit(INTERRUPTED)
