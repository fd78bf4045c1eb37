"""Rows of the file's blocks to groups of eight rows: the copying part of `packing.py`, compiled."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import entry
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.simd import load_i32, load_u16, store_i32, store_u16


@entry
def interleave_quants(source, row_bytes, block_bytes, quants, quads, blocks, rows, target, target_stride):
    """Rows of blocks at address `source` to groups at `target`; of the last group only rows that exist are written."""
    for row in range(rows):
        group = target + row // GROUP * target_stride
        lane = row % GROUP
        scales = group + blocks * quads * 32
        num_scales = quants // 2
        for block in range(blocks):
            at = source + row * row_bytes + block * block_bytes
            for i in range(num_scales):
                store_u16(scales + ((block * num_scales + i) * GROUP + lane) * 2, load_u16(at + 2 * i))
            for quad in range(quads):
                store_i32(group + ((block * quads + quad) * GROUP + lane) * 4, load_i32(at + quants + 4 * quad))


@entry
def interleave_floats(source, row_bytes, size, columns, rows, target, target_stride):
    """Rows of floats of `size` bytes at address `source` to groups at `target`."""
    for row in range(rows):
        group = target + row // GROUP * target_stride
        lane = row % GROUP
        for column in range(columns):
            at = source + row * row_bytes + column * size
            to = group + (column * GROUP + lane) * size
            if size == 4:
                store_i32(to, load_i32(at))
            else:
                store_u16(to, load_u16(at))
