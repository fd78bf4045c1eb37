"""The way of Qwen3-Coder: each argument between tags of its own; a text as it is, all else as JSON.

<tool_call>
<function=get_weather>
<parameter=city>
Lima
</parameter>
</function>
</tool_call>
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

OPEN, CLOSE = "<parameter=NAME>\n", "\n</parameter>\n"
BEGUN, OVER = re.compile(r"\s*<parameter=([^>\n]+)>\n"), re.compile(r"\s*(?=</function>)")
NAME = re.compile(r"[^<>\n]+")


class TaggedNotation:
    """Each argument between tags."""

    opening = "<"
    marks = frozenset[str]()

    def takes(self, tool: Tool) -> bool:
        schema = tool.schema()
        properties = plain_properties(schema)
        return properties is not None and all(map(NAME.fullmatch, properties)) and not refers_elsewhere(schema)

    def rules(self, name: str, tool: Tool, spell: LarkTerms) -> dict[str, str]:
        schema = checked_schema(tool)
        rules, found, needed = dict[str, str](), list[str](), schema.get("required", ())
        for number, (key, part) in enumerate((plain_properties(schema) or {}).items()):
            rule = f"{name}_{number}"
            rules |= _value(f"{rule}_value", part, schema, spell)
            rules[rule] = f"{spell(OPEN.replace('NAME', key))} {rule}_value"
            found.append(rule if key in needed else f"{rule}?")
        return {name: " ".join(found) or '""', **rules}

    def reader(self, tool: Tool) -> ArgumentsReader:
        properties = plain_properties(tool.schema()) or {}
        return TaggedReader({key for key, part in properties.items() if is_any_text(part) or _texts_of(part)})

    def written(self, arguments: Mapping[str, Any] | str | None) -> str:
        texts = {key: value if isinstance(value, str) else _dumped(value) for key, value in object_of(arguments).items()}
        return "".join(OPEN.replace("NAME", key) + text + CLOSE for key, text in texts.items())


def _value(rule: str, part: Any, whole: Mapping[str, Any], spell: LarkTerms) -> dict[str, str]:
    """A value, and the tag behind it."""
    if is_any_text(part):
        return spell.text_before(CLOSE, rule)
    if texts := _texts_of(part):
        return {rule: f"({' | '.join(map(json.dumps, texts))}) {spell(CLOSE)}"}
    return {rule: f"{rule}_json {spell(CLOSE)}", f"{rule}_json": part_in_lark(part, whole)}


def _texts_of(part: Any) -> list[str]:
    texts = texts_of(part)
    return [] if any(CLOSE in text for text in texts) else texts


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


class TaggedReader:
    """Tells an argument when it is whole. `texts`: those whose value is a text."""

    def __init__(self, texts: set[str]) -> None:
        self._texts = texts
        self._has_begun = False

    def read(self, text: str) -> ReadArguments:
        told = ""
        while (begun := BEGUN.match(text)) and (end := text.find(CLOSE, begun.end())) >= 0:
            value = text[begun.end() : end]
            told += (", " if self._has_begun else "{") + f"{_dumped(begun[1])}: "
            told += _dumped(value) if begun[1] in self._texts else value
            self._has_begun, text = True, text[end + len(CLOSE) :]
        if over := OVER.match(text):
            return ReadArguments(told + ("}" if self._has_begun else "{}"), text[over.end() :], True)
        return ReadArguments(told, text, False)


LAYOUT = CallLayout(
    begin="<tool_call>",
    opens=("\n",),
    heads=("<function=NAME>\n",),
    tail="</function>\n</tool_call>",
    between="\n<tool_call>\n",
    close="",
)
QWEN_CODER = LayoutCalls(LAYOUT, notation=TaggedNotation())
