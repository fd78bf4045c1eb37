"""The grammars of tool calls, with the matcher that generation uses: what they allow, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from puna.constraints import Constraints
from puna.schemas import JsonSchema
from puna.server.tools.base import Tool, ToolUse
from puna.server.tools.grammar import grammar_of
from puna.server.tools.hermes import HERMES
from puna.server.tools.lark import LarkTerms
from puna.server.tools.layout import CallLayout
from puna.server.tools.notation import JSON
from tests.fakes import BOS, ByteTokenizer

PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}}
WEATHER = Tool("get_weather", parameters={"type": "object", "properties": PROPERTIES, "required": ["city"]})
NOW = Tool("now")
TOOLS = (WEATHER, NOW)
LIMA = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>'
TIME = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
UNTAGGED = '{"name": "now", "arguments": {}}'
CONSTRAINTS = Constraints(ByteTokenizer())


def allows(grammar: str, text: str | list[int]) -> bool:
    """Whether an answer may be this text, or these tokens."""
    ids = list(text.encode()) if isinstance(text, str) else text
    matcher = CONSTRAINTS._copy("grammar", grammar)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def hermes(choice: str = "auto", is_parallel: bool = True, answer: dict[str, Any] | None = None) -> str:
    return HERMES.grammar(ToolUse(TOOLS, choice, is_parallel, None if answer is None else JsonSchema.of("x", answer)), {})


ALLOWED = {
    "auto": [
        "",
        "Hi.",
        "<tool_call",
        "a <tool <tool_cal\n",
        LIMA,
        f"Hm.\n{TIME}",
        f"{LIMA}\n{TIME}",
        f"x <tool_<{TIME}\n{LIMA}",
        *[UNTAGGED, f"\n{UNTAGGED}\n{UNTAGGED}", f"```json\n{UNTAGGED}\n```", f"```\n{UNTAGGED}", '{"name": "get", "x": 1}'],
        *['{"name" :"now",\n    "arguments": {}\n}', f"So: {UNTAGGED} ```"],
    ],
    "none": ["", "Hi.", "<tool_call", 'A {"name": "get"}'],
    "required": [LIMA, TIME, f"{TIME}\n{LIMA}", f"\n\n{TIME}"],
    "now": [TIME, f"\n{TIME}"],
    "get_weather": [LIMA],
}
REFUSED = {
    "auto": [
        "<tool_call>",
        f"{LIMA} and more",
        LIMA.replace("Lima", 'Lima", "days": 10'),
        LIMA.replace("Lima", 'Lima", "x": "'),
        LIMA.replace('"Lima"', "3"),
        LIMA.replace("get_weather", "weather"),
        LIMA.replace("get_weather", "now"),
        LIMA.replace("\n</tool_call>", ""),
        LIMA + LIMA,
        "Hm <tool_call> hm",
        *[f"{UNTAGGED}.", UNTAGGED.replace("{}", '{"x": 1}'), '{"name": "now", "x": 1}', '```json\n{"name": "now"}'],
        f'{{"name": "now" or {TIME}',
    ],
    "none": [LIMA, "a <tool_call>", f"Hm.\n{TIME}", "{", " {}", "```json\n{"],
    "required": ["", "Hi.", f"Hm.\n{TIME}", f"\n\n\n{TIME}"],
    "now": ["", LIMA, f"{TIME}\n{TIME}", f"{TIME}\n{LIMA}"],
    "get_weather": [TIME],
}


@pytest.mark.parametrize("choice", ALLOWED)
def test_a_choice_is_enforced(choice: str) -> None:
    for text in ALLOWED[choice]:
        assert allows(hermes(choice), text), text
    for text in REFUSED[choice]:
        assert not allows(hermes(choice), text), text


def test_without_parallel_calls_there_is_one_at_most() -> None:
    for choice in ("auto", "required"):
        assert allows(hermes(choice, is_parallel=False), LIMA)
        assert not allows(hermes(choice, is_parallel=False), f"{LIMA}\n{TIME}")


def test_an_answer_that_calls_nothing_may_have_a_form_too() -> None:
    grammar = hermes(answer={"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]})
    for text in ('{"ok": true}', LIMA, f"{LIMA}\n{TIME}"):
        assert allows(grammar, text), text
    for text in ("Hi.", '{"ok": 1}', f"Hm. {LIMA}", f'{{"ok": true}}{LIMA}'):
        assert not allows(grammar, text), text


def test_marks_may_be_control_tokens() -> None:
    layout = CallLayout("<s>", ("[",), ('{"f": "NAME", "x": ',), "}", ", ", "]")
    call = b'{"f": "now", "x": {}}'
    for choice, ids in {
        "auto": [*b"Hi <s>", BOS, *b"[", *call, *b", ", *call, *b"]"],
        "required": [BOS, *b"[", *call, *b"]"],
        "none": [*b"<s>[", *call],
    }.items():
        grammar = grammar_of(layout, None, JSON, ToolUse(TOOLS, choice), {"<s>": BOS, "x": 1})
        assert allows(grammar, ids), choice
        assert not allows(grammar, [*ids, BOS])


def test_texts_are_spelled_for_lark() -> None:
    assert LarkTerms({})('a"\n') == '"a\\"\\n"'
    assert LarkTerms({"<s>": 1, "</s>": 2})("<s>a</s>") == '<[1]> "a" <[2]>'
