"""A layer's attention: the tiles of rows, which thread takes which, and where the sums of their spans meet.

A tile is some rows of a sequence and KV head: query heads of a group, of neighbouring tokens. `attention.py` does the arithmetic.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np

from puna.backends.cpu.attention import STRIP, attend_span_f16, attend_span_f32, attend_span_int8, fold, normalise
from puna.backends.cpu.barrier import barrier
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.job import read_layer, read_memory, read_sizes, read_tile, share
from puna.backends.cpu.kernels import copy_row
from puna.backends.cpu.layout import EVEN, TILE_ROWS
from puna.backends.cpu.simd import load_f32x8, load_i32, load_i64, mul, splat_f32, store_f32x8, store_i32

UNLIMITED = 1 << 40  # positions: the window of a layer that has none


def _attention(attend_span: Any) -> Any:
    """The entry `attend_*` for a type of K and V."""

    @kernel
    def attend_spans(memory, sizes, layer, number, sequence, kv_head, tile, rows, begin, end, first, last, partials):
        """Spans first..last-1 of those that the tile sees, of positions begin..end-1. The sums of each span go to `partials`, or,
        if that is 0, into the sums of the tile."""
        table = memory.tables + sequence * sizes.table_stride
        base = memory.kv + number * sizes.layer_bytes + kv_head * sizes.head_bytes
        width, grid = (sizes.head_dim + 15) // 16 * 16, begin // sizes.span * sizes.span
        for i in range(first, last):
            at, sums = grid + i * sizes.span, tile.sums if i == 0 else tile.later
            attend_span(
                tile, rows, _window(layer), max(at, begin), min(at + sizes.span, end), end - 1, table, base, sizes.page_bytes,
                sizes.page_size, sizes.span, sizes.head_dim, memory.softcap, layer.softcap, sums,
            )  # fmt: skip
            if partials != 0:
                copy_row(sums, rows * sizes.sum_bytes // 4, partials + i * rows * sizes.sum_bytes)
            elif i > 0:
                for row in range(0, rows * sizes.sum_bytes, sizes.sum_bytes):
                    fold(tile.sums + row, tile.later + row, width)

    @entry
    def attend(memory_address, sizes_address, number, thread):
        """All tiles of layer `number`, dealt out to the threads: whole, or span by span where there are few.

        The sums are the same either way; dealt-out spans leave theirs in `partials`, and a second pass adds them up.
        """
        memory, sizes = read_memory(memory_address), read_sizes(sizes_address)
        layer, tile = read_layer(memory, number), read_tile(memory, thread)
        tile_rows, num_spans, deals_spans = _deal(memory, sizes, _window(layer))
        mine, others = share(num_spans, thread, sizes.threads)
        span, partials = 0, memory.partials
        for sequence in range(load_i64(memory.job + 8)):
            start, sequence_rows = _rows_of(memory, sizes, sequence)
            for kv_head in range(sizes.num_kv_heads):
                for row in range(0, sequence_rows, tile_rows):
                    rows = min(tile_rows, sequence_rows - row)
                    begin, end = _seen_by_tile(memory, sizes, _window(layer), start, row, rows)
                    count = _num_spans(sizes, begin, end)
                    first, last = max(mine - span, 0), min(others - span, count)
                    if not deals_spans:  # who has a tile's first span has all
                        first, last = (0, count) if mine <= span < others else (0, 0)
                    if first < last:
                        _gather(memory, sizes, layer, tile, start, kv_head, row, rows)
                        to = partials if deals_spans else 0
                        attend_spans(memory, sizes, layer, number, sequence, kv_head, tile, rows, begin, end, first, last, to)
                        if not deals_spans:
                            for i in range(rows):
                                _store(memory, sizes, start, kv_head, row + i, tile.sums + i * sizes.sum_bytes)
                    span += count
                    partials += count * rows * sizes.sum_bytes
        if deals_spans:
            barrier(memory.control, sizes.threads)
            _add_up(memory, sizes, _window(layer), tile_rows, thread)
        return 0

    return attend


@kernel
def _window(layer):
    """The positions that a row sees, its own included."""
    return layer.window if layer.window > 0 else UNLIMITED


@kernel
def _rows_of(memory, sizes, sequence):
    """A sequence's first token, and its rows for each KV head, in the order of their positions."""
    start, end = np.int64(load_i32(memory.starts + 4 * sequence)), np.int64(load_i32(memory.starts + 4 * sequence + 4))
    return start, (end - start) * (sizes.num_heads // sizes.num_kv_heads)


@kernel
def _deal(memory, sizes, window):
    """How threads share the work: the rows of a tile, the number of spans of all tiles, and whether spans are dealt out: if tiles
    are too few to share evenly, and the sums of all spans fit into `partials`."""
    rows = load_i64(memory.job) * sizes.num_heads
    most = min(rows, TILE_ROWS)
    tiles, spans, longest, partials = _count(memory, sizes, window, most)
    if sizes.threads == 1 or longest * sizes.threads * EVEN <= spans:
        return most, spans, False
    if tiles < spans and partials <= sizes.num_partials:
        return most, spans, True
    tile_rows = min((rows // (EVEN * sizes.threads) + STRIP) // STRIP * STRIP, most)
    return tile_rows, _count(memory, sizes, window, tile_rows)[1], False


@kernel
def _count(memory, sizes, window, tile_rows):
    """With tiles of so many rows: tiles, spans of all tiles, the most spans of a tile, and rows of all spans."""
    tiles, spans, longest, partials = 0, 0, 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start, sequence_rows = _rows_of(memory, sizes, sequence)
        for row in range(0, sequence_rows, tile_rows):
            rows = min(tile_rows, sequence_rows - row)
            begin, end = _seen_by_tile(memory, sizes, window, start, row, rows)
            count = _num_spans(sizes, begin, end)
            tiles += sizes.num_kv_heads
            spans += count * sizes.num_kv_heads
            longest = max(longest, count)
            partials += count * rows * sizes.num_kv_heads
    return tiles, spans, longest, partials


@kernel
def _num_spans(sizes, begin, end):
    return (end - 1) // sizes.span - begin // sizes.span + 1


@kernel
def _seen_by_tile(memory, sizes, window, start, row, rows):
    """The positions that the tile's rows see: first, end."""
    per_kv = sizes.num_heads // sizes.num_kv_heads
    nearest = np.int64(load_i32(memory.positions + 4 * (start + row // per_kv)))
    furthest = np.int64(load_i32(memory.positions + 4 * (start + (row + rows - 1) // per_kv)))
    return max(0, nearest + 1 - window), furthest + 1


@kernel
def _gather(memory, sizes, layer, tile, start, kv_head, row, rows):
    """Copy the tile's rows of q, times the scale of scores, and their positions."""
    stride, scale = 4 * ((sizes.head_dim + 7) // 8 * 8), splat_f32(np.float32(layer.scale))
    for i in range(rows):
        token, head = _token_and_head(sizes, start, kv_head, row + i)
        store_i32(tile.positions + 4 * i, load_i32(memory.positions + 4 * token))
        q, to = memory.qkv + token * sizes.qkv_stride + 4 * head * sizes.head_dim, tile.q + i * stride
        for at in range(0, stride, 32):
            store_f32x8(to + at, mul(load_f32x8(q + at), scale))


@kernel
def _add_up(memory, sizes, window, tile_rows, thread):
    """Add up the spans of each row in order; threads share the rows."""
    partials, number = memory.partials, 0
    for sequence in range(load_i64(memory.job + 8)):
        start, sequence_rows = _rows_of(memory, sizes, sequence)
        for kv_head in range(sizes.num_kv_heads):
            for row in range(0, sequence_rows, tile_rows):
                rows = min(tile_rows, sequence_rows - row)
                begin, end = _seen_by_tile(memory, sizes, window, start, row, rows)
                step = rows * sizes.sum_bytes
                count = _num_spans(sizes, begin, end)
                for i in range(rows):
                    if number % sizes.threads == thread:
                        sums = partials + i * sizes.sum_bytes
                        for later in range(1, count):
                            fold(sums, sums + later * step, (sizes.head_dim + 15) // 16 * 16)
                        _store(memory, sizes, start, kv_head, row + i, sums)
                    number += 1
                partials += count * step


@kernel
def _store(memory, sizes, start, kv_head, row, sums):
    """Write the output of a row."""
    token, head = _token_and_head(sizes, start, kv_head, row)
    to = memory.attended + token * sizes.attended_stride + 4 * head * sizes.head_dim
    normalise(sums, (sizes.head_dim + 15) // 16 * 16, sizes.head_dim, to)


@kernel
def _token_and_head(sizes, start, kv_head, row):
    per_kv = sizes.num_heads // sizes.num_kv_heads
    return start + row // per_kv, kv_head * per_kv + row % per_kv


attend_f16, attend_f32, attend_int8 = _attention(attend_span_f16), _attention(attend_span_f32), _attention(attend_span_int8)
