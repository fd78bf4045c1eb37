"""Pages of K and V on disk: one file per page, found by the token ids up to its end.

    FOLDER/pages/KEY/about.json       which model, for people (`puna cache`)
    FOLDER/pages/KEY/a/abcd....kv     a page; its name is a hash of all token ids up to its end

KEY is a hash of all that the bits of K and V depend on besides the token ids. A page's file is written under a temporary name and
renamed, so a process may be killed at any moment, and any number of processes share a folder without locks. A file is read whole
into memory, because one that is mapped could be truncated by another process (SIGBUS). Its size, key, name, ids and checksum are
compared before use; a file that is not exactly the wanted page is removed. So a page is right or it is missing.

The folder is bounded in bytes. The pages that nobody used for longest are removed first; a file's mtime is its last use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import struct
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from puna.checks import shown
from puna.errors import ConfigError
from puna.files import TEMPORARY, read_small, write_whole

Page = npt.NDArray[np.uint8]  # (bytes of a page,)

PAGES, ABOUT, SUFFIX = "pages", "about.json", ".kv"
MAGIC = b"PUNA-KV2"
HEAD = struct.Struct("<8s32s32sIIQ")  # magic, key, name, number of ids, checksum, bytes of the page
KEY, SHELF, NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{1,2}"), re.compile(r"[0-9a-f]{64}\.kv")
ROW_BYTES = 1 << 13  # of a page's checksum
MAX_ABOUT_BYTES = 1 << 16
DISK_SHARE = 2  # pages take at most 1 / DISK_SHARE of what the disk would have free without them
STALE_S = 3600  # a temporary file of this age belongs to a process that was killed
PRIVATE_FOLDER = 0o700


# ---- names ----------------------------------------------------------------------------------------------------------------


def key_of(facts: Mapping[str, Any]) -> str:
    """The name of the folder for pages that depend on these facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def first_name(prefix_key: object) -> str:
    """The name before a sequence's first page: `Request.prefix_key`, which holds the salt, keeps sequences apart."""
    return hashlib.sha256(repr(prefix_key).encode("utf-8", "surrogatepass")).hexdigest()


def next_name(before: str, ids: bytes, num_generated: int) -> str:
    """The name of a page: a hash of the page before it, of its token ids, and of how many of them count as generated."""
    return hashlib.sha256(bytes.fromhex(before) + struct.pack("<I", num_generated) + ids).hexdigest()


def ids_as_bytes(token_ids: Sequence[int]) -> bytes:
    return np.asarray(token_ids, "<i4").tobytes()


# ---- the pages of one key -----------------------------------------------------------------------------------------------


