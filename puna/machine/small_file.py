"""Reads and writes small files safely, even if the path is a pipe, an endless device or a link."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

# Without O_NONBLOCK, opening a pipe blocks until someone writes into it.
FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)


def read_small(path: Path, max_bytes: int) -> bytes | None:
    """The first `max_bytes` of a regular file; None for anything else. OSError if it is missing or not readable."""
    descriptor = os.open(path, FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Atomically write a file that only this user may read; OSError if that fails. It replaces a link or pipe."""
    descriptor, partial = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as target:
            target.write(data)
        Path(partial).replace(path)
    except OSError:
        Path(partial).unlink(missing_ok=True)
        raise
