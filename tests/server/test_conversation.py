"""Instructions anywhere, and neighbours of one role: moved only where the template needs it, and always in the same way."""

from __future__ import annotations

import random
from typing import Any

import pytest

from puna.chat import BUILT_IN, render
from puna.errors import UsageError
from puna.server.conversation import ConversationBuilder, as_conversation, fitted, takes

PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
REFUSAL = "{{ raise_exception('no') }}{% endif %}"
FIRST_ONLY = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}" + REFUSAL + "{% endfor %}" + PLAIN
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'system' %}" + REFUSAL + "{% endfor %}" + PLAIN
LEAVES_OUT = PLAIN.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}")
ALTERNATING = (
    "{% if messages[0].role == 'system' %}{% set head = messages[0].content %}{% set rest = messages[1:] %}"
    "{% else %}{% set head = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}" + REFUSAL + "{% endfor %}{{ head }}"
) + PLAIN.replace("in messages", "in rest")
TEMPLATES = {
    "plain": PLAIN,
    "first only": FIRST_ONLY,
    "no system": NO_SYSTEM,
    "leaves out": LEAVES_OUT,
    "alternating": ALTERNATING,
    "llama2": "llama2",
    "llama3": "llama3",
}


def conversation(roles: str) -> list[dict[str, Any]]:
    """ "sdua" -> messages of these roles, each with a content of its own."""
    words = {"s": "system", "d": "developer", "u": "user", "a": "assistant"}
    return [{"role": words[letter], "content": f"{letter}{number}"} for number, letter in enumerate(roles)]


def shown(messages: list[dict[str, Any]]) -> str:
    return " ".join(f"{turn['role'][0]}:{turn['content']}".replace("\n\n", "+") for turn in messages)


@pytest.mark.parametrize(
    ("name", "roles", "expected"),
    [
        ("plain", "ssus", "s:s0 s:s1 u:u2 s:s3"),
        ("plain", "dduuau", "d:d0 d:d1 u:u2 u:u3 a:a4 u:u5"),
        ("first only", "su", "s:s0 u:u1"),
        ("first only", "dsu", "d:d0+s1 u:u2"),
        ("first only", "us", "u:u0 u:s1"),
        ("first only", "suasu", "s:s0 u:u1 a:a2 u:s3 u:u4"),
        ("no system", "suau", "u:s0 u:u1 a:a2 u:u3"),
        ("leaves out", "sus", "u:s0 u:u1 u:s2"),
        ("alternating", "su", "s:s0 u:u1"),
        ("alternating", "ssusau", "s:s0+s1 u:u2+s3 a:a4 u:u5"),
        ("alternating", "uaau", "u:u0 a:a1+a2 u:u3"),
        ("llama2", "ddusauu", "d:d0+d1 u:u2+s3 a:a4 u:u5+u6"),
        ("llama3", "susuu", "s:s0 u:u1 s:s2 u:u3 u:u4"),
    ],
)
def test_only_what_a_template_does_not_take_is_moved(name: str, roles: str, expected: str) -> None:
    assert shown(fitted(conversation(roles), TEMPLATES[name])) == expected


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in BUILT_IN])
def test_a_longer_conversation_begins_as_the_shorter_one(name: str) -> None:
    chance = random.Random(16)
    for _ in range(25):
        head = "".join(chance.choices("sd", k=chance.randrange(3)))
        turns = ["".join(chance.choices("usd", (4, 1, 1), k=chance.randrange(1, 4))) + "a" for _ in range(3)]
        roles = head + "u" + "".join(turns)
        whole = text_of(fitted(conversation(roles + "u"), TEMPLATES[name]), TEMPLATES[name])
        for end in (place for place, role in enumerate(roles) if role == "a"):
            begun = text_of(fitted(conversation(roles[: end + 1]), TEMPLATES[name]), TEMPLATES[name])
            assert whole.startswith(begun), (roles, end)


def text_of(messages: list[dict[str, Any]], template: str) -> str:
    return render(messages, template, bos_token="", eos_token="", add_generation_prompt=False).text


def test_a_template_is_tried_and_not_known_by_name() -> None:
    assert takes(FIRST_ONLY, ("system", "user")) and not takes(FIRST_ONLY, ("user", "system"))
    assert not takes(LEAVES_OUT, ("system", "user"))
    assert not takes("{{ nonsense( }}", ("user",))


def test_merged_messages_keep_thoughts_and_calls() -> None:
    call: dict[str, Any] = {"id": "1", "type": "function", "function": {"name": "get", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "assistant", "content": "done", "tool_calls": [call]},
        {"role": "user", "content": "on"},
    ]
    template = ALTERNATING + "{# tool_calls #}{{ 'tool_calls' if false }}"
    _, merged, _ = fitted(turns, template)
    assert merged["content"] == "done" and merged["reasoning_content"] == "hm" and len(merged["tool_calls"]) == 2


def test_results_get_the_names_of_their_tools() -> None:
    call: dict[str, Any] = {"id": "7", "type": "function", "function": {"name": "get", "arguments": {}}}
    turns: list[dict[str, Any]] = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "7", "content": "x"},
    ]
    assert fitted(turns, None)[1]["name"] == "get"
    assert "name" not in fitted([turns[0], {**turns[1], "tool_call_id": "8"}], None)[1]


def test_messages_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match="message 0"):
        fitted([{"role": "llama", "content": "x"}], PLAIN)


def test_a_conversation_grows_by_turns() -> None:
    made = ConversationBuilder()
    made.say("user", "a")
    made.say("user", "b")
    made.end()
    made.think("hm")
    made.say("assistant", "c")
    made.call("1", "get", {"x": 1})
    made.answer("1", "y")
    made.answer("2", "z")
    made.say("user", "d")
    roles = [turn["role"] for turn in made.messages]
    assert roles == ["user", "assistant", "tool", "tool", "user"]
    assert made.messages[0]["content"] == "a\nb"
    assert made.messages[1]["reasoning_content"] == "hm" and made.messages[1]["tool_calls"][0]["id"] == "1"


def test_null_contents_and_both_names_of_reasoning_are_taken() -> None:
    call: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [], "reasoning": "hm"}
    assert as_conversation(call) == {"role": "assistant", "content": "", "tool_calls": [], "reasoning_content": "hm"}
    assert as_conversation({"role": "user", "content": None}) == {"role": "user"}
