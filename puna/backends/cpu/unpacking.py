"""What a packed block of each type of weights holds (`layout.py`): its numbers as bytes, and its scales, as LLVM code.

This is all that a type is to the products (`multiply.py`). A vector has a lane for each of a group's eight rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir

from puna.backends.cpu.instructions import I8, I64, Code, LLVMValue, NumberForm
from puna.backends.cpu.layout import (
    D_AT,
    DMIN_AT,
    GROUP,
)
from puna.backends.cpu.simd import constant
from puna.formats.blocks import IQ4_VALUES, MXFP4_VALUES


class Place(NamedTuple):
    """Where a block of a group is: addresses of its numbers and its scales; in a superblock, the block's number there."""

    numbers: LLVMValue
    scales: LLVMValue
    index: LLVMValue


Numbers = Iterator[tuple[int, LLVMValue]]  # quads of a block in any order; with runs, those of run 0 first


@dataclass(frozen=True, slots=True)
class Unpacking:
    """How a type is unpacked."""

    form: NumberForm
    superblock: bool
    block_bytes: int  # of a group's numbers
    scale_bytes: int  # that belong to a block, or to a superblock
    numbers: Callable[[Code, Place], Numbers]
    scale: Callable[[Code, Place], LLVMValue]
    minimum: Callable[[Code, Place], LLVMValue] | None = None
    runs: Callable[[Code, Place], tuple[LLVMValue, LLVMValue]] | None = None
    run_minimums: Callable[[Code, Place], tuple[LLVMValue, LLVMValue]] | None = None  # whole numbers as float32

    @property
    def numbers_bytes(self) -> int:
        """Of the numbers that lie together: a group's block, or superblock."""
        return self.block_bytes * (8 if self.superblock else 1)

    @property
    def bytes(self) -> int:
        """Of a group's block, with its share of the scales."""
        return self.block_bytes + self.scale_bytes // (8 if self.superblock else 1)

    def place(self, b: Any, group: LLVMValue, blocks: LLVMValue, block: LLVMValue) -> Place:
        """`group`: the address of a group of `blocks` blocks."""
        if not self.superblock:
            numbers = b.add(group, b.mul(block, I64(self.block_bytes)))
            scales = b.add(b.add(group, b.mul(blocks, I64(self.block_bytes))), b.mul(block, I64(self.scale_bytes)))
            return Place(numbers, scales, I64(0))
        first = b.add(group, b.mul(b.lshr(block, I64(3)), I64(self.numbers_bytes + self.scale_bytes)))
        index = b.and_(block, I64(7))
        return Place(b.add(first, b.mul(index, I64(self.block_bytes))), b.add(first, I64(self.numbers_bytes)), index)


# ---- numbers --------------------------------------------------------------------------------------------------------


def _bytes(c: Code, at: Place) -> Numbers:
    for quad in range(8):
        yield quad, c.load_bytes(c.at(at.numbers, 32 * quad))


def _nibbles(c: Code, at: Place) -> Numbers:
    for quad in range(4):
        both = c.load_bytes(c.at(at.numbers, 32 * quad))
        yield quad, c.low_nibbles(both)
        yield quad + 4, c.high_nibbles(both)


def _five_bits(c: Code, at: Place) -> Numbers:
    """Pairs of quads in nibbles, then bit j of a byte is quad j's fifth."""
    bits = c.load_bytes(c.at(at.numbers, 128))
    for pair in range(4):
        both = c.load_bytes(c.at(at.numbers, 32 * pair))
        yield 2 * pair, c.join_bits(c.low_nibbles(both), bits, 2 * pair - 4, 16)
        yield 2 * pair + 1, c.join_bits(c.high_nibbles(both), bits, 2 * pair - 3, 16)


