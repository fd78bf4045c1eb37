"""The wire format of protobuf: bounded reading, and writing. A page of code costs less than a dependency on the library and its
generated classes. A field is its number and its value: a number, or bytes; a 32-bit number is its four bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from puna.errors import DamagedFileError, ModelFormatError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are obsolete

MAX_FIELDS = 1 << 16  # of a message: the trainer's repeat the tokens that a user added, some thousand at most

Field = tuple[int, int | bytes]


def fields(path: Path, data: bytes, what: str, limit: int = MAX_FIELDS) -> Iterator[Field]:
    """The fields of a message, at most `limit`, in order. Errors give offsets in the message, which `what` names."""
    at, end, count = 0, len(data), 0
    while at < end:
        start, count = at, count + 1
        if count > limit:
            raise ModelFormatError(path, what, start, f"has more than {limit} fields")
        tag, at = _read_varint(path, data, at, what)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise DamagedFileError(path, what, start, "has a field of number 0, which protobuf does not have")
        if wire == VARINT:
            value, at = _read_varint(path, data, at, what)
            yield number, value
            continue
        if wire not in (BYTES, FIXED32, FIXED64):
            raise DamagedFileError(path, what, start, f"has a field of wire type {wire}; 0, 1, 2 and 5 are known")
        length = 4 if wire == FIXED32 else 8
        if wire == BYTES:
            length, at = _read_varint(path, data, at, what)
        if length > end - at:
            raise DamagedFileError(path, what, at, f"has a field of {length} bytes, but {end - at} remain")
        yield number, data[at : at + length]
        at += length


def _read_varint(path: Path, data: bytes, at: int, what: str) -> tuple[int, int]:
    """The number at `at`, of ten bytes at most, and its end."""
    if at < len(data) and data[at] < 0x80:  # nearly all have one byte
        return data[at], at + 1
    value = 0
    for count, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return value, at + count + 1
    raise DamagedFileError(path, what, at, "has a number that does not end")


def message_field(field: int, content: bytes) -> bytes:
    """A message, a text or bytes."""
    return varint(field << 3 | BYTES) + varint(len(content)) + content


def number_field(field: int, value: int) -> bytes:
    """A number, true or false, or a value of an enumeration."""
    return varint(field << 3 | VARINT) + varint(value)


def float_field(field: int, value: float) -> bytes:
    return varint(field << 3 | FIXED32) + struct.pack("<f", value)


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow. A negative number is written as 64 bits.

    >>> varint(300).hex()
    'ac02'
    """
    if 0 <= value <= 0x7F:
        return bytes((value,))
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
