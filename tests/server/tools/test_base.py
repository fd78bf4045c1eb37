"""Tools: which names and schemas are accepted, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest

from puna.server.refusals import Refusal
from puna.server.tools.base import Tool, require_callable

UNENFORCEABLE: dict[str, dict[str, Any]] = {
    "not": {"type": "object", "properties": {"x": {"not": {"type": "string"}}}},
    "type 'array'": {"type": "array"},
    "unknown keyword 'propertys'": {"type": "object", "propertys": {}},
    "refers to '#/$defs/Y'": {"type": "object", "properties": {"x": {"$ref": "#/$defs/Y"}}},
    "requires itself": {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
}


@pytest.mark.parametrize(("reason", "schema"), UNENFORCEABLE.items())
def test_a_schema_that_puna_cannot_enforce_is_refused_with_the_tools_name(reason: str, schema: dict[str, Any]) -> None:
    with pytest.raises(Refusal) as caught:
        Tool("get_weather", parameters=schema).arguments()
    assert caught.value.status == 400 and caught.value.field == "tools"
    assert "'get_weather'" in caught.value.message and reason in caught.value.message


def test_a_tool_without_properties_takes_no_arguments() -> None:
    assert '"additionalProperties": false' in Tool("now").arguments().text
    assert Tool("any", parameters={"type": "object"}).arguments().text == '{"type": "object"}'


def test_names_are_words_and_differ() -> None:
    require_callable([Tool("a"), Tool("mcp.server/read-file_2:x")])
    for names in (["a b"], [""], ['a"'], ["<x>"], ["x" * 129], ["auto"], ["a", "b", "a"]):
        with pytest.raises(Refusal):
            require_callable([Tool(name) for name in names])
