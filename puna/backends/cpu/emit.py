"""From a kernel's LLVM IR (`jit.py`) to an object file: link it with all that it calls, optimise the whole once, write machine code.

Numba's own way optimises each function together with everything that it calls, at every level of calls anew: most of a minute
for what takes seconds here (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import llvmlite.binding as llvm
from numba import types

from puna.backends.cpu import host

OPTIMISATION = 3


def machine_code(kernel: Any, num_arguments: int) -> tuple[str, bytes]:
    """The object file of a kernel that takes `num_arguments` int64 numbers, after the name of the function in it."""
    signature = (types.int64,) * num_arguments
    kernel.compile(signature)
    compiled = kernel.overloads[signature]
    symbol = compiled.fndesc.llvm_func_name
    module = _linked(compiled.library, symbol)
    machine = _target_machine()
    _optimise(module, machine)
    return symbol, bytes(machine.emit_object(module))


def _linked(library: Any, symbol: str) -> Any:
    """One module of a library and all that it needs. Whatever is not called in the end may go: all but `symbol`."""
    whole = llvm.parse_assembly("")
    for part in dict.fromkeys(_with_needed(library)):
        module = part._final_module.clone()
        for function in module.functions:
            if not function.is_declaration and function.linkage == llvm.Linkage.external and function.name != symbol:
                function.linkage = "linkonce_odr"
        whole.link_in(module)
    return whole


def _with_needed(library: Any) -> Iterator[Any]:
    yield library
    for needed in library._linking_libraries:
        yield from _with_needed(needed)


def _optimise(module: Any, machine: Any) -> None:
    options = llvm.create_pipeline_tuning_options(OPTIMISATION)
    options.slp_vectorization = False  # kernels are written in vectors already
    passes = llvm.create_pass_builder(machine, options)
    passes.getModulePassManager().run(module, passes)


def _target_machine() -> Any:
    """For code that is loaded anywhere in memory."""
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
