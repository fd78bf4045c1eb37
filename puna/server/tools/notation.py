"""How the arguments of a call are written: the contract, and JSON, which most models write.

A notation knows the rules of a grammar that hold arguments to their schema, and reads them back as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from puna.constraints import in_lark
from puna.schemas import JsonSchema
from puna.server.tools.base import Tool
from puna.server.tools.lark import LarkTerms


class ReadArguments(NamedTuple):
    """What a text adds to a call: `told` as JSON text; `rest` is not read yet. `is_over`: the arguments end before `rest`."""

    told: str
    rest: str
    is_over: bool


class ArgumentsReader(Protocol):
    """Reads the arguments of one call, which come in pieces."""

    def read(self, text: str) -> ReadArguments:
        """What is known after the next piece; it begins with the `rest` of the one before."""


class Notation(Protocol):
    """A way to write arguments."""

    @property
    def opening(self) -> str:
        """An expression of how arguments begin."""

    @property
    def marks(self) -> frozenset[str]:
        """Words that may be control tokens of a vocabulary."""

    def takes(self, tool: Tool) -> bool:
        """Whether the arguments of a tool can be written so, and be held to all of its schema."""

    def rules(self, name: str, tool: Tool, spell: LarkTerms) -> dict[str, str]:
        """Rules of a grammar; that of `name` is the arguments of a tool."""

    def reader(self, tool: Tool) -> ArgumentsReader: ...

    def written(self, arguments: Mapping[str, Any] | str | None) -> str:
        """Arguments of an earlier call, as the model would write them."""


class JsonNotation:
    """Arguments as a JSON object."""

    opening = r"\{"
    marks = frozenset[str]()

    def takes(self, tool: Tool) -> bool:
        return True

    def rules(self, name: str, tool: Tool, spell: LarkTerms) -> dict[str, str]:
        return {name: in_lark(tool.arguments())}

    def reader(self, tool: Tool) -> ArgumentsReader:
        return JsonReader()

    def written(self, arguments: Mapping[str, Any] | str | None) -> str:
        return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


class JsonReader:
    """Reads a JSON object as it comes.

    >>> reader = JsonReader()
    >>> reader.read('{"a": "}'), reader.read('"}, ')
    (ReadArguments(told='{"a": "}', rest='', is_over=False), ReadArguments(told='"}', rest=', ', is_over=True))
    """

    MARKS = re.compile(r'[{}"\\]')

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False

    def read(self, text: str) -> ReadArguments:
        end = self._end_in(text)
        return ReadArguments(text, "", False) if end is None else ReadArguments(text[:end], text[end:], True)

    def _end_in(self, text: str) -> int | None:
        """How much of the next piece belongs to the object; None: all of it, and it goes on."""
        at = 0
        if self._is_escaped and text:
            at, self._is_escaped = 1, False
        while found := self.MARKS.search(text, at):
            at = found.end()
            if found[0] == "\\":
                self._is_escaped = at == len(text)
                at += 1
            elif found[0] == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if found[0] == "{" else -1
                if self._depth <= 0:
                    return at
        return None


JSON = JsonNotation()


# ---- schemas, for the notations of models ---------------------------------------------------------------------------

DEFINITIONS = ("$defs", "definitions")
ANNOTATIONS = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$schema", "$id", "$comment"}
OBJECT = ANNOTATIONS | {"type", "properties", "required", "additionalProperties", *DEFINITIONS}
REFERENCE = re.compile(r'"\$(?:ref|dynamicRef)": "(?!#/(?:\$defs|definitions)/)')


def plain_properties(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schemas of an object's properties, by name; None for another schema, or an object with further rules.

    Where others are allowed too, they are never written; an object that has nothing but others is no such object.
    """
    properties, required = schema.get("properties"), schema.get("required", [])
    if schema.get("type") != "object" or not schema.keys() <= OBJECT or not isinstance(properties, dict):
        return None
    others = schema.get("additionalProperties", True)
    is_declared = isinstance(required, list) and all(isinstance(name, str) and name in properties for name in required)
    return dict(properties) if is_declared and (others is False or (others is True and properties)) else None


def checked_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments. Refusal that names the tool if puna cannot enforce it."""
    found: dict[str, Any] = json.loads(tool.arguments().text)
    return found


def object_of(arguments: Mapping[str, Any] | str | None) -> Mapping[str, Any]:
    """The arguments of an earlier call, which clients send as an object or as its text; none for what is neither."""
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def refers_elsewhere(schema: Mapping[str, Any]) -> bool:
    """Whether parts of a schema refer to anything but its definitions, so that they cannot stand alone."""
    return REFERENCE.search(json.dumps(schema)) is not None


def is_any_text(schema: Any) -> bool:
    """Whether a schema allows every text, and nothing else."""
    return isinstance(schema, dict) and schema.get("type") == "string" and schema.keys() <= ANNOTATIONS | {"type"}


def texts_of(schema: Any) -> list[str]:
    """The texts that a schema allows, where it lists them; none for another schema."""
    if not isinstance(schema, dict) or not schema.keys() <= ANNOTATIONS | {"type", "enum", "const"}:
        return []
    listed = [schema["const"]] if "const" in schema else schema.get("enum", [])
    is_list = isinstance(listed, list) and schema.get("type", "string") == "string" and not {"const", "enum"} <= schema.keys()
    return list(listed) if is_list and all(isinstance(one, str) for one in listed) else []


def part_in_lark(part: Any, whole: Mapping[str, Any]) -> str:
    """A part of a schema as a term of a Lark grammar: as JSON."""
    definitions = {name: whole[name] for name in DEFINITIONS if name in whole}
    return in_lark(JsonSchema.of("parameters", {**part, **definitions} if isinstance(part, dict) else part))
