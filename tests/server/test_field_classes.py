"""docs/wires.md is what the tables say, and the tables know what the fields are read for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from puna.server.field_classes import markdown
from puna.server.wires import WIRES
from scripts.wires import PATH

SERVER = Path(__file__).parents[2] / "puna" / "server"
ROUTES = {route.path: route.fields for wire in WIRES for route in wire.routes if route.fields is not None}
CHECKED_BY_TYPE = {"modalities"}  # one value is all that they may hold


def test_the_document_is_made_from_the_tables() -> None:
    assert PATH.read_text("utf-8") == markdown(), "run: .venv/bin/python -m scripts.wires"


@pytest.mark.parametrize("path", ROUTES)
def test_a_field_has_one_class(path: str) -> None:
    kind = ROUTES[path]
    used = {*kind.model_fields, *kind.SETTINGS}
    assert not used & kind.REFUSED.keys() and not kind.HINTS & kind.REFUSED.keys()
    assert not (kind.HINTS & used) - {"reasoning_effort"}  # heard where the model thinks


def test_every_declared_field_is_read_somewhere() -> None:
    trees = [ast.parse(path.read_text("utf-8")) for path in SERVER.rglob("*.py")]
    read = {node.attr for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    declared = {name for kind in ROUTES.values() for name in kind.model_fields}
    assert declared - read == CHECKED_BY_TYPE
