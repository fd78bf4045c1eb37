"""The published schema is that of the classes, and says what each field means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from puna.glassbox.schema import diff_schema, trace_schema
from scripts.trace_schema import DIFF_PATH, PATH

SCHEMAS = [(PATH, trace_schema), (DIFF_PATH, diff_schema)]


@pytest.mark.parametrize(("path", "made"), SCHEMAS, ids=["trace", "diff"])
def test_the_published_schema_is_up_to_date(path: Path, made: Callable[[], dict[str, Any]]) -> None:
    assert json.loads(path.read_text("utf-8")) == made(), "run: .venv/bin/python -m scripts.trace_schema"


@pytest.mark.parametrize(("least", "made"), [(50, trace_schema), (30, diff_schema)], ids=["trace", "diff"])
def test_every_field_is_described(least: int, made: Callable[[], dict[str, Any]]) -> None:
    schema = made()
    jsonschema.Draft202012Validator.check_schema(schema)
    fields = [field for definition in schema["$defs"].values() for field in definition["properties"].values()]
    assert len(fields) > least and all(len(field["description"]) > 5 for field in fields)
