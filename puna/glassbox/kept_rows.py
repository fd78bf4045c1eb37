"""Keeps the logits of the steps that were looked at last, so that other settings can be tried on a step without the model."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from puna.glassbox.recorder import StepRecorder
from puna.glassbox.trace import TracedToken
from puna.history import History, Row
from puna.sampling import GIVEN, Candidates

MAX_ROW_BYTES = 64 << 20  # of all rows: some 330 steps of a vocabulary of 49,152 tokens, 110 of one of 152,000
StepPlace = tuple[int, int]  # a branch, and a step that belongs to it


@dataclass(frozen=True, slots=True)
class KeptRow:
    """What a step samples from."""

    logits: Row  # (vocab_size,) the model's
    allowed: Row  # (vocab_size,) what the filters are given: less than these where the answer has a form

    @property
    def num_bytes(self) -> int:
        return self.logits.nbytes + (0 if self.allowed is self.logits else self.allowed.nbytes)


class KeptRows:
    """The rows of the steps that were used last, of at most `max_bytes` together, and one at least.

    >>> import numpy as np
    >>> rows, row = KeptRows(max_bytes=20), KeptRow(np.zeros(2, np.float32), np.zeros(2, np.float32))
    >>> rows.put((0, 1), row), rows.put((0, 2), row), rows.get((0, 1)), rows.get((0, 2)) is row
    (None, None, None, True)
    """

    def __init__(self, max_bytes: int = MAX_ROW_BYTES) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._rows: OrderedDict[StepPlace, KeptRow] = OrderedDict()

    def put(self, place: StepPlace, row: KeptRow) -> None:
        self._drop(place)
        self._rows[place] = row
        self._num_bytes += row.num_bytes
        while self._num_bytes > self._max_bytes and len(self._rows) > 1:
            self._drop(next(iter(self._rows)))

    def get(self, place: StepPlace) -> KeptRow | None:
        if place in self._rows:
            self._rows.move_to_end(place)
        return self._rows.get(place)

    def __contains__(self, place: StepPlace) -> bool:
        return place in self._rows

    def _drop(self, place: StepPlace) -> None:
        if (row := self._rows.pop(place, None)) is not None:
            self._num_bytes -= row.num_bytes


def nothing(index: int, row: KeptRow) -> None:
    """Keeps no row."""


class RowRecorder(StepRecorder):
    """A recorder that also passes on what each recorded step samples from: `keep` gets the step's index and a copy."""

    def __init__(
        self,
        token: Callable[[int], TracedToken],
        kv_bytes_per_token: int,
        top: int,
        max_candidates: int,
        *,
        first: int,
        keep: Callable[[int, KeptRow], None],
    ) -> None:
        super().__init__(token, kv_bytes_per_token, top, max_candidates, first)
        self._keep = keep

    def begin(self, logits: Row, history: History) -> None:
        super().begin(logits, history)
        self._allowed = logits

    def filtered(self, name: str, kept: Candidates) -> None:
        super().filtered(name, kept)
        if name == GIVEN:
            self._allowed = kept.logits

    def end(self, token_id: int) -> None:
        logits, allowed = self._heard[0][1].logits, self._allowed
        super().end(token_id)
        if self._index >= self._first:
            own = logits.copy()
            self._keep(self._index, KeptRow(own, own if allowed is logits else allowed.copy()))
        self._resumed_at = time.perf_counter()  # copying is no part of the next step
