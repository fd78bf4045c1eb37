"""Interleave the rows of a file's blocks into groups of eight: the compiled copying part of `packing.py`.

A vector's eight lanes are eight rows, here as in the products. Each type has a function that writes the LLVM instructions for one
block of eight rows: it reads sixteen bytes of each row as four vectors, one for each quad (`quads`), moves bits inside the lanes,
and stores the vectors in the order that `layout.py` shows. A new type is such a function and a row at the end. A function reads
what it needs more than once before it stores: LLVM cannot know that the group does not overlap the file.

An entry returns whether a scale that it copied is infinite or NaN: adding 1 to an exponent of ones carries into bit 15.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from puna.backends.cpu.jit import entry
from puna.backends.cpu.layout import (
    BLOCK,
    D_AT,
    DMIN_AT,
    EXPONENT,
    EXPONENT_ONE,
    GROUP,
    INTERLEAVE_BYTES,
    KINDS,
    InterleaveRow,
    PackedType,
)
from puna.backends.cpu.simd import (
    I16x8,
    any_negative,
    build_load,
    build_store,
    call,
    constant,
    load_u8,
    store_u8,
    tuple_reader,
    zeros_i16x8,
)
from puna.backends.cpu.unpacking import UNPACKINGS

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_QUADS, _HALVES = ir.VectorType(_I32, GROUP), I16x8.llvm  # a quad, or a half-precision number, of each row

LlvmValue = Any
BlockWriter = Callable[["EightRows"], None]


@dataclass(slots=True)
class EightRows:
    """A block of eight rows: LLVM addresses of the first row's in the file, and of its numbers and scales in the group."""

    builder: Any
    source: LlvmValue
    row_bytes: LlvmValue
    numbers: LlvmValue
    scales: LlvmValue
    halves: list[LlvmValue] = field(default_factory=list)  # all half-precision scales

    def _rows(self, offset: int, kind: ir.Type) -> list[LlvmValue]:
        """A value of each row."""
        b = self.builder
        at = b.add(self.source, _I64(offset))
        return [build_load(b, b.add(at, b.mul(self.row_bytes, _I64(row))), kind) for row in range(GROUP)]

    def quads(self, offset: int) -> list[LlvmValue]:
        """Sixteen bytes of each row as four vectors: lane r of vector j is quad j of row r. Shuffles stay in halves."""
        rows = self._rows(offset, ir.VectorType(_I32, 4))
        far = [self._shuffled(rows[row], rows[row + 4], range(8)) for row in range(4)]  # rows r and r + 4
        low, high = [0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15]
        joined = [[self._shuffled(far[i], far[i + 1], order) for i in (0, 2)] for order in (low, high)]
        even, odd = [0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15]
        return [self._shuffled(first, second, order) for first, second in joined for order in (even, odd)]

    def half(self, offset: int) -> LlvmValue:
        """A half-precision scale of each row. The entry looks at whether it is finite."""
        vector = ir.Constant(_HALVES, ir.Undefined)
        for row, value in enumerate(self._rows(offset, _I16)):
            vector = self.builder.insert_element(vector, value, _I32(row))
        self.halves.append(vector)
        return vector

    def split(self, quad: LlvmValue) -> tuple[LlvmValue, LlvmValue]:
        """The two 16-bit numbers of a quad."""
        return self.builder.trunc(quad, _HALVES), self.builder.trunc(self.right(quad, 16), _HALVES)

    def put(self, offset: int, value: LlvmValue) -> None:
        """Store among the numbers of the group."""
        build_store(self.builder, self.builder.add(self.numbers, _I64(offset)), value)

    def put_scale(self, offset: int, value: LlvmValue) -> None:
        """Store among the scales of the group."""
        build_store(self.builder, self.builder.add(self.scales, _I64(offset)), value)

    def right(self, quad: LlvmValue, bits: int, mask: int = 0) -> LlvmValue:
        """A quad shifted to the right; of each of its bytes only the bits of `mask`. 0: all."""
        shifted = self.builder.lshr(quad, constant(_QUADS, bits)) if bits else quad
        return self.builder.and_(shifted, constant(_QUADS, 0x01010101 * mask)) if mask else shifted

    def left(self, quad: LlvmValue, bits: int) -> LlvmValue:
        return self.builder.shl(quad, constant(_QUADS, bits)) if bits else quad

    def either(self, quads: Sequence[LlvmValue]) -> LlvmValue:
        """Bitwise or."""
        found = quads[0]
        for quad in quads[1:]:
            found = self.builder.or_(found, quad)
        return found

    def nibbles(self, low: LlvmValue, high: LlvmValue, shift: int) -> LlvmValue:
        """Join nibbles of two quads: those at bit `shift` of their bytes."""
        return self.builder.or_(self.right(low, shift, 15), self.left(self.right(high, shift, 15), 4))

    def bits(self, quads: Sequence[LlvmValue], shift: int, width: int) -> LlvmValue:
        """Join `width` bits of the bytes of each quad, those at bit `shift`: quad j's come to bit `width * j`."""
        mask = (1 << width) - 1
        return self.either([self.left(self.right(quad, shift, mask), width * j) for j, quad in enumerate(quads)])

    def columns_to_quads(self, columns: LlvmValue) -> LlvmValue:
        """A bit of each column, bit 4j + i, as bit j of byte i, which belongs to quad j.

        The number of a bit has five bits, of which two say i; swapping bits of all these numbers moves i to the front.
        """
        for upper, lower in ((4, 1), (3, 0), (2, 1), (1, 0)):
            columns = self._renumbered(columns, upper, lower)
        return columns

    def _renumbered(self, bits: LlvmValue, upper: int, lower: int) -> LlvmValue:
        """Move each bit of each lane to the place whose number has these two bits swapped."""
        distance = (1 << upper) - (1 << lower)
        moved = constant(_QUADS, sum(1 << i for i in range(32) if i >> lower & 1 and not i >> upper & 1))
        changes = self.builder.and_(self.builder.xor(self.right(bits, distance), bits), moved)
        return self.builder.xor(bits, self.builder.xor(changes, self.left(changes, distance)))

    def low_bits(self, value: LlvmValue, shift: int, width: int) -> LlvmValue:
        """So many bits of each lane, those from bit `shift` on."""
        return self.builder.and_(self.right(value, shift), constant(_QUADS, (1 << width) - 1))

    def low_bytes(self, quad: LlvmValue) -> LlvmValue:
        """The first byte of the quad of each row."""
        return self.builder.trunc(quad, ir.VectorType(_I8, GROUP))

    def minus_32(self, values: LlvmValue) -> LlvmValue:
        return self.builder.sub(values, constant(values.type, 32))

    def by_byte(self, *quads: LlvmValue) -> LlvmValue:
        """Byte 0 of the first quad of all rows, then byte 0 of the second quad; then byte 1 of both, and so on."""
        kind = ir.VectorType(_I8, 4 * GROUP)
        found = [self.builder.bitcast(quad, kind) for quad in quads]
        order = [32 * i + 4 * row + byte for byte in range(4) for i in range(len(quads)) for row in range(GROUP)]
        return self._shuffled(found[0], found[-1], order)

    def _shuffled(self, first: LlvmValue, second: LlvmValue, order: Sequence[int]) -> LlvmValue:
        lanes = ir.Constant(ir.VectorType(_I32, len(order)), list(order))
        return self.builder.shuffle_vector(first, second, lanes)


