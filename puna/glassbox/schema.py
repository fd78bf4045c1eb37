"""The JSON schemas of a trace and of a comparison, made from their dataclasses: the types, and the words of the docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from typing import Any, Union, get_args, get_origin, get_type_hints

from puna.glassbox.diff import FORMAT as DIFF_FORMAT
from puna.glassbox.diff import RunDiff
from puna.glassbox.trace import FORMAT, Trace

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", types.NoneType: "null"}
FIELD = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)$", re.MULTILINE)  # further lines of a field stand deeper


def trace_schema() -> dict[str, Any]:
    """The schema of `Trace.as_json`, which docs/trace.schema.json holds."""
    return _schema(Trace, FORMAT, "A trace of puna")


def diff_schema() -> dict[str, Any]:
    """The schema of `RunDiff.as_json`, which docs/diff.schema.json holds."""
    return _schema(RunDiff, DIFF_FORMAT, "A comparison of runs by puna")


def _schema(kind: type, name: str, title: str) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    top = _of(kind, definitions)
    definitions[kind.__name__]["properties"]["format"]["const"] = name
    return {"$schema": DIALECT, "title": title, **top, "$defs": dict(sorted(definitions.items()))}


def _of(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of a type; dataclasses become definitions."""
    if dataclasses.is_dataclass(kind):
        return _reference(kind, definitions)
    if kind in TYPES:
        return {"type": TYPES[kind]}
    inner = get_args(kind)
    if get_origin(kind) in (Union, types.UnionType):
        return {"anyOf": [_of(one, definitions) for one in inner]}
    if get_origin(kind) is dict:
        return {"type": "object"}
    assert get_origin(kind) is tuple, kind
    size = {} if inner[-1] is Ellipsis else {"minItems": len(inner), "maxItems": len(inner)}
    return {"type": "array", "items": _of(inner[0], definitions), **size}


def _reference(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind.__name__ not in definitions:
        definitions[kind.__name__] = {}  # it may hold itself
        definitions[kind.__name__] = _definition(kind, definitions)
    return {"$ref": f"#/$defs/{kind.__name__}"}


def _definition(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, words = get_type_hints(kind), inspect.getdoc(kind) or ""
    described = {name: " ".join(text.split()) for name, text in FIELD.findall(words)}
    return {
        "description": " ".join(words.split("\n\n")[0].split()),
        "type": "object",
        "properties": {name: {"description": described[name], **_of(hint, definitions)} for name, hint in hints.items()},
        "required": list(hints),
        "additionalProperties": False,
    }
