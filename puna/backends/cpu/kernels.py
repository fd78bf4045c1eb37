"""The operations of a forward pass as vector code. `backends/reference.py` defines each one under the same name.

Memory is given by address. `w` is a packed matrix (`packing.py`): a vector's eight lanes are eight rows, and one lane sums an
output over the columns from first to last. So no other row, token or thread changes a bit of it: `matvec` (one token) and
`matmul` (a tile of tokens, the weights read once) do the same sums.

A quantised product reads `x` as a record: columns x int8, then per block of 32 a float32 scale, then per block scale * sum, then
per block two offsets: sums of 16 columns times the zero of Q6_K, one for numbers 0 and 1 and one for 2 and 3 of the quads; then
per block the int32 -128 * sum (`vnni.py`).
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from puna.backends.cpu import vnni
from puna.backends.cpu.jit import entry, inline, kernel
from puna.backends.cpu.layout import (
    D_AT,
    DMIN_AT,
    Q4_K_BYTES,
    Q4_K_NUMBERS,
    Q5_K_BYTES,
    Q5_K_NUMBERS,
    Q6_K_BYTES,
    Q6_K_NUMBERS,
)
from puna.backends.cpu.simd import (
    absolute,
    add,
    add_i16,
    add_i32,
    dot_i8,
    fma,
    high_nibbles,
    join_bits,
    keep_lanes,
    load_bf16x8,
    load_f16,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8_pairs,
    load_i8x32,
    load_u8,
    load_u8_pairs,
    load_u8x8,
    load_u16,
    low_nibbles,
    madd_i16,
    madd_u8_i8,
    max_lanes,
    maximum,
    mul,
    prefetch,
    repeat_f32,
    repeat_i8x4,
    repeat_i16x2,
    round_i32,
    shift_left,
    shift_right,
    splat_f32,
    store_f32,
    store_f32x8,
    store_i8x8,
    store_i32,
    store_quad_sums,
    sub,
    sub_i16,
    sum_lanes,
    sum_lanes_i32,
    to_f32,
    widen_pairs,
)

TILE = 4  # tokens of a matmul tile: 4 sums and 2 halves of the weights fit into 16 registers
NUM_GROUPS = 4  # that the tokens of a step pass by together
AHEAD_BYTES = 8192  # of weights that a matvec prefetches: the hardware's prefetcher stops at each 4 KiB page
Q6_K_ZERO = 32  # weight = (number - this) * scale
L2_BYTES = 1 << 17  # of activations that should stay in the L2 cache during a pass over the weights

Products = tuple[Any, dict[int, Any]]  # matvec, and matmul by tokens of its tile


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
    offsets = sums + columns // 8
    starts = offsets + columns // 4
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
        store_quad_sums(offsets + 8 * block, first_half, Q6_K_ZERO)
        store_quad_sums(offsets + 8 * block + 4, second_half, Q6_K_ZERO)
        total = sum_lanes_i32(add_i32(first_half, second_half))
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


# ---- products with float weights ------------------------------------------------------------------------------------


@inline
def _finish(y, total, adds):
    """Set eight rows of an output, or add to them."""
    if adds:
        total = add(load_f32x8(y), total)
    store_f32x8(y, total)


def _float_products(load: Callable[..., Any], size: int) -> Products:
    """(matvec, matmul) for weights that `load` reads as float32, `size` bytes each. `x` is a float32 row."""

    @kernel
    def matvec(w, columns, x, y, first, last, adds):
        stride = columns * 8 * size
        group = first
        while group + 4 <= last:  # four independent sums hide the latency of the addition
            a, b, c, d = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            at = w + group * stride
            for i in range(columns):
                v = repeat_f32(x + 4 * i)
                a = fma(load(at), v, a)
                b = fma(load(at + stride), v, b)
                c = fma(load(at + 2 * stride), v, c)
                d = fma(load(at + 3 * stride), v, d)
                at += 8 * size
            to = y + 32 * group
            _finish(to, a, adds)
            _finish(to + 32, b, adds)
            _finish(to + 64, c, adds)
            _finish(to + 96, d, adds)
            group += 4
        while group < last:
            a = splat_f32(0.0)
            at = w + group * stride
            for i in range(columns):
                a = fma(load(at + 8 * size * i), repeat_f32(x + 4 * i), a)
            _finish(y + 32 * group, a, adds)
            group += 1

    @kernel
    def matmul(w, columns, x, x_stride, y, y_stride, first, last, adds):
        stride = columns * 8 * size
        for group in range(first, last, 2):
            at = w + group * stride
            second = stride if group + 1 < last else 0  # a lone last group is computed twice and written once
            a0, a1, a2, a3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            b0, b1, b2, b3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            for i in range(columns):
                p, q = load(at + 8 * size * i), load(at + 8 * size * i + second)
                t = x + 4 * i
                v = repeat_f32(t)
                a0, b0 = fma(p, v, a0), fma(q, v, b0)
                v = repeat_f32(t + x_stride)
                a1, b1 = fma(p, v, a1), fma(q, v, b1)
                v = repeat_f32(t + 2 * x_stride)
                a2, b2 = fma(p, v, a2), fma(q, v, b2)
                v = repeat_f32(t + 3 * x_stride)
                a3, b3 = fma(p, v, a3), fma(q, v, b3)
            to = y + 32 * group
            _finish(to, a0, adds)
            _finish(to + y_stride, a1, adds)
            _finish(to + 2 * y_stride, a2, adds)
            _finish(to + 3 * y_stride, a3, adds)
            if second:
                _finish(to + 32, b0, adds)
                _finish(to + 32 + y_stride, b1, adds)
                _finish(to + 32 + 2 * y_stride, b2, adds)
                _finish(to + 32 + 3 * y_stride, b3, adds)

    return matvec, {TILE: matmul}


# ---- products with quantised weights --------------------------------------------------------------------------------


@inline
def _sum_nibbles(w, x):
    """Sums over a block of 4-bit numbers 0..15, two per row. Eight products of at most 15 * 127 * 2 fit into an int16."""
    v = load_i8x32(w)
    s = add_i16(madd_u8_i8(low_nibbles(v), repeat_i8x4(x)), madd_u8_i8(high_nibbles(v), repeat_i8x4(x + 16)))
    v = load_i8x32(w + 32)
    s = add_i16(s, madd_u8_i8(low_nibbles(v), repeat_i8x4(x + 4)))
    s = add_i16(s, madd_u8_i8(high_nibbles(v), repeat_i8x4(x + 20)))
    v = load_i8x32(w + 64)
    t = add_i16(madd_u8_i8(low_nibbles(v), repeat_i8x4(x + 8)), madd_u8_i8(high_nibbles(v), repeat_i8x4(x + 24)))
    v = load_i8x32(w + 96)
    t = add_i16(t, madd_u8_i8(low_nibbles(v), repeat_i8x4(x + 12)))
    t = add_i16(t, madd_u8_i8(high_nibbles(v), repeat_i8x4(x + 28)))
    return add_i16(s, t)


@inline
def _dot_nibbles(w, x):
    """Sums over a block of 4-bit numbers, per row."""
    return widen_pairs(_sum_nibbles(w, x))


@inline
def _add_nibbles(s, low, high, x):
    return add_i16(s, add_i16(madd_u8_i8(low, repeat_i8x4(x)), madd_u8_i8(high, repeat_i8x4(x + 16))))


@inline
def _sum_nibbles_tile(w, x, stride):
    """`_sum_nibbles` for four tokens."""
    v = load_i8x32(w)
    low, high = low_nibbles(v), high_nibbles(v)
    a = add_i16(madd_u8_i8(low, repeat_i8x4(x)), madd_u8_i8(high, repeat_i8x4(x + 16)))
    x1, x2, x3 = x + stride, x + 2 * stride, x + 3 * stride
    b = add_i16(madd_u8_i8(low, repeat_i8x4(x1)), madd_u8_i8(high, repeat_i8x4(x1 + 16)))
    c = add_i16(madd_u8_i8(low, repeat_i8x4(x2)), madd_u8_i8(high, repeat_i8x4(x2 + 16)))
    d = add_i16(madd_u8_i8(low, repeat_i8x4(x3)), madd_u8_i8(high, repeat_i8x4(x3 + 16)))
    for quad in range(1, 4):
        v = load_i8x32(w + 32 * quad)
        low, high = low_nibbles(v), high_nibbles(v)
        a = _add_nibbles(a, low, high, x + 4 * quad)
        b = _add_nibbles(b, low, high, x1 + 4 * quad)
        c = _add_nibbles(c, low, high, x2 + 4 * quad)
        d = _add_nibbles(d, low, high, x3 + 4 * quad)
    return a, b, c, d


@inline
def _dot_nibbles_tile(w, x, stride):
    """`_dot_nibbles` for four tokens."""
    a, b, c, d = _sum_nibbles_tile(w, x, stride)
    return widen_pairs(a), widen_pairs(b), widen_pairs(c), widen_pairs(d)


@inline
def _dot_bytes(w, x):
    """Sums over a block of int8 numbers, per row."""
    s = dot_i8(load_i8x32(w), repeat_i8x4(x))
    for quad in range(1, 8):
        s = add_i32(s, dot_i8(load_i8x32(w + 32 * quad), repeat_i8x4(x + 4 * quad)))
    return s


@inline
def _dot_bytes_tile(w, x, stride):
    """`_dot_bytes` for four tokens."""
    v = load_i8x32(w)
    x1, x2, x3 = x + stride, x + 2 * stride, x + 3 * stride
    a, b = dot_i8(v, repeat_i8x4(x)), dot_i8(v, repeat_i8x4(x1))
    c, d = dot_i8(v, repeat_i8x4(x2)), dot_i8(v, repeat_i8x4(x3))
    for quad in range(1, 8):
        v = load_i8x32(w + 32 * quad)
        a = add_i32(a, dot_i8(v, repeat_i8x4(x + 4 * quad)))
        b = add_i32(b, dot_i8(v, repeat_i8x4(x1 + 4 * quad)))
        c = add_i32(c, dot_i8(v, repeat_i8x4(x2 + 4 * quad)))
        d = add_i32(d, dot_i8(v, repeat_i8x4(x3 + 4 * quad)))
    return a, b, c, d


@inline
def _scale_q8_0(total, dots, scales, d, s):
    """w = scale * q"""
    return fma(mul(to_f32(dots), d), load_f16x8(scales), total)


@inline
def _scale_q4_0(total, dots, scales, d, s):
    """w = scale * (q - 8)"""
    return fma(fma(s, splat_f32(-8.0), mul(to_f32(dots), d)), load_f16x8(scales), total)


@inline
def _scale_q4_1(total, dots, scales, d, s):
    """w = scale * q + minimum"""
    return fma(load_f16x8(scales + 16), s, fma(mul(to_f32(dots), d), load_f16x8(scales), total))


def _quantised_products(dot: Any, dot_tile: Any, scale: Any, block_bytes: int, scale_bytes: int) -> Products:
    """(matvec, matmul) for blocks of `block_bytes` of numbers and `scale_bytes` of scales per group. `x` is a record."""

    @inline
    def fetch_ahead(at):
        for line in range(AHEAD_BYTES, AHEAD_BYTES + block_bytes + scale_bytes, 64):
            prefetch(at + line)

    @kernel
    def matvec(w, columns, x, y, first, last, adds):
        blocks = columns // 32
        for group in range(first, last):
            at = w + group * blocks * (block_bytes + scale_bytes)
            scales = at + blocks * block_bytes
            total = splat_f32(0.0)
            for block in range(blocks):
                fetch_ahead(at + block * (block_bytes + scale_bytes))
                d = repeat_f32(x + columns + 4 * block)
                s = repeat_f32(x + columns + 4 * (blocks + block))
                total = scale(total, dot(at + block * block_bytes, x + 32 * block), scales + block * scale_bytes, d, s)
            _finish(y + 32 * group, total, adds)

    @kernel
    def matmul(w, columns, x, x_stride, y, y_stride, first, last, adds):
        blocks = columns // 32
        for group in range(first, last):
            at = w + group * blocks * (block_bytes + scale_bytes)
            scales = at + blocks * block_bytes
            a, b, c, d = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            for block in range(blocks):
                fetch_ahead(at + block * (block_bytes + scale_bytes))
                p, q, r, t = dot_tile(at + block * block_bytes, x + 32 * block, x_stride)
                u = x + columns + 4 * block
                v = u + 4 * blocks
                z = scales + block * scale_bytes
                a = scale(a, p, z, repeat_f32(u), repeat_f32(v))
                b = scale(b, q, z, repeat_f32(u + x_stride), repeat_f32(v + x_stride))
                c = scale(c, r, z, repeat_f32(u + 2 * x_stride), repeat_f32(v + 2 * x_stride))
                d = scale(d, t, z, repeat_f32(u + 3 * x_stride), repeat_f32(v + 3 * x_stride))
            to = y + 32 * group
            _finish(to, a, adds)
            _finish(to + y_stride, b, adds)
            _finish(to + 2 * y_stride, c, adds)
            _finish(to + 3 * y_stride, d, adds)

    return matvec, {TILE: matmul}


# ---- products with K-quants -----------------------------------------------------------------------------------------


@inline
def _dot_q4_k(w, scales, x, offsets):
    """Scaled sums over a block, per row: at most 63 * 32 * 15 * 127, which a float32 holds."""
    return madd_i16(_sum_nibbles(w, x), load_u8_pairs(scales))


@inline
def _dot_q4_k_tile(w, scales, x, offsets, stride):
    """`_dot_q4_k` for four tokens."""
    a, b, c, d = _sum_nibbles_tile(w, x, stride)
    s = load_u8_pairs(scales)
    return madd_i16(a, s), madd_i16(b, s), madd_i16(c, s), madd_i16(d, s)


@inline
def _five_bits(w, run):
    """Four quads of numbers 0..31: a run of 16 columns, the first or the second of a block of Q5_K."""
    v, u = load_i8x32(w + 64 * run), load_i8x32(w + 64 * run + 32)
    bits = shift_right(load_i8x32(w + 128), 4 * run)
    a, b = join_bits(low_nibbles(v), shift_left(bits, 4), 16), join_bits(high_nibbles(v), shift_left(bits, 3), 16)
    return a, b, join_bits(low_nibbles(u), shift_left(bits, 2), 16), join_bits(high_nibbles(u), shift_left(bits, 1), 16)


@inline
def _six_bits(w, run):
    """Four quads of numbers 0..63: a run of 16 columns of Q6_K."""
    v, u, bits = load_i8x32(w + 96 * run), load_i8x32(w + 96 * run + 32), load_i8x32(w + 96 * run + 64)
    a, b = join_bits(low_nibbles(v), shift_left(bits, 4), 48), join_bits(high_nibbles(v), shift_left(bits, 2), 48)
    return a, b, join_bits(low_nibbles(u), bits, 48), join_bits(high_nibbles(u), shift_right(bits, 2), 48)


@inline
def _sum_quads(a, b, c, d, x, offset):
    """Sums over a run, two per row, modulo 2**16: four products of at most 31 * 127 * 2 fit."""
    s = add_i16(madd_u8_i8(a, repeat_i8x4(x)), madd_u8_i8(b, repeat_i8x4(x + 4)))
    return add_i16(s, add_i16(madd_u8_i8(c, repeat_i8x4(x + 8)), madd_u8_i8(d, repeat_i8x4(x + 12))))


@inline
def _sum_signed_quads(a, b, c, d, x, offset):
    """`_sum_quads` without the zero: partial sums wrap, but eight products of at most 32 * 127 fit."""
    return sub_i16(_sum_quads(a, b, c, d, x, offset), repeat_i16x2(offset))


@inline
def _block_scale(scales, run):
    return load_u8_pairs(scales)


@inline
def _run_scale(scales, run):
    return load_i8_pairs(scales + 8 * run)


def _dots_by_runs(numbers: Any, add_up: Any, scale: Any) -> tuple[Any, Any]:
    """(dot, dot for four tokens) of a block in two runs: scaled sums per row, which a float32 holds."""

    @inline
    def dot(w, scales, x, offsets):
        a, b, c, d = numbers(w, 0)
        total = madd_i16(add_up(a, b, c, d, x, offsets), scale(scales, 0))
        a, b, c, d = numbers(w, 1)
        return add_i32(total, madd_i16(add_up(a, b, c, d, x + 16, offsets + 4), scale(scales, 1)))

    @inline
    def dot_run_tile(w, scales, x, offsets, stride, run):
        a, b, c, d = numbers(w, run)
        s = scale(scales, run)
        p = madd_i16(add_up(a, b, c, d, x, offsets), s)
        q = madd_i16(add_up(a, b, c, d, x + stride, offsets + stride), s)
        r = madd_i16(add_up(a, b, c, d, x + 2 * stride, offsets + 2 * stride), s)
        t = madd_i16(add_up(a, b, c, d, x + 3 * stride, offsets + 3 * stride), s)
        return p, q, r, t

    @inline
    def dot_tile(w, scales, x, offsets, stride):
        a, b, c, d = dot_run_tile(w, scales, x, offsets, stride, 0)
        p, q, r, t = dot_run_tile(w, scales, x + 16, offsets + 4, stride, 1)
        return add_i32(a, p), add_i32(b, q), add_i32(c, r), add_i32(d, t)

    return dot, dot_tile


_dot_q5_k, _dot_q5_k_tile = _dots_by_runs(_five_bits, _sum_quads, _block_scale)
_dot_q6_k, _dot_q6_k_tile = _dots_by_runs(_six_bits, _sum_signed_quads, _run_scale)


@inline
def _no_minimums(total, scales, sums):
    return total


@inline
def _no_minimums_tile(a, b, c, d, scales, sums, stride):
    return a, b, c, d


@inline
def _less_minimums(total, scales, sums):
    """total - dmin * (minimums of a superblock's eight blocks) * sums of the activations"""
    part = splat_f32(0.0)
    for block in range(8):
        part = fma(load_u8x8(scales + 16 * block + 8), repeat_f32(sums + 4 * block), part)
    return sub(total, mul(load_f16x8(scales + DMIN_AT), part))


@inline
def _less_minimums_tile(a, b, c, d, scales, sums, stride):
    """`_less_minimums` for four tokens."""
    p, q, r, t = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
    for block in range(8):
        m, at = load_u8x8(scales + 16 * block + 8), sums + 4 * block
        p, q = fma(m, repeat_f32(at), p), fma(m, repeat_f32(at + stride), q)
        r, t = fma(m, repeat_f32(at + 2 * stride), r), fma(m, repeat_f32(at + 3 * stride), t)
    m = load_f16x8(scales + DMIN_AT)
    return sub(a, mul(m, p)), sub(b, mul(m, q)), sub(c, mul(m, r)), sub(d, mul(m, t))


def _superblock_products(
    dot: Any, dot_tile: Any, finish: Any, finish_tile: Any, num_bytes: int, superblock_bytes: int
) -> Products:
    """(matvec, matmul) for superblocks of `superblock_bytes`, `num_bytes` of them numbers. `x` is a record."""
    block_bytes = num_bytes // 8
    eighth = superblock_bytes // 8  # prefetched for each block

    @inline
    def fetch_ahead(at):
        for line in range(AHEAD_BYTES, AHEAD_BYTES + eighth, 64):
            prefetch(at + line)

    @kernel
    def matvec(w, columns, x, y, first, last, adds):
        blocks = columns // 32
        steps, sums, offsets = x + columns, x + columns + 4 * blocks, x + columns + 8 * blocks
        at = w + first * (blocks // 8) * superblock_bytes
        for group in range(first, last):
            total = splat_f32(0.0)
            for begin in range(0, blocks, 8):
                numbers, scales = at, at + num_bytes
                part = splat_f32(0.0)
                for block in range(begin, min(begin + 8, blocks)):  # LLVM does not know the count, so it unrolls nothing
                    fetch_ahead(at)
                    dots = dot(numbers, scales + 16 * (block - begin), x + 32 * block, offsets + 8 * block)
                    part = fma(to_f32(dots), repeat_f32(steps + 4 * block), part)
                    numbers += block_bytes
                    at += eighth
                total = finish(fma(part, load_f16x8(scales + D_AT), total), scales, sums + 4 * begin)
            _finish(y + 32 * group, total, adds)

    @kernel
    def matmul(w, columns, x, x_stride, y, y_stride, first, last, adds):
        blocks = columns // 32
        steps, sums, offsets = x + columns, x + columns + 4 * blocks, x + columns + 8 * blocks
        at = w + first * (blocks // 8) * superblock_bytes
        for group in range(first, last):
            a, b, c, d = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            for begin in range(0, blocks, 8):
                numbers, scales = at, at + num_bytes
                e, f, g, h = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
                for block in range(begin, min(begin + 8, blocks)):
                    fetch_ahead(at)
                    z, v = scales + 16 * (block - begin), steps + 4 * block
                    p, q, r, t = dot_tile(numbers, z, x + 32 * block, offsets + 8 * block, x_stride)
                    e = fma(to_f32(p), repeat_f32(v), e)
                    f = fma(to_f32(q), repeat_f32(v + x_stride), f)
                    g = fma(to_f32(r), repeat_f32(v + 2 * x_stride), g)
                    h = fma(to_f32(t), repeat_f32(v + 3 * x_stride), h)
                    numbers += block_bytes
                    at += eighth
                s = load_f16x8(scales + D_AT)
                a, b, c, d = fma(e, s, a), fma(f, s, b), fma(g, s, c), fma(h, s, d)
                a, b, c, d = finish_tile(a, b, c, d, scales, sums + 4 * begin, x_stride)
            to = y + 32 * group
            _finish(to, a, adds)
            _finish(to + y_stride, b, adds)
            _finish(to + 2 * y_stride, c, adds)
            _finish(to + 3 * y_stride, d, adds)

    return matvec, {TILE: matmul}


# ---- entries: a product and a dequantised row for each type ---------------------------------------------------------


def _product(matvec: Any, tiles: dict[int, Any]) -> Any:
    """The entry `multiply_*` for a type of weights."""
    largest, smallest = max(tiles), min(tiles)
    pass_large, pass_small = _pass(largest, tiles[largest]), _pass(smallest, tiles[smallest])

    @entry
    def multiply(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds):
        """y[t] = W x[t] (y += where `adds`) for row groups first..last-1. Strides in bytes; `x`: records, if quantised.

        With many tokens it takes a few groups at a time: their weights stay in the L2 cache while the tokens pass by, in tiles
        of two sizes and alone, and runs of tokens are short enough to stay there too.
        """
        run = max(largest, L2_BYTES // x_stride // largest * largest)
        step = last - first if tokens == 1 else NUM_GROUPS
        for begin in range(0, tokens, run):
            end = min(begin + run, tokens)
            for group in range(first, last, max(1, step)):
                until = min(group + step, last)
                done = pass_large(w, columns, x, x_stride, begin, end, y, y_stride, group, until, adds)
                done = pass_small(w, columns, x, x_stride, done, end, y, y_stride, group, until, adds)
                for t in range(done, end):
                    matvec(w, columns, x + t * x_stride, y + t * y_stride, group, until, adds)
        return 0

    return multiply


def _pass(tile: int, matmul: Any) -> Any:
    """The kernel that multiplies tokens first_token..end-1 in whole tiles, and returns the first one that is left."""

    @kernel
    def pass_by(w, columns, x, x_stride, first_token, end, y, y_stride, first, last, adds):
        t = first_token
        while t + tile <= end:
            matmul(w, columns, x + t * x_stride, x_stride, y + t * y_stride, y_stride, first, last, adds)
            t += tile
        return t

    return pass_by


def _block_products(name: str, dot: Any, dot_tile: Any, scale: Any, block_bytes: int, scale_bytes: int) -> Products:
    """The products of this CPU's level."""
    if not vnni.TILES:
        return _quantised_products(dot, dot_tile, scale, block_bytes, scale_bytes)
    tiles = {tokens: vnni.tile_product(name, block_bytes, scale_bytes, tokens) for tokens in vnni.TILES}
    alone = tiles.pop(1)

    @kernel
    def matvec(w, columns, x, y, first, last, adds):
        alone(w, columns, x, 0, y, 0, first, last, adds)

    return matvec, tiles


multiply_f32 = _product(*_float_products(load_f32x8, 4))
multiply_f16 = _product(*_float_products(load_f16x8, 2))
multiply_bf16 = _product(*_float_products(load_bf16x8, 2))
multiply_q8_0 = _product(*_block_products("q8_0", _dot_bytes, _dot_bytes_tile, _scale_q8_0, 256, 16))
multiply_q4_0 = _product(*_block_products("q4_0", _dot_nibbles, _dot_nibbles_tile, _scale_q4_0, 128, 16))
multiply_q4_1 = _product(*_block_products("q4_1", _dot_nibbles, _dot_nibbles_tile, _scale_q4_1, 128, 32))
multiply_q4_k = _product(
    *_superblock_products(_dot_q4_k, _dot_q4_k_tile, _less_minimums, _less_minimums_tile, Q4_K_NUMBERS, Q4_K_BYTES)
)
multiply_q5_k = _product(
    *_superblock_products(_dot_q5_k, _dot_q5_k_tile, _less_minimums, _less_minimums_tile, Q5_K_NUMBERS, Q5_K_BYTES)
)
multiply_q6_k = _product(
    *_superblock_products(_dot_q6_k, _dot_q6_k_tile, _no_minimums, _no_minimums_tile, Q6_K_NUMBERS, Q6_K_BYTES)
)


def _dequantize_row(weight: Any) -> Any:
    """The entry `dequantize_row_*` for a type of weights; `weight` reads one weight of a packed matrix as float32."""

    @entry
    def dequantize_row(w, columns, row, size, out):
        """The first `size` numbers of a row as float32: the embedding of a token."""
        for column in range(size):
            store_f32(out + 4 * column, weight(w, columns, row, column))
        return 0

    return dequantize_row


def _float_weight(load: Any, size: int) -> Any:
    @inline
    def weight(w, columns, row, column):
        return load(w + ((row // 8 * columns + column) * 8 + row % 8) * size)

    return weight


@inline
def _load_bf16(address):
    return np.uint32(np.uint32(load_u16(address)) << 16).view(np.float32)


@inline
def _weight_q8_0(w, columns, row, column):
    blocks, block, lane = columns // 32, column // 32, row % 8
    at = w + row // 8 * blocks * 272
    q = np.int8(load_u8(at + ((block * 8 + column % 32 // 4) * 8 + lane) * 4 + column % 4))
    return load_f16(at + blocks * 256 + (block * 8 + lane) * 2) * np.float32(q)


@inline
def _nibble_of_block(block, lane, column):
    """Number `column` of 32 of a block of nibbles: Q4_0, Q4_1 and Q4_K."""
    quad = column // 4
    both = load_u8(block + (quad % 4 * 8 + lane) * 4 + column % 4)
    return (both >> 4) if quad >= 4 else (both & 15)


@inline
def _weight_q4_0(w, columns, row, column):
    blocks, block, lane = columns // 32, column // 32, row % 8
    at = w + row // 8 * blocks * 144
    nibble = np.float32(_nibble_of_block(at + 128 * block, lane, column % 32))
    return load_f16(at + blocks * 128 + block * 16 + lane * 2) * (nibble - np.float32(8.0))


@inline
def _weight_q4_1(w, columns, row, column):
    blocks, block, lane = columns // 32, column // 32, row % 8
    at = w + row // 8 * blocks * 160
    nibble = np.float32(_nibble_of_block(at + 128 * block, lane, column % 32))
    scales = at + blocks * 128 + block * 32 + lane * 2
    return load_f16(scales) * nibble + load_f16(scales + 16)


def _superblock_weight(weight: Any, superblock_bytes: int) -> Any:
    """`weight` reads one of a lane's 256 weights of the superblock at an address."""

    @inline
    def read(w, columns, row, column):
        superblock = row // 8 * (columns // 256) + column // 256
        return weight(w + superblock * superblock_bytes, row % 8, column % 256)

    return read


@inline
def _weight_q4_k(at, lane, column):
    block = column // 32
    return _affine(at + Q4_K_NUMBERS, block, lane, _nibble_of_block(at + 128 * block, lane, column % 32))


@inline
def _weight_q5_k(at, lane, column):
    block, quad, byte = column // 32, column % 32 // 4, 4 * lane + column % 4
    bit = load_u8(at + 160 * block + 128 + byte) >> quad & 1
    return _affine(at + Q5_K_NUMBERS, block, lane, _nibble_of_pair(at + 160 * block + byte, quad) + 16 * bit)


@inline
def _weight_q6_k(at, lane, column):
    run, quad, byte = column // 16, column % 16 // 4, 4 * lane + column % 4
    bits = load_u8(at + 96 * run + 64 + byte) >> 2 * quad & 3
    scales = at + Q6_K_NUMBERS
    scale = load_f16(scales + D_AT + 2 * lane) * np.float32(np.int8(load_u8(scales + 8 * run + lane)))
    return scale * np.float32(_nibble_of_pair(at + 96 * run + byte, quad) + 16 * bits - Q6_K_ZERO)


@inline
def _nibble_of_pair(pairs, quad):
    both = load_u8(pairs + quad // 2 * 32)
    return (both >> 4) if quad % 2 else (both & 15)


@inline
def _affine(scales, block, lane, number):
    """d * scale * number - dmin * minimum"""
    scale = load_f16(scales + D_AT + 2 * lane) * np.float32(load_u8(scales + 16 * block + lane))
    minimum = load_f16(scales + DMIN_AT + 2 * lane) * np.float32(load_u8(scales + 16 * block + 8 + lane))
    return scale * np.float32(number) - minimum


dequantize_row_f32 = _dequantize_row(_float_weight(load_f32, 4))
dequantize_row_f16 = _dequantize_row(_float_weight(load_f16, 2))
dequantize_row_bf16 = _dequantize_row(_float_weight(_load_bf16, 2))
dequantize_row_q8_0 = _dequantize_row(_weight_q8_0)
dequantize_row_q4_0 = _dequantize_row(_weight_q4_0)
dequantize_row_q4_1 = _dequantize_row(_weight_q4_1)
dequantize_row_q4_k = _dequantize_row(_superblock_weight(_weight_q4_k, Q4_K_BYTES))
dequantize_row_q5_k = _dequantize_row(_superblock_weight(_weight_q5_k, Q5_K_BYTES))
dequantize_row_q6_k = _dequantize_row(_superblock_weight(_weight_q6_k, Q6_K_BYTES))
