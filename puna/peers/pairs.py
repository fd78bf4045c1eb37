"""Runs of two programs in turns, and the ratios of their pairs: a machine drifts, and what ran in the same seconds met the same.

>>> pairs = alternate(lambda n: 6.0 * n, lambda n: 2.0 * n, [1, 2, 3])
>>> summary(pairs)["ratio"], len(pairs)
(3.0, 2)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class RatePair(NamedTuple):
    """What puna and a peer reached one after the other, in tokens per second."""

    puna: float
    peer: float


def alternate(
    own: Callable[[T], float],
    peer: Callable[[T], float],
    questions: Sequence[T],
    done: Callable[[int], None] = lambda number: None,
) -> list[RatePair]:
    """Put each question to both, who answer with a rate; the other one comes first each time. The first question warms both up
    and counts for nothing. `done` hears how many questions are through."""
    pairs: list[RatePair] = []
    done(0)
    for number, question in enumerate(questions):
        if number % 2 == 0:
            pair = RatePair(own(question), peer(question))
        else:
            theirs = peer(question)
            pair = RatePair(own(question), theirs)
        pairs.append(pair)
        done(number + 1)
    return pairs[1:]


def summary(pairs: Sequence[RatePair]) -> dict[str, Any]:
    """The medians of both, and of the ratios of the pairs with their range; above 1, puna is faster.

    >>> summary([RatePair(4.0, 2.0), RatePair(9.0, 3.0), RatePair(2.0, 2.0)])
    {'puna': 4.0, 'peer': 2.0, 'ratio': 2.0, 'min': 1.0, 'max': 3.0, 'pairs': [[4.0, 2.0], [9.0, 3.0], [2.0, 2.0]]}
    """
    ratios = [pair.puna / pair.peer for pair in pairs]
    return {
        "puna": round(statistics.median(pair.puna for pair in pairs), 2),
        "peer": round(statistics.median(pair.peer for pair in pairs), 2),
        "ratio": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
        "pairs": [[round(rate, 2) for rate in pair] for pair in pairs],
    }
