"""Triton's interpreter (TRITON_INTERPRET=1) with bf16 as on a GPU.

The interpreter keeps a bf16 number's bits as an integer. It multiplies these integers, and truncates where a GPU rounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import triton.language as tl

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]


def rounded(numbers: Floats) -> Bits:
    """The nearest bf16, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    nearest = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(numbers), np.uint16(0x7FC0), nearest)


def widened(bits: Bits) -> Floats:
    """The same numbers as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def correct_bf16(builder: Any) -> None:
    """Replace an `InterpreterBuilder`'s conversions from and to bf16, and its product."""
    cast, dot = builder.cast_impl, builder.create_dot

    def as_float32(tile: Any) -> Any:
        return type(tile)(widened(tile.data), tl.float32) if tile.dtype.scalar == tl.bfloat16 else tile

    def cast_impl(tile: Any, dtype: Any) -> Any:
        if dtype.scalar != tl.bfloat16:
            return cast(as_float32(tile), dtype)
        return type(tile)(rounded(as_float32(tile).data.astype(np.float32)), tl.bfloat16)

    def create_dot(a: Any, b: Any, *others: Any) -> Any:
        return dot(as_float32(a), as_float32(b), *others)

    builder.cast_impl, builder.create_dot = cast_impl, create_dot
