"""A terminal's keyboard while nobody reads it: keys do not echo into the output, and wait for who reads next, as in a shell."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import time
from collections.abc import Iterator

from puna.cli.terminal import tell

if sys.platform != "win32":
    import fcntl
    import termios

    EVERY_S = 0.1
    REST_S = 0.02  # the rest of a paste comes within this time; the repeats of a key that is held down come later
    MOST_TYPED = 3000  # bytes: room is left for what comes within EVERY_S, and for Ctrl-C
    INPUT, LOCAL = 0, 3  # indices in what tcgetattr returns


class Keyboard:
    """A keyboard that needs no care."""

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """In this block a prompt reads the keys, and sets the terminal as it likes."""
        yield


@contextlib.contextmanager
def unechoed(is_raw: bool = False) -> Iterator[Keyboard]:
    """Keys that are typed in this block do not echo. Afterwards the terminal is as it was. Windows has no such echo.

    The keys wait for the shell; or if `is_raw`, for a prompt of this program. These are kept as they are, also by Ctrl-C.
    """
    if sys.platform == "win32" or not sys.stdin.isatty() or not _is_ours(sys.stdin.fileno()):
        yield Keyboard()
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    keyboard = _Unechoed(terminal, is_raw)
    try:
        keyboard.start()
        yield keyboard
    finally:
        keyboard.end()
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            if _is_ours(terminal):
                termios.tcsetattr(terminal, termios.TCSANOW, before)


class _Unechoed(Keyboard):
    """A terminal without echo, looked after ten times a second.

    If it is raw, the system keeps 4,095 bytes that nobody has read, and then hears no Ctrl-C: more than `MOST_TYPED` are
    dropped, and told. After Ctrl-Z and `fg` the shell has set modes of its own.
    """

    def __init__(self, terminal: int, is_raw: bool) -> None:
        self._terminal, self._is_raw = terminal, is_raw
        self._quiet = termios.tcgetattr(terminal)
        self._quiet[LOCAL] &= ~termios.ECHO
        if is_raw:
            self._quiet[INPUT] &= ~termios.ICRNL  # Enter stays apart from Ctrl-J, also for Alt-Enter
            self._quiet[LOCAL] &= ~(termios.ICANON | termios.IEXTEN)  # ICANON would keep a half line from the next reader
            self._quiet[LOCAL] |= termios.NOFLSH  # Ctrl-C stops an answer; the next message may have been typed already
        self._num_dropped = 0
        self._ended, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, name="puna-keyboard", daemon=True)

    def start(self) -> None:
        termios.tcsetattr(self._terminal, termios.TCSANOW, self._quiet)
        with contextlib.suppress(RuntimeError):  # no thread can be started
            self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        with self._lock:
            if self._num_dropped:
                self._drop_rest()
                tell(f"puna: the keys typed meanwhile were dropped: more than {MOST_TYPED} bytes")
                self._num_dropped = 0
            yield

    def _drop_rest(self) -> None:
        """The system passes a long paste on in parts, each after what came before was read."""
        num_dropped = 0
        while num_dropped != self._num_dropped:
            num_dropped = self._num_dropped
            time.sleep(REST_S)
            self._tend()

    def _run(self) -> None:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            while not self._ended.wait(EVERY_S):
                with self._lock:
                    self._tend()

    def _tend(self) -> None:
        if not _is_ours(self._terminal):
            return
        if termios.tcgetattr(self._terminal) != self._quiet:
            termios.tcsetattr(self._terminal, termios.TCSANOW, self._quiet)
        # The rest of a paste is dropped, too. Read, because tcflush leaves a full queue deaf.
        while self._is_raw and (waiting := _num_waiting(self._terminal)) > (0 if self._num_dropped else MOST_TYPED):
            self._num_dropped += len(os.read(self._terminal, waiting))


def _is_ours(terminal: int) -> bool:
    """Whether this process is in the foreground: the system stops one in the background that sets the terminal."""
    return os.tcgetpgrp(terminal) == os.getpgrp()


def _num_waiting(terminal: int) -> int:
    """The number of bytes that were typed and not read yet."""
    (count,) = struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)))
    return int(count)


def drop_typed() -> None:
    """Forget keys that were typed before now: they are no answer to a question that comes now."""
    if sys.platform != "win32" and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
