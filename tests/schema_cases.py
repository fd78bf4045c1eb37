"""Random JSON schemas, and whether an answer obeys one: by `jsonschema`, and by Python's own dates."""

from __future__ import annotations

import datetime
import json
import random
import re
from collections.abc import Callable
from typing import Any

import jsonschema

Schema = dict[str, Any]
KEYS = ("name", "age", "tags", "é", 'a "b"', "kind", "x\\y", "", "0", "日")
TEXTS = ("", "a", "red", "blå", 'q"\\/', "\n\t", "日本", "null", " 1 ", "🦙")
PATTERNS = ("^[a-c]{2,4}$", "x", "^(?:ab|cd)+$", "^\\d{3}-\\d{2}$", "^[^a-z\\\\]{1,3}$", "é?b$", "^a|b$", "^\\w{1,5}$", "^$")
FORMATS = ("date", "time", "date-time", "email", "ipv4", "ipv6", "uuid", "hostname", "duration", "uri")


def random_schema(rng: random.Random) -> Schema:
    """A schema that most answers end early: nested, with unions, bounds, formats, references and recursion."""
    root = _schema(rng, depth=3)
    if rng.random() < 0.5:
        root = {"type": "object", "properties": {"first": root, "tree": {"$ref": "#/$defs/tree"}}, "required": ["tree"]}
        root["additionalProperties"] = False
    return root | {"$defs": DEFINITIONS}


DEFINITIONS: Schema = {
    "tree": {
        "type": "object",
        "properties": {
            "value": {"type": "integer", "minimum": -3, "maximum": 99},
            "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2},
        },
        "required": ["value"],
        "additionalProperties": False,
    },
    "list": {
        "anyOf": [
            {"type": "null"},
            {"type": "array", "prefixItems": [{"type": "boolean"}, {"$ref": "#/$defs/list"}], "minItems": 2},
        ]
    },
    "word": {"type": "string", "pattern": "^[a-z]{1,6}$"},
    "a/b~c": {"enum": ["slash", "tilde"]},
}
DEFINITIONS["list"]["anyOf"][1]["items"] = False


def _schema(rng: random.Random, depth: int) -> Schema:
    kinds = LEAVES if depth == 0 else LEAVES + NESTED * 2
    return rng.choice(kinds)(rng, depth)


def _text(rng: random.Random, depth: int) -> Schema:
    made: Schema = {"type": "string"}
    match rng.randrange(5):
        case 0:
            made |= {"maxLength": rng.randint(0, 9)}
        case 1:
            least = rng.randint(0, 4)
            made |= {"minLength": least, "maxLength": least + rng.randint(0, 6)}
        case 2:
            made |= {"pattern": rng.choice(PATTERNS), "maxLength": 12}
        case 3:
            made |= {"format": rng.choice(FORMATS)}
        case _:
            made |= {"enum": rng.sample(TEXTS, rng.randint(1, 4))}
    return made


