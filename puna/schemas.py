"""JSON schemas for answers: which ones are accepted, and how an answer is read. Knows no models and no tokens.

A schema is refused before anything is generated if an answer might not obey it: for a keyword that the grammar engine lacks
(`UNSUPPORTED`), for a size or a depth beyond the limits, and where no finite value can satisfy it.
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Self, TypeGuard
from urllib.parse import unquote

from puna import checks
from puna.errors import UsageError

MAX_BYTES = 256 << 10  # of a constraint's text
LEAST_WHOLE = -9 * 10**18  # of values: below, to the least of 64 bits, llguidance 1.x overflows its stack, and the process ends
# llguidance counts remainders, of several multipleOf for one value those of their product: 999,983 took 7.6 s and 470 MB.
MAX_REMAINDERS = 10**5
MULTIPLE = re.compile(r'"multipleOf"\s*:\s*([0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)')  # in a text
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
BELOW_LEAST = re.compile(r"-9[0-9]{18}(?![0-9.eE])")
TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')  # of JSON
MAX_DEPTH = 64
NEEDED = "a JSON schema (a dict or its text), a pydantic model or a TypeAdapter"

Node = dict[str, Any]
Path = tuple[str, ...]  # the keys and indices from the root to a part of the schema


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A checked JSON schema, and the function that reads an answer. Two are equal if their texts are.

    >>> JsonSchema.of("json_schema", {"type": "integer"}).read("12")
    12
    """

    text: str
    read: Callable[[str], Any] = field(default=json.loads, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, given: object) -> Self:
        """From a dict, a JSON text, a pydantic model, or a pydantic TypeAdapter (or whatever else has the methods of these).

        Raises UsageError for what is no schema, or one whose answers might not obey it.
        """
        if isinstance(given, cls):
            return given
        schema, read = _schema_and_reader(name, given)
        checked = checks.json_value(name, schema, max_depth=MAX_DEPTH)
        text = json.dumps(checked, ensure_ascii=False)
        require_size(name, text)
        _Subschemas(name, checked).require_supported()
        return cls(text, read)


def require_size(name: str, text: str) -> str:
    """The text of a constraint; UsageError for one that is too long."""
    num_bytes = len(checks.unicode(name, text).encode())
    if num_bytes > MAX_BYTES:
        raise UsageError(f"{name} has {num_bytes} bytes; at most {MAX_BYTES} are allowed")
    return text


def require_small_numbers(name: str, text: str) -> None:
    """UsageError for a text with a whole number below LEAST_WHOLE."""
    if found := BELOW_LEAST.search(text):
        raise UsageError(f"{name} holds the number {found[0]}; whole numbers from {LEAST_WHOLE} are allowed")


def require_few_remainders(name: str, given: Iterable[object]) -> None:
    """UsageError for values of `multipleOf` of which the engine would count for minutes, and fill the memory. It leaves out the
    zeros at the end of a single one, but not of several that hold for one number.
    """
    multiples = {Decimal(str(one)) for one in given if isinstance(one, int | float) and math.isfinite(one) and one > 0}
    least = min((_exponent(one) for one in multiples), default=0)
    if len(multiples) > 1:
        least = min(least, 0)
    if math.lcm(*(int(one.scaleb(-least)) for one in multiples)) > MAX_REMAINDERS:
        raise UsageError(
            f"{name} has 'multipleOf' {', '.join(map(str, sorted(multiples)))[:60]}, which puna cannot enforce",
            hint=f"Their least common multiple may have {MAX_REMAINDERS} steps of their last digit at most.",
        )


def _exponent(number: Decimal) -> int:
    """Of its last digit that is not zero.

    >>> _exponent(Decimal("1e3")), _exponent(Decimal("1000")), _exponent(Decimal("0.250"))
    (3, 3, -2)
    """
    return int(number.normalize().as_tuple().exponent)


