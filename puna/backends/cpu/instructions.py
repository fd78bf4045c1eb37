"""Vector instructions of the products, written straight into LLVM: each class of CPU multiplies bytes in its own way.

A lane is a row of weights; it holds four neighbouring bytes of the row (a quad), or one 32-bit sum. A product of a block of
weights adds unsigned bytes times the activations' int8. `Dots` says how; its kinds give the same integers:

- `WordDots`: x86's `pmaddubsw` adds two products into 16 bits, and a block's products are added up there, modulo 2**16. So
  numbers of a block are at most five bits wide, or six bits in runs of 16 columns. Where the sum of unsigned numbers would not
  fit, it begins with -zero * (sum of the activations), so that what counts is the sum of number - zero, which fits. Numbers of
  eight bits are signed: |w| * (sign(w) x) is added in 32 bits. Plain vector code does the same on CPUs that are not x86.
- `DoublewordDots`: `vpdpbusd` (VNNI) adds four products of unsigned with signed bytes into 32 bits.
- `SignedDots`: so does `sdot` of ARM, with signed bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir

from puna.backends.cpu import host
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.simd import (
    build_absolute_i8,
    build_call,
    build_load,
    build_madd_i16,
    build_madd_u8_i8,
    build_sign,
    build_splat,
    build_store,
    constant,
)

LLVMValue = Any  # of LLVM

I8, I16, I32, I64, F16, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.HalfType(), ir.FloatType()


class NumberForm(NamedTuple):
    """What the numbers of a type are, once they are bytes: a weight is scale * (number - zero) + minimum.

    Numbers of 8 bits are signed, and without a zero; the others are unsigned.
    """

    bits: int
    zero: int = 0
    has_minimum: bool = False
    has_runs: bool = False  # each 16 columns have an integer scale of their own, beside the block's scale
    has_run_minimums: bool = False  # and an integer minimum, beside the block's


class Token(NamedTuple):
    """Addresses of one block of a token's record (`kernels.py`)."""

    numbers: LLVMValue
    step: LLVMValue  # float32: the scale of the activations
    sum: LLVMValue  # float32: step * sum of the numbers
    runs: LLVMValue  # for each run of 16: two int16, -32 * the sum of the numbers 0 and 1 of its quads, and of 2 and 3
    start: LLVMValue  # int32: -128 * sum
    centre: LLVMValue  # two int16: -8 * the sum of the numbers 0 and 1 of the block's quads, and of 2 and 3

    @classmethod
    def at(cls, b: Any, x: LLVMValue, columns: LLVMValue, blocks: LLVMValue, block: LLVMValue) -> Token:
        """`x`: the record; `blocks`: how many it has."""

        def field(offset: int, size: int) -> LLVMValue:
            return b.add(b.add(b.add(x, columns), b.mul(blocks, I64(offset))), b.mul(block, I64(size)))

        numbers = b.add(x, b.shl(block, I64(5)))
        return cls(numbers, field(0, 4), field(4, 4), field(8, 8), field(16, 4), field(20, 4))