def _integer(rng: random.Random, depth: int) -> Schema:
    low = rng.randint(-120, 120)
    high = low + rng.randint(0, 300)
    made: Schema = {"type": "integer", "minimum": low, "maximum": high}
    if rng.random() < 0.3:
        made = {"type": "integer", "exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1}
    if rng.random() < 0.3:
        made |= {"multipleOf": rng.choice([1, 2, 3, 7]), "minimum": low - 10, "maximum": high + 10}
    return made


def _number(rng: random.Random, depth: int) -> Schema:
    low = rng.choice([-2.5, -1, 0, 0.25, 1e-3, 17, 99.99, 1e6])
    made: Schema = {"type": "number", rng.choice(["minimum", "exclusiveMinimum"]): low}
    if rng.random() < 0.7:
        made[rng.choice(["maximum", "exclusiveMaximum"])] = low + rng.choice([0.5, 1, 2.75, 1000])
    if rng.random() < 0.2:
        made = {"type": "number", "multipleOf": rng.choice([0.5, 0.25]), "minimum": -5, "maximum": 5}
    return made if rng.random() < 0.9 else {"type": "number"}


def _constant(rng: random.Random, depth: int) -> Schema:
    values: list[Any] = [1, 2.5, None, True, "a", [], [1, "x"], {"k": [None]}, -0.5, {}]
    return {"const": rng.choice(values)} if rng.random() < 0.4 else {"enum": rng.sample(values, rng.randint(1, 5))}


def _simple(rng: random.Random, depth: int) -> Schema:
    return rng.choice(
        [{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}, {"type": ["integer", "null"], "minimum": 3}]
    )


def _reference(rng: random.Random, depth: int) -> Schema:
    return {"$ref": "#/$defs/" + rng.choice(["tree", "list", "word", "a~1b~0c"])}


def _array(rng: random.Random, depth: int) -> Schema:
    least = rng.randint(0, 2)
    made: Schema = {"type": "array", "items": _schema(rng, depth - 1), "minItems": least, "maxItems": least + rng.randint(0, 2)}
    if rng.random() < 0.3:
        first = [_schema(rng, depth - 1) for _ in range(rng.randint(1, 3))]
        made = {"type": "array", "prefixItems": first, "items": rng.choice([False, _schema(rng, 0)])}
        made |= {"minItems": rng.randint(0, len(first)), "maxItems": len(first) + (made["items"] is not False)}
    return made


def _object(rng: random.Random, depth: int) -> Schema:
    names = rng.sample(KEYS, rng.randint(0, 4))
    made: Schema = {"type": "object", "properties": {name: _schema(rng, depth - 1) for name in names}}
    made["required"] = [name for name in names if rng.random() < 0.6]
    match rng.randrange(6):
        case 0:
            made |= {"additionalProperties": _schema(rng, 0), "maxProperties": len(names) + 1, "required": names}
        case 1:
            made |= {"patternProperties": {"^p_[a-z]$": _schema(rng, 0)}, "additionalProperties": False}
            made |= {"maxProperties": len(names) + 1, "required": names}
        case 2:
            made |= {"additionalProperties": False, "minProperties": min(len(names), 1)}
        case 3:
            made |= {"additionalProperties": False}
        case _:
            pass  # closed all the same
    return made


def _union(rng: random.Random, depth: int) -> Schema:
    return {"anyOf": [_schema(rng, depth - 1) for _ in range(rng.randint(2, 3))]}


def _tagged(rng: random.Random, depth: int) -> Schema:
    def one(tag: str) -> Schema:
        own: Schema = {"kind": {"const": tag}, "value": _schema(rng, depth - 1)}
        return {"type": "object", "properties": own, "required": ["kind", "value"], "additionalProperties": False}

    return {"oneOf": [one("a"), one("b")], "discriminator": {"propertyName": "kind"}}


def _all(rng: random.Random, depth: int) -> Schema:
    one, other = rng.sample(KEYS, 2)
    first: Schema = {"properties": {one: _schema(rng, depth - 1)}, "required": [one]}
    second: Schema = {"properties": {other: _schema(rng, depth - 1)}}
    return {"type": "object", "allOf": [first, second]}


LEAVES = [_text, _text, _integer, _number, _constant, _simple, _reference]
NESTED = [_array, _object, _object, _union, _tagged, _all]


# ---- the judge ------------------------------------------------------------------------------------------------------------

DATE, TIME = datetime.date.fromisoformat, datetime.time.fromisoformat
FORMAT_CHECKS: dict[str, Callable[[str], object]] = {
    "date": DATE,
    "time": lambda text: TIME(text.upper()).tzinfo is not None,
    "date-time": lambda text: datetime.datetime.fromisoformat(text.upper()).tzinfo is not None,
    "hostname": re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*\Z").match,
    "duration": re.compile(r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+S)?)?)\Z").match,
    "uri": re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]*\Z").match,
}
CHECKER = jsonschema.FormatChecker(["email", "ipv4", "ipv6", "uuid"])
for _kind, _check in FORMAT_CHECKS.items():
    CHECKER.checks(_kind, ValueError)(lambda value, check=_check: not isinstance(value, str) or bool(check(value)))


def fault(schema: Schema | bool, text: str) -> str:
    """Why a text does not obey a schema; "" if it does."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"{text[:200]!r} is not JSON: {error}"
    wrong = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema, format_checker=CHECKER).iter_errors(value))
    return "" if wrong is None else f"{text[:300]!r}: {wrong.message[:300]} (by {json.dumps(wrong.schema)[:300]})"
