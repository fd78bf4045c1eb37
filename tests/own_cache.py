"""The tests' own cache folder, `.test-cache` in the clone. The user's cache is read from, and never written to.

Models are copied out of the user's cache rather than fetched again (`tests/real_files.py`); kernels are compiled here once and
stay. `PUNA_TEST_CACHE` names another folder.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import platformdirs

ROOT = Path(__file__).parents[1]
USERS = platformdirs.user_cache_path("puna")
OWN = Path(os.environ.get("PUNA_TEST_CACHE") or ROOT / ".test-cache").absolute()

# Audit events whose arguments begin with paths that they change, and the number of those paths.
CHANGES = {"os.mkdir": 1, "os.remove": 1, "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.rmdir": 1}


def use() -> None:
    """Make `OWN` the cache of this process and its children; stop this process if it writes to the user's cache.

    Python's compiled files go to `__pycache__`, whatever the environment says: git ignores them.
    """
    os.environ["PUNA_CACHE"] = str(OWN)
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # hundreds of processes would compile puna and the tests anew
        sys.dont_write_bytecode = False
    sys.addaudithook(partial(_refuse_to_write, CHANGES))  # a module's names are gone while Python ends; this hook is not


def _refuse_to_write(changes: dict[str, int], event: str, arguments: tuple[object, ...]) -> None:
    if event == "open":
        path, _, flags = arguments
        changed = [path] if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else []
    else:
        changed = list(arguments[: changes.get(event, 0)])
    for path in changed:
        if isinstance(path, str | bytes) and Path(os.fsdecode(path)).absolute().is_relative_to(USERS):
            raise AssertionError(f"a test writes to the user's cache: {event} {path!r}")
