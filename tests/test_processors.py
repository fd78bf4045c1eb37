"""Logits processors: what they get, what they may return, and where they stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from puna.errors import NumericalError, UsageError
from puna.history import History, Row
from puna.processors import checked_processors
from puna.request import SamplingParams
from puna.sampling import Sampler

SEEN = History([7], [8, 9])


def row_of(*values: float) -> Row:
    return np.array(values, np.float32)


def sampler(*processors: Any, **settings: Any) -> Sampler:
    return Sampler(SamplingParams(**settings), 3, processors=processors)


def test_a_processor_gets_the_ids_so_far_and_a_row_of_its_own_and_each_one_gets_what_the_last_returned() -> None:
    given: list[tuple[list[int], list[float]]] = []

    def first(ids: list[int], row: Row) -> Row:
        given.append((ids, row.tolist()))
        row[0] = 9.0
        return row

    def second(ids: list[int], row: Row) -> Row:
        given.append((ids, row.tolist()))
        return (row * 2).astype(np.float64)

    logits = row_of(1, 2, 3)
    assert sampler(first, second).processed(logits, SEEN).tolist() == [18.0, 4.0, 6.0]
    assert logits.tolist() == [1, 2, 3] and given == [([7, 8, 9], [1, 2, 3]), ([7, 8, 9], [9, 2, 3])]


def test_bans_and_filters_come_after_it() -> None:
    def loud(ids: list[int], row: Row) -> Row:
        return row_of(0, 1e6, 1)

    assert sampler(loud).sample(row_of(1, 2, 3), SEEN) == 1
    assert sampler(loud, suppress_ids=[1]).sample(row_of(1, 2, 3), SEEN) == 2
    assert sampler(loud, temperature=1.0, top_k=1, seed=1).filters == ("logits_processors", "top_k", "temperature")


@pytest.mark.parametrize("wrong", [None, [1.0, 2.0, 3.0], row_of(1, 2), np.array([1, 2, 3])], ids=str)
def test_what_is_no_row_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"what a logits processor returned is .*; an array of 3 floats is needed"):
        sampler(lambda ids, row: wrong).sample(row_of(1, 2, 3), SEEN)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_told_as_the_processors(value: float) -> None:
    with pytest.raises(NumericalError, match="a logits processor returned"):
        sampler(lambda ids, row: row + row_of(value, 0, 0)).sample(row_of(1, 2, 3), SEEN)
    with pytest.raises(NumericalError, match="removed all tokens"):
        sampler(lambda ids, row: np.full_like(row, -math.inf)).sample(row_of(1, 2, 3), SEEN)


def test_one_function_or_a_list_of_functions_is_taken() -> None:
    one: Any = len
    assert checked_processors(None) == () and checked_processors(one) == (one,) and checked_processors([one, one]) == (one, one)
    for wrong in ("x", 3, [3], [None]):
        with pytest.raises(UsageError, match=r"logits_processors is .* needed"):
            checked_processors(wrong)
