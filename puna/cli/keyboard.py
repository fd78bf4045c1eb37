"""A terminal's keyboard while nobody reads it: keys do not echo into the output, and wait for the next prompt, as in a shell.

Ctrl-C still interrupts, and drops what was typed before it. Windows has no such echo.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

if sys.platform != "win32":
    import termios

    INPUT, LOCAL = 0, 3  # places in what tcgetattr returns


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Keys that are typed in this block are kept as they are, without echo. Afterwards the terminal is as it was."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[INPUT] &= ~termios.ICRNL  # Enter stays apart from Ctrl-J, also for Alt-Enter
    quiet[LOCAL] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN)  # ICANON would keep a half line from the next reader
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error, OSError):  # the terminal is gone
            if os.tcgetpgrp(terminal) == os.getpgrp():  # in the background it is the shell's
                termios.tcsetattr(terminal, termios.TCSANOW, before)


def drop_typed() -> None:
    """Forget keys that were typed before now: they are no answer to a question that comes now."""
    if sys.platform != "win32" and sys.stdin.isatty():
        termios.tcflush(sys.stdin.fileno(), termios.TCIFLUSH)
