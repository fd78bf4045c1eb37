"""The GGUF container, versions 2 and 3: bytes -> metadata values and tensors. Knows nothing of models.

Layout (little-endian): magic, version, tensor count, value count; the values; the tensor infos; padding; the tensors in sequence,
each padded to `general.alignment`. A model may be split over files `NAME-00001-of-0000N.gguf`.
Everything is checked before use: counts against the remaining bytes, tensors against gaps, overlaps and the file's end.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats.blocks import BLOCK_TYPES, GGML_TYPE_NAMES, GGUF_READABLE, BlockType
from puna.formats.mapped import MAX_SHOWN_CHARACTERS, Cursor, map_file, shown
from puna.formats.rows import Rows

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_KEY_BYTES = 64 << 10
MAX_TENSOR_NAME_BYTES = 256  # ggml allows 64
MAX_VALUES, MAX_TENSORS = 1 << 15, 1 << 15  # real files have a hundred, and some thousands
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32
ALIGNMENTS = frozenset(1 << power for power in range(3, 21))  # the format needs a multiple of 8; above 1 MiB it is an error
MIN_VALUE_BYTES = 8 + 1 + 4 + 1  # key length, a key of one character, type, the least value
MIN_INFO_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name length, a name of one character, dimensions, one of them, type, offset

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")


class Scalar(NamedTuple):
    """A metadata value type of fixed size."""

    name: str
    layout: struct.Struct
    dtype: str


SCALARS: dict[int, Scalar] = {
    0: Scalar("uint8", struct.Struct("<B"), "<u1"),
    1: Scalar("int8", struct.Struct("<b"), "<i1"),
    2: Scalar("uint16", struct.Struct("<H"), "<u2"),
    3: Scalar("int16", struct.Struct("<h"), "<i2"),
    4: Scalar("uint32", struct.Struct("<I"), "<u4"),
    5: Scalar("int32", struct.Struct("<i"), "<i4"),
    6: Scalar("float32", struct.Struct("<f"), "<f4"),
    7: Scalar("bool", struct.Struct("<B"), "<u1"),
    10: Scalar("uint64", struct.Struct("<Q"), "<u8"),
    11: Scalar("int64", struct.Struct("<q"), "<i8"),
    12: Scalar("float64", struct.Struct("<d"), "<f8"),
}
STRING, ARRAY = 8, 9
INTEGERS = ("uint32", "int32", "uint64", "int64", "uint16", "int16", "uint8", "int8")
REALS = ("float32", "float64")


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value: int, float, bool, str, a view of numbers, or a list of byte strings."""

    kind: str  # "uint32", "string", "array of string"
    value: Any
    offset: int  # of its key


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    """A tensor of the file; its bytes are mapped and checked."""

    name: str
    shape: tuple[int, ...]  # rows first: the reverse of the file's order
    type: BlockType
    data: Rows  # (rows, bytes of a row)
    file: Path
    offset: int  # of its info

    def rows(self) -> Rows:
        return self.data

    def fail(self, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, f"tensor '{self.name}'", self.offset, problem)


@dataclass(frozen=True, slots=True)
class GGUFFile:
    """A container, or all shards of one."""

    path: Path
    version: int
    values: dict[str, Value]
    tensors: dict[str, GGUFTensor]
    files: tuple[Path, ...] = field(default=())


# ---- shards ---------------------------------------------------------------------------------------------------------

SHARD_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


HeaderCheck = Callable[[Path, Mapping[str, Value]], None]


def read_gguf(path: Path, check: HeaderCheck) -> GGUFFile:
    """Read a container; for a split model all shards as one, whichever of them `path` is.

    `check` gets each file's values before its tensors are read, and may refuse them.
    """
    given = _read_shard(path, check)
    count = _split_number(given, "split.count", 1)
    if count <= 1:
        return given
    paths = _shard_paths(given, count)
    return _joined([given if shard == path else _read_shard(shard, check) for shard in paths], count)


def _split_number(gguf: GGUFFile, key: str, default: int) -> int:
    value = gguf.values.get(key)
    if value is None:
        return default
    if value.kind not in INTEGERS or value.value < 0:
        raise ModelFormatError(gguf.path, key, value.offset, f"is {value.kind} {shown(value.value)}; a count is needed")
    return int(value.value)


