"""JSON of a model's folder, read strictly: no duplicate key, no NaN, a bounded size. Values are read by type."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from puna.errors import DamagedFileError, ModelFormatError
from puna.formats.mapped import file_size, map_file, shown

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows programs put it before a text
MAX_JSON_BYTES = 64 << 20  # Llama 3's tokenizer.json takes 17 MB

# Values that become Python objects of 30 to 250 bytes each: counted before any is made. The largest real tokenizer.json (Gemma 3)
# has 0.3 million tokens and 0.5 million merges, each a list of two.
MAX_ITEMS, MAX_LISTS, MAX_KEYS, MAX_OBJECTS = 1 << 21, 1 << 20, 3 << 18, 1 << 17
COUNTED = ((b",", "commas", MAX_ITEMS), (b"[", "lists", MAX_LISTS), (b":", "keys", MAX_KEYS), (b"{", "objects", MAX_OBJECTS))
# Digits of a whole number: Python refuses to print more than 4,300, also of a product. Not 19 (64 bits): many a
# tokenizer_config.json has 10**30, and an error names the key of a size that is too large.
MAX_DIGITS = 500
LARGEST = 1 << 63  # for numbers in lists: they are sizes and offsets, and get multiplied

T = TypeVar("T")
WORDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a whole number"}


class JsonObject:
    """An object of a file. A key of the wrong type raises a ModelFormatError that names it; an absent or null one is None."""

    def __init__(self, file: Path, values: Mapping[str, Any], name: str = "") -> None:
        self.file = file
        self.values = values
        self.name = name

    def fail(self, key: str, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, self._named(key), None, problem)

    def damaged(self, key: str, problem: str) -> NoReturn:
        """Like `fail`, if the file cannot hold what was written."""
        raise DamagedFileError(self.file, self._named(key), None, problem)

    def _named(self, key: str) -> str:
        path = ".".join(part for part in (self.name, key) if part)
        return path if path.isprintable() and len(path) < 100 else shown(path)

    def _of(self, key: str, kind: type[T]) -> T | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
            self.fail(key, f"is {shown(value)}; {WORDS[kind]} is needed")
        return value

    def text(self, key: str) -> str | None:
        return self._of(key, str)

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._of(key, bool)
        return default if value is None else value

    def integer(self, key: str) -> int | None:
        return self._of(key, int)

    def real(self, key: str) -> float | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
            self.fail(key, f"is {shown(value)}; a number is needed")
        return float(value)

    def whole_numbers(self, key: str) -> tuple[int, ...]:
        """A list of non-negative numbers; empty if absent."""
        values = self.array(key)
        for value in values:
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST:
                self.fail(key, f"holds {shown(value)}; whole numbers that are not negative, of 64 bits, are needed")
        return tuple(values)

    def object(self, key: str) -> JsonObject | None:
        value = self._of(key, dict)
        return None if value is None else JsonObject(self.file, value, self._named(key))

    def array(self, key: str) -> list[Any]:
        """A list; empty if absent."""
        return self._of(key, list) or []

    def objects(self, key: str) -> Iterator[JsonObject]:
        """The elements of a list of objects."""
        for number, value in enumerate(self.array(key)):
            name = f"{key}[{number}]"
            if not isinstance(value, dict):
                self.fail(name, f"is {shown(value)}; an object is needed")
            yield JsonObject(self.file, value, self._named(name))


def read_json(path: Path, limit: int = MAX_JSON_BYTES) -> JsonObject:
    """Read the object of a JSON file. Refuses more than `limit` bytes: Python's objects take many times as much."""
    size = file_size(path)
    if size > limit:
        raise ModelFormatError(path, "file", None, f"is {size} bytes long; at most {limit} are read")
    return parse_json(path, map_file(path)[:])


def parse_json(path: Path, data: bytes) -> JsonObject:
    for sign, what, limit in COUNTED:
        if (count := data.count(sign)) > limit:
            raise ModelFormatError(path, "file", None, f"holds {count} {what}; at most {limit} are read")
    try:
        text = data.decode("utf-8-sig")  # without the mark
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise ModelFormatError(path, "file", error.start, "is not UTF-8") from None
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        if is_cut:
            raise DamagedFileError(path, "file", error.pos, f"is not JSON: it ends too early ({error.msg})") from None
        raise ModelFormatError(path, "file", error.pos, f"is not JSON: {error.msg}") from None
    except RecursionError:
        raise ModelFormatError(path, "file", None, "is nested too deeply") from None
    except ValueError as error:  # a duplicate key, NaN, a number of thousands of digits
        raise ModelFormatError(path, "file", None, f"is not JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise ModelFormatError(path, "file", 0, f"holds {shown(value)}; an object is needed")
    return JsonObject(path, value)


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = next((key for key, value in pairs if values[key] != value), None)
        if twice is None:  # both say the same
            return values
        raise ValueError(f"the key {shown(twice)} occurs twice, with different values")
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