def multiples_in(text: str) -> Iterator[float]:
    """The values of `multipleOf` in a text that holds JSON.

    >>> list(multiples_in(r'a: %json {"multiple\\u004ff": 0.25, "type": "number"}'))
    [0.25]
    """
    return (float(found) for found in MULTIPLE.findall(ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)))


def _schema_and_reader(name: str, given: object) -> tuple[Any, Callable[[str], Any]]:
    for schema_method, read_method in (("model_json_schema", "model_validate_json"), ("json_schema", "validate_json")):
        schema, read = getattr(given, schema_method, None), getattr(given, read_method, None)
        if callable(schema) and callable(read):
            return schema(), read
    if isinstance(given, str):
        return _parsed(name, require_size(name, given)), json.loads
    if not isinstance(given, Mapping | bool):
        raise checks.refuse(name, given, NEEDED)
    return given, json.loads


def _parsed(name: str, text: str) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except ValueError as error:
        raise UsageError(f"{name} is not JSON: {error}") from None
    except RecursionError:
        raise UsageError(f"{name} is nested deeper than {MAX_DEPTH}") from None
    if not isinstance(value, dict | bool):
        raise checks.refuse(name, value, NEEDED)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; ValueError for a name that stands twice, of which Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"the name {twice[:40]!r} stands twice in one object")
    return found


# ---- which keywords there are ---------------------------------------------------------------------------------------------

# Keywords whose value is a schema, a list of schemas, or a dict of schemas.
SINGLE = ("items", "additionalProperties", "additionalItems")
LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
DICTS = ("properties", "patternProperties")
APPLIED = ("allOf", "anyOf", "oneOf", "$ref")  # their schemas are about the same value
OF_OBJECTS = ("properties", "required", "additionalProperties", "patternProperties")

