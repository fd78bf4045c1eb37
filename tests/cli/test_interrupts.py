"""Ctrl-C: recorded during an answer, raised outside an answer and the second time."""

from __future__ import annotations

import signal

import pytest

from puna.cli.interrupts import CtrlC


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
