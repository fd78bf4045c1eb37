"""This CPU, and the folder of the kernels compiled for it. Knows LLVM, not Numba."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from puna.errors import DeviceError
from puna.paths import cache_dir

CPU_NAME: str = llvm.get_host_cpu_name()
CPU_FEATURES: frozenset[str] = frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)
IS_X86 = llvm.get_process_triple().split("-")[0] in ("x86_64", "amd64")
NEEDED_ON_X86 = ("avx2", "fma", "f16c")
# The kernels that a CPU can have, the fastest first, and the sets of features of which one is enough. All give the same bits.
LEVELS: dict[str, tuple[set[str], ...]] = {
    "avx512": ({"avx512vnni", "avx512vl", "avx512bw", "avx512dq"},),
    "avxvnni": ({"avxvnni"}, {"avx512vnni", "avx512vl"}),
    "avx2": ({"avx2"},),
    "dotprod": ({"dotprod"},),  # 64-bit ARM
    "portable": (set(),),  # plain LLVM vectors
}


def _levels() -> list[str]:
    """What this CPU has, the fastest first."""
    return [name for name, enough in LEVELS.items() if any(features <= CPU_FEATURES for features in enough)]


def _level() -> str:
    """The best level, or the one that PUNA_SIMD names, to test it, if this CPU has it."""
    found = _levels()
    wanted = os.environ.get("PUNA_SIMD", found[0])
    return wanted if wanted in found else found[0]


LEVEL = _level()
PLAIN = ("dotprod", "portable")  # levels that call no instruction of x86 by name
PORTABLE = LEVEL in PLAIN
EMULATES = False  # tests set this to run on any CPU what only others have: products of bytes by plain vectors
WAIT_S, POLL_S = 60.0, 0.05  # for another process that compiles


def require_cpu() -> None:
    """Raise DeviceError if the kernels cannot run: LLVM would abort the process on an instruction that the CPU lacks. So too if
    PUNA_SIMD names others than this CPU's."""
    missing = [name for name in NEEDED_ON_X86 if IS_X86 and name not in CPU_FEATURES]
    if missing:
        raise DeviceError(f"this CPU ({CPU_NAME}) lacks {', '.join(missing)}", hint="Use --device reference: slow, but it runs.")
    if (wanted := os.environ.get("PUNA_SIMD", LEVEL)) not in _levels():
        raise DeviceError(f"PUNA_SIMD is {wanted!r}; this CPU has {', '.join(_levels())}", hint="Unset it for the fastest.")


def _numba_version() -> str:
    """What the package says of its version, without an import of it. `importlib.metadata` takes 15 ms of each start."""
    spec = find_spec("numba")
    return Path(spec.origin).with_name("_version.py").read_text() if spec is not None and spec.origin is not None else ""


@cache
def cache_key() -> str:
    """A hash of all inputs of the machine code: this package's sources, the compilers, the CPU."""
    digest = hashlib.sha256()
    parts = (sys.version, _numba_version(), llvmlite.__version__, CPU_NAME, *sorted(CPU_FEATURES), LEVEL)
    for part in parts:
        digest.update(part.encode() + b"\0")
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def kernel_folder() -> Path:
    """The folder of the compiled kernels; it need not exist or be writable."""
    return cache_dir() / "kernels" / cache_key()


@contextmanager
def sole_compiler(give_up: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock of the kernel folder, so that processes that start together do not all compile the same.

    The system frees the lock when a process ends. The wait ends without the lock if the file system knows no locks, once
    `give_up()`, or after WAIT_S.
    """
    from filelock import FileLock, Timeout  # takes 20 ms: imported only to compile

    folder = kernel_folder().parent
    lock = FileLock(folder / f"{cache_key()}.lock")
    with suppress(OSError, NotImplementedError):
        folder.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + WAIT_S
        while not lock.is_locked and not give_up() and time.monotonic() < until:
            with suppress(Timeout):
                lock.acquire(timeout=POLL_S, poll_interval=POLL_S)
    try:
        yield
    finally:
        lock.release()
