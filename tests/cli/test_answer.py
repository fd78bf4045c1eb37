"""Streaming an answer: wrapped on a terminal, byte for byte elsewhere, never half a character."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

from puna.cli.answer import speeds_lines, stream_text, write_whole
from puna.request import FinishReason, SamplingParams
from tests.cli.conftest import FakeStream

WORDS = ["A llama ", "is an an", "imal of the Andes. " * 5, "\n\n", "日本語の文 " * 12, "\x1b[2J", "🦙"]


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def stream(words: list[Any], reason: FinishReason = FinishReason.STOP) -> Any:
    return cast(Any, FakeStream(words, [1], SamplingParams(), reason))


def test_a_pipe_gets_the_text_byte_for_byte() -> None:
    out = io.StringIO()
    stream_text(stream(WORDS), out)
    assert out.getvalue() == "".join(WORDS)


def test_a_terminal_gets_lines_of_its_width_without_control_characters() -> None:
    out = Screen()
    stream_text(stream(WORDS), out)
    assert out.getvalue() != "".join(WORDS) and max(map(len, out.getvalue().splitlines())) <= 80
    assert "\x1b" not in out.getvalue() and out.getvalue().endswith("🦙")


def test_what_was_held_back_is_written_when_an_answer_is_stopped() -> None:
    out = Screen()
    with pytest.raises(KeyboardInterrupt):
        stream_text(stream(["one tw", KeyboardInterrupt()]), out)
    assert out.getvalue() == "one tw"


def test_it_ends_between_two_pieces_once_it_is_asked_to() -> None:
    out, asked = io.StringIO(), iter([False, True])
    heard = stream_text(stream(["one ", "two ", "three"]), out, lambda: next(asked))
    assert heard.is_stopped and out.getvalue() == "one two "


@pytest.mark.parametrize(("reason", "shown"), [(FinishReason.LENGTH, "a "), (FinishReason.STOP, "a \ufffd")])
def test_only_a_limit_cuts_a_character_in_half(reason: FinishReason, shown: str) -> None:
    out = io.StringIO()
    stream_text(stream(["a ", "\ufffd"], reason), out)
    assert out.getvalue() == shown


def test_an_answer_that_is_shown_as_a_whole_is_wrapped_as_a_stream_is() -> None:
    text = "".join(WORDS)
    whole, streamed, pipe = Screen(), Screen(), io.StringIO()
    write_whole(whole, text)
    stream_text(stream(WORDS), streamed)
    write_whole(pipe, text)
    assert whole.getvalue() == streamed.getvalue() + "\n" and pipe.getvalue() == text + "\n"


FACTS = {
    "load_s": 0.5,
    "first_token_after_process_start_s": 1.0,
    "prompt_tokens": 9,
    "prefill_tokens_per_s": 100.4,
    "output_tokens": 3,
    "decode_tokens_per_s": 50.0,
    "drafted_tokens": 0,
    "accepted_tokens": 0,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "prompt 9 tokens, 100 tok/s | answer 3 tokens, 50.0 tok/s"),
        ({"decode_tokens_per_s": 0.0}, "prompt 9 tokens, 100 tok/s | answer 3 tokens"),
        ({"output_tokens": 1, "decode_tokens_per_s": 0.0, "prefill_tokens_per_s": 0.0}, "prompt 9 tokens | answer 1 token"),
        ({"drafted_tokens": 9}, "of 9 guessed tokens, 0 were right"),
        ({"drafted_tokens": 9, "accepted_tokens": 1}, "of 9 guessed tokens, 1 was right"),
    ],
)
def test_statistics_are_in_words_and_a_speed_that_is_not_known_is_left_out(changes: dict[str, Any], line: str) -> None:
    assert line in speeds_lines(FACTS | changes)
