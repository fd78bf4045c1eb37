"""How a kernel is compiled by Numba: one set of flags for all.

No fast-math anywhere: LLVM may then not reorder a sum, and a row's bits do not depend on the loop it was computed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., Any])

FLAGS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": False}


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
    everything that it calls: with `kernel` at every level a step took 66 s to compile, with this 38 s."""
    compiled: Function = numba.njit(**FLAGS, inline="always")(function)
    return compiled


def entry(function: Function) -> Function:
    """A kernel that Python calls through `compiled.py`: only int64 in, one int64 out. No wrapper for Python objects is made."""
    flags: Any = FLAGS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    compiled: Function = numba.njit(**flags)(function)
    return compiled
