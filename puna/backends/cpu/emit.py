"""From a kernel's LLVM IR (`jit.py`), linked with all that it calls, to an object file. It is optimised once, as a whole.

Numba by default optimises each function together with everything that it calls, again at every level of calls: most of a minute
for what takes seconds here (docs/LOG.md).
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba import types

from puna.backends.cpu import host

OPTIMISATION = 3


def machine_code(kernel: Any, num_arguments: int) -> tuple[str, bytes]:
    """(function name, object file) of a kernel that takes `num_arguments` int64 numbers."""
    signature = (types.int64,) * num_arguments
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    symbol = compiled.fndesc.llvm_func_name
    module = compiled.library.linked()
    machine = _target_machine()
    _optimise(module, machine)
    return symbol, bytes(machine.emit_object(module))


def _optimise(module: Any, machine: Any) -> None:
    options = llvm.create_pipeline_tuning_options(OPTIMISATION)
    options.slp_vectorization = False  # kernels already use vectors
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


def _target_machine() -> Any:
    """A machine for position-independent code."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=host.CPU_NAME,
        features=llvm.get_host_cpu_features().flatten(),
        opt=OPTIMISATION,
        reloc="static" if host.IS_X86 else "default",
        codemodel="jitdefault",
        jit=True,
    )
