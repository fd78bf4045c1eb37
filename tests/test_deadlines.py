"""Deadlines: each request is named once, at its time, whatever the order in which they were added."""

from __future__ import annotations

import random

import pytest

from puna.deadlines import Deadlines


@pytest.mark.parametrize("seed", range(20))
def test_each_request_is_named_once_when_its_time_has_come(seed: int) -> None:
    rng = random.Random(seed)
    now = 0.0
    deadlines, ends = Deadlines(lambda: now), dict[int, float]()
    for number in range(200):
        seconds = rng.choice([None, 0.0, rng.random() * 50])
        deadlines.add(number, seconds)
        if seconds is not None:
            ends[number] = now + seconds
        now += rng.random()
        passed = deadlines.passed()
        assert sorted(passed) == sorted(one for one, end in ends.items() if end <= now)
        for one in passed:
            del ends[one]
    now += 51
    assert sorted(deadlines.passed()) == sorted(ends) and deadlines.passed() == []
