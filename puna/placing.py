"""A file or a folder that comes into being whole: made in a temporary folder beside its place, brought to disk, then put there.

    with temporary(final) as path:
        ...            # make a file or a folder at `path`, which has final's name
        flush(path)
        place(path, final)

A temporary folder is locked for as long as it is in use. The system takes the lock back however a process ends, so that a folder
which can be locked is one that nobody uses. (The number of a process tells nothing: another container has its own numbers.)
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
ATTEMPTS, PAUSE_S = 100, 0.01  # to lock a new folder: another process may sweep it between its making and its locking
# What file systems without hard links answer: FAT, some network and FUSE ones.
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV)
OCCUPIED = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)  # what renaming a folder to a name that is in use answers


@contextmanager
def temporary(final: Path) -> Iterator[Path]:
    """Where to make what is to become `final`; nothing is there yet. At the end it goes, if it was not placed.

    So do those for the same place that processes left behind which were killed.
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
    """How the temporary folders for a place begin. The name itself could be too long with anything put before it."""
    return f"{TEMPORARY}{zlib.crc32(os.fsencode(final.name)):08x}-"


def _locked(folder: Path) -> int | None:
    """Make a folder, and lock it: the handle, or None where the file system knows no locks (then nobody sweeps there)."""
    for _ in range(ATTEMPTS):
        folder.mkdir(exist_ok=True)
        try:
            lock = _lock(folder)
        except OSError:
            return None
        if lock is not None:
            return lock
        time.sleep(PAUSE_S)
    raise OSError(errno.EAGAIN, "its temporary folder is removed by another process as often as it is made")


def _lock(folder: Path) -> int | None:
    """A handle that locks a temporary folder until it is closed. None where another has the lock, or has removed the folder.

    OSError where it cannot be locked. It is a file that is locked: over NFS a folder cannot be.
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
    """Remove the temporary folders for the same place that nobody uses any more."""
    for folder in list(final.parent.iterdir()):
        if not folder.name.startswith(_stem(final)) or folder.is_symlink() or not folder.is_dir():
            continue
        with suppress(OSError):  # another user's, or on a file system without locks
            lock = _lock(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def flush(path: Path) -> int:
    """Bring every byte to disk; returns how many there are."""
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
    """Give it its place. Only a file that may be overwritten, or an empty folder, gives way: else FileExistsError."""
    if made.is_dir():
        _place_folder(made, final)
    elif overwrite:
        made.replace(final)
    else:
        _place_file(made, final)
    with suppress(OSError):  # it is there; this is for a loss of power
        _sync(final.parent)


def _place_folder(made: Path, final: Path) -> None:
    """Renaming lets an empty folder give way, and nothing else."""
    try:
        if sys.platform == "win32" and final.is_dir():
            final.rmdir()  # there, it lets nothing give way
        made.rename(final)
    except OSError as error:
        if error.errno in OCCUPIED:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        raise


def _place_file(made: Path, final: Path) -> None:
    """A link is refused where the name is in use, which renaming is not."""
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
    """An empty file, where there was nothing of that name."""
    os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
