"""Writes a file or a folder atomically: makes it in a temporary folder beside the target, flushes it, then moves it there.

    with temporary(final) as path:
        ...            # make a file or a folder at `path`, which has final's name
        flush(path)
        place(path, final)

A temporary folder is locked while it is in use. The system releases the lock however the process ends, so a folder that can be
locked is unused. (PIDs are not unique across containers.)
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

TEMPORARY = ".puna-convert-"
LOCK = "lock"
ATTEMPTS, PAUSE_S = 100, 0.01  # to lock a new folder, which another process may sweep before it is locked
# Errors of file systems without hard links: FAT, some network and FUSE ones.
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # errors of renaming a folder to a name in use


@contextmanager
def temporary(final: Path) -> Iterator[Path]:
    """A path, still unused, to make `final` at. At the end it is removed, unless it was placed.

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


def flush(path: Path) -> int:
    """Flush every byte to disk; return how many there are."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in [*files, path] if path.is_dir() else files:
        _sync(file)
    return sum(file.stat().st_size for file in files)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place(made: Path, final: Path, overwrite: bool) -> None:
    """Move `made` to `final`. Replaces a file if `overwrite`, or an empty folder; else FileExistsError."""
    if made.is_dir():
        _place_folder(made, final)
    elif overwrite:
        made.replace(final)
    else:
        _place_file(made, final)
    with suppress(OSError):  # `final` exists already; this is for a power failure
        _sync(final.parent)


def _place_folder(made: Path, final: Path) -> None:
    """Renaming replaces an empty folder, and nothing else."""
    try:
        if sys.platform == "win32" and final.is_dir():
            final.rmdir()  # Windows does not replace it
        made.rename(final)
    except OSError as error:
        if error.errno in OCCUPIED:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        raise


def _place_file(made: Path, final: Path) -> None:
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
