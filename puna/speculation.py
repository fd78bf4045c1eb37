"""Speculation: guesses of the next tokens, which one step checks together. Each guess has a row of its own.

A guess (a draft) is accepted if it is the token that the request's own sampler takes from the row before it. So the results are
the same, bit for bit, greedy or sampled, and only the number of steps changes. (Leviathan et al. 2023, arXiv 2211.17192, accept
more guesses of a draft model by a random test; their tokens have the same distribution, but are others than the seed's.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from puna.request import Request


class Drafter(Protocol):
    """Guesses the next tokens of requests. A wrong guess costs time, and changes no result."""

    def start(self, request: Request) -> None:
        """A request was added."""

    def draft(self, requests: Sequence[Request]) -> None:
        """Set `draft_ids` of decoding requests. `output_ids` have grown since the last call."""

    def note(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""

    def finish(self, request: Request) -> None:
        """A request has ended."""
