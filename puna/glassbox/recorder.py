"""Listens to the sampler of one request, and makes a step of a trace of each token. It computes no filter and no draw itself.

While a token is sampled it only keeps what it hears; the work comes afterwards, so that the times are those of the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from puna.filters import REMOVED, Indices, masses_of
from puna.glassbox.trace import Candidate, ComputedTokens, Draw, Removal, Stage, TracedStep, TracedToken
from puna.history import History, Row
from puna.sampling import GIVEN, Candidates, token_logprob

Floats = npt.NDArray[np.float64]
MODEL, CONSTRAINT = "model", "constraint"
MAX_CANDIDATES = 200_000  # that a trace keeps, unless it is told otherwise: some 60 MB of memory
MOST_CANDIDATES = 1 << 28  # that it may be told to keep


class StepRecorder:
    """The watcher of a traced request. `token` spells an id; `top`: candidates that each stage shows; 0: no stages.

    After `max_candidates` candidates it records no further step, and the run goes on. Nor does it record steps before `first`.
    """

    def __init__(
        self,
        token: Callable[[int], TracedToken],
        kv_bytes_per_token: int,
        top: int,
        max_candidates: int = MAX_CANDIDATES,
        first: int = 0,
    ) -> None:
        self.steps: dict[int, TracedStep] = {}  # by the number of tokens before
        self._token, self._kv_bytes, self._top = token, kv_bytes_per_token, top
        self._num_left, self._first = max_candidates, first
        self._computed: list[ComputedTokens] = []
        self._own_numbers: dict[str, float] = {}  # filter -> what it drew for this token
        self._draw: tuple[Candidates, float, int] | None = None
        self._num_known = 0  # tokens whose K and V are in memory
        self._resumed_at = time.perf_counter()

    @property
    def has_room(self) -> bool:
        """Whether the next step is recorded."""
        return self._num_left > 0

    def computed(self, first: int, last: int, num_drafts: int) -> None:
        self._computed.append(ComputedTokens(first, last, num_drafts))
        self._num_known = last

    def begin(self, logits: Row, history: History) -> None:
        self._begun_at, self._index = time.perf_counter(), history.num_generated
        self._heard, self._is_filtered, self._is_drawn = [(MODEL, Candidates(logits))], False, False

    def filtered(self, name: str, kept: Candidates) -> None:
        self._is_filtered = True
        if name != GIVEN:
            self._heard.append((name, kept))
        elif kept.logits is not self._heard[0][1].logits:
            self._heard.append((CONSTRAINT, kept))

    def drew(self, name: str, uniform: float) -> None:
        self._own_numbers[name] = uniform

    def drawn(self, kept: Candidates, uniform: float | None, index: int) -> None:
        self._draw, self._is_drawn = None if uniform is None else (kept, uniform, index), True

    def end(self, token_id: int) -> None:
        sampled_at = time.perf_counter()
        if self.has_room and self._index >= self._first:
            step = self.steps[self._index] = self._step(token_id, sampled_at)
            self._num_left -= size_of(step)
        self._computed, self._heard, self._draw = [], [], None
        self._own_numbers = {}
        self._num_known += 1  # the token's own, unless the next step says otherwise: guesses were computed before they were taken
        self._resumed_at = time.perf_counter()

    def _step(self, token_id: int, sampled_at: float) -> TracedStep:
        logits = self._heard[0][1].logits
        return TracedStep(
            index=self._index,
            token=self._token(token_id),
            logprob=token_logprob(logits, token_id, 0).logprob,
            rank=rank(logits, token_id),
            is_given=self._is_filtered and not self._is_drawn,
            stages=tuple(self._stages(token_id)) if self._top else (),
            draw=None if self._draw is None else place_of(*self._draw, self._top),
            computed=tuple(self._computed),
            kv_bytes=self._num_known * self._kv_bytes,
            model_s=self._begun_at - self._resumed_at,
            sampling_s=sampled_at - self._begun_at,
        )

    def _stages(self, token_id: int) -> Iterator[Stage]:
        before: StageRow | None = None
        for name, kept in self._heard:
            after = StageRow(kept, self._token)
            yield after.stage(name, token_id, self._top, before, self._own_numbers.get(name))
            before = after


class StageRow:
    """The candidates of one stage."""

    def __init__(self, kept: Candidates, token: Callable[[int], TracedToken]) -> None:
        self._kept, self._token = kept, token
        self._places = np.flatnonzero(kept.logits > REMOVED)  # of the tokens that can be taken

    @cached_property
    def _ids(self) -> Indices:
        """The ids that can be taken, ascending."""
        return self._places if self._kept.ids is None else self._kept.ids[self._places]

    def stage(self, name: str, token_id: int, top: int, before: StageRow | None, uniform: float | None = None) -> Stage:
        likeliest = token_logprob(self._kept.logits, int(self._places[0]), top).top
        return Stage(
            name=name,
            num_candidates=len(self._ids),
            entropy_bits=entropy_bits(self._kept.logits),
            top=tuple(self._candidate(place, logprob) for place, logprob in likeliest if self._kept.logits[place] > REMOVED),
            chosen=self._at(token_id) if token_id in self._ids else None,
            cut=None if before is None else before.cut(self._ids),
            uniform=uniform,
        )

    def cut(self, kept: Indices) -> Removal | None:
        """What is lost if only the ids `kept` stay."""
        removed = np.setdiff1d(self._ids, kept, assume_unique=True)
        if not len(removed):
            return None
        stayed = np.intersect1d(self._ids, kept, assume_unique=True)
        return Removal(
            num_removed=len(removed),
            probability=float(self._probabilities(removed).sum()),
            last_kept=self._at(int(stayed[len(stayed) - 1 - self._logits(stayed)[::-1].argmin()])),
            first_removed=self._at(int(removed[self._logits(removed).argmax()])),
        )

    def _at(self, token_id: int) -> Candidate:
        place = self._places_of(np.array([token_id]))[0]
        return self._candidate(int(place), token_logprob(self._kept.logits, int(place), 0).logprob)

    def _candidate(self, place: int, logprob: float) -> Candidate:
        token = self._token(self._kept.id_at(place))
        return Candidate(token.id, token.text, float(self._kept.logits[place]), math.exp(logprob), logprob)

    def _places_of(self, ids: Indices) -> Indices:
        return ids if self._kept.ids is None else self._kept.ids.searchsorted(ids)

    def _logits(self, ids: Indices) -> Row:
        return self._kept.logits[self._places_of(ids)]

    def _probabilities(self, ids: Indices) -> Floats:
        masses = masses_of(self._kept.logits).astype(np.float64)
        return np.asarray(masses[self._places_of(ids)] / masses.sum())


def rank(logits: Row, token_id: int) -> int:
    """The place of a token among the logits, 1 for the largest; of equal ones the lower id comes first.

    >>> [rank(np.float32([1, 3, 3]), token_id) for token_id in range(3)]
    [3, 1, 2]
    """
    own = logits[token_id]
    return 1 + int((logits > own).sum()) + int((logits[:token_id] == own).sum())


def entropy_bits(logits: Row) -> float:
    """How open the choice is.

    >>> entropy_bits(np.float32([2, 2, 2, 2])), entropy_bits(np.float32([5, -np.inf]))
    (2.0, 0.0)
    """
    masses = masses_of(logits).astype(np.float64)
    shares = masses[masses > 0] / masses.sum()
    return abs(float((shares * np.log2(shares)).sum()))


def place_of(kept: Candidates, uniform: float, index: int, top: int = 0) -> Draw:
    """The part of 0..1 that the candidate at `index` has, and where the parts of the `top` likeliest begin.

    >>> place_of(Candidates(np.log(np.float32([0.25, 0.5, 0.25]))), 0.3, 1, 2)
    Draw(uniform=0.3, low=0.25, high=0.75, starts=(0.25, 0.0))
    """
    ends = masses_of(kept.logits).cumsum(dtype=np.float64)
    starts = np.concatenate([[0.0], ends[:-1]]) / ends[-1]
    likeliest = [place for place, _ in token_logprob(kept.logits, index, top).top if kept.logits[place] > REMOVED]
    return Draw(uniform, float(starts[index]), float(ends[index] / ends[-1]), tuple(float(starts[place]) for place in likeliest))


def size_of(step: TracedStep) -> int:
    """How much of the room a step takes: its candidates, and one for itself."""
    return 1 + sum(len(stage.top) + 3 for stage in step.stages)
