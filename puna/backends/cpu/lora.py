"""LoRA adapters beside a layer's products (Hu et al. 2021, arXiv 2106.09685): y += B (A x) for the rows that have one.

A thread computes all of A x for its share of B's rows, so that no thread waits for another. Each row is summed in one order,
whatever the other rows and their adapters are.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.job import read_adapter
from puna.backends.cpu.simd import add, fma, load_f32x8, load_i32, splat_f32, store_f32x8, sum_lanes


@kernel
def add_adapters(memory, sizes, index, columns, x, x_stride, tokens, y, y_stride, first, last):
    """Groups first..last-1 of eight numbers of each token's row of `y`. `index`: of the matrix; `x`: float32 rows."""
    for t in range(tokens):
        adapter = np.int64(load_i32(memory.row_adapters + 4 * t))
        if adapter >= 0:
            part = read_adapter(memory, sizes, adapter, index)
            for j in range(part.rank):
                low = splat_f32(_dot(part.a + j * part.a_stride, x + t * x_stride, columns))
                for group in range(first, last):
                    at = y + t * y_stride + 32 * group
                    store_f32x8(at, fma(low, load_f32x8(part.b + j * part.b_stride + 32 * group), load_f32x8(at)))


@kernel
def _dot(a, x, columns):
    """The sum of products of two float32 rows of whole blocks of 32: four sums, so that none waits for another."""
    s0 = s1 = s2 = s3 = splat_f32(np.float32(0.0))
    for i in range(0, 4 * columns, 128):
        s0 = fma(load_f32x8(a + i), load_f32x8(x + i), s0)
        s1 = fma(load_f32x8(a + i + 32), load_f32x8(x + i + 32), s1)
        s2 = fma(load_f32x8(a + i + 64), load_f32x8(x + i + 64), s2)
        s3 = fma(load_f32x8(a + i + 96), load_f32x8(x + i + 96), s3)
    return sum_lanes(add(add(s0, s1), add(s2, s3)))
