"""Reads what a dataclass's docstring says about its fields, to compare it with the fields."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

FIELD = re.compile(r"    (?P<name>\w+): (?P<meaning>.{10,}) \[(?P<default>[^\[\]]*)\]")


RANGE = re.compile(r"(?P<low>-?[0-9.]+?)\.\.(?P<high>[0-9]+)(\*\*(?P<power>[0-9]+))?(?P<less>-1)?")


def documented_highest(kind: type[Any]) -> dict[str, int]:
    """Name -> the highest value that the docstring allows, of the fields that have a range "LOW..HIGH"."""
    lines = {line.split(":")[0].strip(): RANGE.search(line) for line in (inspect.getdoc(kind) or "").splitlines()}
    found = {name: match for name, match in lines.items() if match and name in kind.__dataclass_fields__}
    return {name: int(m["high"]) ** int(m["power"] or 1) - (1 if m["less"] else 0) for name, m in found.items()}


def documented_fields(kind: type[Any]) -> dict[str, Any]:
    """Name -> default of each line "    name: meaning [default]" behind "Fields", in their order."""
    _, _, listed = inspect.getdoc(kind).partition("\nFields, ")  # type: ignore[union-attr]
    lines = [line for line in listed.splitlines()[1:] if line]
    found = [FIELD.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    return {match["name"]: ast.literal_eval(match["default"]) for match in found if match}
