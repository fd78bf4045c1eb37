"""Notations of arguments: what their grammar allows follows the schema, and is read as the JSON that it stands for."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from puna.server.tools import format_of
from puna.server.tools.base import Tool, ToolUse
from puna.server.tools.gemma import FUNCTION_GEMMA, GEMMA4
from puna.server.tools.hermes import DESCRIBED, HERMES
from puna.server.tools.layout_calls import LayoutCalls
from puna.server.tools.notation import JSON, Notation
from puna.server.tools.qwen_coder import QWEN_CODER
from tests.server.tools.test_formats import allows
from tests.server.tools.test_reader import partitions, read

OWN = {"qwen coder": QWEN_CODER, "functiongemma": FUNCTION_GEMMA, "gemma4": GEMMA4}
each_format = pytest.mark.parametrize("known", OWN.values(), ids=OWN.keys())

PROPERTIES: dict[str, Any] = {
    "at": {"type": "string", "description": "A place."},
    "code": {"type": "string", "pattern": "^[a-z]{3}$"},
    "far": {"type": "boolean"},
    "how": {"enum": ["fast", 'müßig, "langsam"']},
    "item": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "size": {"$ref": "#/$defs/size"}},
        "required": ["size"],
    },
    "many": {"type": "array", "items": {"type": "string"}},
    "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "num": {"type": "integer", "maximum": 9},
}
SCHEMA = {"type": "object", "properties": PROPERTIES, "required": ["at"], "$defs": {"size": {"type": "integer", "minimum": 1}}}
TOOL = Tool("look", parameters=SCHEMA)
WHOLE: dict[str, Any] = {
    "at": 'Li"ma\n}, {x:1}</p>', "code": "abc", "far": True, "how": "müßig, \"langsam\"", "item": {"name": "a: b", "size": 3},
    "many": ["x", ""], "maybe": None, "num": 9,
}  # fmt: skip
RIGHT: list[dict[str, Any]] = [
    WHOLE, {"at": ""}, {"at": "null"}, {"at": "a", "num": 1}, {"at": "a", "many": []}, {"at": "a", "item": {"size": 1}},
    {"at": "a", "maybe": "b"}, {"at": "true", "code": "xyz", "far": False},
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    {}, {"num": 1}, {"at": "a", "num": 10}, {"at": "a", "num": "x"}, {"at": "a", "how": "so"}, {"at": "a", "code": "abcd"},
    {"at": "a", "far": "yes"}, {"at": "a", "item": {"size": 0}}, {"at": "a", "item": {"name": "x"}}, {"at": "a", "many": [1]},
    {"at": "a", "zzz": 1},
]  # fmt: skip


def call_of(known: LayoutCalls, arguments: dict[str, Any]) -> str:
    """A call as the model writes it: what follows further rules is JSON in its place."""
    notation = known.notation
    text = known.written([{"function": {"name": "look", "arguments": arguments}}])
    if notation is QWEN_CODER.notation:
        for name in ("code", "maybe"):
            if isinstance(value := arguments.get(name), str):
                text = text.replace(f"<parameter={name}>\n{value}\n", f"<parameter={name}>\n{json.dumps(value)}\n")
        return text
    (mark,) = notation.marks
    for name in ("code", "maybe"):
        if isinstance(value := arguments.get(name), str):
            text = text.replace(f"{name}:{mark}{value}{mark}", f"{name}:{json.dumps(value)}")
    return text


@each_format
def test_what_follows_the_schema_is_allowed_and_read(known: LayoutCalls) -> None:
    for arguments in RIGHT:
        text = call_of(known, arguments)
        assert allows(known, ToolUse([TOOL], "look"), text), text
        for pieces in partitions(text, random.Random(2), 30):
            said, ((name, found),) = read(known.reader([TOOL]), pieces)
            assert (said, name, json.loads(found)) == ("", "look", arguments), pieces


@each_format
def test_what_does_not_is_refused(known: LayoutCalls) -> None:
    for arguments in WRONG:
        text = call_of(known, arguments)
        assert not allows(known, ToolUse([TOOL], "look"), text), text


@each_format
def test_a_call_that_is_cut_leaves_no_text(known: LayoutCalls) -> None:
    text = call_of(known, WHOLE)
    for end in range(len(text)):
        said, calls = read(known.reader([TOOL]), ["Hm.", text[:end]])
        assert said in ("Hm.", "Hm." + text[:end]) and (said == "Hm." or end < len(known.layout.begin))
        assert all(json.dumps(WHOLE, ensure_ascii=False).startswith(found) for _, found in calls)


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object"},
        {"properties": {"a": {"type": "string"}}, "required": ["b"]},
        {"properties": {"a": {"type": "string"}}, "minProperties": 1},
        {"properties": {"a": {"$ref": "#/properties/b"}, "b": {"type": "string"}}},
        {"properties": {"a>b": {"type": "string"}}},
        {"properties": {}, "additionalProperties": {"type": "string"}},
        {"properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}},
        {"properties": 3, "required": True},
    ],
)
def test_a_schema_that_qwens_tags_cannot_say_is_called_in_json(parameters: dict[str, Any]) -> None:
    template = "{{ tools }}<tool_call><function=x><parameter=y>"
    assert format_of(template, [TOOL]) is QWEN_CODER
    assert format_of(template, [TOOL, Tool("b", parameters=parameters)]) is DESCRIBED


def test_what_gemma_cannot_say_is_json_in_its_place() -> None:
    rules = {"type": "object", "properties": {"a b": {"type": "string"}}, "required": ["a b"]}
    tool = Tool("look", parameters={"properties": {"x": rules, "y": {"type": "string", "maxLength": 3}}, "required": ["x", "y"]})
    text = '<start_function_call>call:look{x:{"a b": "}"},y:"abc"}<end_function_call>'
    assert allows(FUNCTION_GEMMA, ToolUse([tool], "look"), text)
    assert not allows(FUNCTION_GEMMA, ToolUse([tool], "look"), text.replace("abc", "abcd"))
    assert read(FUNCTION_GEMMA.reader([tool]), [text])[1] == [("look", '{"x": {"a b": "}"}, "y": "abc"}')]


@pytest.mark.parametrize("notation", [JSON, *(known.notation for known in OWN.values())], ids=["json", *OWN])
@pytest.mark.parametrize("arguments", [None, "", "x", "[1]", "3", {}, '{"a": 1}'])
def test_whatever_a_client_sends_as_arguments_is_written(notation: Notation, arguments: Any) -> None:
    assert isinstance(notation.written(arguments), str)


def test_an_object_ends_where_its_braces_do() -> None:
    text = '{"a{": "\\"}", "b": [{"c": "\\\\"}, "}"]}rest'
    for cut in range(len(text)):
        reader = JSON.reader(TOOL)
        first = reader.read(text[:cut])
        rest = first.rest + text[cut:] if first.is_over else reader.read(text[cut:]).rest
        assert rest == "rest", cut


def test_json_needs_no_notation_of_its_own() -> None:
    assert HERMES.notation is JSON and HERMES.takes([Tool("x", parameters={"type": "array"})])
