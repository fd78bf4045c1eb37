from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.output import DummyOutput

from puna.cli import chat, chat_commands, chat_input, chat_settings
from puna.cli.keyboard import Keyboard
from puna.cli.saved_chats import newest
from puna.cli.width import display_width
from puna.errors import ModelNotFoundError, PunaError, UsageError
from puna.request import FinishReason, SamplingParams, allowed_range
from puna.suggested import suggested
from tests.cli.conftest import THOUGHT, FakeLLM, Puna


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
    assert all(name in done.err for name in chat_commands.COMMANDS if name != "/exit")


def test_a_full_context_is_told_and_nothing_is_dropped(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin=f"one\n{'x' * 995}\nthree\n")
    assert done.code == 1 and "1004 tokens; the context holds 1000" in done.err
    assert "Not sent. /drop 1 drops the oldest exchange; /reset starts a new conversation." in done.err
    assert [m["content"] for m in fake.asked[-1][0]] == ["one", "Paris.", "three"]


@pytest.mark.parametrize("before", ["", "one\n"])
def test_a_message_that_can_never_fit_is_not_told_to_begin_anew(fake: FakeLLM, puna: Puna, before: str) -> None:
    done = puna("chat", "--system", "Be brief.", stdin=f"{before}{'x' * 995}\n")
    assert done.code == 1 and "Not sent. Shorten it." in done.err and "/reset" not in done.err and "/drop" not in done.err


def test_an_answer_cut_by_the_context_says_what_to_do(fake: FakeLLM, puna: Puna) -> None:
    fake.reason, fake.plan.max_context = FinishReason.LENGTH, 6
    assert "[cut: the context is full, 6 of 6 tokens]\n/drop 1 drops" in puna("chat", stdin="one\n").err
    assert "[cut: the context is full, 6 of 6 tokens: --max-context 12 allows more]\n" in puna("chat", "--raw", stdin="one\n").err


def test_an_answer_cut_by_its_limit_says_how_to_have_more(fake: FakeLLM, puna: Puna) -> None:
    fake.reason = FinishReason.LENGTH
    done = puna("chat", stdin="one\n/set max_tokens 6\ntwo\n/set max_tokens 0\n")
    assert done.err.count("[cut after 3 tokens: /set max_tokens 6 allows more]\n") == 2
    assert fake.asked[-1][1].max_tokens == 6
    assert "max_tokens is '0'; it must be a whole number, 1 to 134217728, or none" in done.err


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
    assert "No messages yet" in done.err and "1 answer; context 6 of 1000 tokens" in done.err
    assert "cached), 100 tok/s\n" in done.err and ", 50.0 tok/s\n" in done.err
    assert "2 answers; context" in puna("chat", stdin="one\ntwo\n/stats\n").err


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

    assert [chat_input.read_message(read).text for _ in range(2)] == ["", "two"]
    with pytest.raises(KeyboardInterrupt):
        chat_input.read_message(read)


def test_a_typed_line_that_is_not_utf8_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    lines = iter(["\udcff", "good"])
    monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", lambda *_: next(lines))
    with create_app_session(output=DummyOutput()):
        assert chat_input._terminal_input(Keyboard(), lambda line: []).read_line("> ") == "good"
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
        (["--raw", "--system", "x"], "no effect"),
        (["--raw", "--template", "llama2"], "no effect"),
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
    assert "Not sent. Shorten it." in done.err and "/reset" not in done.err and "/drop" not in done.err