# ---- a block of each type -------------------------------------------------------------------------------------------


def _as_in_file(rows: EightRows, scales: int, runs: int) -> None:
    """Half-precision scales, then runs of sixteen bytes of numbers."""
    for i in range(scales):
        rows.put_scale(16 * i, rows.half(2 * i))
    for run in range(runs):
        for quad, vector in enumerate(rows.quads(2 * scales + 16 * run)):
            rows.put(32 * (4 * run + quad), vector)


def _five_bits(rows: EightRows, scales: int) -> None:
    """Half-precision scales; the fifth bits, bit i of column i; then nibbles of quads j and j + 4."""
    fifths, quads = rows.quads(2 * scales)[0], rows.quads(2 * scales + 4)
    for i in range(scales):
        rows.put_scale(16 * i, rows.half(2 * i))
    for pair in range(4):
        first = 2 * pair % 4
        rows.put(32 * pair, rows.nibbles(quads[first], quads[first + 1], pair // 2 * 4))
    rows.put(128, rows.columns_to_quads(fifths))


def _q4_k(rows: EightRows) -> None:
    for pair in range(4):
        first, second = rows.quads(16 + 32 * pair), rows.quads(32 + 32 * pair)
        for half in range(2):
            for quad in range(4):
                nibbles = rows.nibbles(first[quad], second[quad], 4 * half)
                rows.put(32 * ((2 * pair + half) * 4 + quad), nibbles)
    _put_six_bit_scales(rows)


def _q5_k(rows: EightRows) -> None:
    fifths = rows.quads(16) + rows.quads(32)
    for pair in range(4):
        quads = rows.quads(48 + 32 * pair) + rows.quads(64 + 32 * pair)
        for half in range(2):
            number, out = 2 * pair + half, 160 * (2 * pair + half)
            for j in range(4):
                rows.put(out + 32 * j, rows.nibbles(quads[2 * j], quads[2 * j + 1], 4 * half))
            rows.put(out + 128, rows.bits(fifths, number, 1))
    _put_six_bit_scales(rows)


def _q6_k(rows: EightRows) -> None:
    for half in range(2):
        numbers = [rows.quads(64 * half + 16 * i) for i in range(4)]
        tops = [rows.quads(128 + 32 * half + 16 * i) for i in range(2)]
        for run in range(8):
            quads, out = numbers[run % 4], 96 * (8 * half + run)
            for j in range(2):
                rows.put(out + 32 * j, rows.nibbles(quads[2 * j], quads[2 * j + 1], run // 4 * 4))
            rows.put(out + 64, rows.bits(tops[run % 2], run // 2 * 2, 2))
    for four, scales in enumerate(rows.quads(192)):
        rows.put_scale(32 * four, rows.by_byte(scales))
    rows.put_scale(D_AT, rows.half(208))


def _q3_k(rows: EightRows) -> None:
    thirds = rows.quads(0) + rows.quads(16)
    _put_two_bits(rows, 32, 96)
    for block in range(8):
        rows.put(96 * block + 64, rows.bits(thirds, block, 1))
    first, second, tops = rows.quads(96)[:3]
    for four, (low, shift) in enumerate(((first, 0), (second, 0), (first, 4), (second, 4))):
        scales = rows.either([rows.right(low, shift, 15), rows.left(rows.right(tops, 2 * four, 3), 4)])
        rows.put_scale(32 * four, rows.minus_32(rows.by_byte(scales)))
    rows.put_scale(D_AT, rows.half(108))


def _q2_k(rows: EightRows) -> None:
    _put_two_bits(rows, 16, 64)
    for four, scales in enumerate(rows.quads(0)):
        rows.put_scale(32 * four, rows.by_byte(scales))
    rows.put_scale(D_AT, rows.half(80))
    rows.put_scale(DMIN_AT, rows.half(82))


def _put_two_bits(rows: EightRows, offset: int, block_bytes: int) -> None:
    """Of each block of a superblock. Each 32 bytes of the file hold those of four blocks, in bits 0 and 1, 2 and 3, and so on."""
    for half in range(2):
        quads = [quad for run in range(2) for quad in rows.quads(offset + 32 * half + 16 * run)]
        for i in range(4):
            for run in range(2):
                rows.put(block_bytes * (4 * half + i) + 32 * run, rows.bits(quads[4 * run : 4 * run + 4], 2 * i, 2))


def _iq4_xs(rows: EightRows) -> None:
    both, low = rows.quads(0)[:2]  # d and the upper two bits of the blocks' scales; their lower four
    rows.put_scale(64, rows.half(0))
    for block in range(8):
        scale = rows.either([rows.low_bits(low, 4 * block, 4), rows.left(rows.low_bits(both, 16 + 2 * block, 2), 4)])
        rows.put_scale(GROUP * block, rows.minus_32(rows.low_bytes(scale)))
        for quad, vector in enumerate(rows.quads(8 + 16 * block)):
            rows.put(32 * (4 * block + quad), vector)


def _mxfp4(rows: EightRows) -> None:
    rows.put_scale(0, rows.low_bytes(rows.quads(0)[0]))
    for quad, vector in enumerate(rows.quads(1)):
        rows.put(32 * quad, vector)


def _put_six_bit_scales(rows: EightRows) -> None:
    """Unpack Q4_K's and Q5_K's six-bit scales to bytes. The last four keep their top two bits above those of the first four."""
    both, scales, minima, rest = rows.quads(0)
    for at, half in zip((D_AT, DMIN_AT), rows.split(both), strict=True):
        rows.put_scale(at, half)
        rows.halves.append(half)
    rows.put_scale(0, rows.by_byte(rows.right(scales, 0, 63), rows.right(minima, 0, 63)))
    last_scales = rows.either([rows.right(rest, 0, 15), rows.right(scales, 2, 48)])
    last_minima = rows.either([rows.right(rest, 4, 15), rows.right(minima, 2, 48)])
    rows.put_scale(64, rows.by_byte(last_scales, last_minima))


def _floats(rows: EightRows, size: int) -> None:
    """Sixteen bytes of each row: floats of `size` bytes."""
    for quad, vector in enumerate(rows.quads(0)):
        if size == 4:
            rows.put(32 * quad, vector)
        else:
            for i, half in enumerate(rows.split(vector)):
                rows.put(32 * quad + 16 * i, half)


# ---- entries --------------------------------------------------------------------------------------------------------


def _block_operation(write: BlockWriter) -> Any:
    """The operation of a block, for Numba. It takes addresses and the exponents seen so far, and returns these with its own."""
    number = types.int64

    def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        *addresses, seen = values
        rows = EightRows(builder, *addresses)
        write(rows)
        for scale in rows.halves:
            exponent = builder.and_(scale, constant(_HALVES, EXPONENT))
            seen = builder.or_(seen, builder.add(exponent, constant(_HALVES, EXPONENT_ONE)))
        return seen

    @intrinsic
    def interleave_block(typing: Any, source: Any, row_bytes: Any, numbers: Any, scales: Any, seen: Any) -> Any:
        return I16x8(number, number, number, number, I16x8), built

    return interleave_block


def _interleaver(kind: PackedType, write: BlockWriter) -> Any:
    """An entry for groups of eight rows of `blocks` blocks at address `source`."""
    numbers_bytes = UNPACKINGS[kind.name].numbers_bytes
    source_block, packed_block = kind.source_block, GROUP * kind.packed_block
    has_scales_apart = kind.block == BLOCK  # after the numbers of all blocks; a superblock's follow its own numbers
    numbers_step = numbers_bytes if has_scales_apart else packed_block
    scales_step = packed_block - numbers_bytes if has_scales_apart else packed_block
    interleave_block = _block_operation(write)

    @entry
    def interleave(source, row_bytes, blocks, groups, target):
        seen = zeros_i16x8()
        for group in range(groups):
            at = source + group * GROUP * row_bytes
            numbers = target + group * blocks * packed_block
            scales = numbers + numbers_bytes * (blocks if has_scales_apart else 1)
            for i in range(blocks):
                seen = interleave_block(
                    at + i * source_block, row_bytes, numbers + i * numbers_step, scales + i * scales_step, seen
                )
        return any_negative(seen)

    return interleave


def _float_interleaver(kind: PackedType) -> Any:
    """The same for floats; a block is one float."""
    size, per_run = kind.source_block, 16 // kind.source_block
    interleave_run = _block_operation(partial(_floats, size=size))

    @entry
    def interleave(source, row_bytes, columns, groups, target):
        for group in range(groups):
            at, to = source + group * GROUP * row_bytes, target + group * GROUP * size * columns
            for run in range(columns // per_run):
                interleave_run(at + 16 * run, row_bytes, to + 16 * GROUP * run, to, zeros_i16x8())
            for column in range(columns // per_run * per_run, columns):
                for row in range(GROUP):
                    for byte in range(size):
                        store_u8(to + (column * GROUP + row) * size + byte, load_u8(at + row * row_bytes + column * size + byte))
        return 0

    return interleave


_read_row = tuple_reader(InterleaveRow)


@entry
def interleave_all(table, count):
    """Make the calls of a table. Returns the number of the first one with a bad scale, from 1 on; 0: there is none."""
    for number in range(count):
        row = _read_row(table + INTERLEAVE_BYTES * number)
        if call(row.entry, row.source, row.row_bytes, row.blocks, row.groups, row.target) != 0:
            return number + 1
    return 0


interleave_f32, interleave_f16, interleave_bf16 = (_float_interleaver(KINDS[name]) for name in ("F32", "F16", "BF16"))
interleave_q8_0 = _interleaver(KINDS["Q8_0"], partial(_as_in_file, scales=1, runs=2))
interleave_q4_0 = _interleaver(KINDS["Q4_0"], partial(_as_in_file, scales=1, runs=1))
interleave_q4_1 = _interleaver(KINDS["Q4_1"], partial(_as_in_file, scales=2, runs=1))
interleave_q5_0 = _interleaver(KINDS["Q5_0"], partial(_five_bits, scales=1))
interleave_q5_1 = _interleaver(KINDS["Q5_1"], partial(_five_bits, scales=2))
interleave_q4_k = _interleaver(KINDS["Q4_K"], _q4_k)
interleave_q5_k = _interleaver(KINDS["Q5_K"], _q5_k)
interleave_q6_k = _interleaver(KINDS["Q6_K"], _q6_k)
interleave_q3_k = _interleaver(KINDS["Q3_K"], _q3_k)
interleave_q2_k = _interleaver(KINDS["Q2_K"], _q2_k)
interleave_iq4_nl = _interleaver(KINDS["IQ4_NL"], partial(_as_in_file, scales=1, runs=1))
interleave_iq4_xs = _interleaver(KINDS["IQ4_XS"], _iq4_xs)
interleave_mxfp4 = _interleaver(KINDS["MXFP4"], _mxfp4)