def _six_bits(c: Code, at: Place) -> Numbers:
    """Two runs: two pairs of quads in nibbles, then bits 2j and 2j + 1 of a byte are the upper two of quad j."""
    for run in range(2):
        numbers = c.at(at.numbers, 96 * run)
        bits = c.load_bytes(c.at(numbers, 64))
        for pair in range(2):
            both = c.load_bytes(c.at(numbers, 32 * pair))
            yield 4 * run + 2 * pair, c.join_bits(c.low_nibbles(both), bits, 4 * pair - 4, 48)
            yield 4 * run + 2 * pair + 1, c.join_bits(c.high_nibbles(both), bits, 4 * pair - 2, 48)


def _two_bits(c: Code, at: Place) -> Numbers:
    """Two runs: bits 2j and 2j + 1 of a byte are quad j's."""
    for run in range(2):
        four = c.load_bytes(c.at(at.numbers, 32 * run))
        for j in range(4):
            yield 4 * run + j, c.builder.and_(c.shifted(four, 2 * j), constant(c.bytes, 3))


def _three_bits(c: Code, at: Place) -> Numbers:
    """As `_two_bits`, then bit j of a byte is the third of quad j of the block."""
    bits = c.load_bytes(c.at(at.numbers, 64))
    for quad, numbers in _two_bits(c, at):
        yield quad, c.join_bits(numbers, bits, quad - 2, 4)


def _named_by_nibbles(values: Sequence[int]) -> Callable[[Code, Place], Numbers]:
    return lambda c, at: ((quad, c.looked_up(numbers, values)) for quad, numbers in _nibbles(c, at))


# ---- scales ---------------------------------------------------------------------------------------------------------


def _half(offset: int) -> Callable[[Code, Place], LLVMValue]:
    """Half-precision numbers at this offset among the scales."""
    return lambda c, at: c.load_halves(c.at(at.scales, offset))


def _of_block(c: Code, at: Place, size: int, offset: int = 0) -> LLVMValue:
    """The address of a block's part of a superblock's scales, `size` bytes a block."""
    return c.builder.add(at.scales, c.builder.add(c.builder.mul(at.index, I64(size)), I64(offset)))


def _affine_scale(c: Code, at: Place) -> LLVMValue:
    """d * scale, exact"""
    scale = c.builder.sitofp(c.load_unsigned(_of_block(c, at, 16)), c.floats)
    return c.builder.fmul(c.load_halves(c.at(at.scales, D_AT)), scale)


def _affine_minimum(c: Code, at: Place) -> LLVMValue:
    """-dmin * minimum, exact"""
    minimum = c.builder.sitofp(c.load_unsigned(_of_block(c, at, 16, GROUP)), c.floats)
    return c.builder.fmul(c.builder.fneg(c.load_halves(c.at(at.scales, DMIN_AT))), minimum)


def _above_centre(minimum: Callable[[Code, Place], LLVMValue], scale: Callable[[Code, Place], LLVMValue], zero: int) -> Any:
    """The minimum where numbers count from the zero: minimum + zero * scale."""
    return lambda c, at: c.fma(scale(c, at), constant(c.floats, float(zero)), minimum(c, at))


def _signed_scale(c: Code, at: Place) -> LLVMValue:
    """d * scale of a block, exact"""
    scale = c.to_floats(c.load_signed(_of_block(c, at, GROUP)))
    return c.builder.fmul(c.load_halves(c.at(at.scales, 8 * GROUP)), scale)


def _power_of_two(c: Code, at: Place) -> LLVMValue:
    """2**(exponent - 128); the two smallest are subnormal."""
    exponent, b = c.load_unsigned(at.scales), c.builder
    usual = b.shl(b.sub(exponent, constant(c.integers, 1)), constant(c.integers, 23))
    subnormal = b.shl(constant(c.integers, 1 << 21), exponent)
    is_usual = b.icmp_unsigned(">", exponent, constant(c.integers, 1))
    return b.bitcast(b.select(is_usual, usual, subnormal), c.floats)


