from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.output import DummyOutput

from puna.cli import chat, chat_input
from puna.request import FinishReason
from puna.suggested import suggested
from tests.cli.conftest import FakeLLM, Puna


def test_each_line_of_a_pipe_is_a_message_and_the_conversation_grows(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="one\n\ntwo\n")
    assert (done.code, done.out) == (0, "Paris.\nParis.\n")
    assert [m["content"] for m in fake.asked[1][0]] == ["one", "Paris.", "two"]
    assert fake.num_closed == 1


def test_lines_between_fences_are_one_message(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", stdin='"""one\ntwo"""\n"""\nthree\n"""\n')
    assert [asked[0][-1]["content"] for asked in fake.asked] == ["one\ntwo", "three"]


def test_a_fence_that_is_not_closed_sends_nothing(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin='"""one\n')
    assert done.code == 0 and fake.asked == [] and "not sent" in done.err


def test_reset_forgets_all_but_the_system_message(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", "--system", "Be brief.", stdin="one\n/reset\ntwo\n")
    assert [m["content"] for m in fake.asked[1][0]] == ["Be brief.", "two"]


def test_system_sets_and_shows_the_system_message(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="/system\n/system Be kind.\none\n")
    assert "System message: none\nSystem message: Be kind." in done.err
    assert fake.asked[0][0][0] == {"role": "system", "content": "Be kind."}


def test_an_unknown_command_is_a_word_and_is_not_sent(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="/fly\n//fly\n")
    assert "there is no command /fly" in done.err
    assert [m["content"] for m in fake.asked[0][0]] == ["/fly"] and len(fake.asked) == 1


def test_quit_leaves_and_help_lists_every_command(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="/help\n/quit\nnever\n")
    assert fake.asked == []
    assert all(name.rstrip("!") in done.err for name in chat.ACTIONS if name != "/exit")


def test_a_full_context_is_told_and_nothing_is_dropped(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin=f"one\n{'x' * 995}\nthree\n")
    assert done.code == 1 and "1004 tokens; the context holds 1000" in done.err
    assert "Not sent. /reset begins anew, with room." in done.err
    assert [m["content"] for m in fake.asked[-1][0]] == ["one", "Paris.", "three"]


@pytest.mark.parametrize("before", ["", "one\n"])
def test_a_message_that_can_never_fit_is_not_told_to_begin_anew(fake: FakeLLM, puna: Puna, before: str) -> None:
    done = puna("chat", "--system", "Be brief.", stdin=f"{before}{'x' * 995}\n")
    assert done.code == 1 and "Not sent. Shorten it." in done.err and "/reset" not in done.err


def test_an_answer_cut_by_the_context_says_what_to_do(fake: FakeLLM, puna: Puna) -> None:
    fake.reason, fake.plan.max_context = FinishReason.LENGTH, 6
    assert "[cut: the context is full, 6 of 6 tokens]\n/reset begins anew" in puna("chat", stdin="one\n").err


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ("Pa", KeyboardInterrupt())
    done = puna("chat", stdin="one\ntwo\n")
    assert (done.code, done.out) == (0, "Pa\nPa\n") and "stopped" in done.err
    assert [m["content"] for m in fake.asked[1][0]] == ["one", "Pa", "two"]


def test_save_writes_the_conversation_and_does_not_overwrite(fake: FakeLLM, puna: Puna, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    done = puna("chat", stdin=f"one\n/save {file}\n/save {file}\n")
    assert json.loads(file.read_text("utf-8"))["messages"][1] == {"role": "assistant", "content": "Paris."}
    assert "exists" in done.err and f"/save! {file} overwrites it." in done.err
    puna("chat", stdin=f"/save! {file}\n")
    assert json.loads(file.read_text("utf-8"))["messages"] == []
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["talk.json"]


@pytest.mark.parametrize(
    "file",
    ["", "no/such/folder/x.json", "/dev/null/x", "~nobody-of-this-name/x", "a\0b", "x" * 300, "y/" * 3000, "/", "."],
    ids=ascii,
)
def test_a_save_that_fails_is_a_word_and_the_conversation_goes_on(fake: FakeLLM, puna: Puna, file: str) -> None:
    done = puna("chat", stdin=f"/save {file}\none\n")
    assert done.code == 0 and done.out == "Paris.\n" and done.err.startswith("puna: ")


def test_stats_tell_context_and_speeds(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="/stats\none\n/stats\n")
    assert "Nothing was said yet" in done.err and "context 6 of 1000 tokens" in done.err


def test_json_is_one_object_at_the_end(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "--json", stdin="one\ntwo\n")
    facts = json.loads(done.out)
    assert len(facts["turns"]) == 2 and facts["turns"][0]["finish_reason"] == "stop"
    assert [m["role"] for m in facts["messages"]] == ["user", "assistant"] * 2


def test_a_failed_answer_is_told_and_the_conversation_goes_on(fake: FakeLLM, puna: Puna) -> None:
    fake.reason = FinishReason.ERROR
    done = puna("chat", stdin="one\ntwo\n")
    assert done.code == 1 and done.err.count("logits are not finite") == 2


def test_input_that_is_not_utf8_is_told(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="\udcff\n")
    assert done.code == 2 and "not UTF-8" in done.err


def test_a_system_message_that_is_not_utf8_is_refused(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "--system", "\udcff")
    assert done.code == 2 and "--system is not UTF-8" in done.err and fake.loaded == []


def test_ctrl_c_between_fences_leaves_only_them() -> None:
    lines: Iterator[str | type[BaseException]] = iter([chat_input.FENCE + "one", KeyboardInterrupt, "two", KeyboardInterrupt])

    def read(_: str) -> str:
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    assert [chat_input.read_message(read) for _ in range(2)] == ["", "two"]
    with pytest.raises(KeyboardInterrupt):
        chat_input.read_message(read)


def test_a_typed_line_that_is_not_utf8_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    lines = iter(["\udcff", "good"])
    monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", lambda *_: next(lines))
    with create_app_session(output=DummyOutput()):
        assert chat_input._terminal_reader()("> ") == "good"
    assert "not UTF-8" in capsys.readouterr().err


# ---- without a template ---------------------------------------------------------------------------------------------


def test_raw_messages_are_asked_one_by_one_in_the_format_given(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "--raw", "--prompt-format", r"Q: {prompt}\nA:", "--stop", "END", stdin="one {x} \\n\ntwo\n")
    assert (done.code, done.out) == (0, "Paris.\nParis.\n")
    assert [prompt for prompt, _ in fake.asked] == ["Q: one {x} \\n\nA:", "Q: two\nA:"]
    assert fake.asked[0][1].stop == ("END", "\nQ:")


def test_raw_alone_continues_each_line_as_it_is(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", "--raw", stdin="Once upon\n")
    assert fake.asked[0][0] == "Once upon" and fake.asked[0][1].stop == ()


def test_examples_before_the_question_stop_at_a_question_like_the_last(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", "--raw", "--prompt-format", r"Be\\brief.\n\n### Q:\n{prompt}\n### A:\n", stdin="one\n")
    assert fake.asked[0][0] == "Be\\brief.\n\n### Q:\none\n### A:\n" and fake.asked[0][1].stop == ("\n### Q:",)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--raw", "--prompt-format", "Q: A:"], "0 times {prompt}"),
        (["--raw", "--prompt-format", "{prompt}{prompt}"], "2 times {prompt}"),
        (["--prompt-format", "{prompt}"], "Add --raw."),
        (["--raw", "--system", "x"], "no use"),
        (["--raw", "--template", "llama2"], "no use"),
    ],
)
def test_a_format_that_cannot_be_is_refused_before_the_model_is_loaded(
    flags: list[str], words: str, fake: FakeLLM, puna: Puna
) -> None:
    done = puna("chat", *flags, stdin="one\n")
    assert done.code == 2 and words in done.err and fake.loaded == [] and fake.asked == []


def test_raw_has_no_system_message_and_a_long_message_is_not_told_to_begin_anew(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "--raw", stdin=f"/system x\none\n{'x' * 1000}\n")
    assert done.code == 1 and "there is no system message" in done.err
    assert "Not sent. Shorten it." in done.err and "/reset" not in done.err


def test_ctrl_c_in_raw_stops_that_answer(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ("Pa", KeyboardInterrupt())
    done = puna("chat", "--raw", stdin="one\n")
    assert (done.code, done.out) == (0, "Pa\n") and "[stopped]" in done.err


def test_where_the_model_suggests_how_to_draw_chats_own_defaults_stand_back(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", stdin="hi\n")
    params = fake.asked[-1][1]
    assert (params.temperature, params.top_p, params.max_tokens) == (0.7, 0.95, 1024)
    fake.suggested = suggested({"do_sample": True, "temperature": 0.6, "repetition_penalty": 1.1}, "the file", 100, 100)
    done = puna("chat", stdin="hi\n")
    params = fake.asked[-1][1]
    assert (params.temperature, params.top_p, params.repetition_penalty, params.max_tokens) == (0.6, 1.0, 1.1, 1024)
    assert "sampling as the file suggests: temperature 0.6, repetition_penalty 1.1" in " ".join(done.err.split())
    puna("chat", "--temperature", "0.2", "--template-arg", "thinking=true", stdin="hi\n")
    assert fake.asked[-1][1].temperature == 0.2 and fake.template_args == {"thinking": True}
    fake.suggested = suggested({"repetition_penalty": 1.1}, "the file", 100, 100)
    puna("chat", stdin="hi\n")
    assert (fake.asked[-1][1].temperature, fake.asked[-1][1].repetition_penalty) == (0.7, 1.1)
