"""Tile products on tensor cores that keep all significant bits: float32 on one side, a weight or KV type on the other."""

from __future__ import annotations

import triton
import triton.language as tl

if triton.knobs.runtime.interpret:
    from triton.runtime import interpreter

    from puna.backends.torch.kernels.interpreted import correct_bf16

    correct_bf16(interpreter.interpreter_builder)


@triton.jit
def high_part(x):
    """The nearest bf16."""
    return x.to(tl.bfloat16)


@triton.jit
def low_part(x, high):
    """x - high as bf16: both together keep 16 bits of the mantissa."""
    return (x - high.to(tl.float32)).to(tl.bfloat16)
