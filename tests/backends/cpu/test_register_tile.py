"""Tiles of sums: the product of rows and columns, with the same bits in a tile of any shape."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import pytest

from puna.backends.cpu.jit import FLAGS
from puna.backends.cpu.register_tile import NUMBERS, product

Floats = npt.NDArray[np.float32]
KINDS = {"f16": np.float16, "f32": np.float32, "int8": np.int8}
COUNT, COLUMNS = 37, 32


def multiplied(kind: str, rows: int, vectors: int, x: Floats, w: npt.NDArray[Any], cut: int) -> Floats:
    """x w by tiles of `rows` rows and `vectors` vectors, in two parts, cut at `cut`."""
    multiply_tile = product(rows, vectors, NUMBERS[kind], prefetches=True)

    @numba.njit(**FLAGS)
    def run(x: int, x_stride: int, w: int, w_stride: int, count: int, y: int, y_stride: int, is_first: bool) -> None:
        multiply_tile(x, x_stride, w, w_stride, count, y, y_stride, is_first, 0)

    y = np.full((len(x), COLUMNS), 9, np.float32)
    for row in range(0, len(x), rows):
        for column in range(0, COLUMNS, 8 * vectors):
            at = w.ctypes.data + column * w.itemsize
            to = y[row:, column:].ctypes.data
            run(x[row:].ctypes.data, x.strides[0], at, w.strides[0], cut, to, y.strides[0], True)
            after = x[row:, cut:].ctypes.data, x.strides[0], at + cut * w.strides[0], w.strides[0]
            run(*after, COUNT - cut, to, y.strides[0], False)
    return y


@pytest.mark.parametrize("kind", NUMBERS)
def test_tiles_of_any_shape_add_the_same_products_in_one_order(kind: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((12, COUNT)).astype(np.float32)
    w = (20 * rng.standard_normal((COUNT, COLUMNS))).astype(KINDS[kind])
    whole = multiplied(kind, 1, 1, x, w, 0)
    assert np.allclose(whole, x.astype(np.float64) @ w.astype(np.float64), rtol=1e-5, atol=1e-3)
    for rows, vectors, cut in ((1, 4, 5), (3, 4, 36), (4, 2, 0), (6, 2, 8)):
        assert np.array_equal(multiplied(kind, rows, vectors, x, w, cut), whole), (rows, vectors)
