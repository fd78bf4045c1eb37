"""Rows assembled on demand equal the rows of the whole matrix, for every part of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from puna.formats.rows import (
    ComputedRows,
    CutRows,
    HalfSplitHeads,
    JoinedRows,
    Rows,
    StackedRows,
    half_split_vector,
    interleaved_order,
)

WHOLE = np.random.default_rng(3).integers(0, 256, (24, 10), np.uint8)
SPLIT = WHOLE.reshape(3, 4, 2, 10).transpose(0, 2, 1, 3).reshape(24, 10)  # heads of 8, from pairs side by side to halves

MADE: dict[str, Callable[[], Rows]] = {
    "half-split": lambda: HalfSplitHeads(SPLIT, 8),
    "stacked": lambda: StackedRows([WHOLE[:5], WHOLE[5:6], WHOLE[6:]]),
    "joined": lambda: JoinedRows([WHOLE[:, :3], WHOLE[:, 3:]]),
    "cut": lambda: CutRows(np.pad(WHOLE, ((2, 1), (3, 4))), (2, 26), (3, 13)),
    "computed": lambda: ComputedRows((24, 10), lambda first, last: WHOLE[first:last]),
}


@pytest.mark.parametrize("name", MADE)
def test_every_part_is_the_part_of_the_whole(name: str) -> None:
    rows = MADE[name]()
    assert rows.shape == WHOLE.shape and rows.nbytes == WHOLE.nbytes and len(rows) == len(WHOLE)
    assert np.array_equal(rows[:], WHOLE)
    for first in range(25):
        for last in range(first, 26):
            assert np.array_equal(rows[first:last], WHOLE[first:last])
    assert np.array_equal(rows[1::3], WHOLE[1::3])


def test_a_vector_is_turned_head_by_head() -> None:
    values = np.arange(12, dtype=np.float32)
    made = half_split_vector(values.view(np.uint8).reshape(1, -1), 6, 4)
    order = interleaved_order(6)
    assert made[:].view(np.float32).reshape(-1).tolist() == [*order.tolist(), *(6 + order).tolist()]
