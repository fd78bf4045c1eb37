"""Attention over paged keys and values: a tile of rows, span by span.

A row is a query head of a token. The rows of a tile share a KV head (grouped queries, neighbouring tokens of a prompt).
A page of one layer and KV head holds keys [head_dim][page_size], so that a vector's lanes are eight tokens, then values
[page_size][padded head_dim], so that they are eight numbers of the output.

Few rows multiply the pages as they are, and all of them use a page while it is in the cache. Many rows unpack a span's keys and
values once to float32, so that they share the conversion, and read panels whose rows follow each other (the blocks of
FlashAttention, Dao et al. 2022, arXiv 2205.14135). Both add the same products in the same order.

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
from puna.backends.cpu.register_tile import NUMBERS, product
from puna.backends.cpu.simd import (
    absolute,
    add,
    call,
    exp,
    first_lane,
    fma,
    keep_lanes,
    larger,
    largest_lane,
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
FEW_ROWS = 8  # of a tile that multiplies pages as they are
STRIP = 6  # rows that are multiplied together in larger tiles
COLUMNS = 16  # of a panel
WIDE = 32  # columns that up to three rows multiply together

multiply_strip = product(STRIP, COLUMNS // 8, NUMBERS["f32"], prefetches=False)


# ---- the sums of a row ----------------------------------------------------------------------------------------------


@kernel
def exp_f32(x):
    return first_lane(exp(splat_f32(x)))


@kernel
def _see_nothing(state):
    store_f32(state, LOWEST)
    store_f32(state + 4, np.float32(0.0))


@kernel
def fold(sums, later, width):
    """Add a row's sums of a later span to those of earlier ones: `width` weighted values, the maximum, and the total of weights.
    A row that saw no position of the later one does not change."""
    state, later_state = sums + 4 * width, later + 4 * width
    if load_f32(later_state + 4) == np.float32(0.0):
        return
    now = max(load_f32(state), load_f32(later_state))
    keep, add_up = exp_f32(load_f32(state) - now), exp_f32(load_f32(later_state) - now)
    for i in range(0, 4 * width, 32):
        store_f32x8(sums + i, fma(load_f32x8(later + i), splat_f32(add_up), mul(load_f32x8(sums + i), splat_f32(keep))))
    store_f32(state + 4, load_f32(state + 4) * keep + load_f32(later_state + 4) * add_up)
    store_f32(state, now)


@kernel
def normalise(sums, width, head_dim, to):
    """Write a row's output: its sums divided by its total."""
    factor = np.float32(1.0) / load_f32(sums + 4 * width + 4)
    whole = head_dim // 8 * 8
    for i in range(0, 4 * whole, 32):
        store_f32x8(to + i, mul(load_f32x8(sums + i), splat_f32(factor)))
    for i in range(4 * whole, 4 * head_dim, 4):
        store_f32(to + i, load_f32(sums + i) * factor)


# ---- scales of int8 -------------------------------------------------------------------------------------------------


@kernel
def _no_scales(page, page_size, scales, span):
    """Floats have no scales."""


@kernel
def _leave(scores, count, scales):
    """Floats have no scales."""


@kernel
def _same(weights, scales):
    return weights


@kernel
def _copy_scales(page_scales, page_size, scales, span):
    """Append the scales of a page's keys, and those of its values, to the span's."""
    for slot in range(0, 4 * page_size, 32):
        store_f32x8(scales + slot, load_f32x8(page_scales + slot))
        store_f32x8(scales + 4 * span + slot, load_f32x8(page_scales + 4 * page_size + slot))


@kernel
def _scale(scores, count, scales):
    for slot in range(0, 4 * count, 32):
        store_f32x8(scores + slot, mul(load_f32x8(scores + slot), load_f32x8(scales + slot)))


@kernel
def _scaled(weights, scales):
    return mul(weights, load_f32x8(scales))


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


# ---- a span ---------------------------------------------------------------------------------------------------------


