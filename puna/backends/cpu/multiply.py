"""The products of a step: packed weights times the activations of one token, of a few, or of many.

`multiply_*` is an entry for each type of weights. One token reads the packed blocks as they are: it waits for memory, not for
arithmetic. Many tokens multiply a panel: a few groups of rows, unpacked once for all of them (`panels.py`). An output's float32
operations are the same ones in the same order either way, so no other token, row or thread changes a bit of it.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from puna.backends.cpu.jit import entry, inline, kernel
from puna.backends.cpu.layout import BLOCK, FLOAT_PANEL_COLUMNS, GROUP, PANEL_COLUMNS, PANEL_TOKENS
from puna.backends.cpu.panels import (
    TILE,
    WeightPanel,
    multiply_floats_operation,
    multiply_operation,
    packed_operations,
    unpack_operation,
)
from puna.backends.cpu.simd import (
    add,
    fma,
    load_bf16x8,
    load_f16x8,
    load_f32x8,
    prefetch,
    repeat_f32,
    splat_f32,
    store_f32x8,
)
from puna.backends.cpu.unpacking import UNPACKINGS, Unpacking

AHEAD_BYTES = 16384  # of weights that a tile of packed blocks prefetches: the hardware's prefetcher stops at each 4 KiB page
FEW = (2, 4)  # tokens of the tiles that read packed blocks
# The fewest tokens that are worth a panel, by the bits of a number. Eight bits and floats need little unpacking.
WORTH_A_PANEL = {2: 9, 3: 9, 4: 9, 5: 9, 6: 9, 8: 48}
FLOATS_WORTH_A_PANEL = 48
TOTALS = PANEL_TOKENS + max(TILE.tokens, TILE.float_tokens)  # tokens whose totals lie before a panel: whole tiles


def _packed_product(unpacking: Unpacking, tile: int) -> Any:
    """The kernel for a few tokens, `tile` at a time, that reads packed blocks."""
    zeros, add_block, finish = packed_operations(unpacking, TILE.dots, tile)
    fetch_ahead, block_bytes = _prefetcher(unpacking), unpacking.bytes

    @kernel
    def multiply_packed(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds):
        blocks = columns // BLOCK
        for group in range(first, last):
            at = w + group * blocks * block_bytes
            for t in range(0, tokens, tile):
                rest = min(tile, tokens - t) - 1
                totals = zeros()
                for block in range(blocks):
                    fetch_ahead(at + block * block_bytes)
                    totals = add_block(totals, at, blocks, block, x + t * x_stride, columns, x_stride, rest)
                finish(totals, y + t * y_stride + 4 * GROUP * group, y_stride, rest, adds)

    return multiply_packed


def _lone_product(unpacking: Unpacking) -> Any:
    """The kernel for one token: it reads two groups at once where two streams from memory are faster than one."""
    multiply_rest = _packed_product(unpacking, 1)
    if TILE.streams == 1:
        return multiply_rest
    zeros, add_block, finish = packed_operations(unpacking, TILE.dots, 1)
    fetch_ahead, block_bytes = _prefetcher(unpacking), unpacking.bytes

    @kernel
    def multiply_pairs(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds):
        blocks = columns // BLOCK
        group_bytes = blocks * block_bytes
        rest = last - (last - first) % 2
        for group in range(first, rest, 2):
            at, other = w + group * group_bytes, w + (group + 1) * group_bytes
            totals, others = zeros(), zeros()
            for block in range(blocks):
                fetch_ahead(at + block * block_bytes)
                fetch_ahead(other + block * block_bytes)
                totals = add_block(totals, at, blocks, block, x, columns, x_stride, 0)
                others = add_block(others, other, blocks, block, x, columns, x_stride, 0)
            finish(totals, y + 4 * GROUP * group, y_stride, 0, adds)
            finish(others, y + 4 * GROUP * (group + 1), y_stride, 0, adds)
        multiply_rest(w, columns, x, x_stride, tokens, y, y_stride, rest, last, adds)

    return multiply_pairs


def _prefetcher(unpacking: Unpacking) -> Any:
    """The kernel that prefetches what a block and its scales take, a while ahead of an address."""
    until = AHEAD_BYTES + unpacking.bytes

    @inline
    def fetch_ahead(at):
        for line in range(AHEAD_BYTES, until, 64):
            prefetch(at + line)

    return fetch_ahead


def _panel_product(unpacking: Unpacking) -> Any:
    """The kernel for many tokens."""
    panel = WeightPanel(unpacking, TILE)
    unpack, multiply_tile = unpack_operation(panel), multiply_operation(panel)
    groups, tokens_of_tile, panel_block = TILE.groups, TILE.tokens, panel.block_bytes
    row_bytes, chunk = panel.row_bytes, PANEL_COLUMNS // BLOCK
    block_bytes = unpacking.bytes

    @kernel
    def unpack_groups(w, blocks, first, last, begin, count, to):
        """Blocks begin..begin+count-1 of groups first..last-1; the last group stands for those that are missing.

        What the next panel will read is prefetched, so that memory works while this one is multiplied.
        """
        ahead = (count if begin + count < blocks else groups * blocks - begin) * block_bytes
        for i in range(groups):
            at = w + min(first + i, last - 1) * blocks * block_bytes
            for block in range(count):
                following = at + (begin + block) * block_bytes + ahead
                for line in range(0, block_bytes, 64):
                    prefetch(following + line)
                unpack(at, blocks, begin + block, to + block * panel_block + i * 4 * GROUP)

    @kernel
    def multiply_panels(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch):
        blocks = columns // BLOCK
        totals, at = scratch, scratch + TOTALS * row_bytes
        for group in range(first, last, groups):
            kept = min(groups, last - group)
            for begin in range(0, blocks, chunk):
                count = min(chunk, blocks - begin)
                unpack_groups(w, blocks, group, last, begin, count, at)
                for t in range(0, tokens, tokens_of_tile):
                    to, rest = totals + t * row_bytes, min(tokens_of_tile, tokens - t)
                    if begin == 0:
                        clear(to, tokens_of_tile * row_bytes)
                    multiply_tile(to, at, count, x + t * x_stride, columns, x_stride, begin, rest - 1)
                    if begin + count == blocks:
                        write_tile(to, row_bytes, rest, kept, y + t * y_stride + 4 * GROUP * group, y_stride, adds)

    return multiply_panels


def _in_runs(multiply_panels: Any) -> Any:
    """The kernel for any number of tokens, of which panels serve PANEL_TOKENS at a time."""

    @kernel
    def multiply_runs(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch):
        for t in range(0, tokens, PANEL_TOKENS):
            run = min(PANEL_TOKENS, tokens - t)
            multiply_panels(w, columns, x + t * x_stride, x_stride, run, y + t * y_stride, y_stride, first, last, adds, scratch)

    return multiply_runs


@kernel
def clear(at, num_bytes):
    for i in range(at, at + num_bytes, 32):
        store_f32x8(i, splat_f32(0.0))


@kernel
def write_tile(totals, row_bytes, tokens, groups, y, y_stride, adds):
    """Set a tile of an output, or add to it."""
    for t in range(tokens):
        for i in range(0, 4 * GROUP * groups, 4 * GROUP):
            total, to = load_f32x8(totals + t * row_bytes + i), y + t * y_stride + i
            if adds:
                total = add(load_f32x8(to), total)
            store_f32x8(to, total)


def _product(unpacking: Unpacking) -> Any:
    """The entry `multiply_*` for a quantised type."""
    alone, (two, few) = _lone_product(unpacking), (_packed_product(unpacking, tile) for tile in FEW)
    many, worth_a_panel = _in_runs(_panel_product(unpacking)), WORTH_A_PANEL[unpacking.form.bits]

    @entry
    def multiply(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch):
        """y[t] = W x[t] (y += where `adds`) for row groups first..last-1. Strides in bytes; `x`: records."""
        if tokens == 1:
            alone(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds)
        elif tokens == 2:
            two(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds)
        elif tokens < worth_a_panel:
            few(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds)
        else:
            many(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch)
        return 0

    return multiply


# ---- float weights --------------------------------------------------------------------------------------------------


@inline
def _finish(y, total, adds):
    """Set eight rows of an output, or add to them."""
    if adds:
        total = add(load_f32x8(y), total)
    store_f32x8(y, total)


def _float_product(load: Any, size: int) -> Any:
    """The entry `multiply_*` for weights that `load` reads as float32, `size` bytes each. `x` is a float32 row."""
    many = _in_runs(_float_panel_product(load, size))

    @kernel
    def alone(w, columns, x, y, first, last, adds):
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
    def multiply_tile(at, columns, x, x_stride, tokens, y, y_stride, second, adds):
        """Two groups, `second` bytes apart, and four tokens. The last token stands for those that are missing; without a second
        group, the first is computed twice and written once."""
        x1, x2 = x + min(1, tokens - 1) * x_stride, x + min(2, tokens - 1) * x_stride
        x3 = x + min(3, tokens - 1) * x_stride
        a0, a1, a2, a3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
        b0, b1, b2, b3 = splat_f32(0.0), splat_f32(0.0), splat_f32(0.0), splat_f32(0.0)
        for i in range(0, 4 * columns, 4):
            p, q = load(at + 2 * size * i), load(at + 2 * size * i + second)
            v = repeat_f32(x + i)
            a0, b0 = fma(p, v, a0), fma(q, v, b0)
            v = repeat_f32(x1 + i)
            a1, b1 = fma(p, v, a1), fma(q, v, b1)
            v = repeat_f32(x2 + i)
            a2, b2 = fma(p, v, a2), fma(q, v, b2)
            v = repeat_f32(x3 + i)
            a3, b3 = fma(p, v, a3), fma(q, v, b3)
        _finish_two(y, a0, b0, second, adds)
        if tokens > 1:
            _finish_two(y + y_stride, a1, b1, second, adds)
        if tokens > 2:
            _finish_two(y + 2 * y_stride, a2, b2, second, adds)
        if tokens > 3:
            _finish_two(y + 3 * y_stride, a3, b3, second, adds)

    @kernel
    def few(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds):
        stride = columns * 8 * size
        for group in range(first, last, 2):
            second = stride if group + 1 < last else 0
            for t in range(0, tokens, 4):
                to = y + t * y_stride + 32 * group
                rest = min(4, tokens - t)
                multiply_tile(w + group * stride, columns, x + t * x_stride, x_stride, rest, to, y_stride, second, adds)

    @entry
    def multiply(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch):
        """y[t] = W x[t] (y += where `adds`) for row groups first..last-1. Strides in bytes; `x`: float32 rows."""
        if tokens == 1:
            alone(w, columns, x, y, first, last, adds)
        elif tokens < FLOATS_WORTH_A_PANEL:
            few(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds)
        else:
            many(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch)
        return 0

    return multiply


@inline
def _finish_two(y, a, b, second, adds):
    _finish(y, a, adds)
    if second:
        _finish(y + 32, b, adds)


def _float_panel_product(load: Any, size: int) -> Any:
    """The kernel for many tokens."""
    multiply_tile = multiply_floats_operation(TILE)
    groups, tokens_of_tile, row_bytes = TILE.groups, TILE.float_tokens, 4 * GROUP * TILE.groups

    @kernel
    def unpack_groups(w, columns, first, last, begin, count, to):
        """Columns begin..begin+count-1 of groups first..last-1; the last group stands for those that are missing."""
        for i in range(groups):
            at = w + (min(first + i, last - 1) * columns + begin) * GROUP * size
            for column in range(count):
                store_f32x8(to + column * row_bytes + 4 * GROUP * i, load(at + column * GROUP * size))

    @kernel
    def multiply_panels(w, columns, x, x_stride, tokens, y, y_stride, first, last, adds, scratch):
        totals, at = scratch, scratch + TOTALS * row_bytes
        for group in range(first, last, groups):
            kept = min(groups, last - group)
            for begin in range(0, columns, FLOAT_PANEL_COLUMNS):
                count = min(FLOAT_PANEL_COLUMNS, columns - begin)
                unpack_groups(w, columns, group, last, begin, count, at)
                for t in range(0, tokens, tokens_of_tile):
                    to, rest = totals + t * row_bytes, min(tokens_of_tile, tokens - t)
                    if begin == 0:
                        clear(to, tokens_of_tile * row_bytes)
                    multiply_tile(to, at, count, x + t * x_stride + 4 * begin, x_stride, rest - 1)
                    if begin + count == columns:
                        write_tile(to, row_bytes, rest, kept, y + t * y_stride + 4 * GROUP * group, y_stride, adds)

    return multiply_panels


multiply_f32 = _float_product(load_f32x8, 4)
multiply_f16 = _float_product(load_f16x8, 2)
multiply_bf16 = _float_product(load_bf16x8, 2)
globals().update({f"multiply_{name}": _product(unpacking) for name, unpacking in UNPACKINGS.items()})
