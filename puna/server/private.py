"""What clients beyond this machine are not told: where things lie on it, and what its network is called.

Errors hold no path anyway (`refusals.py`). This is for texts about the machine: the doctor's findings, and causes of errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from starlette.requests import HTTPConnection

from puna.paths import cache_dir
from puna.server.guard import LOOPBACK
from puna.server.settings import ServerSettings

HIDDEN = "[path]"
# Folders that every Linux has: a command that names one of their files tells nothing of whose machine it is.
_OF_ALL = "bin|boot|dev|etc|lib|lib64|proc|run|sbin|sys|usr|var/lib"
# A path begins after a space, a quote or "=", so no part of an address (https://...), of "GB/s" or of "owner/name" is one.
_PATH = re.compile(
    rf"(?<![\w:/.~$\]])/(?!(?:{_OF_ALL})(?:/|\b))[^\s'\"`,;()<>]+|\b[A-Za-z]:\\[^\s'\"`,;()<>]+|\\\\[\w.$]+\\[^\s'\"`,;()<>]+"
)


def has_other_clients(settings: ServerSettings) -> bool:
    """Whether somebody may ask who does not sit at this machine: it listens beyond loopback, is called by another name (as by a
    proxy), is open to pages of others, or has keys, which are there to be given to others.
    """
    is_open = settings.api_keys or settings.allowed_hosts or settings.allowed_origins
    return bool(is_open) or (settings.host not in LOOPBACK and settings.host != "::1")


FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip")  # what proxies add


def is_of_another(request: HTTPConnection, settings: ServerSettings) -> bool:
    """Whether a request may come from somebody who does not sit at this machine."""
    here = request.client is None or request.client.host in ("127.0.0.1", "::1")
    return has_other_clients(settings) or not here or any(name in request.headers for name in FORWARDED)


def without_paths(value: Any, folders: Iterable[Path] = ()) -> Any:
    """JSON types, with each path in their texts replaced by HIDDEN. `folders`: known ones, whose names may hold spaces.

    >>> without_paths({"found": "/home/ann/.cache/puna: 611 GiB free", "commands": ["sudo cat /etc/hosts"]})
    {'found': '[path]: 611 GiB free', 'commands': ['sudo cat /etc/hosts']}
    """
    names = sorted({str(folder) for folder in folders if len(folder.parts) > 1}, key=len, reverse=True)
    return _replaced(value, names)


def own_folders() -> tuple[Path, ...]:
    """Folders of the user who serves."""
    return Path.home(), cache_dir(), Path.cwd()


def _replaced(value: Any, names: list[str]) -> Any:
    match value:
        case str():
            for name in names:
                value = value.replace(name, HIDDEN)
            return _PATH.sub(_hidden, re.sub(rf"{re.escape(HIDDEN)}[^\s'\"`,;()<>:]+", HIDDEN, value))
        case Mapping():
            return {key: _replaced(part, names) for key, part in value.items()}
        case list() | tuple():
            return [_replaced(part, names) for part in value]
        case _:
            return value


def _hidden(path: re.Match[str]) -> str:
    """A colon or a full stop at the end belongs to the sentence."""
    return HIDDEN + path[0][len(path[0].rstrip(":.")) :]
