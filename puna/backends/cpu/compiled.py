"""From kernels in Python to functions that Python calls: compiled once, kept as object files, loaded without Numba.

Importing Numba and reading its own cache takes 0.7 s of every start; LLVM alone loads an object file in some milliseconds. So the
first process compiles each entry with Numba and keeps the machine code in a folder named by all that it depends on
(`host.cache_key`); every process, the first too, loads that code through llvmlite and calls it through ctypes, which lets go
of Python's lock. Where no folder can be written, kernels are compiled anew in each process.

An entry takes int64 numbers (sizes, addresses) and returns one. Numba's convention for a compiled function is
`status f(result*, error**, ...)`; entries raise nothing, so the status is not asked for.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from puna.backends.cpu import host
from puna.report import SILENT, Reporter

Entry = Callable[..., int]

# Name -> module, number of arguments.
ENTRIES: dict[str, tuple[str, int]] = {
    "run": ("step", 4),
    "interleave_quants": ("interleave", 9),
    "interleave_k_quants": ("interleave", 7),
    "interleave_floats": ("interleave", 7),
    "read_memory": ("ceilings", 2),
    "multiply_bytes": ("ceilings", 2),
    "multiply_floats": ("ceilings", 2),
}

STAGE = "compiling kernels, once (up to a minute)"


@dataclass(frozen=True, slots=True)
class MachineCode:
    """An object file and the name of the function in it."""

    symbol: str
    code: bytes


@cache
def load_entry(name: str) -> Entry:
    """The entry as a function of Python. From the cache, or compiled now."""
    file = host.kernel_folder() / f"{name}.o"
    machine_code = _read(file)
    if machine_code is None:
        machine_code = compile_entry(name)
        _write(file, machine_code)
    return _callable(machine_code, ENTRIES[name][1])


def prepare(names: tuple[str, ...], report: Reporter = SILENT) -> None:
    """Load entries, telling `report` if some must be compiled: that takes up to a minute."""
    folder = host.kernel_folder()
    missing = [name for name in names if _read(folder / f"{name}.o") is None]
    for done, name in enumerate(missing):
        report.progress(STAGE, done, len(missing))
        load_entry(name)
    if missing:
        report.progress(STAGE, len(missing), len(missing))
    if any(_read(folder / f"{name}.o") is None for name in missing):
        report.notice(
            f"compiled kernels cannot be kept in {folder}: each start will compile them anew (PUNA_CACHE names another)"
        )


def compile_entry(name: str) -> MachineCode:
    """Compile with Numba and take the object file: `_get_compiled_object` is Numba's own way to fill its cache."""
    from numba import types

    module, num_arguments = ENTRIES[name]
    dispatcher: Any = getattr(importlib.import_module(f"puna.backends.cpu.{module}"), name)
    signature = (types.int64,) * num_arguments
    dispatcher.compile(signature)
    overload = dispatcher.overloads[signature]
    return MachineCode(overload.fndesc.llvm_func_name, bytes(overload.library._get_compiled_object()))


def _callable(machine_code: MachineCode, num_arguments: int) -> Entry:
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(machine_code.code))
    engine.finalize_object()
    address = engine.get_function_address(machine_code.symbol)
    pointer = ctypes.c_void_p
    function = ctypes.CFUNCTYPE(ctypes.c_int32, pointer, pointer, *[ctypes.c_int64] * num_arguments)(address)

    def call(*arguments: int, engine: Any = engine) -> int:  # the engine owns the code: it must live as long
        result, error = ctypes.c_int64(), pointer()
        function(ctypes.byref(result), ctypes.byref(error), *arguments)
        return result.value

    return call


def _target_machine() -> Any:
    """One for each engine, which will own it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(cpu=host.CPU_NAME)


def _read(file: Path) -> MachineCode | None:
    """A kept entry: a line with its symbol and the SHA-256 of the code, then the code. None where it is absent or damaged."""
    try:
        line, _, code = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    symbol, _, digest = line.decode("ascii", "replace").partition(" ")
    return MachineCode(symbol, code) if digest == hashlib.sha256(code).hexdigest() else None


def _write(file: Path, machine_code: MachineCode) -> None:
    """Keep an entry: whole, or not at all. A full disk costs only the next start its time (`prepare` says so)."""
    line = f"{machine_code.symbol} {hashlib.sha256(machine_code.code).hexdigest()}\n"
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(dir=file.parent)
        try:
            with open(descriptor, "wb") as target:  # noqa: PTH123
                target.write(line.encode() + machine_code.code)
            Path(partial).replace(file)
        except OSError:
            Path(partial).unlink()
