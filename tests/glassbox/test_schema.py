"""The published schema is that of the classes, and says what each field means."""

from __future__ import annotations

import json
from typing import Any

import jsonschema

from puna.glassbox.schema import trace_schema
from scripts.trace_schema import PATH


def test_the_published_schema_is_up_to_date() -> None:
    assert json.loads(PATH.read_text("utf-8")) == trace_schema(), "run: .venv/bin/python -m scripts.trace_schema"


def test_every_field_is_described() -> None:
    schema: dict[str, Any] = trace_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    fields = [field for definition in schema["$defs"].values() for field in definition["properties"].values()]
    assert len(fields) > 50 and all(len(field["description"]) > 5 for field in fields)