def _run_minimum_unit(c: Code, at: Place) -> LLVMValue:
    """dmin / 32, exact: what a run's minimum times -32 * (sum of the activations) is multiplied by."""
    return c.builder.fmul(c.load_halves(c.at(at.scales, DMIN_AT)), constant(c.floats, 1 / 32))


def _low_run_scales(c: Code, at: Place) -> tuple[LLVMValue, LLVMValue]:
    """Scales in low halves of a block's two runs, each as two int16 a lane."""
    first = _of_block(c, at, 2 * GROUP)
    one, other = (c.builder.and_(_pairs(c, c.at(first, GROUP * run)), constant(c.words, 15)) for run in range(2))
    return one, other


def _high_run_minimums(c: Code, at: Place) -> tuple[LLVMValue, LLVMValue]:
    """Minimums in high halves of a block's two runs."""
    first = _of_block(c, at, 2 * GROUP)
    bytes_of_runs = (c.load_unsigned(c.at(first, GROUP * run)) for run in range(2))
    one, other = (c.to_floats(c.builder.lshr(both, constant(c.integers, 4))) for both in bytes_of_runs)
    return one, other


def _run_scales(c: Code, at: Place) -> tuple[LLVMValue, LLVMValue]:
    """int8 scales of a block's two runs, each as two int16 a lane."""
    first = _of_block(c, at, 2 * GROUP)
    return _pairs(c, first), _pairs(c, c.at(first, GROUP))


def _pairs(c: Code, address: LLVMValue) -> LLVMValue:
    once = c.load(address, ir.VectorType(I8, c.lanes))
    twice = c.builder.shuffle_vector(once, once, c.indices([i // 2 for i in range(2 * c.lanes)]))
    return c.builder.sext(twice, c.words)


# ---- types ----------------------------------------------------------------------------------------------------------

UNPACKINGS: dict[str, Unpacking] = {
    "q8_0": Unpacking(NumberForm(8), False, 256, 16, _bytes, _half(0)),
    "q4_0": Unpacking(NumberForm(4, 8), False, 128, 16, _nibbles, _half(0)),
    "q4_1": Unpacking(NumberForm(4, 0, has_minimum=True), False, 128, 32, _nibbles, _half(0), _half(16)),
    "q5_0": Unpacking(NumberForm(5, 16), False, 160, 16, _five_bits, _half(0)),
    "q5_1": Unpacking(
        NumberForm(5, 16, has_minimum=True), False, 160, 32, _five_bits, _half(0), _above_centre(_half(16), _half(0), 16)
    ),
    "q4_k": Unpacking(NumberForm(4, 0, has_minimum=True), True, 128, 160, _nibbles, _affine_scale, _affine_minimum),
    "q5_k": Unpacking(
        NumberForm(5, 16, has_minimum=True),
        True,
        160,
        160,
        _five_bits,
        _affine_scale,
        _above_centre(_affine_minimum, _affine_scale, 16),
    ),
    "q6_k": Unpacking(NumberForm(6, 32, has_runs=True), True, 192, 144, _six_bits, _half(D_AT), runs=_run_scales),
    "q3_k": Unpacking(NumberForm(3, 4, has_runs=True), True, 96, 144, _three_bits, _half(D_AT), runs=_run_scales),
    "q2_k": Unpacking(
        NumberForm(2, 0, has_minimum=True, has_runs=True, has_run_minimums=True),
        True,
        64,
        160,
        _two_bits,
        _half(D_AT),
        _run_minimum_unit,
        _low_run_scales,
        _high_run_minimums,
    ),
    "iq4_nl": Unpacking(NumberForm(8), False, 128, 16, _named_by_nibbles(IQ4_VALUES.tolist()), _half(0)),
    "iq4_xs": Unpacking(NumberForm(8), True, 128, 80, _named_by_nibbles(IQ4_VALUES.tolist()), _signed_scale),
    "mxfp4": Unpacking(NumberForm(5, 12), False, 128, 8, _named_by_nibbles((MXFP4_VALUES + 12).tolist()), _power_of_two),
}
