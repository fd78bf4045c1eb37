"""Rows of the file's blocks to groups of eight rows: the copying part of `packing.py`, compiled."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.simd import load_i32, load_u8, load_u16, store_i32, store_u8, store_u16

NIBBLES = 0x0F0F0F0F  # the low halves of a quad's bytes


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
def interleave_k_quants(source, row_bytes, superblocks, rows, target, target_stride):
    """Rows of Q4_K's superblocks (`formats/blocks.py`) at address `source` to groups at `target`."""
    for row in range(rows):
        lane = row % GROUP
        for superblock in range(superblocks):
            at = source + row * row_bytes + superblock * 144
            to = target + row // GROUP * target_stride + superblock * 1184
            _interleave_nibbles(at + 16, to + 4 * lane)
            _interleave_scales(at + 4, to + 1024 + lane)
            store_u16(to + 1152 + 2 * lane, load_u16(at))
            store_u16(to + 1168 + 2 * lane, load_u16(at + 2))


@kernel
def _interleave_nibbles(at, to):
    """Two neighbouring blocks share the bytes of the file; here two halves of one block share them."""
    for block in range(8):
        run, shift = at + block // 2 * 32, block % 2 * 4
        for quad in range(4):
            low, high = load_i32(run + 4 * quad) >> shift & NIBBLES, load_i32(run + 16 + 4 * quad) >> shift & NIBBLES
            store_i32(to + (block * 4 + quad) * 32, low | high << 4)


@kernel
def _interleave_scales(at, to):
    """Eight scales and eight minimums of six bits to bytes: of the last four, the top two bits lie above those of the first four."""
    for block in range(4):
        scale, minimum, both = load_u8(at + block), load_u8(at + 4 + block), load_u8(at + 8 + block)
        store_u8(to + 16 * block, scale & 63)
        store_u8(to + 16 * block + 8, minimum & 63)
        store_u8(to + 16 * block + 64, (both & 15) | (scale >> 2 & 48))
        store_u8(to + 16 * block + 72, (both >> 4) | (minimum >> 2 & 48))


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
