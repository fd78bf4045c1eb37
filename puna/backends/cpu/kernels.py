"""What a forward pass does with rows of activations, as vector code. `backends/reference.py` defines each operation under the
same name. Memory is given by address.

A quantised product reads a row as a record: columns x int8, then for each block of 32 columns, field after field:
  step    float32, the scale
  sum     float32, step * sum of the numbers
  runs    for each 16 columns two int16: -32 * the sum of the numbers 0 and 1 of their quads, and of the numbers 2 and 3
  start   int32, -128 * sum of the numbers
  centre  two int16: -8 * the sum of the numbers 0 and 1 of the block's quads, and of the numbers 2 and 3
The integers are what a sum of products begins with where unsigned weights count from a zero (`instructions.py`).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.simd import (
    absolute,
    add,
    add_i32,
    fma,
    keep_lanes,
    load_f32,
    load_f32x8,
    max_lanes,
    maximum,
    mul,
    round_i32,
    splat_f32,
    store_f32,
    store_f32x8,
    store_i8x8,
    store_i32,
    store_quad_sums,
    sum_lanes,
    sum_lanes_i32,
)

# ---- rows of activations --------------------------------------------------------------------------------------------


@kernel
def rms_norm(x, weight, size, eps, out):
    """out = x / sqrt(mean(x**2) + eps) * weight (Zhang and Sennrich 2019). The arrays are readable up to a multiple of 8."""
    total = splat_f32(0.0)
    whole = size // 8 * 8
    for i in range(0, whole, 8):
        v = load_f32x8(x + 4 * i)
        total = fma(v, v, total)
    if whole < size:
        v = keep_lanes(load_f32x8(x + 4 * whole), size - whole, 0.0)
        total = fma(v, v, total)
    scale = splat_f32(np.float32(1.0) / np.sqrt(sum_lanes(total) / np.float32(size) + eps))
    for i in range(0, size, 8):
        store_f32x8(out + 4 * i, mul(mul(load_f32x8(x + 4 * i), scale), load_f32x8(weight + 4 * i)))


@kernel
def scale_row(x, size, columns, factor):
    """x *= factor; the numbers behind `size`, up to `columns`, become 0."""
    for i in range(0, columns, 8):
        store_f32x8(x + 4 * i, mul(keep_lanes(load_f32x8(x + 4 * i), size - i, np.float32(0.0)), splat_f32(factor)))


@kernel
def add_row(x, columns, y):
    """y += x"""
    for i in range(0, columns, 8):
        store_f32x8(y + 4 * i, add(load_f32x8(y + 4 * i), load_f32x8(x + 4 * i)))


@kernel
def copy_row(x, columns, y):
    """y = x"""
    for i in range(0, columns, 8):
        store_f32x8(y + 4 * i, load_f32x8(x + 4 * i))


@kernel
def head_norm(x, weight, size, eps):
    """`rms_norm` of one head, or of several together, in place; writes nothing beyond `size`."""
    whole = size // 8 * 8
    total = splat_f32(0.0)
    for i in range(0, whole, 8):
        v = load_f32x8(x + 4 * i)
        total = fma(v, v, total)
    squares = sum_lanes(total)
    for i in range(whole, size):
        squares += load_f32(x + 4 * i) * load_f32(x + 4 * i)
    scale = np.float32(1.0) / np.sqrt(squares / np.float32(size) + eps)
    for i in range(0, whole, 8):
        store_f32x8(x + 4 * i, mul(mul(load_f32x8(x + 4 * i), splat_f32(scale)), load_f32x8(weight + 4 * i)))
    for i in range(whole, size):
        store_f32(x + 4 * i, load_f32(x + 4 * i) * scale * load_f32(weight + 4 * i))


@kernel
def add_bias(bias, tokens, y, y_stride, first, last):
    """y += bias for groups first..last-1 of eight numbers of each row."""
    for group in range(first, last):
        b = load_f32x8(bias + 32 * group)
        for t in range(tokens):
            at = y + t * y_stride + 32 * group
            store_f32x8(at, add(load_f32x8(at), b))


@kernel
def quantize_blocks(x, columns, record, first, last):
    """Quantise blocks first..last-1 of the float32 row `x` into the record: q = round(x * 127 / max|x|), ties to even."""
    scales = record + columns
    sums = scales + columns // 8
    runs = sums + columns // 8
    starts = runs + columns // 4
    centres = starts + columns // 8
    for block in range(first, last):
        at = x + 128 * block
        a, b, c, d = load_f32x8(at), load_f32x8(at + 32), load_f32x8(at + 64), load_f32x8(at + 96)
        largest = max_lanes(maximum(maximum(absolute(a), absolute(b)), maximum(absolute(c), absolute(d))))
        scale = largest / np.float32(127.0)
        inverse = splat_f32(np.float32(127.0) / largest if largest > 0 else np.float32(0.0))
        qa, qb, qc, qd = (
            round_i32(mul(a, inverse)),
            round_i32(mul(b, inverse)),
            round_i32(mul(c, inverse)),
            round_i32(mul(d, inverse)),
        )
        to = record + 32 * block
        store_i8x8(to, qa)
        store_i8x8(to + 8, qb)
        store_i8x8(to + 16, qc)
        store_i8x8(to + 24, qd)
        first_half, second_half = add_i32(qa, qb), add_i32(qc, qd)
        both = add_i32(first_half, second_half)
        store_quad_sums(runs + 8 * block, first_half, -32)
        store_quad_sums(runs + 8 * block + 4, second_half, -32)
        store_quad_sums(centres + 4 * block, both, -8)
        total = sum_lanes_i32(both)
        store_f32(scales + 4 * block, scale)
        store_f32(sums + 4 * block, scale * np.float32(total))
        store_i32(starts + 4 * block, -128 * total)


@kernel
def rope(x, cos_sin, head_dim, first, last):
    """Rotate the pairs (x[i], x[i+1]) of numbers first..last-1 of a row of heads, in place. `cos_sin` (2, head_dim / 2)"""
    for i in range(first, last, 2):
        at = cos_sin + 2 * (i % head_dim)
        cos, sin = load_f32(at), load_f32(at + 2 * head_dim)
        a, b = load_f32(x + 4 * i), load_f32(x + 4 * i + 4)
        store_f32(x + 4 * i, a * cos - b * sin)
        store_f32(x + 4 * i + 4, a * sin + b * cos)


@kernel
def multiply_numbers(x, factors, first, last):
    """Multiply numbers first..last-1 of a row by as many factors, in place."""
    for i in range(4 * first, 4 * last, 4):
        store_f32(x + i, load_f32(x + i) * load_f32(factors + i))
