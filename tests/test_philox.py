"""Philox: numpy's stream, number by number, in any order."""

from __future__ import annotations

import numpy as np
import pytest

from puna.philox import block, uniform

SEEDS = [0, 1, 42, 2**53 - 1, 2**63, 2**64 - 1, *np.random.default_rng(15).integers(0, 2**64, 20, np.uint64).tolist()]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_numbers_of_a_seed_are_numpys_in_any_order(seed: int) -> None:
    wanted = np.random.Generator(np.random.Philox(key=seed)).random(300)
    order = np.random.default_rng(seed).permutation(300).tolist()
    assert [uniform(seed, index) for index in order] == wanted[order].tolist()


def test_an_index_beyond_any_text_has_its_number() -> None:
    far = np.random.Philox(key=9).advance(2**40)
    assert block(9, 2**40 + 1) == tuple(far.random_raw(4).tolist())
    assert 0.0 <= uniform(9, 2**62) < 1.0
