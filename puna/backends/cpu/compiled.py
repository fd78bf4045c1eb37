"""From kernels in Python to callable functions: compile once, keep object files, load them without Numba.

    a kernel in Python (`kernels.py`, ...)
      -> LLVM IR of it and of all that it calls, by Numba       `jit.py`
      -> one module, optimised once; an object file             `emit.py`
      -> on several cores, in child processes                   `children.py`, `child.py`
      -> a file in a folder whose name hashes all its inputs    here, `host.cache_key`
      -> a Python function, and an address for other kernels    here, `load_entry`

Importing Numba takes half a second of every start; LLVM alone loads an object file in some milliseconds. So every process loads
kept code through llvmlite and calls it through ctypes, which releases Python's lock. Where no folder is writable, each process
compiles the kernels anew.

An entry takes int64 numbers (sizes, addresses) and returns one. Numba's convention for a compiled function is
`status f(result*, error**, ...)`; entries raise nothing, so nobody reads the status. puna compiles only what a model needs: an
entry for each type of weights and of K and V, which the step calls by address (`layout.BufferAddresses`).
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from puna.backends.cpu import host
from puna.backends.cpu.children import Compilation
from puna.backends.cpu.layout import KINDS, KV_TYPES, PackedType
from puna.files import write_whole
from puna.progress import SILENT, Reporter
from puna.resources import usable_cores

# Name -> module, number of arguments. The slowest to compile come first, so that all cores end at about the same time.
ENTRIES: dict[str, tuple[str, int]] = {
    "run": ("step", 4),
    **{f"attend_{kv_type}": ("tiles", 4) for kv_type in KV_TYPES},
    **{f"multiply_{kind.name}": ("multiply", 11) for kind in reversed(KINDS.values())},
    "experts": ("experts", 4),
    **{f"interleave_{kind.name}": ("interleave", 5) for kind in KINDS.values()},
    "interleave_all": ("interleave", 2),
    "glu_silu": ("activations", 4),
    "glu_gelu": ("activations", 4),
    "softcap": ("activations", 3),
    **{f"dequantize_row_{kind.name}": ("dequantize", 5) for kind in KINDS.values()},
    **{f"write_kv_{kv_type}": ("attention", 8) for kv_type in KV_TYPES},
    "read_memory": ("roofline_kernels", 2),
    "multiply_bytes": ("roofline_kernels", 2),
    "multiply_floats": ("roofline_kernels", 2),
}

STAGE, WAITING = "compiling kernels, once", "waiting for another process that compiles kernels"
POLL_S = 0.05
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@dataclass(frozen=True, slots=True)
class MachineCode:
    """An object file and the name of the function in it."""

    symbol: str
    code: bytes


@dataclass(frozen=True, slots=True)
class CompiledKernel:
    """A compiled kernel: a Python function, and its address for other kernels."""

    address: int
    function: Callable[..., int]
    engine: Any  # owns the code, so it must live as long

    def __call__(self, *arguments: int) -> int:
        result, error = ctypes.c_int64(), ctypes.c_void_p()
        self.function(ctypes.byref(result), ctypes.byref(error), *arguments)
        return result.value

    def bound(self, *arguments: int) -> Callable[[], object]:
        """The call with these arguments, without its result: for what every step calls."""
        return partial(self.function, ctypes.byref(ctypes.c_int64()), ctypes.byref(ctypes.c_void_p()), *arguments)


@cache
def load_entry(name: str) -> CompiledKernel:
    """Load an entry from the cache, or compile it now."""
    machine_code = _found(name)
    if machine_code is None:
        machine_code = compile_entry(name)
        _keep(name, encode(machine_code))
    return _loaded(machine_code, ENTRIES[name][1])


def entries_for(
    kinds: Iterable[PackedType], embedding: PackedType, kv_type: str, parts: Iterable[str] = ("glu_silu",)
) -> list[str]:
    """The entries that a model with matrices of these types needs. `parts`: those that only some models have."""
    names = {"run", "interleave_all", f"dequantize_row_{embedding.name}", f"attend_{kv_type}", f"write_kv_{kv_type}", *parts}
    for kind in kinds:
        names |= {f"multiply_{kind.name}", f"interleave_{kind.name}"}
    return [name for name in ENTRIES if name in names]


# ---- many at once ---------------------------------------------------------------------------------------------------

_begun: Compilation | None = None


def begin(names: Iterable[str]) -> None:
    """Begin to compile entries in the background; `prepare` waits for them."""
    global _begun
    missing = _missing(names)
    if missing and _begun is None:
        _begun = Compilation(
            missing, usable_cores(), lambda name: encode(compile_entry(name)), _keep, host.sole_compiler, _missing
        )
        _begun.start()


def prepare(names: Iterable[str], report: Reporter = SILENT) -> None:
    """Compile entries and report the progress: some seconds on two cores."""
    names = list(names)
    _finish(report)
    begin(names)
    _finish(report)
    if not _unkept.keys().isdisjoint(names):
        report.notice(
            f"cannot keep compiled kernels in {host.kernel_folder()}: each start will compile them anew "
            "(PUNA_CACHE names another folder)"
        )
    for name in names:
        load_entry(name)


def _finish(report: Reporter) -> None:
    """Wait for the compilation that `begin` started. An interrupt of the wait ends the compilation too."""
    global _begun
    if (compilation := _begun) is None:
        return
    try:
        while compilation.is_alive():
            report.progress(WAITING if compilation.is_waiting else STAGE, compilation.num_done, compilation.total)
            compilation.join(POLL_S)
    finally:
        _begun = None
        compilation.stop()
        report.progress(STAGE, compilation.total, compilation.total)
    compilation.require_success()


def _missing(names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [name for name in ENTRIES if name in wanted and _found(name) is None]


# ---- one ------------------------------------------------------------------------------------------------------------


def compile_entry(name: str) -> MachineCode:
    """Compile in this process, which imports Numba."""
    with _signals_deferred():
        from puna.backends.cpu.emit import machine_code

        module, num_arguments = ENTRIES[name]
        kernel: Any = getattr(importlib.import_module(f"puna.backends.cpu.{module}"), name)
        return MachineCode(*machine_code(kernel, num_arguments))


@contextmanager
def _signals_deferred() -> Iterator[None]:
    """Defer the signals that end this process. Inside a compiler, a signal handler's exception could be raised in a callback
    that loses it, or leave the compiler in a broken state."""
    if threading.current_thread() is not threading.main_thread():  # handlers run in the main thread only
        yield
        return
    received: list[int] = []
    handlers: dict[signal.Signals, Any] = {}
    for number in (signal.Signals[name] for name in SIGNALS if name in signal.Signals.__members__):
        if callable(signal.getsignal(number)):
            handlers[number] = signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(received):
            signal.raise_signal(late)


def _loaded(machine_code: MachineCode, num_arguments: int) -> CompiledKernel:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code.code))
    engine.finalize_object()
    address = engine.get_function_address(machine_code.symbol)
    pointer = ctypes.c_void_p
    function = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, *[ctypes.c_int64] * num_arguments)(address)
    return CompiledKernel(address, function, engine)


def _target_machine() -> Any:
    """A new one for each engine, which will own it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(cpu=host.CPU_NAME)


# ---- kept code ------------------------------------------------------------------------------------------------------

_unkept: dict[str, bytes] = {}  # entries that could not be written


def encode(machine_code: MachineCode) -> bytes:
    """The kept form: a line with the symbol and the SHA-256 of the code, then the code."""
    return f"{machine_code.symbol} {hashlib.sha256(machine_code.code).hexdigest()}\n".encode() + machine_code.code


def _decoded(content: bytes) -> MachineCode | None:
    """None if it is damaged."""
    line, _, code = content.partition(b"\n")
    symbol, _, digest = line.decode("ascii", "replace").partition(" ")
    return MachineCode(symbol, code) if digest == hashlib.sha256(code).hexdigest() else None


def _file(name: str) -> Path:
    return host.kernel_folder() / f"{name}.o"


def _found(name: str) -> MachineCode | None:
    """A kept entry; None if it is absent or damaged."""
    try:
        return _decoded(_unkept.get(name) or _file(name).read_bytes())
    except OSError:
        return None


def _keep(name: str, content: bytes) -> None:
    """Keep an entry: as a whole file, or in this process only if it cannot be written."""
    file = _file(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, content)
    except OSError:
        _unkept[name] = content