def test_ctrl_c_in_raw_stops_that_answer(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ("Pa", KeyboardInterrupt())
    done = puna("chat", "--raw", stdin="one\n")
    assert (done.code, done.out) == (0, "Pa\n") and "[stopped]" in done.err


# ---- commands


def contents(fake: FakeLLM, number: int = -1) -> list[str]:
    """What the model was sent."""
    return [message["content"] for message in fake.asked[number][0]]


@pytest.mark.parametrize("word", ["exit", "quit", "QUIT ", "/exit"])
def test_a_bare_word_leaves_and_between_fences_it_is_a_message(fake: FakeLLM, puna: Puna, word: str) -> None:
    puna("chat", stdin=f'"""{word}"""\n{word}\nnever\n')
    assert [asked[0][-1]["content"] for asked in fake.asked] == [word]


def test_help_fits_80_columns_and_names_every_command(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="help\n")
    assert fake.asked == [] and max(map(display_width, done.err.splitlines())) <= 80
    assert max(map(display_width, puna("chat", stdin="/set\n").err.splitlines())) <= 80


def test_regenerate_asks_the_same_again_and_replaces_the_answer(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "--json", stdin="one\ntwo\n/regenerate\n")
    assert contents(fake, 2) == contents(fake, 1) == ["one", "Paris.", "two"]
    assert [m["content"] for m in json.loads(done.out)["messages"]] == ["one", "Paris.", "two", "Paris."]


def test_edit_replaces_the_last_message(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", stdin="one\ntwo\n/edit three\n")
    assert contents(fake) == ["one", "Paris.", "three"]


def test_undo_removes_the_last_exchange_and_drop_the_oldest(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", stdin="one\ntwo\nthree\n/undo\nfour\n/drop 2\nfive\n/drop 9\n")
    assert contents(fake, 3) == ["one", "Paris.", "two", "Paris.", "four"]
    assert contents(fake, 4) == ["four", "Paris.", "five"]
    assert 'Removed "three" and its answer.' in done.err and 'Dropped 2 exchanges: "one" to "two".' in done.err
    assert "cannot drop 9: the conversation has 2 exchanges" in done.err


@pytest.mark.parametrize("command", ["/undo", "/regenerate", "/edit x", "/drop"])
def test_without_a_message_there_is_nothing_to_change(fake: FakeLLM, puna: Puna, command: str) -> None:
    done = puna("chat", stdin=f"{command}\n")
    assert done.code == 0 and "there are no messages yet" in done.err and fake.asked == []


def test_a_change_that_fails_leaves_the_conversation_as_it_was(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", stdin=f"one\n/edit {'x' * 2000}\ntwo\n")
    assert contents(fake) == ["one", "Paris.", "two"]


def test_set_changes_a_setting_within_its_range(fake: FakeLLM, puna: Puna) -> None:
    done = puna(
        "chat",
        stdin="/set temperature 0.2\n/set --top-k=3\n/set seed none\none\n"
        "/set temperature 1000\n/set temprature 1\n/set logprobs 2\n",
    )
    assert (fake.asked[0][1].temperature, fake.asked[0][1].top_k, fake.asked[0][1].seed) == (0.2, 3, None)
    assert "temperature = 0.2   (a number, 0 to 100)" in done.err
    assert "temperature is '1000'; it must be a number, 0 to 100" in done.err
    assert "there is no setting 'temprature'\nDid you mean temperature?" in done.err
    assert "/set cannot change logprobs\nGive its flag when the chat starts: see `puna chat --help`." in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_tokens 999999999999", "'999999999999'; it must be a whole number, 1 to 134217728, or none"),
        (f"max_tokens {'9' * 5000}", f"'{'9' * 12}...{'9' * 13}'; it must be a whole number, 1 to 134217728, or none"),
        ("temperature nan", "'nan'; it must be a number, 0 to 100"),
        ("temperature 1e-400", "'1e-400'; it must be a number, 0 to 100"),
        ("top_k ٥", "'٥'; it must be a whole number, 0 to 4194304"),
        ("top_k 1_0", "'1_0'; it must be a whole number, 0 to 4194304"),
    ],
)
def test_set_tells_the_range_that_it_shows(text: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        chat_settings.changed(SamplingParams(), text)
    assert caught.value.message == f"{text.split()[0]} is {told}"


def test_set_takes_texts_ids_and_constraints(fake: FakeLLM, puna: Puna, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('{"type": "integer"}', "utf-8")
    typed = [
        *('stop "User:" "\\n\\n"', "stop_ids 3, 4", "ignore_eos on", "samplers temp;top-k", 'banned_strings "no way" never'),
        *("logit_bias 5=-2.5 6=1", "bad_words_ids 3,4 5", "suppress_ids 7", "context_shift=on", "num_keep 2", "timeout 2.5"),
        *("dry_sequence_breakers none", "min_tokens 1"),
    ]
    for constraint in (
        'regex "?(19|20)[0-9]{2}"?',
        f"json_schema {tmp_path / 's.json'}",
        'choice yes "not now"',
        'grammar root ::= "a"',
    ):
        typed += [constraint, "SEND"]
    typed += ["choice none", "stop none", "ignore_eos off", "SEND"]
    done = puna("chat", stdin="".join("hi\n" if line == "SEND" else f"/set {line}\n" for line in typed))
    assert done.code == 0 and "puna:" not in done.err
    first, schema, choice, grammar, last = (params for _, params in fake.asked)
    assert (first.stop, first.stop_ids, first.ignore_eos) == (("User:", "\n\n"), (3, 4), True)
    assert (first.samplers, first.banned_strings) == (("temperature", "top_k"), ("no way", "never"))
    assert (first.logit_bias, first.bad_words_ids, first.suppress_ids) == ({5: -2.5, 6: 1.0}, ((3, 4), (5,)), (7,))
    assert (first.context_shift, first.num_keep, first.timeout, first.min_tokens) == (True, 2, 2.5, 1)
    assert first.regex == '"?(19|20)[0-9]{2}"?' and first.dry_sequence_breakers == ()
    assert schema.json_schema.text == '{"type": "integer"}' and schema.regex is None
    assert (choice.choice, choice.json_schema, grammar.grammar, grammar.choice) == (("yes", "not now"), None, 'root ::= "a"', ())
    assert (last.stop, last.grammar, last.choice, last.ignore_eos, last.stop_ids) == ((), 'root ::= "a"', (), False, (3, 4))
    assert 'stop = "User:" "\\n\\n"   (quoted texts, or none)' in done.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stop", "/set stop needs a value: quoted texts, or none"),
        ('stop "a', "cannot be read: no closing quotation"),
        ("ignore_eos maybe", "'maybe' is neither on nor off"),
        ("stop_ids 3 x", "stop_ids holds 'x'; token ids are whole numbers"),
        ("json_schema no.json", "--json-schema no.json cannot be read"),
        ("regex " + "a" * 300_000, "regex has"),
        ("samplers foo", "samplers holds 'foo'"),
    ],
)
def test_set_refuses_what_cannot_be(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=re.escape(told)):
        chat_settings.changed(SamplingParams(), text)


def test_tab_completes_commands_settings_and_their_values() -> None:
    assert chat_commands.completions("/s") == ["/system", "/set", "/save", "/stats"]
    assert chat_commands.completions("/set json") == ["json_schema", "json_object"]
    assert chat_commands.completions("/set thinking of") == ["off"] and chat_commands.completions("/set seed n") == ["none"]
    assert chat_commands.completions("/set stop a b") == chat_commands.completions("so /s") == []


def test_set_can_change_every_flag_of_a_chat_but_those_of_the_model_and_the_cache() -> None:
    flags = {param.name for param in chat.command.params} & {field.name for field in fields(SamplingParams)}
    assert flags - {"cache_salt"} == set(chat_settings.NAMES) and "thinking" not in chat_settings.NAMES


def test_set_knows_no_negative_zero() -> None:
    params = chat_settings.changed(SamplingParams(), "temperature -0")
    assert chat_settings.line(params, "temperature").startswith("temperature = 0 ")


def test_every_setting_is_one_of_the_sampling_parameters_and_has_a_range() -> None:
    assert set(chat_settings.NAMES) <= {field.name for field in fields(SamplingParams)}
    assert all(allowed_range(name) is not None for name in chat_settings.SETTINGS)


def test_a_mistyped_command_is_told_the_near_one(fake: FakeLLM, puna: Puna) -> None:
    assert "there is no command /regnerate\nDid you mean /regenerate or" in puna("chat", stdin="/regnerate\n").err


def test_save_and_load_give_the_same_conversation(fake: FakeLLM, puna: Puna, tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    puna("chat", "--system", "Be brief.", stdin=f"one\n/save {file}\n")
    puna("chat", stdin=f"other\n/load {file}\ntwo\n")
    assert contents(fake) == ["Be brief.", "one", "Paris.", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1]",
        '{"messages": 1}',
        '[{"role": "king", "content": "x"}]',
        "\ufeff[]x",
        "[" * 100_000,
        '[{"role": "user", "content": "a\\ud800b"}]',
    ],
)
def test_a_file_that_holds_no_conversation_changes_nothing(fake: FakeLLM, puna: Puna, tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text, "utf-8")
    done = puna("chat", stdin=f"one\n/load {tmp_path / 'x.json'}\n/load {tmp_path / 'none'}\ntwo\n")
    assert done.code == 0 and contents(fake) == ["one", "Paris.", "two"] and done.err.count("puna: ") == 2


def test_a_pipe_in_the_place_of_a_saved_conversation_is_refused(fake: FakeLLM, puna: Puna, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is not a file" in puna("chat", stdin=f"/load {tmp_path / 'pipe'}\n").err


def test_model_goes_on_with_another_model_and_keeps_the_conversation(
    fake: FakeLLM, puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.cli.chat.check_model", lambda *_, **__: None)
    done = puna("chat", "first.gguf", stdin="one\n/model second.gguf\ntwo\n/model\n")
    assert [name for name, _, _ in fake.loaded] == ["first.gguf", "second.gguf"] and fake.num_closed == 2
    assert contents(fake) == ["one", "Paris.", "two"] and done.err.count("fake, context 1000 tokens") == 2


def test_a_model_that_does_not_exist_leaves_the_one_that_is_loaded(fake: FakeLLM, puna: Puna) -> None:
    done = puna("chat", "first.gguf", stdin="one\n/model no/such.gguf\ntwo\n")
    assert "no such file or folder: no/such.gguf" in done.err and fake.num_closed == 1
    assert contents(fake) == ["one", "Paris.", "two"]


def test_a_model_that_cannot_be_loaded_gives_way_to_the_one_before(
    fake: FakeLLM, puna: Puna, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puna.cli.chat.check_model", lambda *_, **__: None)
    load = FakeLLM.load

    def fails(self: FakeLLM, name: str | None, *args: object, **kwargs: object) -> FakeLLM:
        self.error = PunaError("too large") if name == "large.gguf" else None
        return load(self, name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(FakeLLM, "load", fails)
    done = puna("chat", "first.gguf", stdin="one\n/model large.gguf\ntwo\n")
    assert "puna: too large\nGoing back to " in done.err and contents(fake) == ["one", "Paris.", "two"]
    assert str(fake.loaded[-1][0]).endswith("fake.gguf") and done.code == 0


# ---- what is kept


def test_continue_goes_on_with_the_newest_conversation(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", "--system", "Be brief.", stdin="old\n/reset\none\n")
    done = puna("chat", "--continue", stdin="two\n")
    assert contents(fake) == ["Be brief.", "one", "Paris.", "two"]
    assert 'Continuing with 2 messages. You said last: "one"' in done.err
    assert str(fake.loaded[-1][0]).endswith("fake.gguf")  # the model of that conversation
    puna("chat", "--continue", "other.gguf", "--system", "Be long.", stdin="three\n")
    assert contents(fake)[0] == "Be long." and contents(fake)[-1] == "three" and fake.loaded[-1][0] == "other.gguf"


def test_without_a_saved_conversation_continue_is_told_before_loading(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", "--no-save", stdin="one\n")
    done = puna("chat", "--continue", stdin="two\n")
    assert done.code == 2 and "no conversation is saved" in done.err and len(fake.loaded) == 1


def test_a_saved_conversation_whose_model_is_gone_asks_for_another(fake: FakeLLM, puna: Puna) -> None:
    puna("chat", stdin="one\n")
    fake.error = ModelNotFoundError("no such file")
    done = puna("chat", "--continue", stdin="two\n")
    assert done.code == 2 and "fake.gguf\nName another: puna chat MODEL --continue\n" in done.err


def test_a_folder_that_cannot_be_written_is_told_once_and_the_conversation_goes_on(
    fake: FakeLLM, puna: Puna, tmp_path: Path
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "conversations").write_text("a file where the folder should be")
    done = puna("chat", stdin="one\ntwo\n")
    assert done.code == 0 and done.out == "Paris.\nParis.\n" and done.err.count("this conversation is not saved") == 1


def test_what_stands_before_an_error_in_an_answer_is_saved(fake: FakeLLM, puna: Puna) -> None:
    fake.answer = ("Pa", PunaError("the device is gone"))
    done = puna("chat", stdin="one\n")
    assert done.code == 1 and newest().said == [{"role": "user", "content": "one"}, {"role": "assistant", "content": "Pa"}]


def test_half_a_character_at_the_end_of_an_answer_is_not_shown(fake: FakeLLM, puna: Puna) -> None:
    fake.answer, fake.reason = ("A llama: ", "\ufffd"), FinishReason.LENGTH
    assert puna("chat", stdin="one\n").out == puna("run", "one").out == "A llama: \n"


# ---- encodings


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_on_standard_input_is_no_text(fake: FakeLLM, puna: Puna, encoding: str) -> None:
    text = "wörld 🦙\nzwei\n"
    data = (b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding)
    puna("chat", stdin=data.decode("utf-8", "surrogateescape"))
    assert [asked[0][-1]["content"] for asked in fake.asked] == ["wörld 🦙", "zwei"]
    puna("run", "-", "--raw", stdin=data.decode("utf-8", "surrogateescape"))
    assert fake.asked[-1][0] == text


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


def test_thinking_is_set_and_shown_apart(fake: FakeLLM, puna: Puna) -> None:
    fake.chat_template, fake.answer = "{{ enable_thinking }}<think>", (f"{THOUGHT}Hm.", "No.")
    done = puna("chat", stdin="/set thinking off\nhi\n/set thinking on\n/set thinking maybe\n/set thinking_budget 9\nhi\n")
    assert done.out == "No.\nNo.\n" and "thinking = off" in done.err and "thinking = on" in done.err
    assert "thinking is on or off" in done.err and done.err.count("Hm.") == 2
    assert fake.template_args == {"enable_thinking": True} and fake.asked[-1][1].thinking_budget == 9
    assert fake.asked[-1][0][1]["content"] == "No.", "the conversation keeps the answer alone"
