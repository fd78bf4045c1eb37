"""Where puna keeps files, and the only function that makes a local path from foreign names.

cache folder/models/NAME.gguf                   a model of the catalogue, or one that the user put there
cache folder/models/hub/OWNER/REPO/FILE.gguf    a model of the Hub
cache folder/partial/.puna-xxxx/NAME            an unfinished download, which puna never uses as a model
cache folder/locks/NAME.lock
cache folder/prefixes/...                       K and V of prompts that `puna serve` keeps for its next start
cache folder/conversations/TIME-xxxx.json       a conversation of `puna chat`, for `puna chat --continue`
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from puna.errors import UsageError

# Only these characters: no separator, no drive letter, no NUL, no percent escape, nothing outside ASCII.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_MAX_NAME = 128
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE | re.ASCII)  # reserved on Windows


def cache_dir() -> Path:
    """The folder for models and kernels: `PUNA_CACHE`, else the user's cache folder. It need not exist yet."""
    chosen = os.environ.get("PUNA_CACHE")
    if chosen:
        return typed_path(chosen, "PUNA_CACHE").absolute()
    from platformdirs import user_cache_path  # 10 ms, so only if needed

    return user_cache_path("puna")


def typed_path(text: str, what: str = "the path") -> Path:
    """A path that a person typed, with `~` and `~name` as home folders. UsageError, naming the path `what`, for an unknown one.

    >>> typed_path("~nobody-of-this-name/x")
    Traceback (most recent call last):
    puna.errors.UsageError: the path is '~nobody-of-this-name/x', but no home folder is known for ~nobody-of-this-name
    Write the whole path; for a name that really begins with ~, ./~...
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:  # its only error: no such user, or no home folder
        raise UsageError(
            f"{what} is {_shortened(text)}, but no home folder is known for {_shortened(text.split('/')[0])[1:-1]}",
            hint="Write the whole path; for a name that really begins with ~, ./~...",
        ) from None


def models_dir() -> Path:
    """The folder of finished models."""
    return cache_dir() / "models"


def prefixes_dir() -> Path:
    """The folder of K and V that `puna serve` keeps, unless it is told otherwise."""
    return cache_dir() / "prefixes"


def conversations_dir() -> Path:
    """The folder of saved conversations."""
    return cache_dir() / "conversations"


def local_path(root: Path, *names: str) -> Path:
    """`root` / names. UsageError unless each is a plain file name, so that the path stays inside `root`.

    >>> local_path(Path("cache"), "owner", "model.gguf").as_posix()
    'cache/owner/model.gguf'
    >>> local_path(Path("cache"), "..")
    Traceback (most recent call last):
    puna.errors.UsageError: '..' cannot be the name of a local file
    Allowed: 1 to 128 of the characters A-Z a-z 0-9 . _ - beginning with a letter or digit.
    """
    for name in names:
        if not is_safe_name(name):
            raise UsageError(
                f"{_shortened(name)} cannot be the name of a local file",
                hint=f"Allowed: 1 to {_MAX_NAME} of the characters A-Z a-z 0-9 . _ - beginning with a letter or digit.",
            )
    return root.joinpath(*names)


def is_safe_name(name: str) -> bool:
    """Whether `name` is a plain file name on every system.

    >>> [is_safe_name(n) for n in ("a.gguf", "../a", "a/b", "C:a", "a%2eb", "nul", "a.")]
    [True, False, False, False, False, False, False]
    """
    plain = len(name) <= _MAX_NAME and _SAFE_NAME.fullmatch(name) is not None
    return plain and ".." not in name and not name.endswith(".") and _DEVICES.fullmatch(name) is None


def _shortened(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
