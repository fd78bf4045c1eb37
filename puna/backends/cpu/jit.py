"""How every kernel is compiled: one set of flags, one cache folder named by what the machine code depends on.

Numba's own cache does not see an edit in another file, nor a new compiler. So its folder's name is a hash of all files of this
package, the versions of Numba and LLVM, and the CPU. Where no folder can be written, kernels are compiled anew in each process.

No fast-math anywhere: LLVM may then not reorder a sum, and a row's bits do not depend on the loop it was computed in.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import llvmlite
import llvmlite.binding as llvm
import numba

from puna.errors import DeviceError
from puna.paths import cache_dir

Function = TypeVar("Function", bound=Callable[..., Any])

CPU_NAME = llvm.get_host_cpu_name()
CPU_FEATURES = {name for name, on in llvm.get_host_cpu_features().items() if on}
IS_X86 = llvm.get_process_triple().split("-")[0] in ("x86_64", "amd64")
NEEDED_ON_X86 = ("avx2", "fma", "f16c")
PORTABLE = not IS_X86 or os.environ.get("PUNA_PORTABLE_KERNELS") == "1"  # plain LLVM vectors only; set it to test them


def require_cpu() -> None:
    """Raise where the kernels cannot run: LLVM would abort the process on an instruction that the CPU lacks."""
    missing = [name for name in NEEDED_ON_X86 if IS_X86 and name not in CPU_FEATURES]
    if missing:
        raise DeviceError(f"this CPU ({CPU_NAME}) lacks {', '.join(missing)}", hint="Use --device reference: slow, but it runs.")


def _cache_key() -> str:
    digest = hashlib.sha256()
    for part in (sys.version, numba.__version__, llvmlite.__version__, CPU_NAME, *sorted(CPU_FEATURES), str(PORTABLE)):
        digest.update(part.encode() + b"\0")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _writable_cache() -> Path | None:
    """The folder of this set of kernels, or None where it cannot be made or written."""
    folder = cache_dir() / "kernels" / _cache_key()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return None


CACHE = _writable_cache()
if CACHE is not None:
    numba.config.CACHE_DIR = str(CACHE)  # type: ignore[attr-defined]

FLAGS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": False}


def is_compiled() -> bool:
    """Whether an earlier process left the compiled step in the cache."""
    return CACHE is not None and any(CACHE.rglob("*.nbc"))


def kernel(function: Function) -> Function:
    """Compile a kernel that other kernels call."""
    compiled: Function = numba.njit(**FLAGS)(function)
    return compiled


def inlined(function: Function) -> Function:
    """Compile a kernel that always becomes part of its caller: what stays in registers must not go through a call."""
    compiled: Function = numba.njit(**FLAGS, forceinline=True)(function)
    return compiled


def part(function: Function) -> Function:
    """A piece of its caller, put there before compilation. Each function that is compiled by itself costs LLVM another pass over
    everything that it calls: with `kernel` at every level a step took 66 s to compile, with this 20 s."""
    compiled: Function = numba.njit(**FLAGS, inline="always")(function)
    return compiled


def entry(function: Function) -> Function:
    """Compile a kernel that Python calls: its machine code is kept on disk."""
    compiled: Function = numba.njit(**FLAGS, cache=CACHE is not None)(function)
    return compiled
