"""Products of 4-bit and 8-bit weights for CPUs with `vpdpbusd` (VNNI): it multiplies bytes and adds them up by fours.

A tile is one or two groups of rows and up to eight tokens: each weight is loaded and unpacked once for all of them. Integer sums
are exact, and the float32 steps of an output are those of `kernels.py` in the same order, so both give the same bits.

`vpdpbusd` multiplies unsigned by signed numbers. Four-bit numbers are unsigned; int8 weights become so by adding 128, and the sum
starts from the record's -128 * (sum of the activations), which takes that back.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from puna.backends.cpu.host import LEVEL
from puna.backends.cpu.jit import inline, kernel
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.simd import Vector, build_call, build_load, build_splat, build_store, constant, prefetch

# Level -> tokens of a tile: groups of rows of it. Eight sums hide vpdpbusd's latency of 4 or 5 cycles; without AVX-512 there are
# only 16 registers. One token reads one group at a time: from main memory, two streams were slower than one (docs/LOG.md).
TILES = {"avx512": {8: 2, 4: 2, 1: 1}, "avxvnni": {4: 1, 1: 1}}.get(LEVEL, {})
AHEAD_BYTES = 8192  # of weights that are prefetched, times the groups: the hardware's prefetcher stops at each 4 KiB page

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES = ir.VectorType(_I8, 4 * GROUP)
TokenValues = list[Any]  # LLVM values, one for each token


class Place(NamedTuple):
    """LLVM addresses of a block: of its numbers and scales in the first group, and of each token's part of its record."""

    numbers: Any
    scales: Any
    second: Any  # from the first group to the second, bytes
    x: TokenValues  # int8
    steps: TokenValues  # float32: the activations' scale
    sums: TokenValues  # float32: scale * sum
    starts: TokenValues  # int32: -128 * sum


@dataclass(frozen=True, slots=True)
class Code:
    """Writes LLVM instructions on vectors of so many lanes of 32 bits: the rows of one or two groups."""

    builder: Any
    lanes: int

    @property
    def floats(self) -> ir.VectorType:
        return ir.VectorType(_F32, self.lanes)

    @property
    def integers(self) -> ir.VectorType:
        return ir.VectorType(_I32, self.lanes)

    @property
    def bytes(self) -> ir.VectorType:
        return ir.VectorType(_I8, 4 * self.lanes)

    def at(self, address: Any, offset: int) -> Any:
        return self.builder.add(address, _I64(offset))

    def load(self, address: Any, second: Any, kind: ir.VectorType) -> Any:
        """A vector of the first group, or that and the second group's as one."""
        first = build_load(self.builder, address, kind)
        if self.lanes == GROUP:
            return first
        both = ir.Constant(ir.VectorType(_I32, 2 * kind.count), list(range(2 * kind.count)))
        return self.builder.shuffle_vector(first, build_load(self.builder, self.builder.add(address, second), kind), both)

    def halves(self, address: Any, second: Any) -> Any:
        """Half-precision numbers as float32."""
        return self.builder.fpext(self.load(address, second, ir.VectorType(ir.HalfType(), GROUP)), self.floats)

    def repeat(self, address: Any, kind: ir.Type) -> Any:
        """A number of 32 bits in all lanes."""
        return build_splat(self.builder, build_load(self.builder, address, kind), self.lanes)

    def dot(self, total: Any, unsigned: Any, address: Any) -> Any:
        """Add to each lane four products of unsigned bytes and the four int8 at the address."""
        signed = self.builder.bitcast(self.repeat(address, _I32), self.bytes)
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return build_call(self.builder, name, self.integers, total, unsigned, signed)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return build_call(self.builder, f"llvm.fma.v{self.lanes}f32", self.floats, x, y, z)

    def nibbles(self, both: Any) -> tuple[Any, Any]:
        """The low and the high halves of bytes."""
        words, low = ir.VectorType(_I16, 2 * self.lanes), constant(self.bytes, 15)
        shifted = self.builder.lshr(self.builder.bitcast(both, words), constant(words, 4))
        return self.builder.and_(both, low), self.builder.and_(self.builder.bitcast(shifted, self.bytes), low)


# ---- a block of a tile, by type of weights --------------------------------------------------------------------------


def _dot_nibbles(c: Code, at: Place) -> TokenValues:
    """Sums over a block of numbers 0..15, per token."""
    sums = [constant(c.integers, 0)] * len(at.x)
    for offset in range(0, 16, 4):
        low, high = c.nibbles(c.load(c.at(at.numbers, 8 * offset), at.second, _BYTES))
        sums = [c.dot(total, low, c.at(x, offset)) for total, x in zip(sums, at.x, strict=True)]
        sums = [c.dot(total, high, c.at(x, offset + 16)) for total, x in zip(sums, at.x, strict=True)]
    return sums


def _dot_bytes(c: Code, at: Place) -> TokenValues:
    """Sums over a block of int8 numbers, per token."""
    sums = [c.repeat(start, _I32) for start in at.starts]
    for offset in range(0, 32, 4):
        signed = c.load(c.at(at.numbers, 8 * offset), at.second, _BYTES)
        unsigned = c.builder.xor(signed, constant(c.bytes, -128))
        sums = [c.dot(total, unsigned, c.at(x, offset)) for total, x in zip(sums, at.x, strict=True)]
    return sums


def _scaled(c: Code, sums: TokenValues, at: Place) -> TokenValues:
    floats = [c.builder.sitofp(total, c.floats) for total in sums]
    return [c.builder.fmul(x, c.repeat(step, _F32)) for x, step in zip(floats, at.steps, strict=True)]


