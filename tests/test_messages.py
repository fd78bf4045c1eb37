"""Messages of a conversation: every accepted form of a message, and an error for every invalid one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from puna.errors import UsageError
from puna.messages import checked_messages, texts_in

CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": [1, None, "y"]}}}


def one(**message: Any) -> dict[str, Any]:
    (found,) = checked_messages([message])
    return found


def test_a_message_is_kept_with_its_further_keys_and_nothing_of_the_callers_is_changed() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": '{"x": [1, null, "y"]}'}}
    given = {"role": "assistant", "content": None, "tool_calls": [call], "name": "n", "reasoning_content": ("a", 1.5)}
    found = one(**given)
    assert found == {"role": "assistant", "content": "", "tool_calls": [CALL], "name": "n", "reasoning_content": ["a", 1.5]}
    assert given["tool_calls"] == [call] and isinstance(call["function"], dict)
    assert call["function"]["arguments"] == '{"x": [1, null, "y"]}'


def test_arguments_that_are_no_object_stay_a_text() -> None:
    for text in ("no json", "[1]", ""):
        (call,) = one(role="assistant", content="", tool_calls=[{"function": {"arguments": text}}])["tool_calls"]
        assert call["function"]["arguments"] == text


def test_no_calls_are_no_key() -> None:
    assert one(role="assistant", content="a", tool_calls=[]) == one(role="assistant", content="a", tool_calls=None)
    assert "tool_calls" not in one(role="user", content="a", tool_calls=None)


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool", "developer"])
def test_every_role_may_have_its_content_in_parts(role: str) -> None:
    parts = ({"type": "text", "text": "a"}, {"type": "text", "text": ""}, {"type": "text", "text": "b"})
    assert one(role=role, content=parts)["content"] == "a\n\nb"
    assert one(role=role, content=[])["content"] == ""


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio", "video", "file", None, 5])
def test_a_part_of_another_type_is_refused_by_its_name(kind: Any) -> None:
    with pytest.raises(UsageError, match=f"part 0 of message 0 is of type {kind!r}; puna reads parts of type 'text'"):
        one(role="user", content=[{"type": kind, "text": "a"}])


@pytest.mark.parametrize("role", [None, 10**5000, "x" * 10**6, np.array([1, 2]), np.array([]), ["user"]], ids=type)
def test_a_role_of_any_kind_is_refused_in_a_short_line(role: Any) -> None:
    with pytest.raises(UsageError, match=r"message 0 has the role .*; allowed: system") as caught:
        one(role=role, content="a")
    assert len(str(caught.value)) < 300


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else "x"


@pytest.mark.parametrize("bad", [deep(40), {1: 2}, {"a": b"x"}, "a \ud83e", {"\ud83e": 1}, float("inf")], ids=str)
def test_a_key_that_json_cannot_hold_is_refused(bad: Any) -> None:
    with pytest.raises(UsageError, match="message 0"):
        one(role="user", content="a", extra=bad)


def test_every_text_of_a_value_is_found() -> None:
    assert list(texts_in({"a": ["b", {"c": "d"}], "e": 5, "f": None})) == ["a", "b", "c", "d", "e", "f"]


WRONG_CALLS: list[Any] = ["x", [1], [{"function": "x"}], [{"id": []}]]


@pytest.mark.parametrize("wrong", [*({"tool_calls": calls} for calls in WRONG_CALLS), {"tool_call_id": {}}])
def test_calls_and_ids_of_another_kind_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="message 0: tool_call"):
        one(role="assistant", content="a", **wrong)
