"""Tiles of a product: a few groups of rows times a few tokens, whose sums stay in registers while the blocks pass by.

A tile reads packed blocks themselves, which is best for one token or a few, or a panel: the blocks of a few groups unpacked once
for all tokens (Goto and van de Geijn 2008 call it packing). Both compute a block in the same way, so that an output's bits do not
depend on how many tokens there are:

    total = fma(sum * step, scale, total), and with a minimum: total = fma(minimum, sum of x, total)

where each run has a minimum, x is multiplied by it before it is summed.

A panel holds block after block: [plane][quad 0..7][row][4 bytes], then per row a float32 scale, a float32 minimum if the type has
one, and if it has runs, two int16 for each of the two, then a float32 for each of the two if they have minimums.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from numba.core import cgutils, types
from numba.extending import intrinsic

from puna.backends.cpu.host import LEVEL
from puna.backends.cpu.instructions import (
    F32,
    I64,
    Code,
    Dots,
    DoublewordDots,
    LLVMValue,
    NumberForm,
    SignedDots,
    Token,
    WordDots,
)
from puna.backends.cpu.layout import GROUP
from puna.backends.cpu.simd import Vector, build_load, build_store, constant
from puna.backends.cpu.unpacking import Place, Unpacking


class Tile(NamedTuple):
    """The sums of a tile are `vectors` * `tokens` vectors of `lanes` rows; with 16 registers, 8 sums leave room for the rest."""

    dots: Dots
    lanes: int
    vectors: int
    tokens: int
    float_tokens: int  # `tokens` of float weights, whose sums need no other registers than their own

    @property
    def groups(self) -> int:
        return self.vectors * self.lanes // GROUP


TILES = {
    "avx512": Tile(DoublewordDots(), 16, 2, 6, 12),
    "avxvnni": Tile(DoublewordDots(), 8, 2, 4, 6),
    "dotprod": Tile(SignedDots(), 8, 2, 4, 6),  # vectors of 256 bits are two of its 32 registers
    "avx2": Tile(WordDots(), 8, 2, 4, 6),
    "portable": Tile(WordDots(), 8, 2, 4, 6),
}
TILE = TILES[LEVEL]
ROWS_BYTES = 4 * GROUP  # of a group's quad, scales or minimums
NUMBER = types.int64


@dataclass(frozen=True, slots=True)
class WeightPanel:
    """Where things lie in a panel's block."""

    unpacking: Unpacking
    tile: Tile

    @property
    def form(self) -> NumberForm:
        return self.unpacking.form

    @property
    def planes(self) -> int:
        return self.tile.dots.planes(self.form)

    @property
    def plane_bytes(self) -> int:
        return 8 * self.row_bytes

    @property
    def row_bytes(self) -> int:
        return self.tile.groups * ROWS_BYTES

    @property
    def scales_at(self) -> int:
        return self.planes * self.plane_bytes

    @property
    def minimums_at(self) -> int:
        return self.scales_at + self.row_bytes

    @property
    def runs_at(self) -> int:
        return self.minimums_at + (self.row_bytes if self.form.has_minimum else 0)

    @property
    def run_minimums_at(self) -> int:
        return self.runs_at + (2 * self.row_bytes if self.form.has_runs else 0)

    @property
    def block_bytes(self) -> int:
        return self.run_minimums_at + (2 * self.row_bytes if self.form.has_run_minimums else 0)


# ---- a block from packed weights ------------------------------------------------------------------------------------


