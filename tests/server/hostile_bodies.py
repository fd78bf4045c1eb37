"""Bodies that no honest client sends: for each route of the tables, and for each of its fields, what must get a 4xx."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator

from puna.server.fields import Fields
from puna.server.openapi import document
from puna.server.wires import WIRES
from puna.server.wires.base import WireRoute

JSON = "application/json"
HELLO = [{"role": "user", "content": "hello"}]

# Fields without which a body is refused for another reason than the one that is tried.
NEEDED: Mapping[str, dict[str, Any]] = {
    "ChatCompletionFields": {"messages": HELLO},
    "TextCompletionFields": {"prompt": "hello"},
    "EmbeddingFields": {"input": "hello"},
    "RerankFields": {"query": "a", "documents": ["a", "b"]},
    "ResponseFields": {"input": "hello"},
    "InputTokensFields": {"input": "hello"},
    "MessageFields": {"messages": HELLO, "max_tokens": 4},
    "CountFields": {"messages": HELLO},
    "OllamaChatFields": {"messages": HELLO},
    "OllamaGenerateFields": {"prompt": "hello"},
    "EmbedFields": {"input": "hello"},
    "OldEmbedFields": {"prompt": "hello"},
    "NativeFields": {"prompt": "hello"},
    "InfillFields": {"input_prefix": "a", "input_suffix": "b"},
    "DetokenizeFields": {"tokens": [97]},
    "TemplateFields": {"messages": HELLO},
    "TraceFields": {"messages": HELLO, "token_ids": [97], "last": 1},
    "RankFields": {"messages": HELLO, "options": ["a"]},
    "ControlFields": {"id": "chatcmpl-0", "action": "reasoning_end"},
}

WRONG: tuple[Any, ...] = (True, 7, -1, 2.5, 10**30, "no such value", "", [], [[]], [None], [{}], {}, {"a": 1}, {"a": []})

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
# Bodies that are no strict JSON object, whatever the route: why -> (body, headers).
NO_JSON: Mapping[str, tuple[bytes, dict[str, str]]] = {
    "depth 100,000": (DEEP, {}),
    "depth 101": (b'{"a":' * 101 + b"1" + b"}" * 101, {}),
    "a list of depth 100,000": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}),
    "5,000 digits": (b'{"n": ' + b"9" * 5000 + b"}", {}),
    "an exponent of 400": (b'{"temperature": 1e400}', {}),
    "NaN": (b'{"temperature": NaN}', {}),
    "Infinity": (b'{"temperature": -Infinity}', {}),
    "a lone surrogate": (b'{"prompt": "\\ud800"}', {}),
    "a lone surrogate as a name": (b'{"\\udfff": 1}', {}),
    "a name that stands twice": (b'{"model": "a", "model": "b"}', {}),
    "UTF-16": ('{"prompt": "hello"}'.encode("utf-16"), {}),
    "UTF-16 by its type": ('{"prompt": "hello"}'.encode("utf-16-le"), {"content-type": f"{JSON}; charset=utf-16"}),
    "a byte that is no UTF-8": (b'{"prompt": "\xff"}', {}),
    "a control character in a text": (b'{"prompt": "a\x01b"}', {}),
    "gzip": (gzip.compress(b'{"prompt": "hello"}'), {"content-encoding": "gzip"}),
    "gzip that is not told": (gzip.compress(b'{"prompt": "hello"}'), {}),
    "a bomb of gzip": (gzip.compress(b'{"prompt": "' + b"a" * 10_000_000 + b'"}'), {"content-encoding": "gzip"}),
    "an unknown encoding": (b"{}", {"content-encoding": "br, gzip"}),
    "nothing": (b"", {}),
    "null": (b"null", {}),
    "a list": (b"[]", {}),
    "a text": (b'"hello"', {}),
    "half an object": (b'{"prompt": "hel', {}),
    "two objects": (b"{} {}", {}),
    "a comma too many": (b'{"prompt": "hello",}', {}),
    "single quotes": (b"{'prompt': 'hello'}", {}),
    "a form": (b"prompt=hello", {"content-type": "application/x-www-form-urlencoded"}),
    "plain text": (b'{"prompt": "hello"}', {"content-type": "text/plain"}),
    "a page without a type": (b'{"prompt": "hello"}', {"content-type": "", "origin": "http://127.0.0.1"}),
}

# Values of settings that are out of their range, for the routes that generate.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"n": 10**9},
    {"n": -1},
    {"n": 2.5},
    {"best_of": 10**9},
    {"seed": 2**80},
    {"seed": -(2**80)},
    {"temperature": -1},
    {"temperature": "hot"},
    {"temperature": 1e300},
    {"top_p": 2},
    {"top_k": -(2**40)},
    {"min_p": -0.5},
    {"max_tokens": -5},
    {"max_tokens": 2**40},
    {"max_tokens": 1.5},
    {"stop": [""]},
    {"stop": ""},
    {"stop": [7]},
    {"stop": ["a"] * 10_000},
    {"stop": "a" * 100_000},
    {"stop_ids": [10**9]},
    {"stop_ids": [-1]},
    {"stop_token_ids": "a"},
    {"suppress_ids": [10**9]},
    {"bad_words_ids": [[-1]]},
    {"banned_strings": [""]},
    {"logit_bias": {str(i): 1.0 for i in range(100_000)}},
    {"logit_bias": {"hello": 1.0}},
    {"logit_bias": {"99999999": 1.0}},
    {"logit_bias": {"5": "much"}},
    {"logit_bias": {"-1": 1.0}},
    {"presence_penalty": 1e9},
    {"repetition_penalty": -2},
    {"penalty_last_n": 2**70},
    {"samplers": ["magic"]},
    {"mirostat": 9},
    {"dry_multiplier": -1},
    {"dry_sequence_breakers": [1]},
    {"xtc_threshold": 7},
    {"timeout": -1},
    {"priority": 2**70},
    {"regex": "("},
    {"regex": 7},
    {"grammar": "root ::= ("},
    {"grammar": "start: nothing"},
    {"choice": [7]},
    {"json_schema": {"type": "llama"}},
    {"json_schema": {"$ref": "https://example.org/schema"}},
    {"json_schema": {"$ref": "#/nowhere"}},
    {"json_schema": "{"},
    {"regex": "a", "choice": ["a"]},
    {"lora_name": "nobody"},
    {"opening": [10**9]},
    {"opening": [-1], "max_tokens": 4},
    {"opening": [97] * 10_000},
    {"opening": "a" * 100_000},
    {"cache_salt": "a" * 10_000},
    {"thinking_budget": -3},
    {"min_tokens": -1},
    {"model": "nobody"},
    {"model": "../../etc/passwd"},
    {"temprature": 1.0},
    {f"field {number}": 1 for number in range(300)},
)
GENERATING = ("/v1/chat/completions", "/v1/completions", "/completions", "/v1/messages", "/v1/responses")


class HostileBody(NamedTuple):
    """A request that must be refused. `why` names it in a failure."""

    why: str
    path: str
    body: bytes
    headers: dict[str, str]


def hostile_bodies() -> Iterator[HostileBody]:
    """All of them, in an order that never changes."""
    for route in _routes():
        yield from _no_json(route)
        yield from _wrong_fields(route)
        yield from _wrong_settings(route)


def _routes() -> list[WireRoute]:
    """One of those that share their fields and their endpoint."""
    kinds = {(route.fields, route.make): route for wire in WIRES for route in wire.routes if route.fields is not None}
    return list(kinds.values())


def _no_json(route: WireRoute) -> Iterator[HostileBody]:
    for why, (body, headers) in NO_JSON.items():
        yield HostileBody(f"{route.path}: {why}", route.path, body, headers)


def _wrong_fields(route: WireRoute) -> Iterator[HostileBody]:
    """Each declared field with each value that the OpenAPI document does not allow."""
    assert route.fields is not None
    known = _schemas()
    for name in _declared(route.fields):
        schema = {"components": {"schemas": known}, **known[route.fields.__name__]["properties"][name]}
        validator = Draft202012Validator(schema)
        for value in WRONG:
            if not validator.is_valid(value):
                yield _with(route, {name: value})


@functools.cache
def _schemas() -> dict[str, Any]:
    found: dict[str, Any] = document()["components"]["schemas"]
    return found


def _declared(kind: type[Fields]) -> list[str]:
    return [field.alias or name for name, field in kind.model_fields.items()]


def _wrong_settings(route: WireRoute) -> Iterator[HostileBody]:
    assert route.fields is not None
    if route.path in GENERATING:
        known = {*route.fields.classes(), "temprature"}
        yield from (_with(route, given) for given in SETTINGS if given.keys() <= known or len(given) > 256)


def _with(route: WireRoute, given: dict[str, Any]) -> HostileBody:
    assert route.fields is not None
    body = json.dumps({**NEEDED.get(route.fields.__name__, {}), **given}).encode()
    return HostileBody(f"{route.path}: {str(given)[:100]}", route.path, body, {})
