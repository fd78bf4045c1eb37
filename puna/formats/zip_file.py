"""A zip archive with uncompressed entries, read as views of the mapped file (APPNOTE.TXT 6.3.10, zip64 too).

`zipfile` reads the directory, within these limits, because it accepts ambiguous archives: the directory must end where its end
record begins, and hold as many entries as that says. An entry must be uncompressed, at the offset that both of its headers give,
without overlaps; two of the same name are refused.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from puna.formats.mapped import Cursor, map_file, shown

MAGIC = b"PK\x03\x04"
END, END64, LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
END_LAYOUT = struct.Struct("<4s4H2LH")
END64_LAYOUT = struct.Struct("<4sQ2H2L4Q")
LOCATOR64_LAYOUT = struct.Struct("<4sLQL")
LOCAL_LAYOUT = struct.Struct("<4s5H3L2H")
MAX_COMMENT = 1 << 16
MAX_ENTRIES, MAX_ENTRY_BYTES = 1 << 20, 256  # the second in the directory, on average; PyTorch's take some 80
ENCRYPTED = 1 | 1 << 6 | 1 << 13  # the flags of each kind of encryption, and of an encrypted directory

FULL = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF  # "see the zip64 record": entries, bytes, first byte


@dataclass(frozen=True, slots=True)
class ZipEntry:
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
    headers = ((info.header_offset, len(info.orig_filename.encode())) for info in _listed(data, count))
    return [(local, local + LOCAL_LAYOUT.size + length) for local, length in headers if local < begin]


def _checked_directory(data: Cursor) -> tuple[int, int, int]:
    """(entries, first byte, bytes) of the directory, which ends where its end record begins."""
    count, size, begin, end = _directory(data)
    if begin + size != end:
        data.damaged("zip directory", f"of {count} entries, {size} bytes at byte {begin}, does not end at byte {end}", 0)
    if count > MAX_ENTRIES or size > count * MAX_ENTRY_BYTES:
        allowed = f"at most {MAX_ENTRIES}, of {MAX_ENTRY_BYTES} bytes on average, are allowed"
        data.fail("zip directory", f"has {count} entries in {size} bytes; {allowed}", begin)
    return count, begin, size


def _listed(data: Cursor, count: int) -> list[zipfile.ZipInfo]:
    """The entries of a checked directory."""
    try:
        with zipfile.ZipFile(data.file, metadata_encoding="utf-8") as archive:
            listed = archive.infolist()
    except NotImplementedError as error:
        data.fail("zip directory", f"is of a later format: {shown(str(error))}", 0)
    except (zipfile.BadZipFile, UnicodeDecodeError, OSError) as error:
        data.damaged("zip directory", f"is not readable: {shown(str(error))}", 0)
    if len(listed) != count:
        data.damaged("zip directory", f"of {count} entries holds {len(listed)}", 0)
    return listed


def _entries(data: Cursor) -> list[ZipEntry]:
    count, begin, _ = _checked_directory(data)
    entries, names, end = [_entry(data, info, begin) for info in _listed(data, count)], set(), 0
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.size)):
        if entry.name in names:
            data.fail(f"zip entry {shown(entry.name)}", "occurs twice", entry.offset)
        if entry.offset < end:
            data.damaged(f"zip entry {shown(entry.name)}", "overlaps another one", entry.offset)
        names.add(entry.name)
        end = entry.offset + entry.size
    return entries


def _directory(data: Cursor) -> tuple[int, int, int, int]:
    """(entries, bytes, first byte) of the directory, and where the record begins that says so."""
    at = data.data.rfind(END, max(0, data.end - MAX_COMMENT - END_LAYOUT.size))
    if at < 0 or at + END_LAYOUT.size > data.end:
        data.damaged("zip directory", "is missing: the archive was cut short", data.end)
    fields = END_LAYOUT.unpack_from(data.data, at)
    if at + END_LAYOUT.size + fields[7] != data.end:
        data.damaged("zip directory", "is not at the end of the file", at)
    locator = at - LOCATOR64_LAYOUT.size
    if locator >= 0 and data.data[locator : locator + 4] == LOCATOR64:
        return _directory64(data, locator, fields[4:7])
    return *fields[4:7], at


def _directory64(data: Cursor, locator: int, short: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """The same from the zip64 record, which `torch.save` always writes. `short`: the numbers without it, if they fit there."""
    _, _, at, _ = LOCATOR64_LAYOUT.unpack_from(data.data, locator)
    if at + END64_LAYOUT.size != locator or data.data[at : at + 4] != END64:
        data.damaged("zip64 directory", f"is not where the file says, at byte {at}", locator)
    wide = END64_LAYOUT.unpack_from(data.data, at)[7:10]
    if any(number not in (full, same) for number, full, same in zip(short, FULL, wide)):
        data.damaged("zip64 directory", f"has the sizes {wide}, but the record at the file's end says {short}", at)
    return *wide, at


def _entry(data: Cursor, info: zipfile.ZipInfo, directory: int) -> ZipEntry:
    """An entry that is stored as it is; compared with its local header."""
    name = info.orig_filename
    field = f"zip entry {shown(name)}"
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & ENCRYPTED:
        data.fail(field, "is compressed or encrypted; a checkpoint holds plain entries", directory)
    offset = _data_offset(data, field, name.encode(), info.header_offset, info.file_size, directory)
    return ZipEntry(name, offset, info.file_size, info.CRC)


def _data_offset(cursor: Cursor, field: str, raw: bytes, local: int, size: int, directory: int) -> int:
    """Where the bytes begin: after the local header, which must have the same name, and before the directory."""
    if local + LOCAL_LAYOUT.size > directory:
        cursor.damaged(field, f"begins at byte {local}, which is not before the directory at byte {directory}")
    head = LOCAL_LAYOUT.unpack_from(cursor.data, local)
    name = local + LOCAL_LAYOUT.size
    begin: int = name + head[9] + head[10]
    if head[2] & ENCRYPTED or head[3] != 0:
        cursor.fail(field, "is compressed or encrypted where it begins; a checkpoint holds plain entries", local)
    if head[0] != MAGIC or cursor.data[name : name + head[9]] != raw:
        cursor.damaged(field, "has another name, or none, where it begins", local)
    if begin + size > directory:
        cursor.damaged(field, f"of {size} bytes at byte {begin} reaches into the directory at byte {directory}", local)
    return begin
