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
    symbol, module = _linked(kernel, num_arguments)
    machine = _target_machine()
    _optimise(module, machine)
    return symbol, bytes(machine.emit_object(module))


def assembly(kernel: Any, num_arguments: int, triple: str, cpu: str) -> str:
    """The machine code of a kernel for a triple and a CPU, as LLVM names them, to be read (docs/kernels.md)."""
    _, module = _linked(kernel, num_arguments)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=OPTIMISATION)
    module.triple, module.data_layout = triple, str(machine.target_data)
    _optimise(module, machine)
    return str(machine.emit_assembly(module))


def _linked(kernel: Any, num_arguments: int) -> tuple[str, Any]:
    """(function name, module of a kernel and all that it calls)"""
    signature = (types.int64,) * num_arguments
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    return compiled.fndesc.llvm_func_name, compiled.library.linked()


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
