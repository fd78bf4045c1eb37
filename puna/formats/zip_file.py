"""A zip archive with uncompressed entries, read as views of the mapped file (APPNOTE.TXT 6.3.10, zip64 too).

Not `zipfile`: that copies what it reads, and accepts ambiguous archives. Here an entry must be uncompressed, at the place that
both of its headers give, without overlaps; two of the same name are refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.formats.mapped import Cursor, map_file, shown

MAGIC = b"PK\x03\x04"
END, END64, LOCATOR64, CENTRAL, LOCAL = (b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", MAGIC)
END_LAYOUT = struct.Struct("<4s4H2LH")
END64_LAYOUT = struct.Struct("<4sQ2H2L4Q")
LOCATOR64_LAYOUT = struct.Struct("<4sLQL")
CENTRAL_LAYOUT = struct.Struct("<4s6H3L5H2L")
LOCAL_LAYOUT = struct.Struct("<4s5H3L2H")
ZIP64_EXTRA = 1
MAX_COMMENT = 1 << 16
MAX_ENTRIES = 1 << 20
ENCRYPTED = 1 | 1 << 6 | 1 << 13  # the flags of each kind of encryption, and of an encrypted directory
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 fields"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive."""

    name: str
    offset: int  # of its bytes, from the file's start
    size: int
    crc: int


class ZipFile:
    """The entries of an archive by name; reads only the directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = map_file(path)
        self.entries = {entry.name: entry for entry in _entries(Cursor(self._data, path))}

    def view(self, name: str) -> npt.NDArray[np.uint8]:
        """The bytes of an entry, not copied.  # (bytes,)"""
        entry = self.entries[name]
        return np.frombuffer(self._data, np.uint8, entry.size, entry.offset) if entry.size else np.empty(0, np.uint8)

    def is_intact(self, name: str) -> bool:
        """Whether an entry has the directory's checksum; reads all of it."""
        return zlib.crc32(self.view(name).data) == self.entries[name].crc

    def read(self, name: str, limit: int) -> bytes:
        """A small entry, with its checksum verified."""
        entry, cursor = self.entries[name], Cursor(self._data, self.path, self.entries[name].offset)
        if entry.size > limit:
            cursor.fail(f"entry {shown(name)}", f"is {entry.size} bytes long; at most {limit} are allowed")
        data = cursor.take(f"entry {shown(name)}", entry.size)
        if zlib.crc32(data) != entry.crc:
            cursor.damaged(f"entry {shown(name)}", "does not have the checksum that the directory gives", entry.offset)
        return data


def directory_range(path: Path) -> tuple[int, int]:
    """(first byte, end) of the directory; reads only the file's end."""
    _, begin, size = _checked_directory(Cursor(map_file(path), path))
    return begin, begin + size


def local_header_ranges(path: Path) -> list[tuple[int, int]]:
    """(first byte, end of the name) of the header before each entry's bytes; reads only the directory."""
    data = Cursor(map_file(path), path)
    count, begin, _ = _checked_directory(data)
    cursor = Cursor(data.data, path, begin)
    listed = [_listed(cursor) for _ in range(count)]
    return [(entry.local, entry.local + LOCAL_LAYOUT.size + len(entry.raw)) for entry in listed if entry.local < begin]


def _checked_directory(data: Cursor) -> tuple[int, int, int]:
    """(entries, first byte, bytes) of the directory, which is inside the file."""
    count, begin, size = _directory(data)
    if count > MAX_ENTRIES:
        data.fail("zip directory", f"has {count} entries; at most {MAX_ENTRIES} are allowed", begin)
    if not (begin + size <= data.end and count * CENTRAL_LAYOUT.size <= size):
        data.damaged("zip directory", f"of {count} entries, {size} bytes at byte {begin}, does not fit into the file", 0)
    return count, begin, size


def _entries(data: Cursor) -> list[Entry]:
    count, begin, _ = _checked_directory(data)
    cursor, entries, names = Cursor(data.data, data.file, begin), [], set()
    for _ in range(count):
        entry = _entry(cursor, begin)
        if entry.name in names:
            cursor.fail(f"zip entry {shown(entry.name)}", "occurs twice")
        names.add(entry.name)
        entries.append(entry)
    end = 0
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size)):
        if entry.offset < end:
            data.damaged(f"zip entry {shown(entry.name)}", "overlaps another one", entry.offset)
        end = entry.offset + entry.size
    return entries


