"""`dequantize_row_*`: a row of a packed matrix as float32, the embedding of a token. An entry for each type of weights."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from puna.backends.cpu.instructions import F32, I8, I32, Code, LLVMValue
from puna.backends.cpu.jit import entry
from puna.backends.cpu.layout import BLOCK, GROUP
from puna.backends.cpu.panels import NUMBER
from puna.backends.cpu.simd import build_splat, constant, load_bf16, load_f16, load_f32, store_f32
from puna.backends.cpu.unpacking import UNPACKINGS, Unpacking

FOUR = ir.VectorType(F32, 4)


def _block_operation(unpacking: Unpacking) -> Any:
    """Write the 32 weights of a row's block to `out`: scale * (number - zero) + minimum."""
    form = unpacking.form

    def built(context: Any, b: Any, signature: Any, values: Any) -> Any:
        group, blocks, block, lane, out = values
        c, at, lane = Code(b), unpacking.place(b, group, blocks, block), b.trunc(lane, I32)

        def of_row(vector: LLVMValue) -> LLVMValue:
            return build_splat(b, b.extract_element(vector, lane), 4)

        scale = unpacking.scale(c, at)
        of_runs = [
            c.to_floats(b.ashr(b.bitcast(pairs, c.integers), constant(c.integers, 16))) for pairs in _runs(unpacking, c, at)
        ]
        scales = [of_row(b.fmul(scale, run)) for run in of_runs] or [of_row(scale)] * 2
        minimums = [of_row(minimum) for minimum in _minimums(unpacking, c, at)]
        for quad, numbers in unpacking.numbers(c, at):
            bytes_of_row = b.bitcast(b.extract_element(b.bitcast(numbers, c.integers), lane), ir.VectorType(I8, 4))
            wide = (b.sext if form.bits == 8 else b.zext)(bytes_of_row, ir.VectorType(I32, 4))
            floats = b.sitofp(b.sub(wide, constant(wide.type, form.zero)), FOUR)
            weights = b.fmul(floats, scales[quad // 4])
            if minimums:
                weights = b.fadd(weights, minimums[quad // 4])
            c.store(c.at(out, 16 * quad), weights)
        return context.get_dummy_value()

    @intrinsic
    def write_block(typing: Any, group: Any, blocks: Any, block: Any, lane: Any, out: Any) -> Any:
        return types.void(*[NUMBER] * 5), built

    return write_block


def _runs(unpacking: Unpacking, c: Code, at: Any) -> tuple[LLVMValue, ...]:
    return unpacking.runs(c, at) if unpacking.runs else ()


def _minimums(unpacking: Unpacking, c: Code, at: Any) -> list[LLVMValue]:
    """Of both runs; none if the type has no minimum."""
    if not unpacking.minimum:
        return []
    minimum = unpacking.minimum(c, at)
    if not unpacking.run_minimums:
        return [minimum] * 2
    return [c.builder.fmul(minimum, c.builder.fmul(run, constant(c.floats, -32.0))) for run in unpacking.run_minimums(c, at)]


def _dequantize_row(unpacking: Unpacking) -> Any:
    write_block, block_bytes = _block_operation(unpacking), unpacking.bytes

    @entry
    def dequantize_row(w, columns, row, size, out):
        """The row, padded to whole blocks. `size`: of its numbers."""
        blocks = columns // BLOCK
        for block in range((size + BLOCK - 1) // BLOCK):
            write_block(w + row // GROUP * blocks * block_bytes, blocks, block, row % GROUP, out + 4 * BLOCK * block)
        return 0

    return dequantize_row


def _dequantize_float_row(load: Any, size: int) -> Any:
    @entry
    def dequantize_row(w, columns, row, count, out):
        """The first `count` numbers of the row."""
        for column in range(count):
            store_f32(out + 4 * column, load(w + ((row // GROUP * columns + column) * GROUP + row % GROUP) * size))
        return 0

    return dequantize_row


dequantize_row_f32 = _dequantize_float_row(load_f32, 4)
dequantize_row_f16 = _dequantize_float_row(load_f16, 2)
dequantize_row_bf16 = _dequantize_float_row(load_bf16, 2)
globals().update({f"dequantize_row_{name}": _dequantize_row(unpacking) for name, unpacking in UNPACKINGS.items()})
