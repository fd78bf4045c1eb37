"""Streaming an answer: wrapped on a terminal, byte for byte elsewhere, never half a character."""

from __future__ import annotations

import io
from typing import Any, cast

import pytest

from puna.cli.answer import stream_text
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
