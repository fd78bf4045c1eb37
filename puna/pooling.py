"""Pooling: one vector from the hidden states of a prompt's tokens (Reimers and Gurevych 2019, arXiv 1908.10084).

A Pool receives the rows in the order of the tokens, in pieces of any sizes: sums are float64, one row after the other, so that
chunks and preemption change no bit.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.errors import NumericalError, UsageError

Pooling = Literal["mean", "last", "cls"]
Floats = npt.NDArray[np.float32]


class Pool:
    """The pooled hidden state of a growing sequence.

    >>> pool = Pool("mean")
    >>> pool.add(np.array([[1, 2], [3, 4]], np.float32))
    >>> pool.add(np.array([[5, 9]], np.float32))
    >>> pool.vector().tolist(), pool.num_rows
    ([3.0, 5.0], 3)
    """

    def __init__(self, pooling: Pooling) -> None:
        self.pooling = pooling
        self.num_rows = 0  # of the tokens that were pooled
        self._state: npt.NDArray[np.float64] | None = None

    def first_row(self, num_tokens: int) -> int:
        """The first token whose hidden state is still needed: all from there on are."""
        return max(self.num_rows, num_tokens - 1) if self.pooling == "last" else self.num_rows

    def add(self, rows: Floats) -> None:
        """The hidden states of the next tokens.  # (tokens, hidden_size). NumericalError if one is not finite"""
        if not np.isfinite(rows).all():
            raise NumericalError(
                "the model's hidden states are not finite",
                hint="The weights or the file's metadata are damaged: fetch the model again, or take another one.",
            )
        for row in rows.astype(np.float64):
            self._state = _JOINED[self.pooling](self._state, row)
            self.num_rows += 1

    def vector(self) -> npt.NDArray[np.float64]:
        """The pooled hidden state.  # (hidden_size,)"""
        if self._state is None:
            raise UsageError("nothing was pooled yet", hint="Read it once the request has ended.")
        return self._state / self.num_rows if self.pooling == "mean" else self._state


def checked_pooling(name: str, value: object) -> Pooling:
    """UsageError for a word that is no pooling."""
    found: Pooling | None = next((way for way in get_args(Pooling) if isinstance(value, str) and way == value), None)
    if found is None:
        raise UsageError(f"{name} is {checks.shown(value)}; allowed: {', '.join(get_args(Pooling))}")
    return found


# What a pool keeps: of the rows so far (None: there were none) and the next one.
_JOINED: dict[Pooling, Any] = {
    "mean": lambda state, row: row if state is None else state + row,
    "last": lambda state, row: row,
    "cls": lambda state, row: row if state is None else state,
}
