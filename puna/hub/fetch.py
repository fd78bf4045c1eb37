"""Puts a file from any source into the cache: takes a lock, checks the disk space, verifies the file, then renames it.

A download is written under `partial/`. After its sha256 is verified, it is flushed to disk and renamed, so a file under `models/`
is complete. Only one process fetches a model; the others wait, then use its file.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from puna.errors import DownloadError, PunaError
from puna.files import temporary
from puna.paths import cache_dir, local_path
from puna.progress import Reporter
from puna.units import megabytes

CHUNK = 1 << 20  # bytes; 4 MiB was no faster
SPARE_BYTES = 16 << 20  # disk space to leave free after the download


def partial_dir() -> Path:
    """The folder of unfinished downloads. puna uses nothing in it as a model."""
    return cache_dir() / "partial"


@contextlib.contextmanager
def exclusive(name: str, report: Reporter) -> Iterator[None]:
    """Hold the lock of the model `name`; the system frees it when the process dies."""
    from filelock import FileLock, Timeout

    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(local_path(folder, f"{name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        report.notice(f"another process is fetching {name}; waiting for it")
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def storage_errors(needed_bytes: int) -> Iterator[None]:
    """Turn errors of a cache that is not writable into a PunaError with the reason."""
    try:
        yield
    except OSError as error:
        folder = cache_dir()
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise no_space(needed_bytes) from error
        raise PunaError(
            f"cannot use the cache folder {folder}: {error.strerror or error}",
            hint="Set PUNA_CACHE to a folder that you can write to.",
        ) from error


def free_space() -> int:
    """Bytes that are free on the disk of the cache, whose folder need not exist yet."""
    folders = (cache_dir(), *cache_dir().parents)
    return shutil.disk_usage(next(folder for folder in folders if os.path.exists(folder))).free  # noqa: PTH110 - never raises


def require_space(needed_bytes: int) -> None:
    """DownloadError if the disk of the cache has less than `needed_bytes` free."""
    if free_space() < needed_bytes:
        raise no_space(needed_bytes)


def no_space(needed_bytes: int) -> DownloadError:
    """The error of a full disk, with both numbers."""
    return DownloadError(
        f"not enough space in {cache_dir()}: {megabytes(needed_bytes)} needed, {megabytes(free_space())} free",
        hint="Free some space, or set PUNA_CACHE to a folder on another disk.",
    )


def sha256_of(path: Path, stage: str, report: Reporter) -> str:
    """The sha256 of a file, in hex, with progress."""
    digest, done, total = hashlib.sha256(), 0, path.stat().st_size
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report.progress(stage, done, total, "bytes")
    return digest.hexdigest()


def copy_hashed(source: IO[bytes], target: Path, limit_bytes: int, stage: str, report: Reporter) -> tuple[int, str]:
    """Write `source` to `target`, at most one chunk more than `limit_bytes`; return (bytes, sha256)."""
    digest, done = hashlib.sha256(), 0
    with target.open("wb") as file:
        while done <= limit_bytes and (chunk := source.read(CHUNK)):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            report.progress(stage, min(done, limit_bytes), limit_bytes, "bytes")
    return done, digest.hexdigest()


def require_target(target: Path) -> None:
    """Create the folder of `target` and check, before the download, that a file can have its name; else PunaError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_file():
        raise PunaError(f"{target} is not a file, but the model needs this path", hint="Remove or rename it.")


@contextlib.contextmanager
def fresh_folder(name: str) -> Iterator[Path]:
    """A new empty folder under `partial/`, deleted afterwards. Also deletes what killed processes left of `name`."""
    partial_dir().mkdir(parents=True, exist_ok=True)
    with temporary(local_path(partial_dir(), name)) as folder:
        folder.mkdir()
        yield folder
