"""Facts that no file holds and a Python process must find: `python -m puna.machine.facts NAME` prints one line of JSON.

`child.ask` runs it, so a hung name server or file system costs only the time limit.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import struct
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Package -> the lowest version that puna supports, and its module. A test compares it with pyproject.toml.
NEEDED: dict[str, tuple[str, str]] = {
    "numpy": ("2.0", "numpy"),
    "numba": ("0.68", "numba"),
    "tokenizers": ("0.21", "tokenizers"),
    "sentencepiece": ("0.2.1", "sentencepiece"),
    "jinja2": ("3.1.6", "jinja2"),
    "llguidance": ("1.9.1", "llguidance"),
    "psutil": ("6.0", "psutil"),
    "platformdirs": ("4.2", "platformdirs"),
    "click": ("8.1", "click"),
    "filelock": ("3.16", "filelock"),
    "rich": ("13.9", "rich"),
    "prompt-toolkit": ("3.0.48", "prompt_toolkit"),
    "wcwidth": ("0.9", "wcwidth"),
    "huggingface_hub": ("1.0", "huggingface_hub"),
}
TRIED_BYTES = 1 << 20  # bytes of the test file that shows whether a folder is writable
PF_AVX2 = 40  # PF_AVX2_INSTRUCTIONS_AVAILABLE of Windows's winnt.h


def python() -> dict[str, Any]:
    """This Python and the versions of the needed packages; None: the package is missing or incomplete."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
        "bits": 8 * struct.calcsize("P"),
        "machine": platform.machine(),
        "in_venv": sys.prefix != sys.base_prefix,
        "externally_managed": (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists(),
        "musl": "musl" in str(sysconfig.get_config_var("SOABI")) or "musl" in str(sysconfig.get_config_var("HOST_GNU_TYPE")),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "packages": {package: _version(package, module) for package, (_, module) in NEEDED.items()},
        "has_socks": importlib.util.find_spec("socksio") is not None,
    }


def storage() -> dict[str, Any]:
    """Puna's cache folder, or the folder that would contain it: free space, and whether a file can be written there."""
    from puna.errors import PunaError
    from puna.paths import cache_dir

    try:
        folder = cache_dir()
    except PunaError as error:
        return {"folder": "", "problem": error.typed.message}
    there = next(filter(os.path.exists, (folder, *folder.parents)), folder)  # False where this user may not search
    return {"folder": str(folder), "looked_at": str(there), "problem": _write_problem(there)} | _room(there)


def name() -> dict[str, Any]:
    """This machine's name and its addresses."""
    own = socket.gethostname()
    try:
        found = socket.getaddrinfo(own, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        return {"name": own, "addresses": [], "problem": str(error)}
    return {"name": own, "addresses": sorted({str(entry[4][0]) for entry in found}), "problem": ""}


def memory() -> dict[str, Any]:
    """Bytes of main memory and swap, on systems where no file has them."""
    from puna.resources import memory_by_psutil

    return memory_by_psutil()._asdict()


def cpu() -> dict[str, Any]:
    """The CPU, on systems where no file describes it. `avx2` is None if unknown."""
    return {"name": platform.processor() or platform.machine(), "threads": os.cpu_count(), "avx2": _windows_avx2()}


FACTS: dict[str, Callable[[], dict[str, Any]]] = {
    "python": python,
    "storage": storage,
    "name": name,
    "memory": memory,
    "cpu": cpu,
}


def _version(package: str, module: str) -> str | None:
    try:
        version = importlib.metadata.version(package)
        return version if importlib.util.find_spec(module) is not None else None
    except (ImportError, ValueError):
        return None


def _room(folder: Path) -> dict[str, int]:
    import shutil

    try:
        room = shutil.disk_usage(folder)
    except OSError:
        return {}
    return {"total": room.total, "free": room.free}


def _write_problem(folder: Path) -> str:
    """ "" if a file can be written, else the system's error. The file is deleted before this returns."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _windows_avx2() -> bool | None:
    import ctypes

    windows = getattr(ctypes, "windll", None)
    return None if windows is None else bool(windows.kernel32.IsProcessorFeaturePresent(PF_AVX2))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(FACTS[sys.argv[1]]()) + "\n")