@dataclass(frozen=True, slots=True)
class Code:
    """Writes instructions on vectors of so many lanes of 32 bits."""

    builder: Any
    lanes: int = GROUP

    @property
    def floats(self) -> ir.VectorType:
        return ir.VectorType(F32, self.lanes)

    @property
    def integers(self) -> ir.VectorType:
        return ir.VectorType(I32, self.lanes)

    @property
    def words(self) -> ir.VectorType:
        return ir.VectorType(I16, 2 * self.lanes)

    def indices(self, lanes: Sequence[int]) -> LLVMValue:
        """A constant that names lanes, for a shuffle."""
        return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))

    @property
    def bytes(self) -> ir.VectorType:
        return ir.VectorType(I8, 4 * self.lanes)

    def at(self, address: LLVMValue, offset: int) -> LLVMValue:
        return self.builder.add(address, I64(offset)) if offset else address

    def load(self, address: LLVMValue, kind: ir.Type) -> LLVMValue:
        return build_load(self.builder, address, kind)

    def load_bytes(self, address: LLVMValue) -> LLVMValue:
        return self.load(address, self.bytes)

    def load_floats(self, address: LLVMValue) -> LLVMValue:
        return self.load(address, self.floats)

    def load_halves(self, address: LLVMValue) -> LLVMValue:
        """Half-precision numbers as float32."""
        return self.builder.fpext(self.load(address, ir.VectorType(F16, self.lanes)), self.floats)

    def load_unsigned(self, address: LLVMValue) -> LLVMValue:
        """Bytes as int32."""
        return self.builder.zext(self.load(address, ir.VectorType(I8, self.lanes)), self.integers)

    def looked_up(self, indices: LLVMValue, table: Sequence[int]) -> LLVMValue:
        """For each byte, which is below 16, the byte of a table."""
        if not host.PORTABLE:
            halves = ir.Constant(self.bytes, [value & 255 for value in table] * 2)
            return build_call(self.builder, "llvm.x86.avx2.pshuf.b", self.bytes, halves, indices)
        values = [constant(self.bytes, value) for value in table]
        for bit in (1, 2, 4, 8):
            is_set = self.builder.icmp_unsigned(
                "!=", self.builder.and_(indices, constant(self.bytes, bit)), constant(self.bytes, 0)
            )
            values = [self.builder.select(is_set, values[i + 1], values[i]) for i in range(0, len(values), 2)]
        return values[0]

    def load_signed(self, address: LLVMValue) -> LLVMValue:
        return self.builder.sext(self.load(address, ir.VectorType(I8, self.lanes)), self.integers)

    def store(self, address: LLVMValue, value: LLVMValue) -> None:
        build_store(self.builder, address, value)

    def repeat(self, address: LLVMValue, kind: ir.VectorType) -> LLVMValue:
        """32 bits of memory in all lanes."""
        whole = build_splat(self.builder, self.load(address, I32), self.lanes)
        return self.builder.bitcast(whole, kind)

    def fma(self, x: LLVMValue, y: LLVMValue, z: LLVMValue) -> LLVMValue:
        return build_call(self.builder, f"llvm.fma.v{self.lanes}f32", self.floats, x, y, z)

    def run_sum(self, token: Token, run: int) -> LLVMValue:
        """-32 * the sum of the activations of run 0 or 1, as float32."""
        b, pairs = self.builder, self.load(self.at(token.runs, 4 * run), ir.VectorType(I16, 2))
        first, second = (b.sext(b.extract_element(pairs, I32(i)), I32) for i in range(2))
        return build_splat(b, b.sitofp(b.add(first, second), F32), self.lanes)

    def to_floats(self, integers: LLVMValue) -> LLVMValue:
        return self.builder.sitofp(integers, self.floats)

    def low_nibbles(self, both: LLVMValue) -> LLVMValue:
        return self.builder.and_(both, constant(self.bytes, 15))

    def high_nibbles(self, both: LLVMValue) -> LLVMValue:
        return self.builder.and_(self.shifted(both, 4), constant(self.bytes, 15))

    def shifted(self, value: LLVMValue, right: int) -> LLVMValue:
        """Bytes shifted in words: bits of a neighbour come in, and must be masked."""
        words = self.builder.bitcast(value, self.words)
        moved = (
            self.builder.lshr(words, constant(self.words, right))
            if right >= 0
            else self.builder.shl(words, constant(self.words, -right))
        )
        return self.builder.bitcast(moved, self.bytes) if right else value

    def join_bits(self, value: LLVMValue, bits: LLVMValue, right: int, mask: int) -> LLVMValue:
        """value | (bits >> right) & mask, byte by byte."""
        return self.builder.or_(value, self.builder.and_(self.shifted(bits, right), constant(self.bytes, mask)))

    def loop(self, count: LLVMValue, body: Callable[..., Sequence[LLVMValue]], carried: Sequence[LLVMValue]) -> list[LLVMValue]:
        """for i in range(count): carried = body(i, *carried), at least once; LLVM must not unroll it.

        Unrolled, a tile's loads are moved to its beginning, and nothing stays in registers (docs/LOG.md).
        """
        b = self.builder
        before, head = b.block, b.append_basic_block("loop")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(I64(0), before)
        values = [b.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        changed = list(body(index, *values))
        following = b.add(index, I64(1))
        for phi, value in zip([index, *values], [following, *changed], strict=True):
            phi.add_incoming(value, b.block)
        done = b.append_basic_block("done")
        branch = b.cbranch(b.icmp_signed("<", following, count), head, done)
        branch.set_metadata("llvm.loop", _not_unrolled(b.module))
        b.position_at_end(done)
        return changed


def _not_unrolled(module: Any) -> LLVMValue:
    """The metadata of a loop: its first part is, as LLVM asks for, itself."""
    loop = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    if loop.operands[0] is not loop:
        loop.operands = (loop, *loop.operands)
    return loop


class Dots(ABC):
    """How a class of CPU adds up products of bytes."""

    @abstractmethod
    def planes(self, form: NumberForm) -> int:
        """How many vectors of bytes a panel keeps for a vector of numbers."""

    @abstractmethod
    def split(self, c: Code, form: NumberForm, numbers: LLVMValue) -> list[LLVMValue]:
        """These vectors."""

    @abstractmethod
    def begin(self, c: Code, form: NumberForm, token: Token, run: int) -> LLVMValue:
        """The sum to begin with: -zero * (sum of the activations), of the block, or of run 0 or 1."""

    @abstractmethod
    def add(self, c: Code, form: NumberForm, total: LLVMValue, planes: Sequence[LLVMValue], x: LLVMValue) -> LLVMValue:
        """Add the products of four bytes with four bytes in each lane."""

    @abstractmethod
    def end(self, c: Code, form: NumberForm, runs: Sequence[LLVMValue], scales: Sequence[LLVMValue]) -> LLVMValue:
        """The block's sum as float32, exact; with runs, each times its scale: two equal int16 a lane."""


class WordDots(Dots):
    """`pmaddubsw`, or plain vectors that compute the same."""

    def planes(self, form: NumberForm) -> int:
        return 2 if form.bits == 8 else 1

    def split(self, c: Code, form: NumberForm, numbers: LLVMValue) -> list[LLVMValue]:
        return [numbers, build_absolute_i8(c.builder, numbers)] if form.bits == 8 else [numbers]

    def begin(self, c: Code, form: NumberForm, token: Token, run: int) -> LLVMValue:
        if form.bits == 8:
            return constant(c.integers, 0)
        if form.zero == 0:
            return constant(c.words, 0)
        if form.has_runs:
            return _divided(c, c.repeat(c.at(token.runs, 4 * run), c.words), 32 // form.zero)
        return _times(c, c.repeat(token.centre, c.words), form.zero)

    def add(self, c: Code, form: NumberForm, total: LLVMValue, planes: Sequence[LLVMValue], x: LLVMValue) -> LLVMValue:
        if form.bits < 8:
            return c.builder.add(total, build_madd_u8_i8(c.builder, planes[0], x))
        products = build_madd_u8_i8(c.builder, planes[1], build_sign(c.builder, x, planes[0]))
        return c.builder.add(total, build_madd_i16(c.builder, products, constant(c.words, 1)))

    def end(self, c: Code, form: NumberForm, runs: Sequence[LLVMValue], scales: Sequence[LLVMValue]) -> LLVMValue:
        if form.bits == 8:
            return c.to_floats(runs[0])
        if not form.has_runs:
            return c.to_floats(build_madd_i16(c.builder, runs[0], constant(c.words, 1)))
        return c.to_floats(
            c.builder.add(*(build_madd_i16(c.builder, run, scale) for run, scale in zip(runs, scales, strict=True)))
        )


class DoublewordDots(Dots):
    """`vpdpbusd`, on 256 or 512 bits. It needs unsigned numbers: signed ones count from -128."""

    def planes(self, form: NumberForm) -> int:
        return 1

    def split(self, c: Code, form: NumberForm, numbers: LLVMValue) -> list[LLVMValue]:
        return [c.builder.xor(numbers, constant(c.bytes, -128)) if form.bits == 8 else numbers]

    def begin(self, c: Code, form: NumberForm, token: Token, run: int) -> LLVMValue:
        zero = 128 if form.bits == 8 else form.zero
        if zero == 0:
            return constant(c.integers, 0)
        if form.has_runs:
            pairs = c.builder.bitcast(c.repeat(c.at(token.runs, 4 * run), c.words), c.integers)
            return _divided(c, c.builder.add(_low_word(c, pairs), _high_word(c, pairs)), 32 // zero)
        start = c.builder.sdiv(c.builder.mul(c.load(token.start, I32), I32(zero)), I32(128))
        return build_splat(c.builder, start, c.lanes)

    def add(self, c: Code, form: NumberForm, total: LLVMValue, planes: Sequence[LLVMValue], x: LLVMValue) -> LLVMValue:
        if host.EMULATES:
            return _add_products(c, total, False, planes[0], x)
        return build_call(c.builder, f"llvm.x86.avx512.vpdpbusd.{32 * c.lanes}", c.integers, total, planes[0], x)

    def end(self, c: Code, form: NumberForm, runs: Sequence[LLVMValue], scales: Sequence[LLVMValue]) -> LLVMValue:
        floats = [c.to_floats(run) for run in runs]
        if not form.has_runs:
            return floats[0]
        wide = [c.to_floats(_high_word(c, c.builder.bitcast(scale, c.integers))) for scale in scales]
        return c.fma(floats[1], wide[1], c.builder.fmul(floats[0], wide[0]))  # whole numbers below 2**24: exact


class SignedDots(DoublewordDots):
    """`sdot`, on the two halves of a vector: ARM's have 128 bits. Unsigned numbers have few bits, so they are signed ones too."""

    def split(self, c: Code, form: NumberForm, numbers: LLVMValue) -> list[LLVMValue]:
        return [numbers]

    def begin(self, c: Code, form: NumberForm, token: Token, run: int) -> LLVMValue:
        return constant(c.integers, 0) if form.bits == 8 else super().begin(c, form, token, run)

    def add(self, c: Code, form: NumberForm, total: LLVMValue, planes: Sequence[LLVMValue], x: LLVMValue) -> LLVMValue:
        if host.EMULATES:
            return _add_products(c, total, True, planes[0], x)
        half = ir.VectorType(I32, c.lanes // 2)
        parts = zip(_halves(c, total), _halves(c, planes[0]), _halves(c, x), strict=True)
        low, high = (build_call(c.builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", half, *part) for part in parts)
        return c.builder.shuffle_vector(low, high, c.indices(range(c.lanes)))


def _halves(c: Code, value: LLVMValue) -> list[LLVMValue]:
    count = value.type.count
    return [c.builder.shuffle_vector(value, value, c.indices(range(at, at + count // 2))) for at in (0, count // 2)]


def _add_products(c: Code, total: LLVMValue, is_signed: bool, numbers: LLVMValue, x: LLVMValue) -> LLVMValue:
    """Add four products to each lane, by plain vectors."""
    b, numbers, x = c.builder, c.builder.bitcast(numbers, c.integers), c.builder.bitcast(x, c.integers)
    for byte in range(4):
        up, down = constant(c.integers, 24 - 8 * byte), constant(c.integers, 24)
        number = (b.ashr if is_signed else b.lshr)(b.shl(numbers, up), down)
        total = b.add(total, b.mul(number, b.ashr(b.shl(x, up), down)))
    return total


def _low_word(c: Code, pairs: LLVMValue) -> LLVMValue:
    """The lower of two int16 in each lane."""
    return _high_word(c, c.builder.shl(pairs, constant(c.integers, 16)))


def _high_word(c: Code, pairs: LLVMValue) -> LLVMValue:
    return c.builder.ashr(pairs, constant(c.integers, 16))


def _divided(c: Code, numbers: LLVMValue, by: int) -> LLVMValue:
    """Multiples of a power of two, divided by it."""
    return numbers if by == 1 else c.builder.ashr(numbers, constant(numbers.type, by.bit_length() - 1))


def _times(c: Code, eighths: LLVMValue, zero: int) -> LLVMValue:
    """-8 * sums as -zero * sums, for a zero of 8, 12 or 16."""
    if zero == 8:
        return eighths
    return c.builder.add(eighths, eighths if zero == 16 else _divided(c, eighths, 2))
