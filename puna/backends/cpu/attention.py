"""Attention over paged keys and values: four rows at a time, span by span.

A row is a query head of a token. Rows that share a KV head (grouped queries, neighbouring tokens of a prompt) load it once;
a single row has kernels of its own.
A page of one layer and KV head holds keys [head_dim][page_size], so that a vector's lanes are eight tokens, then values
[page_size][padded head_dim], so that they are eight numbers of the output.

Attention cuts a row's positions into spans, at the same bounds for every row. Each span has its own softmax, and the spans are
added in order (Milakov and Gimelshein 2018, arXiv 1805.02867), so a row's bits depend on nothing else. With fewer tiles than
threads can share evenly, threads share out the spans instead ("Flash-Decoding", Dao et al. 2023).

int8 keeps a scale for each token's key and value, the largest magnitude / 127, behind the page's values: float32 [page_size] for
keys, then for values. Scores are multiplied by the keys' scales, and softmax's weights by the values'. What
makes a key's numbers alike before: `smoothing.py`.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.layout import TILE_ROWS
from puna.backends.cpu.simd import (
    absolute,
    add,
    call,
    exp,
    fma,
    keep_lanes,
    load_f16x8,
    load_f32,
    load_f32x8,
    load_i8x8,
    load_i32,
    load_u8,
    max_lanes,
    maximum,
    mul,
    prefetch,
    repeat_f32,
    round_i32,
    splat_f32,
    store_f16,
    store_f32,
    store_f32x8,
    store_i8x8,
    store_u8,
    sub,
    sum_lanes,
)

SMALLEST = np.float32(1e-30)  # a head whose numbers are all below it becomes 0 in int8
LOWEST = np.float32(-3.0e38)  # below every score; finite, so that its difference with itself is 0


@kernel
def _softmax(scores, count, reach, slots, state):
    """Turn a row's scores over a span into weights relative to their maximum; write maximum and sum to `state`.

    Of the `slots`, the row sees the last `reach` before number `count`; the others become 0.
    """
    begin = max(count - reach, 0)
    if min(count, slots) <= begin:
        for slot in range(0, slots, 8):
            store_f32x8(scores + 4 * slot, splat_f32(0.0))
        store_f32(state, LOWEST)
        store_f32(state + 4, np.float32(0.0))
        return
    for slot in range(begin):
        store_f32(scores + 4 * slot, LOWEST)
    largest = splat_f32(LOWEST)
    for slot in range(0, slots, 8):
        v = keep_lanes(load_f32x8(scores + 4 * slot), count - slot, LOWEST)
        store_f32x8(scores + 4 * slot, v)
        largest = maximum(largest, v)
    now = max_lanes(largest)
    top = splat_f32(now)
    total = splat_f32(0.0)
    for slot in range(0, slots, 8):
        v = keep_lanes(exp(sub(load_f32x8(scores + 4 * slot), top)), count - slot, np.float32(0.0))
        store_f32x8(scores + 4 * slot, v)
        total = add(total, v)
    store_f32(state, now)
    store_f32(state + 4, sum_lanes(total))


@kernel
def _leave(numbers, row, rows, scales, count):
    """Floats have no scales."""


@kernel
def _scale(numbers, row, rows, scales, count):
    """Multiply `count` numbers of each of the rows, `row` bytes apart, by the scales of their tokens."""
    for i in range(rows):
        for slot in range(0, count, 8):
            at = numbers + i * row + 4 * slot
            store_f32x8(at, mul(load_f32x8(at), load_f32x8(scales + 4 * slot)))


@kernel
def _quantise_head(x, count, to):
    """Write round(x * 127 / max|x|), ties to even, as int8, and zeros up to a multiple of 8.

    Returns the scale: max|x| / 127, or NaN if a number is not finite, so that the logits tell of it. Reads up to 7 numbers after
    the head's.
    """
    top, poison = splat_f32(0.0), splat_f32(0.0)
    for i in range(0, count, 8):
        v = keep_lanes(load_f32x8(x + 4 * i), count - i, np.float32(0.0))
        top, poison = maximum(top, absolute(v)), fma(v, splat_f32(0.0), poison)
    largest = max_lanes(top)
    inverse = splat_f32(np.float32(127.0) / largest if largest > SMALLEST else np.float32(0.0))
    for i in range(0, count, 8):
        v = keep_lanes(load_f32x8(x + 4 * i), count - i, np.float32(0.0))
        store_i8x8(to + i, round_i32(mul(v, inverse)))
    return largest * np.float32(1 / 127) + sum_lanes(poison)


@kernel
def page_at(position, pages, page_base, page_stride, page_size):
    return page_base + np.int64(load_i32(pages + 4 * (position // page_size))) * page_stride


@kernel
def exp_f32(x):
    return sum_lanes(exp(splat_f32(x))) * np.float32(0.125)


@kernel
def fold(sums, later, width, rows):
    """Add the sums of a later span to those of earlier ones. A row that saw no position of either does not change."""
    for row in range(rows):
        state = 4 * (TILE_ROWS * width + 2 * row)
        if load_f32(later + state + 4) == np.float32(0.0):
            continue
        now = max(load_f32(sums + state), load_f32(later + state))
        keep, add_up = exp_f32(load_f32(sums + state) - now), exp_f32(load_f32(later + state) - now)
        ours, theirs = sums + 4 * row * width, later + 4 * row * width
        for i in range(0, 4 * width, 32):
            store_f32x8(ours + i, fma(load_f32x8(theirs + i), splat_f32(add_up), mul(load_f32x8(ours + i), splat_f32(keep))))
        total = load_f32(sums + state + 4) * keep + load_f32(later + state + 4) * add_up
        store_f32(sums + state, now)
        store_f32(sums + state + 4, total)


@kernel
def normalise(sums, width, rows):
    """The outputs: divide each row's sums by its total."""
    for row in range(rows):
        factor = splat_f32(np.float32(1.0) / load_f32(sums + 4 * (TILE_ROWS * width + 2 * row) + 4))
        for i in range(4 * row * width, 4 * (row + 1) * width, 32):
            store_f32x8(sums + i, mul(load_f32x8(sums + i), factor))


