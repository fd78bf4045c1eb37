"""safetensors: the header's length, the header in JSON, then the arrays (the format's README, version of 2025).

As strict as the format's own library: no gaps, no overlaps, nothing after the last array, so that memory never exceeds the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np

from puna.errors import UnsupportedModelError
from puna.formats.arrays import DTYPES, FileArray, is_possible
from puna.formats.json_file import JsonObject, parse_json
from puna.formats.mapped import Cursor, file_size, map_file, shown
from puna.formats.unsupported import refuse_unsupported

MAX_HEADER_BYTES = 8 << 20  # a LLaMA has at most some thousand arrays of 100 bytes each; the library allows 100 MB
MAX_TENSORS = 1 << 14  # Llama 3.1 405B has 1,138, four times as many if quantised; reading the maximum takes half a second
MAX_DIMS = 8
METADATA = "__metadata__"
LENGTH = struct.Struct("<Q")


def matches(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` is safetensors: a length that fits, and an object."""
    return head[8:9] == b"{" and LENGTH.unpack(head[:8])[0] <= min(MAX_HEADER_BYTES, size - 8)


def read_safetensors(path: Path) -> dict[str, FileArray]:
    """The arrays of a file, as views of its mapped bytes, in file order.

    Raises ModelNotFoundError, ModelFormatError, and UnsupportedModelError for a number type that puna does not hold.
    """
    file_size(path)  # fails before the file is opened: a pipe or a device could hang
    refuse_unsupported(path)
    cursor = Cursor(map_file(path), path)
    length = cursor.number("header length", LENGTH)
    if length > MAX_HEADER_BYTES:
        refuse = cursor.damaged if length > cursor.remaining else cursor.fail
        refuse("header length", f"is {length}; at most {MAX_HEADER_BYTES} are allowed", 0)
    head = cursor.take("header", length)
    if not head.startswith(b"{"):
        cursor.damaged("header", f"begins with {shown(head[:8])}; an object is needed", 8)
    count = head.count(b"{") - 1  # each tensor has an object of its own, and so has the metadata
    if count > MAX_TENSORS + 1:
        cursor.fail("header", f"describes {count} tensors; at most {MAX_TENSORS} are allowed", 8)
    header = parse_json(path, head)
    _check_metadata(header)
    tensors, end = {}, 0
    for name, begin, last, entry in sorted(_byte_ranges(header), key=lambda row: row[1:3]):
        if begin != end:
            header.damaged(name, f"begins at byte {begin} of the data; byte {end} comes next")
        tensors[name] = _tensor(cursor, entry, name, begin, last)
        end = last
    if end != cursor.remaining:
        header.damaged("", f"describes {end} bytes of data, but {cursor.remaining} follow")
    return tensors


def _check_metadata(header: JsonObject) -> None:
    metadata = header.object(METADATA)
    for key, value in (metadata.values if metadata else {}).items():
        if not isinstance(value, str):
            header.fail(METADATA, f"holds {shown(value)} under {shown(key)}; only texts are allowed")


def _byte_ranges(header: JsonObject) -> Iterator[tuple[str, int, int, JsonObject]]:
    """(name, first byte, end, entry) of each array."""
    for name in header.values:
        if name == METADATA:
            continue
        entry = header.object(name)
        if entry is None:
            header.fail(name, "is null; an object is needed")
        offsets = entry.whole_numbers("data_offsets")
        if len(offsets) != 2 or offsets[0] > offsets[1]:
            entry.damaged("data_offsets", f"are {shown(offsets)}; two ascending ones are needed")
        yield name, offsets[0], offsets[1], entry


def _tensor(data: Cursor, entry: JsonObject, name: str, begin: int, last: int) -> FileArray:
    dtype, shape = entry.text("dtype"), entry.whole_numbers("shape")
    if dtype is None:
        entry.fail("dtype", "is missing")
    if dtype not in DTYPES:
        raise UnsupportedModelError(f"{data.file}: tensor {shown(name)} is {shown(dtype)}; puna reads: {', '.join(DTYPES)}")
    if len(shape) > MAX_DIMS:
        entry.fail("shape", f"has {len(shape)} dimensions; at most {MAX_DIMS} are allowed")
    needed = prod(shape) * DTYPES[dtype].itemsize
    if last - begin != needed:
        entry.damaged("data_offsets", f"hold {last - begin} bytes; {dtype} {list(shape)} needs {needed}")
    if not is_possible(shape, dtype):
        entry.fail("shape", f"is {list(shape)}, more than any memory holds")
    if last > data.remaining:
        entry.damaged("data_offsets", f"end at byte {last} of the data, but it is {data.remaining} bytes long")
    at = data.position + begin
    numbers = np.frombuffer(data.data, np.uint8, needed, at) if needed else np.empty(0, np.uint8)
    return FileArray(name, shape, dtype, numbers, data.file, at)