def _directory(data: Cursor) -> tuple[int, int, int]:
    """(entries, first byte, bytes) of the central directory, from the record at the file's end."""
    at = data.data.rfind(END, max(0, data.end - MAX_COMMENT - END_LAYOUT.size))
    if at < 0 or at + END_LAYOUT.size > data.end:
        data.damaged("zip directory", "is missing: the archive was cut short", data.end)
    fields = END_LAYOUT.unpack_from(data.data, at)
    count, size, begin, comment = fields[4], fields[5], fields[6], fields[7]
    if at + END_LAYOUT.size + comment != data.end:
        data.damaged("zip directory", "is not at the end of the file", at)
    if FULL16 in (count, fields[3]) or FULL32 in (size, begin):
        return _directory64(data, at - LOCATOR64_LAYOUT.size)
    return count, begin, size


def _directory64(data: Cursor, at: int) -> tuple[int, int, int]:
    if at < 0 or data.data[at : at + 4] != LOCATOR64:
        data.damaged("zip64 directory", "is missing", max(at, 0))
    _, _, place, _ = LOCATOR64_LAYOUT.unpack_from(data.data, at)
    if place + END64_LAYOUT.size > at or data.data[place : place + 4] != END64:
        data.damaged("zip64 directory", f"is not where the file says, at byte {place}", at)
    fields = END64_LAYOUT.unpack_from(data.data, place)
    return fields[7], fields[9], fields[8]


class _Listed(NamedTuple):
    """The directory's record of an entry."""

    field: str  # its name in errors
    raw: bytes  # its name
    name: str
    local: int  # where its local header begins
    size: int
    crc: int


def _entry(cursor: Cursor, directory: int) -> Entry:
    """Read the next entry of the central directory, and compare it with its local header."""
    listed = _listed(cursor)
    offset = _data_offset(cursor, listed.field, listed.raw, listed.local, listed.size, directory)
    return Entry(listed.name, offset, listed.size, listed.crc)


def _listed(cursor: Cursor) -> _Listed:
    at = cursor.position
    head = cursor.take("zip directory", CENTRAL_LAYOUT.size)
    if head[:4] != CENTRAL:
        cursor.damaged("zip directory", f"holds {shown(head[:4])} where an entry should begin", at)
    fields = CENTRAL_LAYOUT.unpack(head)
    flags, method, crc, packed, size, name_length, extra_length, comment_length = (fields[i] for i in (3, 4, 7, 8, 9, 10, 11, 12))
    raw = cursor.take("zip entry's name", name_length)
    extra = cursor.take("zip entry's extra field", extra_length)
    cursor.take("zip entry's comment", comment_length)
    field = f"zip entry {shown(raw)}"
    size, packed, local = _wide(cursor, field, extra, size, packed, fields[16])
    if method != 0 or packed != size or flags & ENCRYPTED:
        cursor.fail(field, "is compressed or encrypted; a checkpoint holds plain entries", at)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        cursor.damaged(field, "is not named in UTF-8", at)
    return _Listed(field, raw, name, local, size, crc)


def _wide(cursor: Cursor, field: str, extra: bytes, size: int, packed: int, local: int) -> tuple[int, int, int]:
    """The zip64 field holds, in this order, just the numbers that do not fit into four bytes."""
    if FULL32 not in (size, packed, local):
        return size, packed, local
    wide = iter(_zip64(cursor, field, extra))
    numbers = [next(wide, -1) if number == FULL32 else number for number in (size, packed, local)]
    if -1 in numbers:
        cursor.damaged(field, "has a zip64 field that is too short")
    return numbers[0], numbers[1], numbers[2]


def _zip64(cursor: Cursor, field: str, extra: bytes) -> tuple[int, ...]:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        part = extra[at + 4 : at + 4 + length]
        if kind == ZIP64_EXTRA:
            return struct.unpack_from(f"<{len(part) // 8}Q", part)
        at += 4 + length
    return cursor.damaged(field, "has no zip64 field, which its size asks for")


def _data_offset(cursor: Cursor, field: str, raw: bytes, local: int, size: int, directory: int) -> int:
    """Where the bytes begin: after the local header, which must have the same name, and before the directory."""
    if local + LOCAL_LAYOUT.size > directory:
        cursor.damaged(field, f"begins at byte {local}, which is not before the directory at byte {directory}")
    head = LOCAL_LAYOUT.unpack_from(cursor.data, local)
    name = local + LOCAL_LAYOUT.size
    begin: int = name + head[9] + head[10]
    if head[2] & ENCRYPTED or head[3] != 0:
        cursor.fail(field, "is compressed or encrypted where it begins; a checkpoint holds plain entries", local)
    if head[0] != LOCAL or cursor.data[name : name + head[9]] != raw:
        cursor.damaged(field, "has another name, or none, where it begins", local)
    if begin + size > directory:
        cursor.damaged(field, f"of {size} bytes at byte {begin} reaches into the directory at byte {directory}", local)
    return begin
