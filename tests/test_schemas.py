"""JSON schemas: what is accepted, what is refused and how it is said, and what is spelled out for the grammar engine."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import pydantic
import pytest

from puna.errors import UsageError
from puna.schemas import (
    MAX_BYTES,
    SUPPORTED,
    UNSUPPORTED,
    JsonSchema,
    multiples_in,
    require_few_remainders,
    require_small_numbers,
    without_surprises,
)
from tests.schema_cases import random_schema


class Llama(pydantic.BaseModel):
    name: str
    age: int = pydantic.Field(ge=0)


def test_a_schema_comes_as_a_dict_a_text_a_pydantic_model_or_a_type_adapter() -> None:
    as_dict = JsonSchema.of("json_schema", {"type": "integer"})
    assert as_dict == JsonSchema.of("json_schema", '{"type":"integer"}') == JsonSchema.of("json_schema", as_dict)
    assert hash(as_dict) == hash(JsonSchema.of("json_schema", '{"type": "integer"}'))
    assert as_dict.read("3") == 3
    assert JsonSchema.of("json_schema", Llama).read('{"name": "Dolly", "age": 3}') == Llama(name="Dolly", age=3)
    assert JsonSchema.of("json_schema", pydantic.TypeAdapter(list[Llama])).read('[{"name": "a", "age": 1}]')[0].age == 1
    assert JsonSchema.of("json_schema", True).text == "true"


def test_the_order_of_the_names_is_kept() -> None:
    assert JsonSchema.of("json_schema", {"properties": {"b": {}, "a": {}}}).text == '{"properties": {"b": {}, "a": {}}}'


REFUSED: list[tuple[object, str]] = [
    (3, "json_schema is 3; a JSON schema (a dict or its text), a pydantic model or a TypeAdapter is needed"),
    (dict, "json_schema is <class 'dict'>; a JSON schema"),
    ("{", "json_schema is not JSON: "),
    ('{"type": "string", "items": {"a": 1, "a": 1}}', "json_schema is not JSON: the name 'a' stands twice in one object"),
    ("[1]", "json_schema is [1]; a JSON schema"),
    ("[" * 100_000, "json_schema is nested deeper than 64"),
    ({"a": json.loads("[" * 65 + "]" * 65)}, "json_schema: a is nested deeper than 64"),
    (json.loads('{"items": ' * 70 + "{}" + "}" * 70), f"{('json_schema' + ': items' * 70)[:80]} ... is nested deeper than 64"),
    ({"const": "x" * MAX_BYTES}, f"json_schema has {MAX_BYTES + 13} bytes; at most {MAX_BYTES} are allowed"),
    ({"const": float("nan")}, "json_schema: const is nan; a JSON value is needed"),
    ({"const": "\ud800"}, "json_schema: const holds the lone surrogate"),
    ({"const": {1: 2}}, "json_schema: const is {1: 2}; a JSON value is needed"),
    ({"properties": {"a": {"uniqueItems": True}}}, "json_schema at #/properties/a has 'uniqueItems', which puna cannot enforce"),
    ({"anyOf": [{}, {"nullable": True}]}, "json_schema at #/anyOf/1 has 'nullable', which puna cannot enforce"),
    ({"minLenght": 3}, "json_schema has the unknown keyword 'minLenght'"),
    ({"items": {"$id": "x"}}, "json_schema at #/items has a '$id' of its own"),
    ({"$ref": "http://example.com/s"}, "json_schema at #/$ref is 'http://example.com/s'; it must point into the schema itself"),
    ({"$ref": "#/$defs/a"}, "json_schema refers to '#/$defs/a', which it does not hold"),
    ({"$ref": "#/items/7", "items": [{}]}, "json_schema refers to '#/items/7', which it does not hold"),
    ({"items": 3}, "json_schema at #/items is '3'; a schema is an object, true or false"),
    ({"properties": {"a": 3}}, "json_schema at #/properties/a is '3'; a schema is an object, true or false"),
    ({"format": "zip-code"}, "json_schema has the format 'zip-code', which puna cannot enforce"),
    ({"type": "integer", "format": "date"}, "json_schema has the format 'date', which puna cannot enforce"),
    ({"const": ["\x01"]}, "json_schema at #/const holds a control character, which puna does not write"),
    ({"minProperties": 1}, "json_schema has 'minProperties' with names that are not listed, which puna cannot enforce"),
    ({"$ref": "#"}, "json_schema requires itself, so no finite answer can satisfy it"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 1}, "json_schema requires itself"),
    ({"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}, "json_schema requires itself"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "json_schema requires itself"),
    ({"anyOf": [{"allOf": [{"$ref": "#"}]}, {"oneOf": [{"$ref": "#/anyOf/0"}]}]}, "json_schema requires itself"),
]


def test_a_number_that_python_does_not_print_is_no_json() -> None:
    with pytest.raises(
        UsageError, match=r"^json_schema: const is <int with a number of thousands of digits>; a JSON value is needed$"
    ):
        JsonSchema.of("json_schema", {"const": 10**5000})


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_no_answer_would_be_sure_to_obey_is_refused(given: object, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as error:
        JsonSchema.of("json_schema", given)
    assert len(error.value.line) < 400


@pytest.mark.parametrize("keyword", sorted(UNSUPPORTED))
def test_an_unsupported_keyword_is_refused_wherever_it_counts(keyword: str) -> None:
    schemas: list[dict[str, Any]] = [{keyword: {}}, {"items": {keyword: {}}}]
    for schema in [*schemas, {"$ref": "#/$defs/a", "$defs": {"a": {keyword: {}}}}]:
        with pytest.raises(UsageError, match=re.escape(f"has {keyword!r}, which puna cannot enforce")):
            JsonSchema.of("json_schema", schema)
    JsonSchema.of("json_schema", {"$defs": {"a": {keyword: {}}}})  # nothing refers to it
    JsonSchema.of("json_schema", {"const": {keyword: 1}, "properties": {keyword: {}}})  # data, and a name


def test_annotations_and_recursion_that_can_end_are_accepted() -> None:
    notes = {"title": "t", "description": "d", "default": 1, "examples": [1], "deprecated": True, "x-order": 3, "$comment": "c"}
    JsonSchema.of("json_schema", notes)
    JsonSchema.of("json_schema", {"properties": {"next": {"$ref": "#"}}})
    JsonSchema.of(
        "json_schema", {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["a"]}
    )
    JsonSchema.of("json_schema", {"type": "array", "items": {"$ref": "#"}})
    JsonSchema.of("json_schema", {"$ref": "#/$defs/a~1b~0c%20d", "$defs": {"a/b~c d": {}}})


def test_a_long_chain_of_references_is_read_in_no_time() -> None:
    names = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(7000)} | {"a7000": {"type": "null"}}
    JsonSchema.of("json_schema", {"$ref": "#/$defs/a0", "$defs": names})
    with pytest.raises(UsageError, match="requires itself"):
        JsonSchema.of("json_schema", {"$ref": "#/$defs/a0", "$defs": names | {"a7000": {"$ref": "#/$defs/a0"}}})
    began = time.process_time()
    short = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(2500)} | {"a2500": {}}
    JsonSchema.of("json_schema", {"allOf": [{"$ref": f"#/$defs/a{i}"} for i in range(2500)], "$defs": short})
    wide = {f"p{i}": {"type": "string", "description": "a note", "title": f"t{i}"} for i in range(3000)}
    JsonSchema.of("json_schema", {"type": "object", "properties": wide, "required": [*wide]})
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"format": "uuid"}, {"format": "uuid"}),
        ({"type": "string", "format": "password"}, {"type": "string"}),
        (
            {"type": "integer", "format": "int32"},
            {"type": "integer", "allOf": [{"minimum": -(1 << 31), "maximum": (1 << 31) - 1}]},
        ),
        ({"items": {"uniqueItems": False}}, {"items": {}}),
        ({"type": "object", "propertyNames": {"type": "string"}}, {"type": "object"}),
        (
            {"title": "a", "properties": {"title": {"description": "b"}}},
            {"properties": {"title": {}}, "additionalProperties": False},
        ),
        ({"exclusiveMinimum": 0, "minimum": -1}, {"minimum": 1e-06}),
        ({"exclusiveMaximum": 10**9}, {"maximum": 999999999.99}),
        ({"exclusiveMaximum": 10**15}, {"maximum": 10**15 - 1}),
        ({"exclusiveMaximum": True, "maximum": -17}, {"maximum": -17.000001}),
        ({"type": "integer", "exclusiveMaximum": 3}, {"type": "integer", "exclusiveMaximum": 3}),
        ({"maximum": 0.1 + 0.2}, {"maximum": 0.299999}),
        ({"maximum": 0.3, "minimum": 12345678901234567}, {"maximum": 0.3, "minimum": 12345678901234567}),
        ({"const": {"exclusiveMinimum": 3}}, {"const": {"exclusiveMinimum": 3}}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}, "additionalProperties": False}),
        ({"properties": {"a": {}}, "additionalProperties": True}, {"properties": {"a": {}}, "additionalProperties": True}),
        ({"properties": {"a": {}}, "required": ["b"]}, {"properties": {"a": {}}, "required": ["b"]}),
        (
            {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
            {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        ),
        (
            {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
            {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}]},
        ),
        ({"anyOf": [{"properties": {"b": {}}}]}, {"anyOf": [{"properties": {"b": {}}, "additionalProperties": False}]}),
    ],
)
def test_what_the_engine_takes_loosely_is_spelled_out(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert json.loads(without_surprises(json.dumps(given))) == expected


@pytest.mark.parametrize("seed", range(20))
def test_random_schemas_are_accepted_and_stay_json(seed: int) -> None:
    schema = JsonSchema.of("json_schema", random_schema(random.Random(seed)))
    assert isinstance(json.loads(without_surprises(schema.text)), dict)


def test_no_keyword_is_both_supported_and_not() -> None:
    assert not SUPPORTED & UNSUPPORTED


LEAST = -(2**63)


@pytest.mark.parametrize("value", [LEAST, LEAST + 1, -9 * 10**18 - 1])
@pytest.mark.parametrize("form", [{"const": "VALUE"}, {"enum": [1, "VALUE"]}, {"items": {"const": {"a": ["VALUE"]}}}])
def test_a_number_that_would_end_the_process_is_refused(form: dict[str, Any], value: int) -> None:
    """llguidance overflows its stack over it, whether a schema or a grammar holds it."""
    schema = json.loads(json.dumps(form).replace('"VALUE"', str(value)))
    with pytest.raises(UsageError, match="whole numbers from -9000000000000000000"):
        JsonSchema.of("json_schema", schema)
    with pytest.raises(UsageError, match="whole numbers from"):
        require_small_numbers("grammar", f'start: /"/ %json {json.dumps(schema)}')
    JsonSchema.of("json_schema", {"const": f"say {value}"})
    JsonSchema.of("json_schema", {"const": -9 * 10**18 + 1})


@pytest.mark.parametrize("required", [5, True, "a", [{}], {"a": 1}])
def test_required_is_a_list_of_names(required: object) -> None:
    with pytest.raises(UsageError, match="a list of names"):
        JsonSchema.of("json_schema", {"type": "object", "properties": {"a": True}, "required": required})


def numbers(*multiples: float) -> dict[str, Any]:
    return {"allOf": [{"type": "number", "multipleOf": multiple} for multiple in multiples]}


@pytest.mark.parametrize(
    "multiples", [(2**31,), (999_983,), (0.1234567,), (2.0**40,), (997, 991, 0), (7e5, 8e6, 97e5), (0.7, 11, 13, 17, 19)]
)
def test_multiples_of_too_many_remainders_are_refused(multiples: tuple[float, ...]) -> None:
    """The engine would count them for minutes, and fill the memory."""
    with pytest.raises(UsageError, match="'multipleOf'"):
        JsonSchema.of("json_schema", numbers(*multiples))
    with pytest.raises(UsageError, match="'multipleOf'"):
        require_few_remainders("grammar", multiples_in("start: %json " + json.dumps(numbers(*multiples)).replace("O", r"\u004f")))


@pytest.mark.parametrize("multiples", [(5,), (0.01,), (1_000_000,), (65536,), (1e-6,), (0.25, 0.1, 12), (1,), (0,)])
def test_other_multiples_are_taken(multiples: tuple[float, ...]) -> None:
    JsonSchema.of("json_schema", numbers(*multiples))
