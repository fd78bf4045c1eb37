"""Writes a file or a folder whole or not at all, and reads a small file safely.

    write_whole(path, content)  # a small file

    with temporary(final) as made:  # anything else
        ...  # make a file or a folder at `made`, which has final's name
        commit(made, final, overwrite=False)

A temporary folder is locked while it is in use. The system releases the lock however the process ends, so a folder that can be
locked is unused. (PIDs are not unique across containers.)
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".puna-"  # how the names of temporary files and folders begin
LOCK = "lock"
ATTEMPTS, PAUSE_S = 100, 0.01  # to lock a new folder, which another process may sweep before it is locked
# Errors of file systems without hard links: FAT, some network and FUSE ones.
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # errors of renaming a folder to a name in use
PRIVATE = 0o600  # permissions of a file that only its owner may read
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
# Without O_NONBLOCK, opening a pipe blocks until someone writes into it.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


# ---- small files ----------------------------------------------------------------------------------------------------


def write_whole(path: Path, *parts: bytes | memoryview, mode: int | None = PRIVATE, flushed: bool = False) -> None:
    """Write a small file of these parts. It replaces a file, a link or a pipe, but no folder; OSError if that fails.

    mode: the file's permissions; None: what the umask leaves. flushed: a power failure leaves the old file or the new one.
    """
    made = path.with_name(f"{TEMPORARY}{secrets.token_hex(8)}")
    try:
        _write_new(made, parts, 0o666 if mode is None else PRIVATE, flushed)
        if mode not in (None, PRIVATE):
            made.chmod(mode)
        made.replace(path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise


def _write_new(path: Path, parts: Iterable[bytes | memoryview], mode: int, flushed: bool) -> None:
    handle = os.open(path, _NEW_FILE, mode)
    try:
        for part in parts:
            left = memoryview(part)
            while left:
                left = left[os.write(handle, left) :]
        if flushed:
            os.fsync(handle)
    finally:
        os.close(handle)


def read_small(path: Path, max_bytes: int) -> bytes | None:
    """The first `max_bytes` of a regular file; None for a pipe, a device or a folder. OSError if it cannot be read."""
    handle = os.open(path, _READ)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(handle)


def exists(path: Path) -> bool:
    """Whether there is such a file or folder. False where the system does not say; Path.exists raises there."""
    return os.path.exists(path)  # noqa: PTH110


# ---- files of any size, and folders -----------------------------------------------------------------------------------


@contextmanager
def temporary(final: Path) -> Iterator[Path]:
    """A path, still unused, to make `final` at. At the end it is removed, unless it was committed.

    Also removes the temporary folders that killed processes left for the same target.
    """
    _sweep(final)
    folder, lock = final.with_name(_stem(final) + secrets.token_hex(8)), None
    try:
        lock = _locked(folder)
        yield folder / final.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _stem(final: Path) -> str:
    """How the names of a target's temporary folders begin. The target's own name plus a prefix could be too long."""
    return f"{TEMPORARY}{zlib.crc32(os.fsencode(final.name)):08x}-"


def _locked(folder: Path) -> int | None:
    """Make a folder and lock it: the handle, or None if the file system has no locks (then nobody sweeps there)."""
    for _ in range(ATTEMPTS):
        folder.mkdir(exist_ok=True)
        try:
            lock = _lock(folder)
        except OSError:
            return None
        if lock is not None:
            return lock
        time.sleep(PAUSE_S)
    raise OSError(errno.EAGAIN, "another process keeps removing its temporary folder")


def _lock(folder: Path) -> int | None:
    """A handle that locks a temporary folder until it is closed. None if another process has the lock, or removed the folder.

    OSError if it cannot be locked. The lock is on a file in it, because NFS cannot lock a folder.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    handle = None
    try:
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), (folder / LOCK).stat()):
            found, handle = handle, None
            return found
    except (FileNotFoundError, BlockingIOError):
        pass
    finally:
        if handle is not None:
            os.close(handle)
    return None


def _sweep(final: Path) -> None:
    """Remove unused temporary folders of the same target."""
    for folder in list(final.parent.iterdir()):
        if not folder.name.startswith(_stem(final)) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):  # another user's folder, or no locks
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def commit(made: Path, final: Path, overwrite: bool) -> int:
    """Flush `made` to disk and move it to `final`; return its bytes. Replaces a file if `overwrite`, or an empty folder; else
    FileExistsError."""
    num_bytes = _flush_all(made)
    if made.is_dir():
        _commit_folder(made, final)
    elif overwrite:
        made.replace(final)
    else:
        _commit_file(made, final)
    with suppress(OSError):  # `final` exists already; this is for a power failure
        _flush(final.parent)
    return num_bytes


def _flush_all(path: Path) -> int:
    """Flush every byte of a file or a folder to disk; return how many there are."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in [*files, path] if path.is_dir() else files:
        _flush(file)
    return sum(file.stat().st_size for file in files)


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and flushes only what may be written
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _commit_folder(made: Path, final: Path) -> None:
    """Renaming replaces an empty folder, and nothing else."""
    try:
        if sys.platform == "win32" and final.is_dir():
            final.rmdir()  # Windows does not replace it
        made.rename(final)
    except OSError as error:
        if error.errno in OCCUPIED:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        raise


def _commit_file(made: Path, final: Path) -> None:
    """Make a hard link, which fails if the name is in use; renaming would not."""
    try:
        os.link(made, final)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        _reserve(final)
        try:
            made.replace(final)
        except BaseException:
            final.unlink(missing_ok=True)
            raise


def _reserve(final: Path) -> None:
    """Create an empty file; fails if the name is in use."""
    os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