def _sums_of_packed(c: Code, dots: Dots, unpacking: Unpacking, at: Place, tokens: list[Token]) -> list[LLVMValue]:
    """The sums of a block as float32, for each token."""
    form = unpacking.form
    per_run = 4 if form.has_runs else 8
    runs = [[dots.begin(c, form, token, run) for run in range(8 // per_run)] for token in tokens]
    for quad, numbers in unpacking.numbers(c, at):
        planes, run = dots.split(c, form, numbers), quad // per_run
        for sums, token in zip(runs, tokens, strict=True):
            sums[run] = dots.add(c, form, sums[run], planes, _quad_of(c, token, quad))
    scales = unpacking.runs(c, at) if unpacking.runs else ()
    return [dots.end(c, form, sums, scales) for sums in runs]


def _quad_of(c: Code, token: Token, quad: int) -> LLVMValue:
    return c.repeat(c.at(token.numbers, 4 * quad), c.bytes)


def _added(
    c: Code,
    total: LLVMValue,
    dot: LLVMValue,
    token: Token,
    scale: LLVMValue,
    minimum: LLVMValue | None,
    run_minimums: Sequence[LLVMValue],
) -> LLVMValue:
    """A total, and what a block adds to it."""
    step = c.repeat(token.step, c.floats)
    total = c.fma(c.builder.fmul(dot, step), scale, total)
    if minimum is None:
        return total
    if not run_minimums:
        return c.fma(minimum, c.repeat(token.sum, c.floats), total)
    first, second = (c.builder.fmul(one, c.run_sum(token, run)) for run, one in enumerate(run_minimums))
    return c.fma(minimum, c.builder.fmul(c.builder.fadd(first, second), step), total)  # whole numbers below 2**24: exact


def _records(b: Any, x: LLVMValue, stride: LLVMValue, tokens: int, last: LLVMValue) -> list[LLVMValue]:
    """The addresses of a tile's records; the last one stands for those that are missing."""
    return [b.add(x, b.mul(stride, b.select(b.icmp_signed("<", I64(t), last), I64(t), last))) for t in range(tokens)]


def packed_operations(unpacking: Unpacking, dots: Dots, tokens: int) -> tuple[Any, Any, Any]:
    """For a tile of one group, whose totals are a tuple of one vector per token: begin them, add a block, write them to `y`."""
    tile = types.UniTuple(Vector("f32", F32, GROUP), tokens)

    def built_zeros(context: Any, b: Any, signature: Any, values: Any) -> Any:
        return context.make_tuple(b, tile, [constant(Code(b).floats, 0.0)] * tokens)

    def built_add(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, group, blocks, block, x, columns, stride, last = values
        c, at = Code(b), unpacking.place(b, group, blocks, block)
        found = [Token.at(b, record, columns, blocks, block) for record in _records(b, x, stride, tokens, last)]
        sums = _sums_of_packed(c, dots, unpacking, at, found)
        scale = unpacking.scale(c, at)
        minimum = unpacking.minimum(c, at) if unpacking.minimum else None
        of_runs = unpacking.run_minimums(c, at) if unpacking.run_minimums else ()
        old = cgutils.unpack_tuple(b, totals)
        added = [
            _added(c, total, dot, token, scale, minimum, of_runs) for total, dot, token in zip(old, sums, found, strict=True)
        ]
        return context.make_tuple(b, tile, added)

    def built_finish(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, y, stride, last, adds = values
        for t, total in enumerate(cgutils.unpack_tuple(b, totals)):
            with b.if_then(b.icmp_signed(">=", last, I64(t))):
                write_eight(b, b.add(y, b.mul(stride, I64(t))), total, adds)
        return context.get_dummy_value()

    @intrinsic
    def zeros(typing: Any) -> Any:
        return tile(), built_zeros

    @intrinsic
    def add_block(
        typing: Any, totals: Any, group: Any, blocks: Any, block: Any, x: Any, columns: Any, stride: Any, last: Any
    ) -> Any:
        return tile(tile, *[NUMBER] * 7), built_add

    @intrinsic
    def finish(typing: Any, totals: Any, y: Any, stride: Any, last: Any, adds: Any) -> Any:
        return types.void(tile, *[NUMBER] * 4), built_finish

    return zeros, add_block, finish


def write_eight(b: Any, y: LLVMValue, total: LLVMValue, adds: LLVMValue) -> None:
    """Set eight rows of an output, or add to them."""
    added = b.fadd(build_load(b, y, total.type), total)
    build_store(b, y, b.select(b.icmp_signed("!=", adds, I64(0)), added, total))


# ---- a block from a panel -------------------------------------------------------------------------------------------


def unpack_operation(panel: WeightPanel) -> Any:
    """Unpack a block of a group into its part of the panel's block at `to`."""
    unpacking, dots, form = panel.unpacking, panel.tile.dots, panel.form

    def built(context: Any, b: Any, signature: Any, values: Any) -> Any:
        group, blocks, block, to = values
        c, at = Code(b), unpacking.place(b, group, blocks, block)
        for quad, numbers in unpacking.numbers(c, at):
            for plane, part in enumerate(dots.split(c, form, numbers)):
                c.store(c.at(to, plane * panel.plane_bytes + quad * panel.row_bytes), part)
        c.store(c.at(to, panel.scales_at), unpacking.scale(c, at))
        if unpacking.minimum:
            c.store(c.at(to, panel.minimums_at), unpacking.minimum(c, at))
        if unpacking.runs:
            for run, pairs in enumerate(unpacking.runs(c, at)):
                c.store(c.at(to, panel.runs_at + run * panel.row_bytes), pairs)
        if unpacking.run_minimums:
            for run, numbers in enumerate(unpacking.run_minimums(c, at)):
                c.store(c.at(to, panel.run_minimums_at + run * panel.row_bytes), numbers)
        return context.get_dummy_value()

    @intrinsic
    def unpack(typing: Any, group: Any, blocks: Any, block: Any, to: Any) -> Any:
        return types.void(*[NUMBER] * 4), built

    return unpack


def multiply_operation(panel: WeightPanel) -> Any:
    """Add the products of some blocks of a panel to a tile's totals in memory: float32 [token][row]."""
    tile, form = panel.tile, panel.form
    per_run = 4 if form.has_runs else 8

    def run_sums(c: Code, at: LLVMValue, tokens: list[Token], run: int) -> list[LLVMValue]:
        """The sums of a run of quads, for each vector of each token; they stay in registers."""

        def add_quad(quad: LLVMValue, *sums: LLVMValue) -> list[LLVMValue]:
            rows = c.builder.add(at, c.builder.mul(c.builder.add(quad, I64(per_run * run)), I64(panel.row_bytes)))
            vectors = [
                [c.load_bytes(c.at(rows, plane * panel.plane_bytes + 4 * tile.lanes * v)) for plane in range(panel.planes)]
                for v in range(tile.vectors)
            ]
            offset = c.builder.add(c.builder.shl(quad, I64(2)), I64(4 * per_run * run))
            x = [c.repeat(c.builder.add(token.numbers, offset), c.bytes) for token in tokens]
            pairs = [(quads, planes) for quads in x for planes in vectors]
            return [tile.dots.add(c, form, total, planes, quads) for total, (quads, planes) in zip(sums, pairs, strict=True)]

        begun = [tile.dots.begin(c, form, token, run) for token in tokens]
        return c.loop(I64(per_run), add_quad, [total for total in begun for _ in range(tile.vectors)])

    def add_block(c: Code, at: LLVMValue, tokens: list[Token], totals: list[LLVMValue]) -> list[LLVMValue]:
        runs = [run_sums(c, at, tokens, run) for run in range(8 // per_run)]
        added = list[LLVMValue]()
        for t, token in enumerate(tokens):
            for v in range(tile.vectors):
                i, offset = t * tile.vectors + v, 4 * tile.lanes * v
                scales = [
                    c.load(c.at(at, panel.runs_at + run * panel.row_bytes + offset), c.words) for run in range(2 * form.has_runs)
                ]
                dot = tile.dots.end(c, form, [of_run[i] for of_run in runs], scales)
                scale = c.load_floats(c.at(at, panel.scales_at + offset))
                minimum = c.load_floats(c.at(at, panel.minimums_at + offset)) if form.has_minimum else None
                of_runs = [
                    c.load_floats(c.at(at, panel.run_minimums_at + run * panel.row_bytes + offset))
                    for run in range(2 * form.has_run_minimums)
                ]
                added.append(_added(c, totals[i], dot, token, scale, minimum, of_runs))
        return added

    def built(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, at, count, x, columns, stride, first, last = values
        c, blocks = Code(b, tile.lanes), b.lshr(columns, I64(5))
        records = _records(b, x, stride, tile.tokens, last)
        places = [c.at(totals, 4 * tile.lanes * i) for i in range(tile.tokens * tile.vectors)]

        def body(i: LLVMValue, *old: LLVMValue) -> list[LLVMValue]:
            tokens = [Token.at(b, record, columns, blocks, b.add(first, i)) for record in records]
            return add_block(c, b.add(at, b.mul(i, I64(panel.block_bytes))), tokens, list(old))

        for place, total in zip(places, c.loop(count, body, [c.load_floats(place) for place in places]), strict=True):
            c.store(place, total)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing: Any, totals: Any, at: Any, count: Any, x: Any, columns: Any, stride: Any, first: Any, last: Any) -> Any:
        return types.void(*[NUMBER] * 8), built

    return multiply


def peak_operation(tile: Tile) -> Any:
    """Multiply `quads` quads of four-bit numbers at an address with a tile's activations behind them, and nothing else: what the
    products of a panel would reach without scales, totals and unpacking. Writes the sums there, so that they are needed."""
    form = NumberForm(4)

    def built(context: Any, b: Any, signature: Any, values: Any) -> Any:
        address, loops, quads = values
        c, step = Code(b, tile.lanes), 4 * tile.lanes
        nowhere = Token(*[address] * len(Token._fields))
        begun = [tile.dots.begin(c, form, nowhere, 0)] * (tile.tokens * tile.vectors)

        def add_quad(quad: LLVMValue, *sums: LLVMValue) -> list[LLVMValue]:
            rows = b.add(address, b.mul(quad, I64(step * tile.vectors)))
            vectors = [c.load_bytes(c.at(rows, step * v)) for v in range(tile.vectors)]
            x = [c.repeat(c.at(rows, 64 * t), c.bytes) for t in range(tile.tokens)]
            pairs = [(quad_of_x, vector) for quad_of_x in x for vector in vectors]
            return [tile.dots.add(c, form, s, [vector], quad_of_x) for s, (quad_of_x, vector) in zip(sums, pairs, strict=True)]

        sums = c.loop(loops, lambda _, *sums: c.loop(quads, add_quad, sums), begun)
        for i, total in enumerate(sums):
            c.store(c.at(address, step * i), total)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing: Any, address: Any, loops: Any, quads: Any) -> Any:
        return types.void(*[NUMBER] * 3), built

    return multiply


# ---- float weights --------------------------------------------------------------------------------------------------


def multiply_floats_operation(tile: Tile) -> Any:
    """Add the products of some columns of a panel of float32 [column][row] to a tile's totals in memory: float32 [token][row]."""

    def built(context: Any, b: Any, signature: Any, values: Any) -> Any:
        totals, at, columns, x, stride, last = values
        c = Code(b, tile.lanes)
        rows = _records(b, x, stride, tile.float_tokens, last)
        places = [c.at(totals, 4 * tile.lanes * i) for i in range(tile.float_tokens * tile.vectors)]

        def add_column(column: LLVMValue, *old: LLVMValue) -> list[LLVMValue]:
            weights = c.builder.add(at, c.builder.mul(column, I64(4 * tile.vectors * tile.lanes)))
            vectors = [c.load_floats(c.at(weights, 4 * tile.lanes * v)) for v in range(tile.vectors)]
            pairs = [(x, v) for x in (c.repeat(b.add(row, b.shl(column, I64(2))), c.floats) for row in rows) for v in vectors]
            return [c.fma(v, x, total) for total, (x, v) in zip(old, pairs, strict=True)]

        for place, total in zip(places, c.loop(columns, add_column, [c.load_floats(place) for place in places]), strict=True):
            c.store(place, total)
        return context.get_dummy_value()

    @intrinsic
    def multiply(typing: Any, totals: Any, at: Any, columns: Any, x: Any, stride: Any, last: Any) -> Any:
        return types.void(*[NUMBER] * 6), built

    return multiply
