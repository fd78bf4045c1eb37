"""Writes a text to a file: whole or not at all, and never over anything but a regular file."""

from __future__ import annotations

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
        if not target.parent.is_dir():
            raise UsageError(f"cannot write {path}: there is no folder {target.parent}", hint="Create the folder first.")
        write_whole(target, text.encode(), mode=mode, flushed=True)
    except (OSError, ValueError) as error:  # ValueError: the name holds a NUL
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise PunaError(f"cannot write {path}: {reason}", hint="Name a file in another folder.") from error


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
