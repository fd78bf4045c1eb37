"""Loops that reach the roofline of this machine; `roofline.py` times them."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.jit import entry
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.panels import TILE, peak_operation
from puna.backends.cpu.simd import fma, load_f32x8, splat_f32, store_f32, sum_lanes

QUADS = 64  # with 16 rows 4 KiB, which every L1 cache holds
PRODUCTS_OF_QUAD = 4 * GROUP * TILE.groups * TILE.tokens
_multiply_quads = peak_operation(TILE)


@entry
def read_memory(address, num_bytes):
    """Read all bytes once. Returns their sum, so the compiler drops nothing."""
    a, b, c, d = load_f32x8(address), load_f32x8(address), load_f32x8(address), load_f32x8(address)
    one = splat_f32(1.0)
    for at in range(address, address + num_bytes, 128):
        a = fma(load_f32x8(at), one, a)
        b = fma(load_f32x8(at + 32), one, b)
        c = fma(load_f32x8(at + 64), one, c)
        d = fma(load_f32x8(at + 96), one, d)
    return np.int64(sum_lanes(fma(a, one, fma(b, one, fma(c, one, d)))))


@entry
def multiply_bytes(address, loops):
    """Multiply `loops` times a tile of a panel, QUADS quads long. Returns the number of products."""
    _multiply_quads(address, loops, QUADS)
    return loops * QUADS * PRODUCTS_OF_QUAD


@entry
def multiply_floats(address, loops):
    """Run `loops` times 8 independent fused multiply-adds of 8 lanes, 8 times. Returns the number of products."""
    a, b, c, d = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
    e, f, g, h = a, b, c, d
    x = load_f32x8(address)
    for _ in range(loops):
        for at in range(address, address + 256, 32):
            y = load_f32x8(at)
            a, b, c, d = fma(x, y, a), fma(x, y, b), fma(x, y, c), fma(x, y, d)
            e, f, g, h = fma(x, y, e), fma(x, y, f), fma(x, y, g), fma(x, y, h)
        x = load_f32x8(address + 32)
    for v in (a, b, c, d, e, f, g, h):
        store_f32(address, sum_lanes(v))
    return loops * 64 * 8
