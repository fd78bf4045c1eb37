"""Ctrl-C: recorded during an answer, raised outside an answer and the second time; soon heard where nothing is lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from puna.cli.interrupts import CtrlC, ending_soon


def pressed(ctrl_c: CtrlC) -> bool:
    return ctrl_c.is_pressed


def test_the_first_is_noted_and_the_second_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    ctrl_c = CtrlC()
    with ctrl_c.heard():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with ctrl_c.during_answer():
            assert not pressed(ctrl_c)
            signal.raise_signal(signal.SIGINT)
            assert pressed(ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with ctrl_c.during_answer():
            assert not pressed(ctrl_c)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with CtrlC().heard():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


STUCK = """
import ctypes, os, signal
from puna.cli.interrupts import ending_soon
reader, writer = os.pipe()
signal.signal(signal.SIGINT, lambda *_: None)  # the signal may come before the step
signal.siginterrupt(signal.SIGINT, False)
with ending_soon(grace_s=0.1):
    print("ready", flush=True)
    ctypes.CDLL(None).read(reader, ctypes.create_string_buffer(1), 1)  # a step without a line of Python; nobody ever writes
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_where_nothing_is_lost_a_step_cannot_keep_the_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20)[1] == "\npuna: interrupted\n" and process.returncode == 130
    finally:
        process.kill()


def test_what_ends_in_time_ends_as_always() -> None:
    with pytest.raises(KeyboardInterrupt), ending_soon(grace_s=60):
        signal.raise_signal(signal.SIGINT)
    assert signal.set_wakeup_fd(-1) == -1 and "puna-ctrl-c" not in [thread.name for thread in threading.enumerate()]
