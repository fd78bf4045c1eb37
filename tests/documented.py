"""What the docstring of a dataclass says of its fields, so that it can be held against the fields themselves."""

from __future__ import annotations

import ast
import inspect
import re
from typing import Any

FIELD = re.compile(r"    (?P<name>\w+): (?P<meaning>.{10,}) \[(?P<default>[^\[\]]*)\]")


def documented_fields(kind: type[Any]) -> dict[str, Any]:
    """Name -> default of each line "    name: meaning [default]" behind "Fields", in their order."""
    _, _, listed = inspect.getdoc(kind).partition("\nFields, ")  # type: ignore[union-attr]
    lines = [line for line in listed.splitlines()[1:] if line]
    found = [FIELD.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if match is None]
    return {match["name"]: ast.literal_eval(match["default"]) for match in found if match}
