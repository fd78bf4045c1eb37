"""Writes a text to a file: whole or not at all, and never over anything but a regular file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from puna.errors import PunaError, UsageError
from puna.files import write_whole

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


def save_text(path: Path, text: str, *, overwrite: bool, mode: int | None = None) -> None:
    """Write `text` as UTF-8; if `path` is a link, to its target. An existing file keeps its permissions; a new one
    gets `mode`, or the umask's.

    Raises UsageError for a path that must not be overwritten, PunaError for one that cannot be written.
    """
    try:
        existing = _existing_mode(path, overwrite)
        mode = mode if existing is None else existing
        target = Path(os.path.realpath(path))
        _require_folder(path, target)
        write_whole(target, text.encode(), mode=mode, flushed=True)
    except (OSError, ValueError) as error:  # ValueError: the name holds a NUL
        raise _unwritable(path, error) from error


def require_writable(path: Path) -> None:
    """UsageError or PunaError, before work is done for it, if `save_text` could not replace or make this file."""
    try:
        _existing_mode(path, overwrite=True)
        target = Path(os.path.realpath(path))
        _require_folder(path, target)
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from error


def _require_folder(path: Path, target: Path) -> None:
    if not target.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no folder {target.parent}", hint="Create the folder first.")


def _unwritable(path: Path, error: Exception) -> PunaError:
    reason = (isinstance(error, OSError) and error.strerror) or error
    return PunaError(f"cannot write {path}: {reason}", hint="Name a file in another folder.")


def _existing_mode(path: Path, overwrite: bool) -> int | None:
    """The permission bits of the file to replace; None if there is none."""
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        kind = _KINDS.get(stat.S_IFMT(found), "something special")
        raise UsageError(f"{path} is {kind}; puna overwrites only regular files", hint="Name a new file.")
    if not overwrite:
        raise UsageError(f"{path} exists", hint=f"/save! {path} overwrites it.")
    return stat.S_IMODE(found)
