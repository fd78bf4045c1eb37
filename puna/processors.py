"""Logits processors: functions of the caller's own that change the logits before any filter sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from puna import checks
from puna.errors import NumericalError
from puna.history import History, Row
from puna.request import SamplingParams

LogitsProcessor = Callable[[list[int], Row], Row]  # (the ids so far, the logits) -> the new logits
PROCESSORS = "logits_processors"  # among the names of filters


def checked_processors(given: Any) -> tuple[LogitsProcessor, ...]:
    """A caller's `logits_processors`: a function, or a list of functions. UsageError for anything else."""
    several = () if given is None else (given,) if callable(given) else checks.row(PROCESSORS, given, "a list of functions")
    for one in several:
        if not callable(one):
            raise checks.refuse(f"each of {PROCESSORS}", one, "a function (ids, logits) -> logits")
    return tuple(several)


class Processors:
    """The processors of a request as one filter, the first of all.

    >>> def no_zero(ids: list[int], logits: Row) -> Row:
    ...     logits[0] = -np.inf
    ...     return logits
    >>> Processors([no_zero])(np.float32([3, 2]), SamplingParams(), History()).tolist()
    [-inf, 2.0]
    """

    def __init__(self, processors: Sequence[LogitsProcessor]) -> None:
        self._processors = processors

    def __call__(self, logits: Row, params: SamplingParams, history: History) -> Row:
        row, ids = logits.copy(), history.ids()
        for processor in self._processors:
            row = _checked(processor(ids, row), len(logits))
        if not np.isfinite(row.max()):
            raise NumericalError("a logits processor returned logits with NaN or +inf, or removed all tokens")
        return row


def _checked(given: Any, vocab_size: int) -> Row:
    """What a processor returned, as a row. UsageError if it is none."""
    if not isinstance(given, np.ndarray) or given.shape != (vocab_size,) or given.dtype.kind != "f":
        raise checks.refuse("what a logits processor returned", given, f"an array of {vocab_size} floats")
    return given.astype(np.float32, copy=False)
