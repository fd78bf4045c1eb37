"""Products whose sums stay in registers: a tile of some rows times some vectors of columns.

Twelve sums, and what they multiply, fill the sixteen registers of AVX2: six rows of two vectors, or three of four. Fewer than
eight sums would wait for their own additions. Each sum adds its products in one order, so it has the same bits in any tile.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.simd import (
    F32x8,
    build_call,
    build_load,
    build_load_f16,
    build_load_f32,
    build_load_i8,
    build_splat,
    build_store,
    constant,
    prefetch,
)


class StoredNumber(NamedTuple):
    """How the numbers of a matrix lie in memory."""

    size: int  # bytes
    build_load: Callable[[Any, Any], Any]  # of eight numbers at an address, as float32


NUMBERS = {"f16": StoredNumber(2, build_load_f16), "f32": StoredNumber(4, build_load_f32), "int8": StoredNumber(1, build_load_i8)}


def product(rows: int, vectors: int, number: StoredNumber, prefetches: bool) -> Any:
    """The kernel of the product of `rows` rows of x, float32, with 8 * `vectors` columns of w."""
    tile = types.UniTuple(F32x8, rows * vectors)
    places = [(row, vector) for row in range(rows) for vector in range(vectors)]
    if rows < vectors:  # the fewer ones stay in registers while the others pass
        places = [(row, vector) for vector in range(vectors) for row in range(rows)]
    address, vector_type = types.int64, F32x8.llvm

    def rows_from(builder: Any, first: Any, stride: Any) -> list[Any]:
        """The addresses of the rows, the first of which lies at `first`."""
        found = [first]
        for _ in range(rows - 1):
            found.append(builder.add(found[-1], stride))
        return found

    def after(builder: Any, start: Any, num_bytes: int) -> Any:
        return builder.add(start, ir.IntType(64)(num_bytes))

    def zeros(typing: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return context.make_tuple(builder, tile, [constant(vector_type, 0.0)] * len(places))

        return tile(), built

    def load(typing: Any, at: Any, stride: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            starts = rows_from(builder, *values)
            sums = [build_load(builder, after(builder, starts[row], 32 * vector), vector_type) for row, vector in places]
            return context.make_tuple(builder, tile, sums)

        return tile(address, address), built

    def store(typing: Any, at: Any, stride: Any, sums: Any) -> Any:
        def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            starts = rows_from(builder, *values[:2])
            for (row, vector), value in zip(places, cgutils.unpack_tuple(builder, values[2]), strict=True):
                build_store(builder, after(builder, starts[row], 32 * vector), value)
            return context.get_dummy_value()

        return types.void(address, address, tile), built

    def multiply(typing: Any, sums: Any, x: Any, stride: Any, w: Any) -> Any:
        """The sums, plus each row's number of x times the columns at w."""

        def built(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            before, x, stride, w = values
            columns = [number.build_load(builder, after(builder, w, 8 * number.size * vector)) for vector in range(vectors)]
            factors = [build_splat(builder, build_load(builder, at, ir.FloatType()), 8) for at in rows_from(builder, x, stride)]
            sums = [
                build_call(builder, "llvm.fma.v8f32", vector_type, columns[vector], factors[row], value)
                for (row, vector), value in zip(places, cgutils.unpack_tuple(builder, before), strict=True)
            ]
            return context.make_tuple(builder, tile, sums)

        return tile(tile, address, address, address), built

    intrinsics: Iterator[Any] = map(intrinsic, (zeros, load, store, multiply))
    zeros_of, load_tile, store_tile, add_products = intrinsics

    @kernel
    def multiply_tile(x, x_stride, w, w_stride, count, y, y_stride, is_first, ahead):
        """y = x w, or y += x w where it is not the first part: `count` numbers of each row of x, and rows of w. Strides are in
        bytes, from a row to the next. Fetches what lies `ahead` bytes after w."""
        sums = zeros_of() if is_first else load_tile(y, y_stride)
        for i in range(count):
            sums = add_products(sums, x + 4 * i, x_stride, w)
            if prefetches:
                prefetch(w + ahead)
            w += w_stride
        store_tile(y, y_stride, sums)

    return multiply_tile