def _add_q8_0(c: Code, totals: TokenValues, at: Place) -> TokenValues:
    """w = scale * q"""
    scale = c.halves(at.scales, at.second)
    return [c.fma(x, scale, total) for x, total in zip(_scaled(c, _dot_bytes(c, at), at), totals, strict=True)]


def _add_q4_0(c: Code, totals: TokenValues, at: Place) -> TokenValues:
    """w = scale * (q - 8)"""
    scale, zero = c.halves(at.scales, at.second), constant(c.floats, -8.0)
    centred = [c.fma(c.repeat(s, _F32), zero, x) for s, x in zip(at.sums, _scaled(c, _dot_nibbles(c, at), at), strict=True)]
    return [c.fma(x, scale, total) for x, total in zip(centred, totals, strict=True)]


def _add_q4_1(c: Code, totals: TokenValues, at: Place) -> TokenValues:
    """w = scale * q + minimum"""
    scale, minimum = c.halves(at.scales, at.second), c.halves(c.at(at.scales, 2 * GROUP), at.second)
    totals = [c.fma(x, scale, total) for x, total in zip(_scaled(c, _dot_nibbles(c, at), at), totals, strict=True)]
    return [c.fma(minimum, c.repeat(s, _F32), total) for s, total in zip(at.sums, totals, strict=True)]


ADD_BLOCK = {"q8_0": _add_q8_0, "q4_0": _add_q4_0, "q4_1": _add_q4_1}


# ---- operations of a tile, for Numba --------------------------------------------------------------------------------


def _operations(tokens: int, lanes: int, add: Callable[[Code, TokenValues, Place], TokenValues]) -> tuple[Any, Any, Any]:
    """A tile's totals are a tuple of one vector per token: begin them, add a block to them, and write them to `y`."""
    tile, number = types.UniTuple(Vector("f32", _F32, lanes), tokens), types.int64

    def rows(b: Any, address: Any, stride: Any) -> TokenValues:
        return [b.add(address, b.mul(stride, _I64(t))) for t in range(tokens)]

    def built_zeros(context: Any, b: Any, signature: Any, values: Any) -> Any:
        return context.make_tuple(b, tile, [constant(Code(b, lanes).floats, 0.0)] * tokens)

    def built_add(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, numbers, scales, second, x, steps, blocks, stride = values
        fields = [b.add(steps, b.mul(blocks, _I64(offset))) for offset in (0, 4, 16)]
        place = Place(numbers, scales, second, rows(b, x, stride), *(rows(b, field, stride) for field in fields))
        return context.make_tuple(b, tile, add(Code(b, lanes), cgutils.unpack_tuple(b, totals), place))

    def built_finish(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, y, stride, kept, adds = values
        for at, total in zip(rows(b, y, stride), cgutils.unpack_tuple(b, totals), strict=True):
            for group in range(lanes // GROUP):
                with b.if_then(b.icmp_signed(">", kept, _I64(group))):
                    _finish(b, b.add(at, _I64(4 * GROUP * group)), _group(b, total, group), adds)
        return context.get_dummy_value()

    @intrinsic
    def zeros(typing: Any) -> Any:
        return tile(), built_zeros

    @intrinsic
    def add_block(
        typing: Any, totals: Any, numbers: Any, scales: Any, second: Any, x: Any, steps: Any, blocks: Any, stride: Any
    ) -> Any:
        return tile(tile, number, number, number, number, number, number, number), built_add

    @intrinsic
    def finish(typing: Any, totals: Any, y: Any, stride: Any, kept: Any, adds: Any) -> Any:
        return types.void(tile, number, number, number, number), built_finish

    return zeros, add_block, finish


def _group(b: Any, total: Any, group: int) -> Any:
    lanes = ir.Constant(ir.VectorType(_I32, GROUP), list(range(GROUP * group, GROUP * (group + 1))))
    return b.shuffle_vector(total, total, lanes)


def _finish(b: Any, y: Any, total: Any, adds: Any) -> None:
    """Set eight rows of an output, or add to them."""
    added = b.fadd(build_load(b, y, total.type), total)
    build_store(b, y, b.select(b.icmp_signed("!=", adds, _I64(0)), added, total))


def tile_product(name: str, block_bytes: int, scale_bytes: int, tokens: int) -> Any:
    """The product of a tile for blocks of `block_bytes` of numbers and `scale_bytes` of scales per group. `x`: records."""
    groups = TILES[tokens]
    zeros, add_block, finish = _operations(tokens, groups * GROUP, ADD_BLOCK[name])
    tile_bytes = groups * (block_bytes + scale_bytes)

    @inline
    def fetch_ahead(at):
        for line in range(groups * AHEAD_BYTES, groups * AHEAD_BYTES + tile_bytes, 64):
            prefetch(at + line)

    @kernel
    def multiply_tile(w, columns, x, x_stride, y, y_stride, first, last, adds):
        blocks = columns // 32
        group_bytes = blocks * (block_bytes + scale_bytes)
        for group in range(first, last, groups):
            at = w + group * group_bytes
            kept = min(groups, last - group)
            second = group_bytes * (kept - 1)  # a lone last group is computed twice and written once
            totals = zeros()
            for block in range(blocks):
                fetch_ahead(at + block * tile_bytes)
                numbers, scales = at + block * block_bytes, at + blocks * block_bytes + block * scale_bytes
                totals = add_block(totals, numbers, scales, second, x + 32 * block, x + columns + 4 * block, blocks, x_stride)
            finish(totals, y + 4 * GROUP * group, y_stride, kept, adds)

    return multiply_tile
