"""Bytes of a model file, mapped and not copied. A cursor reads them and checks every count against what remains."""

from __future__ import annotations

import mmap
import stat
import struct
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import DamagedFileError, ModelFormatError, ModelNotFoundError

MAX_STRING_BYTES = 64 << 20
MAX_STRINGS = 1 << 22  # of one array: the largest vocabulary that ModelConfig allows
AHEAD_BYTES, SOME_STRINGS = 1 << 20, 1 << 12  # of short strings read at once; of strings read one by one before that is tried
LENGTH_ZEROS = bytes(7)
MAX_SHOWN_CHARACTERS = 80
MAX_PATH_CHARACTERS = 512  # of a path that is shown whole

_U64 = struct.Struct("<Q")


def file_size(path: Path) -> int:
    """Bytes of a regular file. Does not open it: a pipe or a device could hang.

    Raises ModelNotFoundError if there is no such file, or no regular one.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        raise _not_found(path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise ModelNotFoundError(f"{path} cannot be opened: {_reason(error)}") from None
    if not stat.S_ISREG(info.st_mode):
        raise ModelNotFoundError(
            f"{path} is not a regular file", hint="A model must be a file on disk: puna maps it into memory."
        )
    return info.st_size


def _not_found(path: Path) -> ModelNotFoundError:
    if path.is_symlink():
        return _bad_link(path, "which does not exist")
    return ModelNotFoundError(f"no such file: {path}", hint="Check the path.")


def _bad_link(path: Path, why: str) -> ModelNotFoundError:
    hint = "The model was moved, or its download is not complete."
    return ModelNotFoundError(f"{path} is a link to {path.readlink()}, {why}", hint=hint)


def is_there(path: Path) -> bool:
    """Whether there is such a file. ModelNotFoundError for a broken link, and if the system does not say."""
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"{shown_path(path)} cannot be opened: {_reason(error)}") from None
    if not found and path.is_symlink():
        raise _bad_link(path, "where no file is")
    return found


def shown_path(path: Path) -> str:
    """A path that the system may refuse for its length or its characters: unchanged if that is harmless."""
    text = str(path)
    return text if text.isprintable() and len(text) <= MAX_PATH_CHARACTERS else shown(text)


def inside(folder: Path, name: str, hint: str = "Copy the file there.") -> Path | None:
    """The file of that name in the folder, or None.

    A link may lead to the Hub cache's files of a snapshot, and nowhere else out of the folder.
    """
    path = folder / name
    if not is_there(path):
        return None
    real, home = path.resolve(), folder.resolve()
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if not (real.is_relative_to(home) or real.is_relative_to(blobs)):
        raise ModelFormatError(path, "file", None, f"is a link that leaves the folder, to {real}", hint=hint)
    return path


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def map_file(path: Path) -> mmap.mmap:
    """Map a file's bytes, read-only. The file must not change while they are in use."""
    if file_size(path) == 0:
        raise DamagedFileError(path, "file", None, "is empty", hint="The download is not complete; fetch it again.")
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: the file became empty meanwhile
        raise ModelNotFoundError(f"{path} cannot be read: {_reason(error)}") from None


