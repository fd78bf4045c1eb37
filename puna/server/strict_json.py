"""JSON of requests: the one parser. What JSON parsers read in different ways is refused, so nothing is read differently later."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from puna.server.refusals import Refusal

MAX_DEPTH = 100  # of lists and objects in one another
MAX_CONTAINERS = 1 << 17  # 8 MB of empty lists hold the interpreter for seconds; ten thousand messages have 40,000
CONTAINERS = (dict, list)
TEXT = re.compile(r'"[^"]*"')  # without escapes
MAX_DIGITS = 32  # of a whole number; 2**64 has 20
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse(body: bytes) -> dict[str, Any]:
    """The object in a body. Refusal (400) unless it is UTF-8 and strict JSON.

    Refused: duplicate names, NaN and Infinity, numbers that no float holds, lone surrogates, nesting deeper than MAX_DEPTH,
    more lists and objects than MAX_CONTAINERS.

    >>> parse(b'{"n": 1}')
    {'n': 1}
    """
    try:
        text = body.decode()
        _require_few(text)
        value = json.loads(text, object_pairs_hook=_once, parse_int=_whole, parse_float=_finite, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(value, dict):
        raise Refusal(400, "the body is JSON, but no object: {...} is needed", code="invalid_json")
    if _num_brackets(text) > MAX_DEPTH:
        _require_shallow(value)
    if SURROGATE.search(text):
        _require_unicode(value)
    return value


def _require_few(text: str) -> None:
    """Refuse more lists and objects than any honest body has, before they are made. Brackets in texts do not count."""
    if _num_brackets(text) > MAX_CONTAINERS and _num_brackets(_without_texts(text)) > MAX_CONTAINERS:
        raise Refusal(400, f"the body holds more than {MAX_CONTAINERS} lists and objects", code="invalid_json")


def _without_texts(text: str) -> str:
    """Escapes go first: a pattern that steps over them would try each quote of a text that has no end.

    >>> _without_texts(r'{"a[\\"{": ["\\\\", 1]}')
    '{: [, 1]}'
    """
    return TEXT.sub("", text.replace("\\\\", "").replace('\\"', ""))


def _num_brackets(text: str) -> int:
    return text.count("[") + text.count("{")


def _require_shallow(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        parts = (part for item in level for part in (item.values() if isinstance(item, dict) else item))
        level = [part for part in parts if isinstance(part, CONTAINERS)]
        if not level:
            return
    raise _too_deep()


def _require_unicode(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise _not_json(f"a text holds the lone surrogate U+{ord(error.object[error.start]):04X}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _not_json(f"the name {max(names, key=names.count)[:40]!r} stands twice in one object")
    return found


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _not_json(f"a number has {len(digits)} digits; at most {MAX_DIGITS} are allowed")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _not_json(f"the number {digits[:40]} is too large")
    return value


def _no_constant(name: str) -> Any:
    raise _not_json(f"{name} is not JSON")


def _not_json(problem: str) -> Refusal:
    return Refusal(400, f"the body is not valid JSON: {problem}", code="invalid_json")


def _too_deep() -> Refusal:
    return Refusal(400, f"the body is nested deeper than {MAX_DEPTH}", code="invalid_json")