class PageStore:
    """The pages of one key. `limit`: bytes of all pages in the folder, those of other keys and processes included.

    Reading and writing never raise for what another process does; OSError tells that the disk is full or broken.
    """

    def __init__(self, folder: Path, key: str, page_bytes: int, limit: int, about: Mapping[str, Any] | None = None) -> None:
        self._root, self._key, self._page_bytes, self._limit = folder / PAGES, key, page_bytes, limit
        self._folder = self._root / key
        self._about = dict(about or {})
        self._allowance = 0  # bytes that may be written before the folder is measured again

    def has(self, name: str) -> bool:
        return os.path.exists(self._path(name))  # noqa: PTH110 - Path.exists is three times as slow

    def read(self, name: str, ids: bytes, into: Page) -> bool:
        """Read a page, if the file is exactly what was written for these ids. Any other file is removed."""
        path, head = self._path(name), np.empty(HEAD.size + len(ids), np.uint8)
        try:
            is_whole = _read_exactly(path, head, into)
        except OSError:
            return False
        if is_whole and head.tobytes() == self._head(name, ids, into):
            return True
        with suppress(OSError):
            path.unlink()
        return False

    def write(self, name: str, ids: bytes, page: Page) -> None:
        """Keep a page, and remove others if the folder is full. OSError if the disk is full."""
        num_bytes = HEAD.size + len(ids) + self._page_bytes
        if self._allowance < num_bytes:
            self._allowance = make_room(self._root, self._limit, num_bytes)
        if self._allowance < num_bytes:
            return
        self._allowance -= num_bytes
        path, parts = self._path(name), (self._head(name, ids, page), page.data)
        try:
            write_whole(path, *parts)
        except FileNotFoundError:  # the first page of its folder, or somebody emptied the cache
            self._make_folder(path.parent)
            write_whole(path, *parts)

    def touch(self, name: str, index: int) -> bool:
        """Note that page `index` of a sequence was used; False if it is not here. A prefix outlives its continuations."""
        now = time.time_ns() - index * 1_000_000
        try:
            os.utime(self._path(name), ns=(now, now))
        except OSError:
            return False
        return True

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):
                self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / name[0] / f"{name}{SUFFIX}"

    def _head(self, name: str, ids: bytes, page: Page) -> bytes:
        """What stands before the page's bytes: the header, with a checksum of everything else, and the ids."""
        key_and_name = bytes.fromhex(self._key), bytes.fromhex(name)
        crc = checksum(page, zlib.crc32(b"".join((*key_and_name, ids))))
        return HEAD.pack(MAGIC, *key_and_name, len(ids) // 4, crc, len(page)) + ids

    def _make_folder(self, shelf: Path) -> None:
        shelf.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        for folder in (self._root, self._folder, shelf):
            folder.chmod(PRIVATE_FOLDER)  # `parents` are made with the umask
        if not (self._folder / ABOUT).exists():
            write_whole(self._folder / ABOUT, json.dumps(self._about).encode())


def checksum(page: Page, before: int = 0) -> int:
    """The CRC-32 of the sums of a page's rows and columns of 64-bit words, and of what is left; `before`: a CRC-32 to go on from.

    Like that of the page itself, which takes six times as long to compute, it differs for any other page but one in 2**32. To
    leave all sums as they are, a change must concern four words or more, two in each of their rows and columns.
    """
    words = page[: len(page) // ROW_BYTES * ROW_BYTES].view("<u8").reshape(-1, ROW_BYTES // 8)
    for part in (words.sum(axis=0), words.sum(axis=1), page[words.nbytes :]):
        before = zlib.crc32(part.data, before)
    return before


def _read_exactly(path: Path, *parts: Page) -> bool:
    """Fill the parts, one after the other, from a regular file that has as many bytes; False for any other."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb", buffering=0) as file:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size != sum(len(part) for part in parts):
            return False
        return all(file.readinto(part.data) == len(part) for part in parts)  # short only if it was truncated meanwhile


def open_folder(folder: Path) -> None:
    """Make the folder of pages, which only its owner may read or write. ConfigError if that is not possible."""
    root = folder / PAGES
    try:
        root.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
        facts = root.stat()
    except (OSError, ValueError) as error:  # ValueError: a lone surrogate
        reason = error.strerror if isinstance(error, OSError) else "not a name of this system"
        raise ConfigError("cache_dir", f"is {shown(str(folder))}: {reason}", hint="Name a folder that you can write.") from None
    if hasattr(os, "geteuid") and (facts.st_uid != os.geteuid() or facts.st_mode & 0o022):
        raise ConfigError(
            "cache_dir",
            f"holds {root}, where other users can write pages, and puna would believe them",
            hint=f"Use another folder, or: chmod 700 {root}",
        )
    with suppress(OSError):
        root.chmod(PRIVATE_FOLDER)


# ---- all pages of a folder ----------------------------------------------------------------------------------------------


class _PageFile(NamedTuple):
    """A page's file, or a temporary one."""

    used_at: float
    num_bytes: int
    path: Path


def make_room(root: Path, limit: int, needed: int) -> int:
    """Remove the pages that were unused for longest; returns how many bytes may be written until this is called again.

    Several processes measure the folder independently. Each may write a sixteenth of the limit in between.
    """
    files = sorted(_files(root))
    total = sum(file.num_bytes for file in files)
    limit = min(limit, (shutil.disk_usage(root).free + total) // DISK_SHARE)
    allowance = max(needed, limit // 16) if needed <= limit else 0
    aim = limit - allowance if total + allowance <= limit else limit - max(allowance, limit // 4)
    for file in files:
        if total <= aim:
            break
        with suppress(OSError):
            file.path.unlink()
        total -= file.num_bytes
    return max(0, min(allowance, limit - total))


def _files(root: Path) -> Iterator[_PageFile]:
    for key in _keys(root):
        yield from _files_of(key)


def _keys(root: Path) -> list[Path]:
    return [entry for entry in _entries(root) if KEY.fullmatch(entry.name)]


def _files_of(key: Path) -> Iterator[_PageFile]:
    """The pages of a key. Files that killed processes left are removed on the way."""
    for shelf in _entries(key):
        with suppress(OSError), os.scandir(shelf) as entries:
            for entry in entries if SHELF.fullmatch(shelf.name) else ():
                is_page = NAME.fullmatch(entry.name) is not None
                if is_page or entry.name.startswith(TEMPORARY):
                    facts = entry.stat(follow_symlinks=False)
                    yield _PageFile(facts.st_mtime, facts.st_size, Path(entry.path))
                    if not is_page and time.time() - facts.st_mtime > STALE_S:
                        Path(entry.path).unlink()


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing if it is gone or no folder."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


@dataclass(frozen=True, slots=True)
class StoredModel:
    """The pages of one key, for people. `used_at`: seconds since the epoch."""

    key: str
    about: Mapping[str, Any]
    num_pages: int
    num_bytes: int
    used_at: float


def stored_models(folder: Path) -> list[StoredModel]:
    """What a folder holds, the latest used first."""
    found = [_stored(key) for key in _keys(folder / PAGES)]
    return sorted((one for one in found if one.num_pages), key=lambda one: -one.used_at)


def _stored(key: Path) -> StoredModel:
    files = list(_files_of(key))
    return StoredModel(
        key.name,
        _about(key),
        len(files),
        sum(file.num_bytes for file in files),
        max((file.used_at for file in files), default=0.0),
    )


def _about(key: Path) -> dict[str, Any]:
    """Of what stands there, what people and JSON can read: whole numbers, and texts without control characters."""
    try:
        found = json.loads(read_small(key / ABOUT, MAX_ABOUT_BYTES) or b"{}")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if _is_plain(name) and (isinstance(value, int) or _is_plain(value))}


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def clear(folder: Path, older_than_s: float = 0.0) -> tuple[int, int]:
    """Remove the pages that were not used for that long: (pages, bytes). Processes that use the folder go on."""
    before = time.time() - older_than_s
    count = num_bytes = 0
    for key in _keys(folder / PAGES):
        for file in list(_files_of(key)):
            if older_than_s and file.used_at > before:
                continue
            with suppress(OSError):
                file.path.unlink()
                count, num_bytes = count + 1, num_bytes + file.num_bytes
        _remove_if_empty(key)
    return count, num_bytes


def _remove_if_empty(key: Path) -> None:
    with suppress(OSError):  # a folder that holds anything stays
        for shelf in _entries(key):
            if SHELF.fullmatch(shelf.name):
                with suppress(OSError):
                    shelf.rmdir()
        if [entry.name for entry in _entries(key)] == [ABOUT]:
            (key / ABOUT).unlink()
        key.rmdir()