def release(part: npt.NDArray[np.uint8]) -> None:
    """Let the pages of a mapped file that lie in this view leave the memory of this process; the system may keep them. Whoever
    reads them again gets them again. Other memory is left alone."""
    base: object = part
    while isinstance(base, np.ndarray):
        base = base.base
    mapping = base.obj if isinstance(base, memoryview) else None
    if not (isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED")):
        return
    begin = part.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, (begin + part.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def read_head(path: Path, count: int) -> bytes:
    """The first `count` bytes of a regular file, or fewer."""
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise ModelNotFoundError(f"{path} cannot be read: {_reason(error)}") from None


def shown_name(path: Path) -> str:
    """The last part of a path as errors show it: unchanged if that is harmless."""
    return path.name if path.name.isprintable() else shown(path.name)


def shown(value: object) -> str:
    """A value of a file as errors show it: short, on one line, and harmless to a terminal.

    >>> print(shown("llama\\x1b[2J"))
    'llama\\x1b[2J'
    """
    text = ascii(_beginning(value, [MAX_SHOWN_CHARACTERS]))
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def _beginning(value: object, left: list[int]) -> object:
    """As much of a value as can be shown: each of its parts takes a character, so `left[0]` of them are enough."""
    left[0] -= 1
    if isinstance(value, str | bytes):
        return value[: MAX_SHOWN_CHARACTERS + 1]
    if isinstance(value, dict):
        return {_beginning(key, left): _beginning(part, left) for key, part in takewhile(lambda _: left[0] >= 0, value.items())}
    if isinstance(value, list | tuple):
        parts = [_beginning(part, left) for part in takewhile(lambda _: left[0] >= 0, value)]
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _short_strings(ahead: bytes, count: int) -> list[bytes]:
    """The first strings of `ahead`, at most `count`, if they and the ones after them have 1 to 255 bytes.

    Seven zeros follow the lowest byte of such a length, so a split at zeros finds them all at once. Those whose length is as it
    says are as if read one by one; what follows the first other one is not looked at.

    >>> _short_strings(b"".join(len(text).to_bytes(8, "little") + text for text in (b"a", b"bc", b"d", b"")), 9)
    [b'a', b'bc']
    """
    if ahead[1:8] != LENGTH_ZEROS or ahead[:1] == b"\0":
        return []
    pieces = ahead.split(LENGTH_ZEROS)  # each is a string and the lowest byte of the next one's length
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    ends = np.cumsum(lengths + len(LENGTH_ZEROS)) - len(LENGTH_ZEROS)
    told = np.frombuffer(ahead, np.uint8)[ends - 1]
    is_wrong = told[:-2] != lengths[1:-1] - 1  # the last piece may go on
    right = int(is_wrong.argmax()) if is_wrong.any() else len(is_wrong)
    return [piece[:-1] for piece in pieces[1 : 1 + min(right, count)]]


class Cursor:
    """A position in mapped bytes. Each read names its field; a read past the end raises a ModelFormatError."""

    def __init__(self, data: mmap.mmap, file: Path, position: int = 0) -> None:
        self.data = data
        self.file = file
        self.position = position
        self.end = len(data)

    @property
    def remaining(self) -> int:
        return self.end - self.position

    def fail(self, field: str, problem: str, at: int | None = None) -> NoReturn:
        """Raise an error for `field`, which begins at byte `at` (default: here)."""
        raise ModelFormatError(self.file, field, self.position if at is None else at, problem)

    def damaged(self, field: str, problem: str, at: int | None = None) -> NoReturn:
        """Like `fail`, if the bytes cannot be those that were written: cut short, or an offset that leads nowhere."""
        raise DamagedFileError(self.file, field, self.position if at is None else at, problem)

    def require(self, field: str, num_bytes: int) -> None:
        if num_bytes > self.remaining:
            self.damaged(field, f"needs {num_bytes} bytes, but {self.remaining} remain", min(self.position, self.end))

    def number(self, field: str, layout: struct.Struct) -> Any:
        """One number: an int, a float or a bool."""
        self.require(field, layout.size)
        (value,) = layout.unpack_from(self.data, self.position)
        self.position += layout.size
        return value

    def take(self, field: str, count: int) -> bytes:
        self.require(field, count)
        self.position += count
        return self.data[self.position - count : self.position]

    def string(self, field: str, limit: int = MAX_STRING_BYTES) -> bytes:
        """A string after its length in eight bytes."""
        at = self.position
        length: int = self.number(field, _U64)
        if length > limit:
            self.fail(field, f"is a string of {length} bytes; at most {limit} are allowed", at)
        return self.take(field, length)

    def strings(self, field: str, count: int) -> list[bytes]:
        """`count` strings. A vocabulary has a hundred thousand of them, mostly short ones."""
        if count > MAX_STRINGS:
            self.fail(field, f"holds {count} strings; at most {MAX_STRINGS} are allowed")
        self.require(field, 8 * count)
        texts: list[bytes] = []
        while len(texts) < count:
            left = count - len(texts)
            ahead = self.data[self.position : min(self.end, self.position + min(AHEAD_BYTES, 32 * left))]
            short = _short_strings(ahead, left)
            self.position += sum(map(len, short)) + 8 * len(short)
            texts += short or self._some_strings(field, len(texts), count)
        return texts

    def _some_strings(self, field: str, first: int, count: int) -> list[bytes]:
        """Strings from number `first` on, of any length, but few of `count` if they are many."""
        data, at, end, unpack = self.data, self.position, self.end, _U64.unpack_from
        last = end - 8
        texts: list[bytes] = []
        for number in range(first, min(count, first + SOME_STRINGS)):
            if at > last:
                self.damaged(field, f"ends after {number} of {count} strings", end)
            start = at + 8
            at = start + unpack(data, at)[0]
            if at > end:
                self.damaged(field, f"string {number} is {at - start} bytes long, but {end - start} remain", start - 8)
            texts.append(data[start:at])
        self.position = at
        return texts

    def array(self, field: str, dtype: str, count: int) -> npt.NDArray[Any]:
        """`count` numbers, as a read-only view."""
        kind = np.dtype(dtype)
        self.require(field, count * kind.itemsize)
        values = np.frombuffer(self.data, kind, count, self.position) if count else np.empty(0, kind)
        self.position += count * kind.itemsize
        return values
