"""The ways of FunctionGemma and Gemma 4: each call between two control tokens, texts between two others, and no quotes.

    <start_function_call>call:get_weather{city:<escape>Lima<escape>,days:2}<end_function_call>

Names are in the order of the alphabet, as the templates have them. What has further rules, such as a text that follows a
pattern, is JSON in its place. Gemma 2 and 3 know no tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from puna.server.tools.base import Tool
from puna.server.tools.lark import LarkTerms
from puna.server.tools.layout import CallLayout
from puna.server.tools.layout_calls import LayoutCalls
from puna.server.tools.notation import (
    ArgumentsReader,
    ReadArguments,
    checked_schema,
    is_any_text,
    object_of,
    part_in_lark,
    plain_properties,
    refers_elsewhere,
    texts_of,
)

NAME = re.compile(r"[A-Za-z_][\w.$-]*")


class BareNotation:
    """Objects with names as they are; `mark` stands before and behind a text."""

    opening = r"\{"

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self.marks = frozenset({mark})

    def takes(self, tool: Tool) -> bool:
        return not refers_elsewhere(tool.schema())

    def rules(self, name: str, tool: Tool, spell: LarkTerms) -> dict[str, str]:
        schema = checked_schema(tool)
        rules = BareRules(self._mark, spell, schema)
        rules.add(name, schema)
        return rules.made

    def reader(self, tool: Tool) -> ArgumentsReader:
        return BareReader(self._mark)

    def written(self, arguments: Mapping[str, Any] | str | None) -> str:
        return self._written(object_of(arguments))

    def _written(self, value: Any) -> str:
        if isinstance(value, str):
            return self._mark + value + self._mark
        if isinstance(value, Mapping):
            return "{" + ",".join(f"{key}:{self._written(value[key])}" for key in sorted(value)) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(self._written, value)) + "]"
        return json.dumps(value)


class BareRules:
    """Makes the rules of a schema. `made`: all of them."""

    def __init__(self, mark: str, spell: LarkTerms, whole: Mapping[str, Any]) -> None:
        self._mark, self._spell, self._whole = mark, spell, whole
        self.made: dict[str, str] = {}

    def add(self, rule: str, schema: Any) -> None:
        """The rule of a value."""
        properties = plain_properties(schema) if isinstance(schema, dict) else None
        if is_any_text(schema):
            self.made |= {rule: f"{self._spell(self._mark)} {rule}_text", **self._spell.text_before(self._mark, f"{rule}_text")}
        elif texts := [text for text in texts_of(schema) if self._mark not in text]:
            self.made[rule] = " | ".join(
                f"({self._spell(self._mark)} {json.dumps(one)} {self._spell(self._mark)})" for one in texts
            )
        elif properties is not None and all(map(NAME.fullmatch, properties)):
            self._add_object(rule, properties, schema.get("required", ()))
        elif isinstance(schema, dict) and schema.get("type") == "array" and schema.keys() <= {"type", "items", "description"}:
            self.add(f"{rule}_item", schema.get("items", {}))
            self.made[rule] = f'"[" ({rule}_item ("," {rule}_item)*)? "]"'
        else:
            self.made[rule] = part_in_lark(schema, self._whole)

    def _add_object(self, rule: str, properties: Mapping[str, Any], required: Any) -> None:
        """Members in their order. `rule_first_I`: those from I on, the first of all; `rule_next_I`: those behind another."""
        names = sorted(properties)
        self.made[rule] = f'"{{" {rule}_first_0 "}}"'
        for number, name in enumerate(names):
            member, after = f"{rule}_{number}", f"{rule}_next_{number + 1}"
            self.add(f"{member}_value", properties[name])
            self.made[member] = f"{json.dumps(name + ':')} {member}_value"
            skipped = ("", "") if name in required else (f" | {rule}_first_{number + 1}", f" | {after}")
            self.made[f"{rule}_first_{number}"] = f"({member} {after}){skipped[0]}"
            self.made[f"{rule}_next_{number}"] = f'("," {member} {after}){skipped[1]}'
        self.made |= dict.fromkeys((f"{rule}_first_{len(names)}", f"{rule}_next_{len(names)}"), '""')


class BareReader:
    """Tells the arguments when they are whole.

    >>> BareReader("<escape>").read("{a:<escape>x}<escape>,b:[1]}<end>")
    ReadArguments(told='{"a": "x}", "b": [1]}', rest='<end>', is_over=True)
    """

    def __init__(self, mark: str) -> None:
        text, string, name = f"{re.escape(mark)}(.*?){re.escape(mark)}", r'("(?:[^"\\]|\\.)*")', r"([A-Za-z_][\w.$-]*)(?=:)"
        self._piece = re.compile(f'{text}|{string}|{name}|([{{}}])|({re.escape(mark)}|")', re.DOTALL)
        self._num_tried = 0  # characters in which no end was found

    def read(self, text: str) -> ReadArguments:
        if "}" in text[self._num_tried :] and (found := self._whole(text)):
            return found
        self._num_tried = len(text)
        return ReadArguments("", text, False)

    def _whole(self, text: str) -> ReadArguments | None:
        told, at, depth = "", 0, 0
        for found in self._piece.finditer(text):
            given, string, name, brace, unfinished = found.groups()
            if unfinished:
                return None
            quoted = next((one for one in (given, name) if one is not None), None)
            told += text[at : found.start()] + (string or brace or json.dumps(quoted, ensure_ascii=False))
            at, depth = found.end(), depth + {"{": 1, "}": -1}.get(brace or "", 0)
            if brace and depth == 0:
                return ReadArguments(json.dumps(json.loads(told), ensure_ascii=False), text[at:], True)
        return None


def between_tokens(begin: str, close: str, after: str, mark: str) -> LayoutCalls:
    """Calls between two control tokens. `after` begins the results, and models write it behind their calls."""
    layout = CallLayout(begin, ("",), ("call:NAME",), tail=close, between=begin, close="", after=after)
    return LayoutCalls(layout, notation=BareNotation(mark))


FUNCTION_GEMMA = between_tokens("<start_function_call>", "<end_function_call>", "<start_function_response>", "<escape>")
GEMMA4 = between_tokens("<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>')
