"""A layer's attention: the tiles of rows, which thread takes which, and where the sums of their spans meet.

A tile is four rows (`attention.py` does the arithmetic): query heads of a group, of neighbouring tokens.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

import numpy as np

from puna.backends.cpu.attention import attend_span_f16, attend_span_f32, attend_span_int8, fold, normalise
from puna.backends.cpu.barrier import barrier
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.job import read_layer, read_memory, read_sizes, share
from puna.backends.cpu.layout import EVEN, TILE_ROWS
from puna.backends.cpu.simd import load_f32, load_i32, load_i64, store_f32


def _attention(attend_span: Any) -> Any:
    """The entry `attend_*` for a type of K and V."""

    @kernel
    def attend_tile(memory, sizes, number, sequence, start, kv_head, per_kv, row, rows, first, end, scores, sums):
        """Rows row..row+3 of a sequence and KV head over positions first..end-1; the last row fills the rest of the tile."""
        last = rows - 1
        t0, h0 = _token_and_head(row, start, kv_head, per_kv)
        t1, h1 = _token_and_head(min(row + 1, last), start, kv_head, per_kv)
        t2, h2 = _token_and_head(min(row + 2, last), start, kv_head, per_kv)
        t3, h3 = _token_and_head(min(row + 3, last), start, kv_head, per_kv)
        q, stride, row_bytes = memory.qkv, sizes.qkv_stride, 4 * sizes.head_dim
        q0, q1 = q + t0 * stride + h0 * row_bytes, q + t1 * stride + h1 * row_bytes
        q2, q3 = q + t2 * stride + h2 * row_bytes, q + t3 * stride + h3 * row_bytes
        p0, p1 = np.int64(load_i32(memory.positions + 4 * t0)), np.int64(load_i32(memory.positions + 4 * t1))
        p2, p3 = np.int64(load_i32(memory.positions + 4 * t2)), np.int64(load_i32(memory.positions + 4 * t3))
        table = memory.tables + sequence * sizes.table_stride
        base = memory.kv + number * sizes.layer_bytes + kv_head * sizes.head_bytes
        layer = read_layer(memory, number)
        reach = layer.window if layer.window > 0 else p3 + 1  # positions before p + 1 - reach are not seen
        alone, ps, hd = row == last, sizes.page_size, sizes.head_dim
        attend_span(
            q0, q1, q2, q3, p0, p1, p2, p3, alone, reach, first, end, p3, table, base, sizes.page_bytes, ps, sizes.span, hd,
            np.float32(layer.scale), memory.softcap, layer.softcap, scores, sums,
        )  # fmt: skip

    @entry
    def attend(memory_address, sizes_address, number, thread):
        """All tiles of layer `number`, dealt out to the threads: whole, or span by span where there are few.

        The sums are the same either way; dealt-out spans leave theirs in `partials`, and a second pass adds them up.
        """
        memory, sizes = read_memory(memory_address), read_sizes(sizes_address)
        per_kv, threads, window = sizes.num_heads // sizes.num_kv_heads, sizes.threads, read_layer(memory, number).window
        num_spans = _spans_to_deal(memory, sizes, window, per_kv)
        dealt = num_spans > 0
        first_span, last_span = share(num_spans, thread, threads)
        scores = memory.scratch + thread * sizes.scratch_stride
        own = scores + 4 * TILE_ROWS * sizes.span
        tile, span = 0, 0
        for sequence in range(load_i64(memory.job + 8)):
            start = np.int64(load_i32(memory.starts + 4 * sequence))
            rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
            for kv_head in range(sizes.num_kv_heads):
                for row in range(0, rows, TILE_ROWS):
                    begin, end = _seen_by_tile(memory, window, start, per_kv, row, rows)
                    sums = own
                    for first in range(begin // sizes.span * sizes.span, end, sizes.span):
                        if dealt:
                            sums = memory.partials + span * sizes.tile_bytes
                        if first_span <= span < last_span if dealt else tile % threads == thread:
                            attend_tile(
                                memory, sizes, number, sequence, start, kv_head, per_kv, row, rows,
                                max(first, begin), min(first + sizes.span, end), scores, sums,
                            )  # fmt: skip
                            if sums != own and not dealt:
                                fold(own, sums, (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row))
                            sums = own + sizes.tile_bytes
                        span += 1
                    if not dealt and tile % threads == thread:
                        _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, own)
                    tile += 1
        if dealt:
            barrier(memory.control, threads)
            _add_up(memory, sizes, window, per_kv, thread)
        return 0

    return attend


@kernel
def _spans_to_deal(memory, sizes, window, per_kv):
    """The number of spans if tiles are too few to share evenly and the sums of all spans fit into `partials`; else 0."""
    if sizes.threads == 1:
        return 0
    tiles, spans = 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start = np.int64(load_i32(memory.starts + 4 * sequence))
        rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
        tiles += (rows + TILE_ROWS - 1) // TILE_ROWS * sizes.num_kv_heads
        if tiles >= EVEN * sizes.threads:
            return 0
        for row in range(0, rows, TILE_ROWS):
            begin, end = _seen_by_tile(memory, window, start, per_kv, row, rows)
            spans += ((end - 1) // sizes.span - begin // sizes.span + 1) * sizes.num_kv_heads
    return spans if tiles < spans <= sizes.num_partials else 0


@kernel
def _seen_by_tile(memory, window, start, per_kv, row, rows):
    """The positions that rows row..row+3 of a sequence see: first, end. Rows are in the order of their positions."""
    nearest = np.int64(load_i32(memory.positions + 4 * (start + row // per_kv)))
    furthest = np.int64(load_i32(memory.positions + 4 * (start + (min(row + TILE_ROWS, rows) - 1) // per_kv)))
    return max(0, nearest + 1 - window) if window > 0 else 0, furthest + 1


@kernel
def _add_up(memory, sizes, window, per_kv, thread):
    """Add up the spans of each tile in order; threads share the tiles."""
    tile, span = 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start = np.int64(load_i32(memory.starts + 4 * sequence))
        rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
        for kv_head in range(sizes.num_kv_heads):
            for row in range(0, rows, TILE_ROWS):
                begin, end = _seen_by_tile(memory, window, start, per_kv, row, rows)
                count = (end - 1) // sizes.span - begin // sizes.span + 1
                if tile % sizes.threads == thread:
                    sums = memory.partials + span * sizes.tile_bytes
                    for i in range(1, count):
                        fold(sums, sums + i * sizes.tile_bytes, (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row))
                    _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, sums)
                span += count
                tile += 1


@kernel
def _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, sums):
    """Write the outputs of a tile's rows, without the rows that only filled it up."""
    width, kept = (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row)
    normalise(sums, width, kept)
    for i in range(kept):
        token, head = _token_and_head(row + i, start, kv_head, per_kv)
        to = memory.attended + token * sizes.attended_stride + 4 * head * sizes.head_dim
        for j in range(sizes.head_dim):
            store_f32(to + 4 * j, load_f32(sums + 4 * (i * width + j)))


@kernel
def _token_and_head(row, start, kv_head, per_kv):
    return start + row // per_kv, kv_head * per_kv + row % per_kv


attend_f16, attend_f32, attend_int8 = _attention(attend_span_f16), _attention(attend_span_f32), _attention(attend_span_int8)
