"""Tile products on tensor cores that keep all significant bits: float32 on one side, a weight or KV type on the other."""

from __future__ import annotations

import triton
import triton.language as tl

# Triton's interpreter stores bf16 as integers, multiplies those as integers, and truncates where a GPU rounds. There, this module
# makes the same numbers in another way and multiplies them as float32.
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def dot_bf16(a, b, total):
    """total + a b, both bf16.  # (M, K), (K, N), (M, N) float32"""
    if INTERPRETED:
        total = tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    else:
        total = tl.dot(a, b, total)
    return total


@triton.jit
def integers_as_bf16(x):
    """Eight-bit integers or bf16, exactly, as bf16."""
    if INTERPRETED:
        numbers = x.to(tl.float32).to(tl.bfloat16)
    else:
        numbers = x.to(tl.bfloat16)
    return numbers


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """Convert float32 to another type; to bf16 by rounding to the nearest, ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        x = tl.where(x == x, rounded, bits).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def high_part(x):
    """The nearest bf16."""
    return nearest(x, tl.bfloat16)


@triton.jit
def low_part(x, high):
    """x - high as bf16: both together keep 16 bits of the mantissa."""
    return nearest(x - high.to(tl.float32), tl.bfloat16)
