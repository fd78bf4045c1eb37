"""From a kernel in Python to LLVM's code for it, not yet optimised: what Numba is asked for, and what it is not.

Numba reads a function, finds the types, and writes LLVM IR. By default it would then optimise each function together with all that
it calls, again at every level, wrap it for Python, and make machine code of it. Nobody calls a kernel but another kernel, so all
of that is left out here: `emit.py` links the functions of an entry, optimises them once, and writes the object file.

No fast-math anywhere: LLVM may then not reorder a sum, and a row's bits do not depend on the loop it was computed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numba
from numba import _dynfunc
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass

Function = TypeVar("Function", bound=Callable[..., Any])


class Library(JITCodeLibrary):  # type: ignore[misc]
    """The LLVM IR of one function, and the libraries of the functions that it calls. Nothing is optimised, nothing compiled."""

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(typed_passes.NativeLowering):  # type: ignore[misc]
    """Numba's own lowering, into a `Library`."""

    _name = "puna_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # What callers find this function by. Numba's dispatcher insists on a C function.
        key = _dynfunc.make_function(lowered.fndesc.lookup_module(), lowered.fndesc.qualname, "", 0, lowered.env, (state.library,))
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


class Compiler(CompilerBase):  # type: ignore[misc]
    """Numba's passes that a kernel needs, a third of them."""

    def define_pipelines(self) -> Iterator[Any]:
        passes = PassManager("kernel")
        for step in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            typed_passes.AnnotateTypes,
            Lowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(step, step.__name__)
        passes.finalize()
        return [passes]


FLAGS: dict[str, Any] = {"nogil": True, "boundscheck": False, "error_model": "numpy", "fastmath": False}
KERNEL_FLAGS: dict[str, Any] = FLAGS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": Compiler}


def kernel(function: Function) -> Function:
    """Compile a kernel that other kernels call."""
    compiled: Function = numba.njit(**KERNEL_FLAGS)(function)
    return compiled


def inlined(function: Function) -> Function:
    """Compile a kernel that always becomes part of its caller: what stays in registers must not go through a call."""
    compiled: Function = numba.njit(**KERNEL_FLAGS, forceinline=True)(function)
    return compiled


def entry(function: Function) -> Function:
    """A kernel that Python, and other kernels by its address, call (`compiled.py`): only int64 in, one int64 out."""
    return kernel(function)