@kernel
def page_at(position, pages, page_base, page_stride, page_size):
    return page_base + np.int64(load_i32(pages + 4 * (position // page_size))) * page_stride


@kernel
def _seen(positions, row, last_row, window, begin, end):
    """The slots, counted from position `begin`, that some of the rows row..last_row see: first, in whole panels, and end."""
    nearest, furthest = np.int64(load_i32(positions + 4 * row)), np.int64(load_i32(positions + 4 * last_row))
    return max(nearest + 1 - window - begin, 0) // COLUMNS * COLUMNS, min(furthest + 1, end) - begin


def _attention(
    kv_type: str,
    load: Callable[..., Any],
    copy_scales: Callable[..., Any] = _no_scales,
    scale: Callable[..., Any] = _leave,
    scaled: Callable[..., Any] = _same,
) -> Any:
    """The kernel `attend_span` for K/V pages of a type, whose numbers `load` reads. The others apply the scales of tokens."""
    number = NUMBERS[kv_type]
    size = number.size
    multiply_1, multiply_3 = (product(rows, WIDE // 8, number, prefetches=True) for rows in (1, 3))
    multiply_4, multiply_6 = (product(rows, COLUMNS // 8, number, prefetches=True) for rows in (4, STRIP))

    @kernel
    def multiply_few(rows, columns, x, x_stride, w, w_stride, count, y, y_stride, is_first, ahead):
        """Up to FEW_ROWS rows: a tile may compute some more, which nobody reads."""
        wide = columns // WIDE * WIDE if rows <= 3 else 0
        for i in range(0, wide, WIDE):
            if rows == 1:
                multiply_1(x, x_stride, w + i * size, w_stride, count, y + 4 * i, y_stride, is_first, ahead)
            else:
                multiply_3(x, x_stride, w + i * size, w_stride, count, y + 4 * i, y_stride, is_first, ahead)
        for i in range(wide, columns, COLUMNS):
            if rows <= STRIP and rows != 4:
                multiply_6(x, x_stride, w + i * size, w_stride, count, y + 4 * i, y_stride, is_first, ahead)
            else:
                for row in range(0, rows, 4):
                    at, to = x + row * x_stride, y + row * y_stride + 4 * i
                    multiply_4(at, x_stride, w + i * size, w_stride, count, to, y_stride, is_first, ahead)

    @kernel
    def softmax(scores, first, last, begin, end, scales, state):
        """Turn a row's scores first..last-1, whole vectors, into weights relative to their maximum, times the scales of values;
        write maximum and sum to `state`. The row sees begin..end-1; the others become 0."""
        if max(begin, first) >= min(end, last):
            for slot in range(first, last, 8):
                store_f32x8(scores + 4 * slot, splat_f32(0.0))
            _see_nothing(state)
            return
        for slot in range(first, begin):
            store_f32(scores + 4 * slot, LOWEST)
        for slot in range(end // 8 * 8, last, 8):
            store_f32x8(scores + 4 * slot, keep_lanes(load_f32x8(scores + 4 * slot), end - slot, LOWEST))
        largest = splat_f32(LOWEST)
        for slot in range(first, last, 8):
            largest = larger(load_f32x8(scores + 4 * slot), largest)
        now = largest_lane(largest)
        top, total = splat_f32(now), splat_f32(0.0)
        for slot in range(first, last, 8):
            v = exp(sub(load_f32x8(scores + 4 * slot), top))
            total = add(total, v)
            store_f32x8(scores + 4 * slot, scaled(v, scales + 4 * slot))
        store_f32(state, now)
        store_f32(state + 4, sum_lanes(total))

    @kernel
    def weigh(tile, row, first, end, window, begin, span, softcap, cap, state):
        """Turn a row's scores of positions first..end-1 into weights. Slots count from position `begin`."""
        slot, last = first - begin, (end - begin + 7) // 8 * 8
        scores, seen = tile.scores + 4 * span * row, np.int64(load_i32(tile.positions + 4 * row)) + 1 - begin
        scale(scores + 4 * slot, last - slot, tile.scales + 4 * slot)
        if cap != 0:
            call(softcap, scores + 4 * slot, last - slot, cap)
        softmax(scores, slot, last, seen - window, seen, tile.scales + 4 * span, state)

    @kernel
    def attend_few(
        tile, rows, window, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim, softcap, cap, sums
    ):
        """A span of a tile of up to FEW_ROWS rows. The code prefetches: pages lie apart, and the hardware's prefetcher stops at
        each 4 KiB."""
        width = (head_dim + 15) // 16 * 16
        q_stride, stride, row_bytes = 4 * ((head_dim + 7) // 8 * 8), 4 * (width + 8), 4 * span
        value_bytes = head_dim * page_size * size  # from a page's keys to its values
        for at in range(begin, end, page_size):
            page = page_at(at, pages, page_base, page_stride, page_size)
            if at + page_size < end:
                ahead = page_at(at + page_size, pages, page_base, page_stride, page_size) - page
            else:  # the values come next
                ahead = page_at(begin, pages, page_base, page_stride, page_size) + value_bytes - page
            columns, y = (min(page_size, end - at) + COLUMNS - 1) // COLUMNS * COLUMNS, tile.scores + 4 * (at - begin)
            is_first = at < end  # always, but for a literal Numba would compile another kernel
            multiply_few(rows, columns, tile.q, q_stride, page, page_size * size, head_dim, y, row_bytes, is_first, ahead)
            copy_scales(page + value_bytes + width * page_size * size, page_size, tile.scales + 4 * (at - begin), span)
        for row in range(rows):
            weigh(tile, row, begin, end, window, begin, span, softcap, cap, sums + row * stride + 4 * width)
        for at in range(begin, end, page_size):
            values = page_at(at, pages, page_base, page_stride, page_size) + value_bytes
            ahead = page_at(min(at + page_size, last), pages, page_base, page_stride, page_size) - values
            if at + page_size < end:
                ahead += value_bytes
            weights, count = tile.scores + 4 * (at - begin), min(page_size, end - at)
            multiply_few(rows, width, weights, row_bytes, values, width * size, count, sums, stride, at == begin, ahead)

    @kernel
    def unpack(tile, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim):
        """Keys and values of begin..end-1, in whole pages, as float32 panels of COLUMNS columns."""
        width = (head_dim + 15) // 16 * 16
        value_bytes = head_dim * page_size * size
        for at in range(begin, end, page_size):
            page = page_at(at, pages, page_base, page_stride, page_size)
            ahead = page_at(min(at + page_size, last), pages, page_base, page_stride, page_size) - page
            for slot in range(0, page_size, COLUMNS):
                to, number = tile.keys + 4 * (at - begin + slot) * head_dim, page + slot * size
                for _ in range(head_dim):
                    prefetch(number + ahead)
                    store_f32x8(to, load(number))
                    store_f32x8(to + 32, load(number + 8 * size))
                    to, number = to + 4 * COLUMNS, number + page_size * size
            for i in range(0, width, COLUMNS):
                to, number = tile.values + 4 * (i * span + COLUMNS * (at - begin)), page + value_bytes + i * size
                for _ in range(page_size):
                    prefetch(number + ahead)
                    store_f32x8(to, load(number))
                    store_f32x8(to + 32, load(number + 8 * size))
                    to, number = to + 4 * COLUMNS, number + width * size
            copy_scales(page + value_bytes + width * page_size * size, page_size, tile.scales + 4 * (at - begin), span)

    @kernel
    def attend_many(
        tile, rows, window, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim, softcap, cap, sums
    ):
        """A span of a tile of more rows, in strips. A strip leaves out the positions that none of its rows sees."""
        width = (head_dim + 15) // 16 * 16
        q_stride, stride, row_bytes = 4 * ((head_dim + 7) // 8 * 8), 4 * (width + 8), 4 * span
        unpack(tile, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim)
        for slot in range(0, end - begin, COLUMNS):
            keys = tile.keys + 4 * slot * head_dim
            for row in range(0, rows, STRIP):
                first, until = _seen(tile.positions, row, min(row + STRIP, rows) - 1, window, begin, end)
                if first <= slot < until:
                    x, y = tile.q + row * q_stride, tile.scores + row * row_bytes + 4 * slot
                    multiply_strip(x, q_stride, keys, 4 * COLUMNS, head_dim, y, row_bytes, True, 0)
        for row in range(0, rows, STRIP):
            first, until = _seen(tile.positions, row, min(row + STRIP, rows) - 1, window, begin, end)
            for i in range(row, min(row + STRIP, rows)):
                weigh(tile, i, begin + first, begin + until, window, begin, span, softcap, cap, sums + i * stride + 4 * width)
        for i in range(0, width, COLUMNS):
            values = tile.values + 4 * i * span
            for row in range(0, rows, STRIP):
                first, until = _seen(tile.positions, row, min(row + STRIP, rows) - 1, window, begin, end)
                x, w, y = tile.scores + row * row_bytes + 4 * first, values + 4 * COLUMNS * first, sums + row * stride + 4 * i
                multiply_strip(x, row_bytes, w, 4 * COLUMNS, max(0, until - first), y, stride, True, 0)

    @kernel
    def attend_span(
        tile, rows, window, first, end, last, pages, page_base, page_stride, page_size, span, head_dim, softcap, cap, sums
    ):
        """Attend the tile's rows to positions first..end-1 of the pages that `pages` (int32) names. `last`: a position whose page
        may be prefetched.

        Each row sees the last `window` positions, its own included. Page number n lies at page_base + n * page_stride. With a
        `cap` other than 0 scores go through the entry `softcap`. Afterwards `sums` holds what `fold` reads of each row.
        """
        begin = first // page_size * page_size
        if rows <= FEW_ROWS:
            attend_few(
                tile, rows, window, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim, softcap, cap, sums
            )
        else:
            attend_many(
                tile, rows, window, begin, end, last, pages, page_base, page_stride, page_size, span, head_dim, softcap, cap, sums
            )

    return attend_span


# ---- writing K and V ------------------------------------------------------------------------------------------------


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


write_kv_f16, attend_span_f16 = _writer(store_f16, 2), _attention("f16", load_f16x8)
write_kv_f32, attend_span_f32 = _writer(store_f32, 4), _attention("f32", load_f32x8)
attend_span_int8 = _attention("int8", load_i8x8, _copy_scales, _scale, _scaled)