def _attention(load: Callable[..., Any], size: int, scale_rows: Callable[..., Any] = _leave) -> Any:
    """The kernel `attend_span` for K/V pages whose numbers have `size` bytes. `scale_rows` applies the scales of tokens."""

    @kernel
    def scores_of_page(q0, q1, q2, q3, keys, head_dim, page_size, slots, scale, scores, row, ahead):
        s = splat_f32(scale)
        for slot in range(0, slots, 16):
            a0, a1, a2, a3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            b0, b1, b2, b3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
            at = keys + slot * size
            for i in range(head_dim):
                k, m = load(at), load(at + 8 * size)
                v = repeat_f32(q0 + 4 * i)
                a0, b0 = fma(k, v, a0), fma(m, v, b0)
                v = repeat_f32(q1 + 4 * i)
                a1, b1 = fma(k, v, a1), fma(m, v, b1)
                v = repeat_f32(q2 + 4 * i)
                a2, b2 = fma(k, v, a2), fma(m, v, b2)
                v = repeat_f32(q3 + 4 * i)
                a3, b3 = fma(k, v, a3), fma(m, v, b3)
                prefetch(at + ahead)
                at += page_size * size
            to = scores + 4 * slot
            store_f32x8(to, mul(a0, s))
            store_f32x8(to + 32, mul(b0, s))
            store_f32x8(to + row, mul(a1, s))
            store_f32x8(to + row + 32, mul(b1, s))
            store_f32x8(to + 2 * row, mul(a2, s))
            store_f32x8(to + 2 * row + 32, mul(b2, s))
            store_f32x8(to + 3 * row, mul(a3, s))
            store_f32x8(to + 3 * row + 32, mul(b3, s))

    @kernel
    def add_values(weights, step, values, width, count, sums, ahead):
        row = 4 * width
        for i in range(0, width, 16):
            to = sums + 4 * i
            a0, b0 = load_f32x8(to), load_f32x8(to + 32)
            a1, b1 = load_f32x8(to + row), load_f32x8(to + row + 32)
            a2, b2 = load_f32x8(to + 2 * row), load_f32x8(to + 2 * row + 32)
            a3, b3 = load_f32x8(to + 3 * row), load_f32x8(to + 3 * row + 32)
            for slot in range(count):
                at = values + (slot * width + i) * size
                prefetch(at + ahead)
                k, m = load(at), load(at + 8 * size)
                p = weights + 4 * slot
                v = repeat_f32(p)
                a0, b0 = fma(k, v, a0), fma(m, v, b0)
                v = repeat_f32(p + step)
                a1, b1 = fma(k, v, a1), fma(m, v, b1)
                v = repeat_f32(p + 2 * step)
                a2, b2 = fma(k, v, a2), fma(m, v, b2)
                v = repeat_f32(p + 3 * step)
                a3, b3 = fma(k, v, a3), fma(m, v, b3)
            store_f32x8(to, a0)
            store_f32x8(to + 32, b0)
            store_f32x8(to + row, a1)
            store_f32x8(to + row + 32, b1)
            store_f32x8(to + 2 * row, a2)
            store_f32x8(to + 2 * row + 32, b2)
            store_f32x8(to + 3 * row, a3)
            store_f32x8(to + 3 * row + 32, b3)

    @kernel
    def scores_of_page_alone(q, keys, head_dim, page_size, slots, scale, scores, ahead):
        """`scores_of_page` for one row."""
        s = splat_f32(scale)
        for slot in range(0, slots, 16):
            a, b = splat_f32(0.0), splat_f32(0.0)
            at = keys + slot * size
            for i in range(head_dim):
                v = repeat_f32(q + 4 * i)
                a, b = fma(load(at), v, a), fma(load(at + 8 * size), v, b)
                prefetch(at + ahead)
                at += page_size * size
            store_f32x8(scores + 4 * slot, mul(a, s))
            store_f32x8(scores + 4 * slot + 32, mul(b, s))

    @kernel
    def add_values_alone(weights, values, width, count, sums, ahead):
        """`add_values` for one row."""
        for i in range(0, width, 16):
            to = sums + 4 * i
            a, b = load_f32x8(to), load_f32x8(to + 32)
            for slot in range(count):
                at = values + (slot * width + i) * size
                prefetch(at + ahead)
                v = repeat_f32(weights + 4 * slot)
                a, b = fma(load(at), v, a), fma(load(at + 8 * size), v, b)
            store_f32x8(to, a)
            store_f32x8(to + 32, b)

    @kernel
    def attend_span(
        q0, q1, q2, q3, p0, p1, p2, p3, alone, window, first, end, last, pages, page_base, page_stride, page_size, span, head_dim,
        scale, softcap, cap, scores, sums,
    ):  # fmt: skip
        """Attend a tile to positions first..end-1 of the pages that `pages` (int32) names: query heads at addresses q*, at
        positions p*. `alone`: only the first head counts. `last`: a position whose page may be prefetched.

        Each row sees the last `window` positions, its own included. Page number n lies at page_base + n * page_stride. Scores
        are multiplied by `scale`; with a `cap` other than 0 they go through the entry `softcap`.
        The code prefetches: pages lie apart, and the hardware's prefetcher stops at each 4 KiB. Afterwards `sums` holds, as
        `fold` reads them, each row's weighted values (`width` floats), maximum and total.
        """
        width = -(-head_dim // 16) * 16
        state, row = sums + 4 * TILE_ROWS * width, 4 * span
        begin = first // page_size * page_size
        slots = (end - begin + 15) // 16 * 16
        value_bytes = head_dim * page_size * size  # from a page's keys to its values
        rows, scales_at = 1 if alone else TILE_ROWS, value_bytes + width * page_size * size
        for at in range(begin, end, page_size):
            page = page_at(at, pages, page_base, page_stride, page_size)
            if at + page_size < end:
                ahead = page_at(at + page_size, pages, page_base, page_stride, page_size) - page
            else:  # the values come next
                ahead = page_at(begin, pages, page_base, page_stride, page_size) + value_bytes - page
            to, count = scores + 4 * (at - begin), min(page_size, slots - (at - begin))
            if alone:
                scores_of_page_alone(q0, page, head_dim, page_size, count, scale, to, ahead)
            else:
                scores_of_page(q0, q1, q2, q3, page, head_dim, page_size, count, scale, to, row, ahead)
            scale_rows(to, row, rows, page + scales_at, count)
        if cap != 0:
            for i in range(rows):
                call(softcap, scores + i * row, slots, cap)
        for i in range(0, 4 * TILE_ROWS * width, 32):
            store_f32x8(sums + i, splat_f32(0.0))
        _softmax(scores, p0 + 1 - begin, window, slots, state)
        if not alone:
            _softmax(scores + row, p1 + 1 - begin, window, slots, state + 8)
            _softmax(scores + 2 * row, p2 + 1 - begin, window, slots, state + 16)
            _softmax(scores + 3 * row, p3 + 1 - begin, window, slots, state + 24)
        for at in range(begin, end, page_size):
            values = page_at(at, pages, page_base, page_stride, page_size) + value_bytes
            ahead = page_at(min(at + page_size, last), pages, page_base, page_stride, page_size) - values
            if at + page_size < end:
                ahead += value_bytes
            weights, count = scores + 4 * (at - begin), min(page_size, end - at)
            scale_rows(weights, row, rows, values - value_bytes + scales_at + 4 * page_size, count)
            if alone:
                add_values_alone(weights, values, width, count, sums, ahead)
            else:
                add_values(weights, row, values, width, count, sums, ahead)

    return attend_span


def _writer(store: Callable[..., Any], size: int) -> Any:
    """The entry `write_kv` of floats."""

    @entry
    def write_kv(k, v, page, page_size, head_dim, slot, first, last):
        """Write numbers first..last-1 of a key and a value into their slot of the page."""
        values = page + (head_dim * page_size + slot * (-(-head_dim // 16) * 16)) * size
        for i in range(first, last):
            store(page + (i * page_size + slot) * size, load_f32(k + 4 * i))
            store(values + i * size, load_f32(v + 4 * i))
        return 0

    return write_kv


@entry
def write_kv_int8(k, v, page, page_size, head_dim, slot, first, last):
    """Write a key and a value, which must be whole, and their scales into their slot of the page."""
    width = -(-head_dim // 16) * 16
    values = page + head_dim * page_size + slot * width
    scales = page + (head_dim + width) * page_size + 4 * slot
    store_f32(scales, _quantise_head(k, head_dim, values))  # there for a moment: in the page, a key's numbers lie apart
    for i in range(head_dim):
        store_u8(page + i * page_size + slot, load_u8(values + i))
    store_f32(scales + 4 * page_size, _quantise_head(v, head_dim, values))
    return 0


write_kv_f16, attend_span_f16 = _writer(store_f16, 2), _attention(load_f16x8, 2)
write_kv_f32, attend_span_f32 = _writer(store_f32, 4), _attention(load_f32x8, 4)
attend_span_int8 = _attention(load_i8x8, 1, _scale)
