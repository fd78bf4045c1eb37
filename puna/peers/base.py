"""What a peer gives: the seconds that a prompt and an answer took.

This file and those of the peers run in a peer's own Python (`child.py`), which may have nothing of what puna needs: they import
the standard library, and the peer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Seconds(NamedTuple):
    """Wall-clock time of a run."""

    prompt: float
    answer: float  # 0.0 where none was asked for


# Reads the prompt's ids, then computes as many tokens as there are ids of an answer, one at a time. A program that can be given
# the tokens of its answer is given these; another one samples its own greedily.
Measure = Callable[[Sequence[int], Sequence[int]], Seconds]


class LoadedPeer(NamedTuple):
    """A peer with a model in memory."""

    version: str
    computes: str  # the type of the weights that it multiplies, in words
    measure: Measure
