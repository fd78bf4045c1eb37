from __future__ import annotations

import io
import json
import time

import pytest

from puna.cli.terminal import TerminalReporter, print_json, tell


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_short_stage_is_not_shown() -> None:
    stream = io.StringIO()
    with TerminalReporter(stream) as report:
        report.progress("loading", 0, 2)
        report.progress("loading", 2, 2)
    assert stream.getvalue() == ""


def test_a_long_stage_is_one_plain_line_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.progress.LINE_AFTER_S", 0.01)
    stream = io.StringIO()
    with TerminalReporter(stream) as report:
        for done in range(3):
            report.progress("compiling kernels, once", done, 3)
            time.sleep(0.05)
        report.notice("context lowered")
    assert stream.getvalue() == "puna: compiling kernels, once ...\npuna: context lowered\n"


def test_a_long_stage_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.progress.BAR_AFTER_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    with TerminalReporter(stream) as report:
        for done in range(0, 50, 10):
            report.progress("downloading [x]", done * 1_000_000, 50_000_000, "bytes")
            time.sleep(0.05)
        report.progress("downloading [x]", 50_000_000, 50_000_000, "bytes")
    assert "downloading [x]" in stream.getvalue() and "50.0" in stream.getvalue()


def test_several_pieces_of_work_show_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.progress.BAR_AFTER_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    with TerminalReporter(stream) as report:
        report.progress("compiling kernels, once", 3, 7)
        time.sleep(0.2)
    assert "compiling kernels, once" in stream.getvalue() and "3 of 7" in stream.getvalue()


HOSTILE = "a\x1b]0;PWN\x07\x9b2J\x7f\nb\r\udc80\ud800\u2028é日"


def test_what_would_drive_the_terminal_is_escaped_in_every_line_for_a_person(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"puna: {HOSTILE}", "", HOSTILE)
    with TerminalReporter(stream := io.StringIO()) as report:
        report.notice(HOSTILE)
    escaped = r"a\x1b]0;PWN\x07\x9b2J\x7f\nb\r\udc80\ud800\u2028é日"
    assert capsys.readouterr().err == f"puna: {escaped}\n{escaped}\n"
    assert stream.getvalue() == f"puna: {escaped}\n"


def test_the_stage_of_a_bar_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.progress.BAR_AFTER_S", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    with TerminalReporter(stream) as report:
        report.progress("downloading \x1b]0;PWN\x07", 0, 50, "bytes")
        time.sleep(0.2)
    assert "\x1b]0" not in stream.getvalue() and r"\x1b]0;PWN\x07" in stream.getvalue()


def test_json_is_one_line_of_utf8_whatever_the_texts(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    print_json({HOSTILE: [HOSTILE]})
    written = capsysbinary.readouterr().out
    assert written.count(b"\n") == 1 and len(written.decode().splitlines()) == 1
    assert all(letter.isprintable() for letter in written.decode().rstrip("\n"))
    assert json.loads(written) == {HOSTILE: [HOSTILE]}


def test_a_second_stage_ends_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.progress.LINE_AFTER_S", 0.05)
    stream = io.StringIO()
    with TerminalReporter(stream) as report:
        report.progress("a", 0, 2)
        report.progress("b", 0, 2)
        time.sleep(0.2)
    assert stream.getvalue() == "puna: b ...\n"
