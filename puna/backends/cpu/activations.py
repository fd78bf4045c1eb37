"""The functions of the feed-forward part, and the soft cap. The step calls them by address, so a model compiles only its own."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np

from puna.backends.cpu.jit import entry, inline
from puna.backends.cpu.simd import add, div, exp, fma, load_f32x8, mul, splat_f32, store_f32x8, sub

GELU_SLOPE, GELU_CUBE = 2 * np.sqrt(2 / np.pi), 0.044715


@inline
def _silu(x):
    """x / (1 + e**-x)"""
    return div(x, add(splat_f32(1.0), exp(sub(splat_f32(0.0), x))))


@inline
def _gelu(x):
    """x * (1 + tanh(u)) / 2, which is x / (1 + e**-2u), with u = sqrt(2 / pi) * (x + 0.044715 x**3)"""
    cubes = fma(mul(mul(x, x), x), splat_f32(GELU_CUBE), x)
    return div(x, add(splat_f32(1.0), exp(mul(cubes, splat_f32(-GELU_SLOPE)))))


def _glu(activation: Any) -> Any:
    """The entry `glu_*` of an activation."""

    @entry
    def glu(gate, up, size, out):
        """out = activation(gate) * up (Shazeer 2020, arXiv 2002.05202), whole vectors."""
        for i in range(0, size, 8):
            store_f32x8(out + 4 * i, mul(activation(load_f32x8(gate + 4 * i)), load_f32x8(up + 4 * i)))
        return 0

    return glu


glu_silu, glu_gelu = _glu(_silu), _glu(_gelu)


@entry
def softcap(x, size, cap):
    """x = cap * tanh(x / cap) (Gemma 2, arXiv 2408.00118), whole vectors; tanh(u) = 1 - 2 / (e**2u + 1).

    `cap`: the bits of a float32.
    """
    c = np.uint32(cap).view(np.float32)
    one, two = splat_f32(1.0), splat_f32(2.0)
    for i in range(0, size, 8):
        powers = exp(mul(load_f32x8(x + 4 * i), splat_f32(np.float32(2.0) / c)))
        store_f32x8(x + 4 * i, mul(sub(one, div(two, add(powers, one))), splat_f32(c)))
    return 0
