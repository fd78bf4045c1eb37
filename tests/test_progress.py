"""The plain reporter: nothing for what is short, a bar on a terminal, one line elsewhere, never more than 80 columns."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from puna import progress
from puna.progress import MAX_WIDTH, BatchProgress, PlainReporter, bar_text, wrapped


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["terminal", "pipe"])
def stream(request: pytest.FixtureRequest) -> io.StringIO:
    return Terminal() if request.param == "terminal" else io.StringIO()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer's thread shows a stage before `start` returns."""

    class Now:
        daemon = False

        def __init__(self, _: float, function: Callable[[str], None], arguments: list[str]) -> None:
            self.show = partial(function, *arguments)

        def start(self) -> None:
            self.show()

        def cancel(self) -> None:
            pass

    monkeypatch.setattr("puna.progress.threading.Timer", Now)


def test_a_short_stage_is_not_shown(stream: io.StringIO) -> None:
    told = PlainReporter(stream)
    for done in range(11):
        told.progress("loading weights", done, 10)
    told.progress("compiling kernels", 0, 1)
    told.progress("compiling kernels", 1, 1)
    assert stream.getvalue() == ""


def test_a_long_stage_is_one_line_where_there_is_no_terminal(at_once: None) -> None:
    stream = io.StringIO()
    told = PlainReporter(stream)
    for done in range(11):
        told.progress("compiling kernels", done, 10)
    assert stream.getvalue() == "puna: compiling kernels ...\n"


def test_a_long_stage_is_a_bar_on_a_terminal_and_gone_afterwards(at_once: None) -> None:
    stream = Terminal()
    told = PlainReporter(stream)
    for done in range(11):
        told.progress("loading \x1b[2Jweights" + "x" * 100, done * 10**7, 10**8, "bytes")
    drawn = stream.getvalue().split("\r")
    assert all(len(line) < MAX_WIDTH for line in drawn) and "\x1b" not in stream.getvalue()
    assert drawn[-1] == "" and drawn[-2].strip() == ""
    told.notice("still readable")
    assert stream.getvalue().endswith("puna: still readable\n")


def test_a_stage_that_ends_with_an_error_leaves_nothing_behind(at_once: None) -> None:
    stream = Terminal()
    told = PlainReporter(stream)
    told.progress("loading weights", 1, 10)
    told.close()
    assert stream.getvalue().split("\r")[-1] == "" and told._timer is None
    told.close()
    told.progress("loading weights", 1, 10)
    assert "loading weights [" in stream.getvalue().split("\r")[-1]


def test_bars_say_how_far() -> None:
    assert bar_text("s", 5, 10) == "puna: s [##########..........] 5 of 10"
    assert bar_text("s", 10, 10).count("#") == 20 and bar_text("s", 99, 10).count("#") == 20


def test_a_notice_wraps_at_words(stream: io.StringIO) -> None:
    text = " ".join(["word"] * 60) + " \x1b[2J" + "y" * 100
    PlainReporter(stream).notice(text)
    lines = stream.getvalue().splitlines()
    assert lines == wrapped(f"puna: {text}")
    assert all(len(line) <= MAX_WIDTH for line in lines[:-1]) and "\x1b" not in stream.getvalue()
    assert " ".join(line.strip() for line in lines) == f"puna: {text}".replace("\x1b", "\\x1b")


def test_a_batch_tells_its_speed_on_both(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EVERY_S", "LINE_EVERY_S"):
        monkeypatch.setattr(progress, name, 0.0)
    bar = BatchProgress(4, stream)
    assert bar.is_due
    bar.show(1, 10)
    bar.end(4, 40)
    shown = re.sub(r"[0-9.]+ (tok/s|s,)", r"N \1", stream.getvalue())
    middle = "puna: generating [#####...............] 1 of 4 | N tok/s"
    last = "4 of 4 answers, 40 tokens, N s, N tok/s\n"
    if stream.isatty():
        assert shown.startswith(f"\r{middle}") and shown.endswith(f"\r{last}")
    else:
        assert shown == f"{middle}\n{last}"


def test_reporting_imports_nothing_heavy() -> None:
    code = "import sys, puna.progress; print([m for m in ('rich', 'numpy', 'click') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
