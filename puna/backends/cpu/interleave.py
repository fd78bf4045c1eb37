"""Interleave the rows of a file's blocks into groups of eight: the compiled copying part of `packing.py`.

Each entry returns whether a scale that it copied is infinite or NaN: adding 1 to an exponent of ones carries into bit 15.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import entry, inline
from puna.backends.cpu.layout import (
    D_AT,
    DMIN_AT,
    EXPONENT,
    EXPONENT_ONE,
    GROUP,
    Q4_K,
    Q4_K_NUMBERS,
    Q5_K,
    Q5_K_NUMBERS,
    Q6_K_NUMBERS,
)
from puna.backends.cpu.simd import load_i32, load_u8, load_u16, store_i32, store_u8, store_u16


@entry
def interleave_quants(source, row_bytes, block_bytes, quants, quads, blocks, rows, target, target_stride):
    """Rows of blocks at address `source` to groups at `target`; in the last group only existing rows are written."""
    carried = 0
    for row in range(rows):
        group = target + row // GROUP * target_stride
        lane = row % GROUP
        scales = group + blocks * quads * 32
        num_scales = quants // 2
        for block in range(blocks):
            at = source + row * row_bytes + block * block_bytes
            for i in range(num_scales):
                scale = load_u16(at + 2 * i)
                carried |= (scale & EXPONENT) + EXPONENT_ONE
                store_u16(scales + ((block * num_scales + i) * GROUP + lane) * 2, scale)
            for quad in range(quads):
                store_i32(group + ((block * quads + quad) * GROUP + lane) * 4, load_i32(at + quants + 4 * quad))
    return carried >> 15


@entry
def interleave_k_quants(kind, source, row_bytes, superblocks, rows, target, target_stride):
    """Rows of superblocks of Q4_K, Q5_K or Q6_K (`formats/blocks.py`) at address `source` to groups at `target`."""
    carried = 0
    for row in range(rows):
        lane = row % GROUP
        for superblock in range(superblocks):
            at = source + row * row_bytes + superblock * (row_bytes // superblocks)
            to = target + row // GROUP * target_stride + superblock * (target_stride // superblocks)
            if kind == Q4_K:
                more = _interleave_q4_k(at, to, lane)
            elif kind == Q5_K:
                more = _interleave_q5_k(at, to, lane)
            else:
                more = _interleave_q6_k(at, to, lane)
            carried |= more
    return carried >> 15


@inline
def _interleave_q4_k(at, to, lane):
    for block in range(8):
        numbers, shift = at + 16 + block // 2 * 32, block % 2 * 4
        for quad in range(4):
            store_i32(to + ((block * 4 + quad) * 8 + lane) * 4, _two_quads(numbers + 4 * quad, numbers + 4 * quad + 16, shift))
    return _interleave_scales(at, to + Q4_K_NUMBERS, lane)


@inline
def _interleave_q5_k(at, to, lane):
    for block in range(8):
        numbers, shift, out = at + 48 + block // 2 * 32, block % 2 * 4, to + 160 * block + 4 * lane
        for pair in range(4):
            store_i32(out + 32 * pair, _two_quads(numbers + 8 * pair, numbers + 8 * pair + 4, shift))
        store_i32(out + 128, _bits(at + 16, block, 0x01010101, 1, 8))
    return _interleave_scales(at, to + Q5_K_NUMBERS, lane)


@inline
def _interleave_q6_k(at, to, lane):
    for run in range(16):
        column, out = run % 8 * 16, to + 96 * run + 4 * lane
        numbers, shift = at + run // 8 * 64 + column % 64, column // 64 * 4
        for pair in range(2):
            store_i32(out + 32 * pair, _two_quads(numbers + 8 * pair, numbers + 8 * pair + 4, shift))
        store_i32(out + 64, _bits(at + 128 + run // 8 * 32 + column % 32, column // 32 * 2, 0x03030303, 2, 4))
        store_u8(to + Q6_K_NUMBERS + 8 * run + lane, load_u8(at + 192 + run))
    scale = load_u16(at + 208)
    store_u16(to + Q6_K_NUMBERS + D_AT + 2 * lane, scale)
    return (scale & EXPONENT) + EXPONENT_ONE


@inline
def _two_quads(low, high, shift):
    """Join nibbles of two quads: those at bit `shift` of the bytes at both addresses."""
    return (load_i32(low) >> shift & 0x0F0F0F0F) | (load_i32(high) >> shift & 0x0F0F0F0F) << 4


@inline
def _bits(at, shift, mask, width, quads):
    """Join the upper bits of neighbouring quads: `width` bits each, at bit `shift`."""
    found = 0
    for quad in range(quads):
        found |= (load_i32(at + 4 * quad) >> shift & mask) << quad * width
    return found


@inline
def _interleave_scales(at, to, lane):
    """Unpack Q4_K's and Q5_K's six-bit scales to bytes. The last four keep their top two bits above those of the first four."""
    scale_of_scales, scale_of_minima = load_u16(at), load_u16(at + 2)
    store_u16(to + D_AT + 2 * lane, scale_of_scales)
    store_u16(to + DMIN_AT + 2 * lane, scale_of_minima)
    for block in range(4):
        scale, minimum, both = load_u8(at + 4 + block), load_u8(at + 8 + block), load_u8(at + 12 + block)
        out = to + 16 * block + lane
        store_u8(out, scale & 63)
        store_u8(out + 8, minimum & 63)
        store_u8(out + 64, (both & 15) | (scale >> 2 & 48))
        store_u8(out + 72, (both >> 4) | (minimum >> 2 & 48))
    return (scale_of_scales & EXPONENT) + EXPONENT_ONE | (scale_of_minima & EXPONENT) + EXPONENT_ONE


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
    return 0
