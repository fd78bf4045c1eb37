"""Loops that reach the roofline of this machine; `roofline.py` times them. Each returns a sum, so the compiler drops nothing."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.jit import entry
from puna.backends.cpu.simd import (
    add_i16,
    add_i32,
    fma,
    load_f32x8,
    load_i8x32,
    madd_u8_i8,
    repeat_i8x4,
    splat_f32,
    store_f32,
    sum_lanes,
    sum_lanes_i32,
    to_f32,
    widen_pairs,
)


@entry
def read_memory(address, num_bytes):
    """Read all bytes once."""
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
    """Multiply `loops` times 64 weight vectors by 4 tokens' activations, as a 4-bit tile does: 64 * 4 * 32 products a loop."""
    total = to_f32(widen_pairs(madd_u8_i8(load_i8x32(address), load_i8x32(address))))
    for _ in range(loops):
        for block in range(0, 2048, 256):
            a = madd_u8_i8(load_i8x32(address + block), repeat_i8x4(address + block))
            b, c, d = a, a, a
            for i in range(8):
                v = load_i8x32(address + block + 32 * i)
                x = address + 4 * i
                a = add_i16(a, madd_u8_i8(v, repeat_i8x4(x)))
                b = add_i16(b, madd_u8_i8(v, repeat_i8x4(x + 256)))
                c = add_i16(c, madd_u8_i8(v, repeat_i8x4(x + 512)))
                d = add_i16(d, madd_u8_i8(v, repeat_i8x4(x + 768)))
            s = add_i32(add_i32(widen_pairs(a), widen_pairs(b)), add_i32(widen_pairs(c), widen_pairs(d)))
            total = fma(total, splat_f32(0.5), to_f32(s))
    store_f32(address + 2048, sum_lanes(total))
    return np.int64(sum_lanes_i32(widen_pairs(madd_u8_i8(load_i8x32(address), load_i8x32(address)))))


@entry
def multiply_floats(address, loops):
    """Run `loops` times 8 independent fused multiply-adds of 8 lanes, 8 times."""
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
    return np.int64(loops)
