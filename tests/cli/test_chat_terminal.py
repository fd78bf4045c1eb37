"""puna chat as a person meets it: in a real pseudo-terminal, with a model whose words are known."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("Windows has no pseudo-terminals of this kind", allow_module_level=True)

from tests.cli.pty_chat import Terminal

CTRL_C, CTRL_D, ENTER = "\x03", "\x04", "\r"


def chat(tmp_path: Path, words: list[str], *arguments: str, columns: int = 80, **settings: str) -> Terminal:
    environment = {"PUNA_CACHE": str(tmp_path / "cache"), "FAKE_WORDS": json.dumps(words), **settings}
    terminal = Terminal("chat", *arguments, columns=columns, **environment)
    terminal.wait_for("commands.")
    terminal.wait_for_prompt()
    return terminal


def saved(tmp_path: Path) -> list[list[str]]:
    """The contents of the messages of each saved conversation, the oldest first."""
    files = sorted((tmp_path / "cache" / "conversations").glob("*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [[m["content"] for m in json.loads(file.read_text("utf-8"))["messages"]] for file in files]


def test_it_greets_with_the_model_and_ctrl_c_asks_once_before_it_leaves(tmp_path: Path) -> None:
    with chat(tmp_path, ["Lima."]) as terminal:
        assert "fake, context 1000 tokens. /help lists the commands." in terminal.screen
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        terminal.wait_for("Press Ctrl-C again, or Ctrl-D, to leave.")
        terminal.wait_for_prompt()
        terminal.type("hello" + ENTER)
        terminal.wait_for("Lima.")
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        terminal.wait_for("Press Ctrl-C again", 2)  # what was typed in between counts anew
        terminal.wait_for_prompt()
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 0


def test_ctrl_c_in_an_answer_stops_the_answer_only(tmp_path: Path) -> None:
    with chat(tmp_path, ["word "] * 10_000, FAKE_PAUSE="0.01") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("word word")
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped; the conversation keeps the answer so far]")
        terminal.wait_for_prompt()
        terminal.type("/undo" + ENTER)
        terminal.wait_for('Removed "count" and its answer.')
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0


def test_ctrl_c_keeps_what_was_typed_during_the_answer(tmp_path: Path) -> None:
    with chat(tmp_path, ["word "] * 10_000, FAKE_PAUSE="0.01") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("word word")
        terminal.type("half a word" + CTRL_C)
        terminal.wait_for("[stopped; the conversation keeps the answer so far]")
        terminal.wait_for("half a word")


def test_keys_typed_during_the_answer_of_run_do_not_echo_and_wait_for_the_shell(tmp_path: Path) -> None:
    typed = "a next command\n"
    cache, words = str(tmp_path / "cache"), json.dumps(["one ", *["more "] * 100, "end."])
    with Terminal("run", "--raw", "count", PUNA_CACHE=cache, FAKE_WORDS=words, FAKE_PAUSE="0.01", FAKE_SHELL="1") as terminal:
        terminal.wait_for("one more")
        assert not terminal.echoes()
        terminal.type(typed)
        terminal.wait_for("end.")
        terminal.wait_for(f"the shell reads {typed!r}")
        assert terminal.exit_code() == 0 and terminal.echoes() and terminal.screen.count(typed.strip()) == 1


def test_keys_typed_during_an_answer_do_not_echo_and_wait_for_the_prompt(tmp_path: Path) -> None:
    with chat(tmp_path, ["one ", *["more "] * 200, "end."], FAKE_PAUSE="0.01", FAKE_CONTEXT="9000") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("one more")
        assert not terminal.echoes()
        terminal.type("wron\x7f\x7fite" + ENTER + "half a li")
        terminal.wait_for("end.")
        assert "wron" not in terminal.screen and "write" not in terminal.screen
        terminal.wait_for("> write")
        terminal.wait_for("end.", 2)
        terminal.wait_for("> half a li")
        terminal.type("ne" + ENTER)
        terminal.wait_for("end.", 3)
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0 and terminal.echoes()
    assert saved(tmp_path)[0][::2] == ["count", "write", "half a line"]


def test_ctrl_c_is_heard_after_a_paste_that_fills_the_terminals_queue(tmp_path: Path) -> None:
    with chat(tmp_path, ["word "] * 10_000, FAKE_PAUSE="0.01") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("word word")
        for _ in range(5):
            terminal.type("x" * 1000)
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped; the conversation keeps the answer so far]")
        terminal.wait_for("the keys typed meanwhile were dropped: more than 3000 bytes")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0 and terminal.echoes()


def test_an_answer_that_goes_on_after_a_stop_does_not_echo(tmp_path: Path) -> None:
    """A shell sets its own modes while the program is stopped."""
    with chat(tmp_path, ["word "] * 10_000, FAKE_PAUSE="0.01") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("word word")
        os.kill(terminal.pid, signal.SIGSTOP)
        terminal.set_echo()
        assert terminal.echoes()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.wait_until(lambda: not terminal.echoes())
        terminal.type(CTRL_C)
        terminal.wait_for("[stopped; the conversation keeps the answer so far]")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_as_it_was_after_a_signal_in_an_answer(tmp_path: Path, number: int) -> None:
    with chat(tmp_path, ["word "] * 10_000, FAKE_PAUSE="0.01") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("word word")
        assert not terminal.echoes()
        os.kill(terminal.pid, number)
        terminal.exit_code()
        assert terminal.echoes()


def test_keys_typed_before_a_question_do_not_answer_it(tmp_path: Path) -> None:
    with chat(tmp_path, ["Li", *["ma"] * 20, "."], FAKE_CONTEXT="110", FAKE_PAUSE="0.02") as terminal:
        terminal.type("question 0" + ENTER)
        terminal.wait_for("Limama")
        terminal.type("x" * 50 + ENTER + ENTER + ENTER)
        terminal.wait_for("Drop the oldest of 1 exchanges? [Y/n]")
        terminal.type("n" + ENTER)
        terminal.wait_for("Limama", 2)
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    assert len(saved(tmp_path)) == 1  # nothing was dropped


def test_ctrl_c_at_the_question_whether_to_fetch_only_says_no(tmp_path: Path) -> None:
    with chat(tmp_path, ["Lima."]) as terminal:
        terminal.type("/model llama-2-7b" + ENTER)
        terminal.wait_for("Fetch it? [Y/n]")
        terminal.type(CTRL_C)
        terminal.wait_for("To fetch it later: puna pull llama-2-7b")
        terminal.wait_for_prompt()
        terminal.type("capital?" + ENTER)
        terminal.wait_for("Lima.")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0


def test_words_are_whole_at_the_width_of_the_terminal(tmp_path: Path) -> None:
    words = ["The ll", "ama ea", "ts gra", "ss. 羊驼", "吃草。"]
    with chat(tmp_path, words, columns=24) as terminal:
        terminal.type("hi" + ENTER)
        terminal.wait_for("草。")
        assert "The llama eats grass. 羊\n驼吃草。" in terminal.screen
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    assert saved(tmp_path) == [["hi", "The llama eats grass. 羊驼吃草。"]]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_a_conversation_outlives_its_process(tmp_path: Path, number: int) -> None:
    with chat(tmp_path, ["one ", "two ", "three ", *["more "] * 10_000], FAKE_PAUSE="0.02") as terminal:
        terminal.type("count" + ENTER)
        terminal.wait_for("more\n")
        if number == signal.SIGKILL:  # nothing can be saved at the end: an answer is saved each second
            terminal.wait_for("more\n", 6)
        os.kill(terminal.pid, number)
        terminal.exit_code()
    assert saved(tmp_path)[0][0] == "count" and saved(tmp_path)[0][1].startswith("one two three more")
    with chat(tmp_path, ["ok."], "--continue") as terminal:
        assert 'Continuing with 2 messages. You said last: "count"' in terminal.screen
        terminal.wait_for_prompt()
        terminal.type("again" + ENTER)
        terminal.wait_for("ok.")
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    assert len(saved(tmp_path)) == 2 and saved(tmp_path)[1][2:] == ["again", "ok."]


def test_a_full_context_offers_to_drop_the_oldest_and_says_what_it_dropped(tmp_path: Path) -> None:
    with chat(tmp_path, ["Lima."], FAKE_CONTEXT="60") as terminal:
        for number in range(3):
            terminal.wait_for_prompt()
            terminal.type(f"question {number}" + ENTER)
            terminal.wait_for("Lima.", number + 1)
        terminal.wait_for_prompt()
        terminal.type("x" * 20 + ENTER)
        terminal.wait_for("Drop the oldest of 3 exchanges? [Y/n]")
        terminal.type(ENTER)
        terminal.wait_for('Dropped 1 exchange: "question 0".')
        terminal.wait_for("Lima.", 4)
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    kept, rest = saved(tmp_path)
    assert kept[:2] == ["question 0", "Lima."] and rest[0] == "question 1"  # what was dropped is not lost


def test_edit_lets_a_person_change_the_last_message(tmp_path: Path) -> None:
    with chat(tmp_path, ["Lima."]) as terminal:
        terminal.type("the capitol" + ENTER)
        terminal.wait_for("Lima.")
        terminal.wait_for_prompt()
        terminal.type("/edit" + ENTER)
        terminal.wait_for("edit> the capitol")
        terminal.type("\x7f\x7fal" + ENTER)
        terminal.wait_for("Lima.", 2)
        terminal.wait_for_prompt()
        terminal.type(CTRL_D)
        assert terminal.exit_code() == 0
    assert saved(tmp_path) == [["the capital", "Lima."]]


def test_why_needs_one_ctrl_d(tmp_path: Path) -> None:
    with Terminal("why", PUNA_CACHE=str(tmp_path), FAKE_WORDS="[]") as terminal:
        terminal.wait_for("press Enter and Ctrl-D.")
        terminal.type("Distributed package doesn't have NCCL built in\n" + CTRL_D)
        terminal.wait_for("nccl-not-built-in")
        assert terminal.exit_code() == 0


def test_tab_completes_a_setting(tmp_path: Path) -> None:
    with chat(tmp_path, ["Lima."]) as terminal:
        terminal.type("/set temp\t")
        terminal.wait_for("/set temperature")
        terminal.type(" 0.3" + ENTER)
        terminal.wait_for("temperature = 0.3   (a number, 0 to 100)")
