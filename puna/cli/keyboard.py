"""A terminal's keyboard while nobody reads it: keys do not echo into the output, and wait for who reads next, as in a shell."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

if sys.platform != "win32":
    import termios

    INPUT, LOCAL = 0, 3  # places in what tcgetattr returns


@contextlib.contextmanager
def unechoed(is_raw: bool = False) -> Iterator[None]:
    """Keys that are typed in this block do not echo. Afterwards the terminal is as it was. Windows has no such echo.

    The keys wait for the shell; or if `is_raw`, for a prompt of this program. These are kept as they are, also by Ctrl-C.
    """
    if sys.platform == "win32" or not sys.stdin.isatty() or not _is_in_foreground():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[LOCAL] &= ~termios.ECHO
    if is_raw:
        quiet[INPUT] &= ~termios.ICRNL  # Enter stays apart from Ctrl-J, also for Alt-Enter
        quiet[LOCAL] &= ~(termios.ICANON | termios.IEXTEN)  # ICANON would keep a half line from the next reader
        quiet[LOCAL] |= termios.NOFLSH  # Ctrl-C stops an answer; the next message may have been typed already
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            if _is_in_foreground():
                termios.tcsetattr(terminal, termios.TCSANOW, before)


def _is_in_foreground() -> bool:
    """Whether the terminal is this program's: in the background it is the shell's, and a change would stop this program."""
    return sys.platform != "win32" and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()


def drop_typed() -> None:
    """Forget keys that were typed before now: they are no answer to a question that comes now."""
    if sys.platform != "win32" and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