def _shard_paths(given: GGUFFile, count: int) -> list[Path]:
    """Names of all shards, made from the given one's: always files of the same folder."""
    match = SHARD_NAME.fullmatch(given.path.name)
    at = given.values["split.count"].offset
    if match is None or int(match["count"]) != count:
        raise ModelFormatError(
            given.path,
            "split.count",
            at,
            f"says that this is one of {count} files, but its name does not",
            hint=f"Name the files NAME-00001-of-{count:05d}.gguf and so on.",
        )
    paths = [given.path.with_name(f"{match['stem']}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ModelNotFoundError(
            f"{given.path.name} is one of {count} files of a model; missing: {names}", hint="Put all of them into one folder."
        )
    return paths


def _joined(shards: Sequence[GGUFFile], count: int) -> GGUFFile:
    tensors: dict[str, GGUFTensor] = {}
    for number, shard in enumerate(shards):
        for key, expected in (("split.count", count), ("split.no", number)):
            found = _split_number(shard, key, -1)
            if found != expected:
                raise ModelFormatError(shard.path, key, None, f"is {found}; by this shard's name it must be {expected}")
        for name in shard.tensors.keys() & tensors.keys():
            raise ModelFormatError(shard.path, f"tensor '{name}'", shard.tensors[name].offset, "is in another shard too")
        tensors |= shard.tensors
    first = shards[0]
    total = _split_number(first, "split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ModelFormatError(first.path, "split.tensors.count", None, f"is {total}, but the shards hold {len(tensors)} tensors")
    return GGUFFile(first.path, first.version, first.values, tensors, tuple(shard.path for shard in shards))


# ---- one file -------------------------------------------------------------------------------------------------------


def _read_shard(path: Path, check: HeaderCheck) -> GGUFFile:
    cursor = Cursor(map_file(path), path)
    header = read_header(cursor, check)
    tensors = _map_tensors(cursor, header.infos, header.alignment)
    return GGUFFile(path, header.version, header.values, tensors, (path,))


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """The part of one file before its tensors."""

    version: int
    values: dict[str, Value]
    infos: list[_Info]
    alignment: int
    end: int  # the first byte after it

    def location_of(self, name: str) -> tuple[int, int] | None:
        """(first byte, end) of a tensor by the header, unchecked; None if the header names no such tensor."""
        info = next((info for info in self.infos if info.name == name), None)
        begin = _padded(self.end, self.alignment) + (info.start if info else 0)
        return (begin, begin + info.num_bytes) if info else None


def read_header(cursor: Cursor, check: HeaderCheck) -> GGUFHeader:
    """Read the values and the tensor infos; the cursor stops after them."""
    if cursor.take("magic", 4) != MAGIC:
        cursor.fail("magic", "is not that of GGUF", 0)
    version = _read_version(cursor)
    num_tensors = _read_count(cursor, "tensor_count", MAX_TENSORS, MIN_INFO_BYTES)
    num_values = _read_count(cursor, "kv_count", MAX_VALUES, MIN_VALUE_BYTES)
    values = _read_values(cursor, num_values)
    check(cursor.file, values)
    infos = [_read_info(cursor, index) for index in range(num_tensors)]
    return GGUFHeader(version, values, infos, _alignment(cursor, values), cursor.position)


def _read_version(cursor: Cursor) -> int:
    version: int = cursor.number("version", _U32)
    if version and version & 0xFFFF == 0:
        raise UnsupportedModelError(
            f"{cursor.file} is a big-endian GGUF file; puna reads little-endian ones",
            hint="Fetch or convert a little-endian one.",
        )
    if version == 1:
        raise UnsupportedModelError(f"{cursor.file} is GGUF version 1; puna reads 2 and 3", hint="Fetch a newer conversion.")
    if version == 0:
        cursor.damaged("version", "is 0; puna reads 2 and 3", 4)
    if version not in VERSIONS:
        raise UnsupportedModelError(f"{cursor.file} is GGUF version {version}; puna reads 2 and 3", hint="Use a newer puna.")
    return version


def _read_count(cursor: Cursor, name: str, limit: int, least_bytes: int) -> int:
    count: int = cursor.number(name, _U64)
    if count * least_bytes > cursor.remaining:
        cursor.damaged(name, f"is {count}, but only {cursor.remaining} bytes remain", cursor.position - 8)
    if count > limit:
        cursor.fail(name, f"is {count}; at most {limit} are allowed", cursor.position - 8)
    return count


def _read_name(cursor: Cursor, what: str, limit: int) -> str:
    """Read a key or a tensor's name. It must be printable, because errors show it."""
    at = cursor.position
    name = _decode(cursor, what, cursor.string(what, limit), at)
    if not name or not name.isprintable():
        cursor.fail(what, f"is {shown(name)}; a name of printable characters is needed", at)
    return name


def _decode(cursor: Cursor, what: str, text: bytes, at: int) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        cursor.damaged(what, "is not UTF-8", at)


# ---- metadata -------------------------------------------------------------------------------------------------------


def _read_values(cursor: Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for index in range(count):
        at = cursor.position
        key = _read_name(cursor, f"key {index}", MAX_KEY_BYTES)
        if key in values:
            cursor.fail(key[:MAX_SHOWN_CHARACTERS], "occurs twice", at)
        kind, value = _read_value(cursor, key[:MAX_SHOWN_CHARACTERS])
        values[key] = Value(kind, value, at)
    return values


def _read_value(cursor: Cursor, key: str) -> tuple[str, Any]:
    at = cursor.position
    code: int = cursor.number(key, _U32)
    if code == STRING:
        return "string", _decode(cursor, key, cursor.string(key), at)
    if code == ARRAY:
        return _read_array(cursor, key)
    scalar = _scalar(cursor, key, code, at)
    value = cursor.number(key, scalar.layout)
    if scalar.name != "bool":
        return scalar.name, value
    if value > 1:
        cursor.damaged(key, f"is a bool of value {value}", at)
    return "bool", value == 1


def _scalar(cursor: Cursor, key: str, code: int, at: int) -> Scalar:
    if code not in SCALARS:
        cursor.damaged(key, f"has type {code}, which GGUF does not know", at)
    return SCALARS[code]


def _read_array(cursor: Cursor, key: str) -> tuple[str, Any]:
    at = cursor.position
    code: int = cursor.number(key, _U32)
    count: int = cursor.number(key, _U64)
    if code == ARRAY:
        cursor.fail(key, "is an array of arrays, which puna refuses", at)
    if code == STRING:
        return "array of string", cursor.strings(key, count)
    scalar = _scalar(cursor, key, code, at)
    return f"array of {scalar.name}", cursor.array(key, scalar.dtype, count)


def _alignment(cursor: Cursor, values: dict[str, Value]) -> int:
    given = values.get("general.alignment")
    if given is None:
        return DEFAULT_ALIGNMENT
    if given.kind != "uint32" or given.value not in ALIGNMENTS:
        cursor.fail(
            "general.alignment", f"is {given.kind} {shown(given.value)}; a power of two of 8 to 1048576 is needed", given.offset
        )
    return int(given.value)


# ---- tensors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor's entry in the header."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    start: int  # bytes after the start of the data
    offset: int  # of the info itself

    @property
    def label(self) -> str:
        return f"tensor '{self.name}'"

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


def _read_info(cursor: Cursor, index: int) -> _Info:
    at = cursor.position
    name = _read_name(cursor, f"name of tensor {index}", MAX_TENSOR_NAME_BYTES)
    label = f"tensor '{name}'"
    dimensions: int = cursor.number(label, _U32)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        cursor.fail(label, f"has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible", at)
    shape = tuple(cursor.number(label, _U64) for _ in range(dimensions))[::-1]
    if 0 in shape:
        cursor.fail(label, f"has shape {shape}; no size may be 0", at)
    block = _block_type(cursor, label, cursor.number(label, _U32), at)
    if shape[-1] % block.block_size:
        cursor.fail(label, f"has rows of {shape[-1]}; {block.name} needs a multiple of {block.block_size}", at)
    return _Info(name, shape, block, cursor.number(label, _U64), at)


def _block_type(cursor: Cursor, label: str, code: int, at: int) -> BlockType:
    name = GGML_TYPE_NAMES.get(code)
    if name is None:
        raise UnsupportedModelError(
            f"{cursor.file}: {label} has type {code} of a newer ggml, which puna does not know",
            hint="Fetch the model in another quantisation, for example Q4_0, Q4_K_M or Q8_0.",
        )
    if name not in GGUF_READABLE:
        raise UnsupportedModelError(
            f"{cursor.file}: {label} is {name}, which puna cannot read. Readable: {', '.join(GGUF_READABLE)}.",
            hint="Fetch the model in another quantisation, for example Q4_0, Q4_K_M or Q8_0.",
        )
    return BLOCK_TYPES[name]


def _map_tensors(cursor: Cursor, infos: Sequence[_Info], alignment: int) -> dict[str, GGUFTensor]:
    """Find each tensor's bytes. In the order of their offsets they must follow each other, up to padding."""
    start = _padded(cursor.position, alignment)
    end = cursor.position
    tensors: dict[str, GGUFTensor] = {}
    for info in sorted(infos, key=lambda info: info.start):
        if info.name in tensors:
            cursor.fail(info.label, "occurs twice", info.offset)
        expected = _padded(end, alignment) - start
        if info.start != expected:
            fault = "overlaps the one before it" if info.start < expected else "leaves a gap before it"
            cursor.damaged(
                info.label, f"begins {info.start} bytes into the data and {fault}: {expected} is expected", info.offset
            )
        begin, end = start + info.start, start + info.start + info.num_bytes
        if end > cursor.end:
            problem = f"lies at bytes {begin} to {end}, but the file ends at {cursor.end}"
            cursor.damaged(info.label, problem, info.offset)
        tensors[info.name] = _tensor_at(cursor, info, begin)
    if cursor.end > _padded(end, alignment):
        cursor.damaged("data", f"{cursor.end - end} bytes follow the last tensor", end)
    return {info.name: tensors[info.name] for info in infos}


def _tensor_at(cursor: Cursor, info: _Info, begin: int) -> GGUFTensor:
    data = np.frombuffer(cursor.data, np.uint8, info.num_bytes, begin)
    rows = data.reshape(-1, info.type.row_bytes(info.shape[-1]))
    return GGUFTensor(info.name, info.shape, info.type, rows, cursor.file, info.offset)


def _padded(position: int, alignment: int) -> int:
    """`position` rounded up to a multiple of `alignment`.

    >>> _padded(33, 32)
    64
    """
    return -(-position // alignment) * alignment
