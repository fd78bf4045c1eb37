"""The parser of bodies: strict JSON is read as Python's parser reads it; everything else is a 400."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from puna.server.refusals import Refusal
from puna.server.strict_json import MAX_CONTAINERS, MAX_DEPTH, parse

REFUSED = {
    "not an object": b"[]",
    "text": b'"a"',
    "empty": b"",
    "cut": b'{"a": 1',
    "more": b'{"a": 1} {"b": 2}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "a float beyond floats": b'{"a": 1e999}',
    "5000 digits": b'{"a": ' + b"9" * 5000 + b"}",
    "a lone surrogate": b'{"a": "\\ud800"}',
    "a lone surrogate in a name": b'{"\\udfff": 1}',
    "a name twice": b'{"a": 1, "a": 2}',
    "a name twice, deeper": b'{"b": [{"a": 1, "a": 2}]}',
    "not UTF-8": b'{"a": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-32": '{"a": 1}'.encode("utf-32-le"),
    "a byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "a control character": b'{"a": "\n"}',
    "too deep": b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
    "too many lists": b'{"a": [' + b"[]," * MAX_CONTAINERS + b"0]}",
    "too many objects beside a text without an end": b'{"a": [' + b"{}," * MAX_CONTAINERS + b'"' + rb"\"" * 1_000_000,
    "100,000 deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "100,000 objects deep": b'{"a": ' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED.keys())
def test_what_parsers_read_in_different_ways_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse(body)
    assert caught.value.status == 400 and caught.value.code == "invalid_json"
    assert len(caught.value.message) < 200


def _random_value(rng: random.Random, depth: int) -> Any:
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [_random_value(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {_text(rng): _random_value(rng, depth - 1) for _ in range(rng.randrange(4))}
    return (None, rng.random() < 0.5, rng.randrange(-(1 << 64), 1 << 64), rng.uniform(-1e300, 1e300), _text(rng))[kind]


def _text(rng: random.Random) -> str:
    return "".join(rng.choice('aä€😀"\\\n\t\x01 ') for _ in range(rng.randrange(8)))


@pytest.mark.parametrize("seed", range(50))
def test_strict_json_is_read_as_python_reads_it(seed: int) -> None:
    value = {"it": _random_value(random.Random(seed), 5)}
    for is_ascii in (True, False):
        body = json.dumps(value, ensure_ascii=is_ascii).encode()
        assert parse(body) == json.loads(body)


def test_brackets_in_texts_are_no_lists() -> None:
    text = '{["\\' * MAX_CONTAINERS
    assert parse(json.dumps({"a": text}).encode()) == {"a": text}
