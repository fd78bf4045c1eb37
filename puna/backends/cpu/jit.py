"""From a kernel in Python to unoptimised LLVM IR: which passes of Numba are used, and which are not.

Numba reads a function, infers the types, and writes LLVM IR. By default it would then optimise each function together with all
that it calls, again at every level, wrap it for Python, and make machine code. Only kernels call kernels, so this module skips
all of that: `emit.py` links the functions of an entry, optimises them once, and writes the object file.

No fast-math anywhere: LLVM then may not reorder a sum, so a row's bits do not depend on the loop that computed it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm
import numba
from numba.core import typed_passes, untyped_passes
from numba.core.codegen import CPUCodeLibrary, JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass

Function = TypeVar("Function", bound=Callable[..., Any])


class Library(JITCodeLibrary):
    """The LLVM IR of one function, and the libraries of the functions that it calls, neither optimised nor compiled."""

    def linked(self) -> Any:
        """A new LLVM module of this function and of all that it calls, directly or not."""
        libraries: dict[CPUCodeLibrary, None] = {}
        _gather(self, libraries)
        whole = llvm.parse_assembly("")
        for library in libraries:
            module = library._final_module.clone()
            if library is not self:
                for function in module.functions:
                    if not function.is_declaration and function.linkage == llvm.Linkage.external:
                        function.linkage = "linkonce_odr"  # LLVM drops it once it has no callers
            whole.link_in(module)
        return whole

    def finalize(self) -> None:
        self._finalized = True

    def _optimize_functions(self, module: Any) -> None:
        module.data_layout = self._codegen._data_layout

    def _get_module_for_linking(self) -> Any:
        """For functions that Numba compiles its own way and that call a kernel; tests have some."""
        module = self.linked()
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"
        return module


def _gather(library: CPUCodeLibrary, found: dict[CPUCodeLibrary, None]) -> None:
    if library not in found:
        found[library] = None
        for needed in library._linking_libraries:
            _gather(needed, found)


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(typed_passes.NativeLowering):
    """Numba's own lowering, into a `Library`."""

    _name = "puna_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = Library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        # The key by which callers find this function. Numba's dispatcher insists on a C function.
        module, name = lowered.fndesc.lookup_module(), lowered.fndesc.qualname
        key = numba._dynfunc.make_function(module, name, "", 0, lowered.env, (state.library,))  # type: ignore[attr-defined]
        state.targetctx.insert_user_function(key, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=key)
        return True


class Compiler(CompilerBase):
    """The third of Numba's passes that a kernel needs."""

    def define_pipelines(self) -> list[Any]:
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


def inline(function: Function) -> Function:
    """Compile a kernel that is always inline into its caller, so that values stay in registers."""
    compiled: Function = numba.njit(**KERNEL_FLAGS, forceinline=True)(function)
    return compiled


def entry(function: Function) -> Function:
    """Compile a kernel that Python calls, and other kernels by its address (`compiled.py`): int64 in, one int64 out."""
    return kernel(function)