SUPPORTED = {
    *("type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "definitions", "$schema", "$id", "id"),
    *("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"),
    *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
    *("minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Keywords that restrict values, and that no answer would be sure to obey. Any other keyword is an annotation (JSON Schema
# 2020-12, Core, section 4.3.1) and restricts nothing.
UNSUPPORTED = {
    *("not", "if", "then", "else", "dependencies", "dependentRequired", "dependentSchemas", "propertyNames", "nullable"),
    *("contains", "minContains", "maxContains", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"),
    *("contentEncoding", "contentMediaType", "contentSchema", "x-guidance", "$anchor"),
    *("$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"),
}
# Values that restrict nothing. The names of an object are texts; zod says so of each record.
HARMLESS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("uniqueItems", "nullable", "$recursiveAnchor"), (False,)),
    "propertyNames": ({"type": "string"},),
}

REMARKS = ("title", "description", "$comment")  # which only people read

ANY_TEXT = ("binary", "password", "path")  # formats of OpenAPI and pydantic that any text has
_NO_YEAR_0 = {"pattern": "^(?:[1-9]|0[1-9]|00[1-9]|000[1-9])"}  # which Python's dates do not have
_LEAP_YEAR = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_IN_CALENDAR = {"pattern": f"^(?:[0-9]{{4}}-(?:0[13-9]|1|02-[01]|02-2[0-8])|{_LEAP_YEAR}-02-29)"}
# A format -> schemas that the grammar engine's own notion of it lacks: it takes 29 February in any year, and a second 60 at any
# time. A format of numbers holds for numbers; the rest are texts.
FORMATS: dict[str, tuple[Node, ...]] = {
    "date": (_NO_YEAR_0, _IN_CALENDAR),
    "time": ({"pattern": "^[0-9]{2}:[0-9]{2}:[0-5]"},),
    "date-time": (_NO_YEAR_0, _IN_CALENDAR, {"pattern": "^.{11}[0-9]{2}:[0-9]{2}:[0-5]"}),
    **dict.fromkeys(("duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"), ()),
    **dict.fromkeys(ANY_TEXT, ()),
}
NUMBER_FORMATS: dict[str, tuple[Node, ...]] = {
    "float": (),
    "double": (),
    "int32": ({"minimum": -(1 << 31), "maximum": (1 << 31) - 1},),
    "int64": ({"minimum": -(1 << 63), "maximum": (1 << 63) - 1},),
}


def without_surprises(text: str) -> str:
    """The schema for the grammar engine: what the engine would take more loosely than the standard is spelled out.

    And an object that lists its properties has no others, unless `additionalProperties` says so: the standard allows any, and a
    small model that may add one never ends.

    >>> without_surprises('{"type": "number", "format": "double", "uniqueItems": false, "title": "N"}')
    '{"type": "number"}'
    """
    parts = _Subschemas("json_schema", json.loads(text))
    for node in parts.closed():
        node["additionalProperties"] = False
    for node in list(parts.nodes()):
        more = _FORMATS_OF_ALL.get(node.get("format", ""), ())
        if more:
            node["allOf"] = [*node.get("allOf", []), *more]
        if node.get("format") in (*NUMBER_FORMATS, *ANY_TEXT):
            del node["format"]
        if node.get("type") != "integer":
            _include_bounds(node)
        for keyword in [key for key in node if key in HARMLESS or (key in REMARKS and isinstance(node[key], str))]:
            del node[keyword]
    return json.dumps(parts.root, ensure_ascii=False)


_FORMATS_OF_ALL = FORMATS | NUMBER_FORMATS


def _include_bounds(node: Node) -> None:
    """Replace exclusive bounds by a number close inside: the engine takes "17" for more than 17 if at most 17.5 is allowed, and
    a reader of JSON rounds 0.49999999999999999 to 0.5.

    >>> node = {"exclusiveMinimum": 17, "maximum": 17.5}
    >>> _include_bounds(node); node
    {'maximum': 17.5, 'minimum': 17.000001}
    """
    for exclusive, inclusive, sign, tighter in (
        ("exclusiveMinimum", "minimum", 1, max),
        ("exclusiveMaximum", "maximum", -1, min),
    ):
        bound, limit = node.get(exclusive), node.get(inclusive)
        inside = [limit if _is_kept(limit) else _inside(limit, sign)] if _is_number(limit) else []
        if bound is True and inside:  # draft 4: the other keyword's bound is exclusive
            bound = limit
        if _is_number(bound):
            del node[exclusive]
            inside.append(_inside(bound, sign))
        if inside:
            node[inclusive] = tighter(inside)


def _inside(bound: float, sign: int) -> float:
    """A number of at most 13 digits close to a bound, on the side that `sign` tells."""
    gap = min(1.0, max(1e-6, 10.0 ** (len(str(abs(int(bound)))) - 12)))
    return round(bound + sign * gap, 6)


def _is_kept(bound: float) -> bool:
    """Whether the engine compares with this very number: it keeps 15 digits."""
    return isinstance(bound, int) or float(f"{bound:.15g}") == bound


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- the walk through a schema --------------------------------------------------------------------------------------------


class _Subschemas:
    """The schemas inside a schema that an answer can meet, each once: those under its keywords, and those that it refers to."""

    def __init__(self, name: str, schema: Any) -> None:
        self._name = name
        self.root: Node = schema if isinstance(schema, dict) else {} if schema else {"enum": []}
        self._found: dict[Path, Any] = {}
        self._children: dict[Path, dict[str, list[Path]]] = {}
        self._collect()

    def nodes(self) -> Iterator[Node]:
        return (node for node in self._found.values() if isinstance(node, dict))

    def closed(self) -> list[Node]:
        """Objects that list all their properties, and are not combined with other schemas of the same object."""
        combined, waiting = set[Path](), list(self._children)
        while waiting:
            path = waiting.pop()
            if path in combined or _combines(self._found[path]):
                new = {child for key in APPLIED for child in self._children.get(path, {}).get(key, [])} - combined
                combined |= new | {path}
                waiting += new
        nodes = (node for path, node in self._found.items() if path not in combined)
        return [node for node in nodes if isinstance(node, dict) and _lists_all_properties(node)]

    def require_supported(self) -> None:
        """UsageError for the first part that no answer is sure to obey."""
        for path, node in self._found.items():
            if not isinstance(node, dict | bool):
                raise UsageError(f"{self._where(path)} is {str(node)[:40]!r}; a schema is an object, true or false")
            if isinstance(node, dict):
                self._require_keywords(path, node)
                self._require_names(path, node)
                self._require_small(path, node)
                self._require_format(path, node)
                self._require_spelled(path, node)
                self._require_countable(path, node)
        require_few_remainders(self._name, (node.get("multipleOf") for node in self.nodes()))
        self._require_finite()

    def _collect(self) -> None:
        stack: list[tuple[Path, Any]] = [((), self.root)]
        while stack:
            path, node = stack.pop()
            if path in self._found:
                continue
            self._found[path] = node
            if isinstance(node, dict):
                self._children[path] = children = self._parts_of(path, node)
                stack += [(child, self._at(child)) for paths in children.values() for child in paths]

    def _parts_of(self, path: Path, node: Node) -> dict[str, list[Path]]:
        """The paths of the schemas under each keyword of a schema."""
        children = {key: [(*path, key)] for key in SINGLE if key in node and not _is_list(node[key])}
        children |= {key: [(*path, key, str(i)) for i in range(len(node[key]))] for key in LISTS if _is_list(node.get(key))}
        children |= {key: [(*path, key, name) for name in node[key]] for key in DICTS if isinstance(node.get(key), dict)}
        if "$ref" in node:
            children["$ref"] = [self._target(path, node["$ref"])]
        return children

    def _target(self, path: Path, ref: object) -> Path:
        if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
            raise UsageError(
                f"{self._where((*path, '$ref'))} is {str(ref)[:80]!r}; it must point into the schema itself",
                hint='For example "#/$defs/NAME".',
            )
        return tuple(unquote(key).replace("~1", "/").replace("~0", "~") for key in ref[2:].split("/")) if ref != "#" else ()

    def _at(self, path: Path) -> Any:
        part: Any = self.root
        for key in path:
            try:
                part = part[int(key)] if isinstance(part, list) else part[key]
            except (KeyError, IndexError, ValueError, TypeError):
                raise UsageError(f"{self._name} refers to {_pointer(path)!r}, which it does not hold") from None
        return part

    def _where(self, path: Path) -> str:
        return f"{self._name} at {_pointer(path)}" if path else self._name

    # ---- what is refused ----------------------------------------------------------------------------------------------

    def _require_keywords(self, path: Path, node: Node) -> None:
        for keyword, value in node.items():
            if keyword in UNSUPPORTED and not _is_harmless(keyword, value):
                hint = (
                    'Write {"anyOf": [..., {"type": "null"}]}.'
                    if keyword == "nullable"
                    else "Leave it out, or check it yourself."
                )
                raise UsageError(f"{self._where(path)} has {keyword!r}, which puna cannot enforce", hint=hint)
            if keyword == "$id" and path:
                raise UsageError(f"{self._where(path)} has a '$id' of its own", hint="Leave it out.")
            if keyword not in SUPPORTED and (near := _meant_by(keyword)):
                raise UsageError(f"{self._where(path)} has the unknown keyword {keyword!r}", hint=f"Did you mean {near}?")

    def _require_format(self, path: Path, node: Node) -> None:
        kind = node.get("format")
        if kind is None:
            return
        known = NUMBER_FORMATS if node.get("type") in ("number", "integer") else FORMATS
        if not isinstance(kind, str) or kind not in known:
            raise UsageError(
                f"{self._where(path)} has the format {str(kind)[:40]!r}, which puna cannot enforce",
                hint=f"Known: {', '.join(known)}. Leave it out, or check it yourself.",
            )

    def _require_spelled(self, path: Path, node: Node) -> None:
        """Texts that an answer must hold: control characters that need a \\u escape are never written."""
        for keyword in ("const", "enum"):
            if keyword in node and "\\u00" in json.dumps(node[keyword], ensure_ascii=False).replace("\\\\", ""):
                raise UsageError(f"{self._where((*path, keyword))} holds a control character, which puna does not write")

    def _require_small(self, path: Path, node: Node) -> None:
        for key in ("const", "enum"):
            require_small_numbers(self._where(path), TEXT.sub("", json.dumps(node.get(key))))

    def _require_names(self, path: Path, node: Node) -> None:
        required = node.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise UsageError(f"{self._where(path)} has 'required' {str(required)[:40]!r}; a list of names is needed")

    def _require_countable(self, path: Path, node: Node) -> None:
        """Names that no schema lists may occur twice in the text, and count once. So they cannot fill up `minProperties`."""
        least, required = node.get("minProperties"), node.get("required", [])
        if not isinstance(least, int | float) or least <= (len(set(required)) if _is_list(required) else 0):
            return
        if node.get("additionalProperties") is not False or node.get("patternProperties"):
            raise UsageError(
                f"{self._where(path)} has 'minProperties' with names that are not listed, which puna cannot enforce",
                hint="List the names in 'required', or set additionalProperties to false.",
            )

    def _require_finite(self) -> None:
        """UsageError for a schema that only an endless value satisfies, because it requires itself."""
        finite: set[Path] = set()
        users: dict[Path, list[Path]] = {}
        for path, children in self._children.items():
            for child in (one for paths in children.values() for one in paths):
                users.setdefault(child, []).append(path)
        waiting = OrderedDict.fromkeys(reversed(self._found))  # a queue without doubles; what is inside a part comes before it
        while waiting:
            path, _ = waiting.popitem(last=False)
            if path not in finite and self._can_end(path, finite):
                finite.add(path)
                waiting.update(dict.fromkeys(users.get(path, [])))
        if () not in finite:
            raise UsageError(f"{self._name} requires itself, so no finite answer can satisfy it")

    def _can_end(self, path: Path, finite: set[Path]) -> bool:
        """Whether a value may satisfy this part, if the parts in `finite` can be satisfied. Counts only what surely is needed."""
        node, children = self._found[path], self._children.get(path, {})
        if not isinstance(node, dict):
            return node is True
        needed = {child for key in ("allOf", "$ref") for child in children.get(key, [])}
        if node.get("type") == "object" and _is_list(node.get("required", [])):
            names = set(map(str, node.get("required", [])))
            needed |= {child for child in children.get("properties", []) if child[-1] in names}
        if node.get("type") == "array" and isinstance(node.get("minItems"), int):
            first = [child for child in children.get("prefixItems", []) if int(child[-1]) < node["minItems"]]
            rest = children.get("items", []) if isinstance(node.get("items"), dict) and len(first) < node["minItems"] else []
            needed |= {*first, *rest}
        choices = [children[key] for key in ("anyOf", "oneOf") if children.get(key)]
        return needed <= finite and all(any(child in finite for child in paths) for paths in choices)


@lru_cache(1024)
def _meant_by(keyword: str) -> str:
    """The keyword that another one is a misspelling of; "" if it is a word of its own."""
    near = get_close_matches(keyword, SUPPORTED | UNSUPPORTED, n=1, cutoff=0.8)
    return near[0] if near and keyword not in UNSUPPORTED else ""


def _combines(node: Node) -> bool:
    """Whether several schemas together describe one object."""
    applied = [key for key in APPLIED if key in node]
    return "allOf" in applied or len(applied) > 1 or (len(applied) == 1 and any(key in node for key in OF_OBJECTS))


def _lists_all_properties(node: Node) -> bool:
    names, mentions_others = node.get("properties"), "additionalProperties" in node or "patternProperties" in node
    return bool(names) and isinstance(names, dict) and not mentions_others and set(node.get("required", ())) <= names.keys()


def _is_harmless(keyword: str, value: object) -> bool:
    return any(type(value) is type(one) and value == one for one in HARMLESS.get(keyword, ()))


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _pointer(path: Path) -> str:
    return "#/" + "/".join(path)
