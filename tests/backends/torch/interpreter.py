"""Guards the tests of Triton kernels: they run on CPU tensors if TRITON_INTERPRET=1 was set before Triton's import.

`test_interpreted.py` starts a process for them, so that nothing else in the suite sees the setting.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from puna.backends.torch.weights import Matrix, load_matrix
from tests.fakes import make_tensor

Array = npt.NDArray[np.float32]
CPU = torch.device("cpu")


def require() -> None:
    """Skip the module that is being collected, unless kernels can run in this process."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed", allow_module_level=True)
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("run by test_interpreted.py, in a process of its own", allow_module_level=True)
    _spare_the_interpreter_what_changes_nothing()
    if not _loops_run():
        pytest.skip("the interpreter of this Triton does not go with this numpy (3.6 with 2.4 does not)", allow_module_level=True)


def _spare_the_interpreter_what_changes_nothing() -> None:
    """Three quarters of its time, all of which leads to nothing.

    It puts its functions into `triton.language` again in each call of a device function, and never takes those back: here once
    for each module of kernels. And it computes whether integers overflow, of which it tells nobody unless it debugs.
    """
    from triton.runtime import interpreter

    builder: Any = getattr(interpreter, "interpreter_builder", None)
    options: Any = getattr(builder, "options", None)
    if hasattr(options, "sanitize_overflow") and not getattr(options, "debug", True):
        builder.options = replace(options, sanitize_overflow=False)
    patch: Any = getattr(interpreter, "_patch_lang", None)  # returns a scope whose `restore` undoes it, in newer versions
    if patch is None or patch.__name__ == "patch_once":
        return
    _remember_types(interpreter)
    patched: set[int] = set()

    def patch_once(kernel: Any) -> Any:
        if id(kernel.__globals__) not in patched:
            patched.add(id(kernel.__globals__))
            patch(kernel)
        return SimpleNamespace(restore=lambda: None)

    interpreter._patch_lang = patch_once


def _remember_types(interpreter: Any) -> None:
    """Each operation makes its result's type anew, and two objects for each dimension of a tensor; and it looks up numpy's
    types in a table that it makes anew, too. A kernel has a few dozen types."""
    from triton.language import core

    blocks: dict[object, Any] = {}
    numpys: dict[str, Any] = {}
    make_block, make_tensor, find_numpys = core.block_type.__init__, core.tensor.__init__, interpreter._get_np_dtype

    def block_type(cls: Any, element: Any, shape: Any) -> Any:
        key = element.name, tuple(getattr(shape, "values", shape))
        if key not in blocks:
            made = object.__new__(cls)
            make_block(made, element, shape)
            blocks[key] = made
        return blocks[key]

    def tensor(self: Any, handle: Any, of: Any) -> None:
        if "of_a_tensor" not in of.__dict__:
            make_tensor(self, handle, of)
            of.of_a_tensor = vars(self)
        self.__dict__ = of.of_a_tensor | {"handle": handle, "type": of}

    def numpy_dtype(of: Any) -> Any:
        name = of.scalar.name
        if name not in numpys:
            numpys[name] = find_numpys(of)
        return numpys[name]

    core.block_type.__new__ = block_type
    core.block_type.__init__ = lambda *arguments: None
    core.tensor.__init__ = tensor
    interpreter._get_np_dtype = numpy_dtype


def _loops_run() -> bool:
    """Whether a kernel's argument can bound a loop: old interpreters convert a one-element array to an int."""
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def count(out: Any, end: Any) -> None:
        for number in tl.range(0, end):
            tl.store(out, number + 1)

    out = torch.zeros(1, dtype=torch.int32)
    try:
        count[(1,)](out, 3)
    except triton.runtime.errors.InterpreterError:
        return False
    return int(out) == 3


def product_in_order(a: Array, b: Array, dtype: object = None) -> Array:
    """Replaces numpy's product in the interpreter: its sums depend on a row's position; a card's do not."""
    return np.asarray(np.einsum("mk,kn->mn", np.ascontiguousarray(a), np.ascontiguousarray(b)))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def matrix(kind: str, rows: int, columns: int, seed: int = 0) -> Matrix:
    values = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) / np.float32(np.sqrt(columns))
    return load_matrix(make_tensor("w", values, kind), kind, CPU)


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in standard deviations of what is expected."""
    return float((found - expected).abs().max() / expected.std())
