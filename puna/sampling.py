"""Sampling: a row of logits to a token id. The filters that a request needs run in its order, then one number is drawn.

The number depends on the request's seed and on how many tokens it has (`philox.py`), and every function works on one row, so no
result depends on the rest of the batch. The raw logits are never changed.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.errors import NumericalError, UsageError
from puna.filters import SLACK, SUPPRESSED, BoundFilter, Indices, effective, largest, make_steps, masses_of
from puna.history import EVERYTHING, Occurrences
from puna.history import History as History
from puna.history import Row as Row
from puna.philox import uniform
from puna.processors import PROCESSORS, LogitsProcessor, Processors
from puna.request import MAX_LOGIT_BIAS, SamplingParams, TokenLogprob
from puna.tokenizers.base import Tokenizer

BLOCK = 1024  # masses that a draw adds up at a time
SEED_BITS = 53  # of a drawn seed: every JSON reader keeps such a number exactly


class TokenSampler(Protocol):
    """What the engine needs of a sampler. A caller may give a request one of their own."""

    def sample(self, logits: Row, history: History) -> int:
        """The next token's id; NumericalError if `logits` allow none.  # (vocab_size,)"""


def require_sampler(given: Any) -> TokenSampler:
    """What a caller gave as a sampler. UsageError if it is none."""
    if not callable(getattr(given, "sample", None)):
        raise checks.refuse("sampler", given, "an object with the method sample(logits, history)")
    sampler: TokenSampler = given
    return sampler


@dataclass(frozen=True, slots=True)
class CheckedSampler:
    """A caller's sampler. Its ids are checked, because a backend reads the memory that an id names."""

    sampler: TokenSampler
    vocab_size: int

    def sample(self, logits: Row, history: History) -> int:
        return checks.whole("the sampler's token id", self.sampler.sample(logits, history), 0, self.vocab_size - 1)


class Watcher(Protocol):
    """Hears how each token of a request comes to be, and changes nothing (`glassbox/`). Its rows are overwritten after `end`."""

    def computed(self, first: int, last: int, num_drafts: int) -> None:
        """A step computed the tokens first..last-1 of the request, and so many guesses after them."""

    def begin(self, logits: Row, history: History) -> None:
        """The next token is sampled from these logits of the model, after `history`."""

    def filtered(self, name: str, kept: Candidates) -> None:
        """What a filter left; GIVEN: what the filters are given, which is less than the logits if a constraint removed some."""

    def drew(self, name: str, uniform: float) -> None:
        """A filter drew a number of its own, in [0, 1), before it filters (XTC)."""

    def drawn(self, kept: Candidates, uniform: float | None, index: int) -> None:
        """The candidate at `index` was taken: by the number `uniform`; None: as the most likely one. Not called for a token that
        was given, and that the sampler would not have taken."""

    def end(self, token_id: int) -> None:
        """The token was sampled."""


GIVEN = "given"


@dataclass(frozen=True, slots=True)
class WatchedSampler:
    """The sampler of a request that is watched."""

    sampler: TokenSampler
    watcher: Watcher

    def sample(self, logits: Row, history: History) -> int:
        self.watcher.begin(logits, history)
        token_id = self.sampler.sample(logits, history)
        self.watcher.end(token_id)
        return token_id


@runtime_checkable
class Stateful(Protocol):
    """A filter that changes with the tokens that were sampled."""

    def accept(self, kept: Row, index: int, history: History) -> None:
        """The token at `index` of `kept`, the row that the filters left, was sampled after `history`."""


class Phase(NamedTuple):
    """How a request samples until it has `end` tokens: its parameters; the biases include its suppressed ids."""

    end: float
    params: SamplingParams
    bias_ids: npt.NDArray[np.int32]
    biases: npt.NDArray[np.float64]


def _phases(params: SamplingParams, stop_ids: Collection[int]) -> Iterator[Phase]:
    """The suppressed ids of the first token, of those before `min_tokens`, and of the rest."""
    start: float = 0
    for end in sorted({1 * bool(params.begin_suppress_ids), params.min_tokens, math.inf} - {0}):
        banned = {*params.suppress_ids}
        banned |= {*params.begin_suppress_ids} if start < 1 else set()
        banned |= {*stop_ids} if start < params.min_tokens else set()
        yield _phase(end, params, banned)
        start = end


def _phase(end: float, params: SamplingParams, banned: set[int]) -> Phase:
    bias = {**params.logit_bias, **dict.fromkeys(sorted(banned), SUPPRESSED)}
    if len(bias) > MAX_LOGIT_BIAS:
        raise UsageError(
            f"logit_bias, the suppressed ids and the stop ids are {len(bias)} ids together; at most {MAX_LOGIT_BIAS} are allowed"
        )
    own = dataclasses.replace(params, logit_bias=bias) if banned else params
    return Phase(end, own, np.array(list(bias), np.int32), np.array(list(bias.values()), np.float64))


class Sampler:
    """Samples the tokens of one request with the filters that it needs. `params.seed` is the seed in use, drawn here if none was
    given. `stop_ids` end the request; they are suppressed before `min_tokens`. `watcher` hears what each filter leaves.
    """

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        stop_ids: Collection[int] = (),
        tokenizer: Tokenizer | None = None,
        processors: Sequence[LogitsProcessor] = (),
        watcher: Watcher | None = None,
    ) -> None:
        for name, ids in named_ids(params):
            outside = [i for i in ids if not 0 <= i < vocab_size]
            if outside:
                raise UsageError(f"{name} names id {outside[0]}; the vocabulary has ids 0..{vocab_size - 1}")
        if len({*params.suppress_ids, *params.begin_suppress_ids}) == vocab_size:
            raise UsageError(
                f"suppress_ids and begin_suppress_ids name all {vocab_size} ids of the vocabulary",
                hint='Name fewer. If a file of the model suggests them: sampling_defaults="puna" (--sampling-defaults puna).',
            )
        if params.temperature > 0 and params.seed is None:
            params = dataclasses.replace(params, seed=secrets.randbits(SEED_BITS))
        self.params = params
        self._watcher = watcher
        own = [BoundFilter(PROCESSORS, Processors(processors), is_edit=True)] if processors else []
        self._bound = (*own, *make_steps(params, tokenizer))
        steps: tuple[object, ...] = tuple(bound.step for bound in self._bound)
        self._stateful = [step for step in steps if isinstance(step, Stateful)]
        self.filters = tuple(bound.name for bound in self._bound)
        self.effective = effective(params)
        self.temperature_first = "temperature" in self.filters[:-1]
        self._draws, self._seed = params.temperature > 0, params.seed or 0
        self._phases = tuple(_phases(params, stop_ids))
        self._penalises, self._counts_prompt = "penalties" in self.filters, params.repetition_penalty != 1.0
        self._occurrences: Occurrences | None = None
        self._kept: Row | None = None  # what the last token was drawn from, if log-probabilities of that are requested

    @property
    def has_state(self) -> bool:
        """Whether a filter remembers what was sampled."""
        return bool(self._stateful)

    def phase(self, num_generated: int) -> Phase:
        """How to sample the token after `num_generated` others."""
        return next(phase for phase in self._phases if num_generated < phase.end)

    def edits_logits(self, num_generated: int) -> bool:
        """Whether biases or penalties change the logits of the next token."""
        return self._penalises or len(self.phase(num_generated).bias_ids) > 0

    def sample(self, logits: Row, history: History, given: int | None = None) -> int:
        """The next token's id. Raises NumericalError if the logits hold NaN or +inf, or nothing finite.

        `given`: the token that takes the place of the sampled one (`opening.py`); the filters remember it as if it were that.
        """
        params = self.phase(len(history.output_ids)).params
        kept = candidates(self._bound, logits, params, history, self._watcher)
        uniform = self.uniform(len(history.output_ids))
        drawn = _drawn(kept, params, uniform)
        index = drawn if given is None else kept.index_of(given)
        if self._watcher is not None and index == drawn:
            self._watcher.drawn(kept, uniform if self._draws else None, drawn)
        self._kept = kept.row(len(logits)) if params.processed_logprobs else None
        if index is not None:
            for step in self._stateful:
                step.accept(kept.logits, index, history)
        return kept.id_at(drawn) if given is None else given

    def processed(self, logits: Row, history: History) -> Row:
        """The logits after the filters, of which the next token is drawn; greedy sampling needs no temperature and no cut."""
        return apply(self._bound, logits, self.phase(len(history.output_ids)).params, history)

    def sampled_from(self, logits: Row, history: History) -> Row:
        """The processed logits of the token that was sampled last, as they were before it changed a filter's state."""
        kept, self._kept = self._kept, None
        return self.processed(logits, history) if kept is None else kept

    def uniform(self, num_generated: int) -> float:
        """The random number of the token after `num_generated` others, in [0, 1); 0 if sampling is greedy.

        It depends on the seed and on that count only, so any token of a text can be sampled again.
        """
        return uniform(self._seed, num_generated) if self._draws else 0.0

    def occurrences(self, history: History, in_flight: int = 0) -> Occurrences:
        """The occurrences that the penalties count; `history` must continue that of the last call, without tokens in flight."""
        window = self.params.penalty_last_n
        if window != EVERYTHING:
            recent = history.last(max(window - in_flight, 0))
            return Occurrences.of(recent if self._penalises else History(), self._counts_prompt)
        if self._occurrences is None:
            self._occurrences = Occurrences(history.prompt_ids if self._counts_prompt else ())
        if self._penalises:
            self._occurrences.count(history.output_ids)
        return self._occurrences


def named_ids(params: SamplingParams) -> Iterator[tuple[str, Collection[int]]]:
    """The fields that name ids of the vocabulary, with their ids."""
    for name in ("logit_bias", "suppress_ids", "begin_suppress_ids"):
        yield name, getattr(params, name)
    for sequence in params.bad_words_ids:
        yield "bad_words_ids", sequence


def sample(logits: Row, params: SamplingParams, history: History, uniform: float) -> int:
    """The most likely id if the temperature is 0, else the one at `uniform`. NumericalError if there is none."""
    kept = candidates(make_steps(params), logits, params, history)
    return kept.id_at(_drawn(kept, params, uniform))


class Candidates(NamedTuple):
    """The tokens that the filters leave: their logits, and their ids, ascending; None: those of the whole row."""

    logits: Row
    ids: Indices | None = None

    def id_at(self, index: int) -> int:
        return index if self.ids is None else int(self.ids[index])

    def index_of(self, token_id: int) -> int | None:
        """The index of an id; None if the filters have removed it.

        >>> kept = Candidates(np.float32([1, -np.inf, 3]), np.array([4, 6, 9]))
        >>> kept.index_of(9), kept.index_of(6), kept.index_of(5)
        (2, None, None)
        """
        index = token_id if self.ids is None else int(self.ids.searchsorted(token_id))
        if index >= len(self.logits) or self.id_at(index) != token_id or self.logits[index] == -np.inf:
            return None
        return index

    def narrowed(self) -> Candidates:
        """Without those at -inf, if they are nearly all: what follows then costs next to nothing.

        >>> Candidates(np.float32([-np.inf] * 9 + [3])).narrowed()
        Candidates(logits=array([3.], dtype=float32), ids=array([9]))
        """
        some = self.logits[:: len(self.logits) // BLOCK + 1]
        if np.count_nonzero(some > -np.inf) * 8 > len(some):
            return self
        return self.only(np.flatnonzero(self.logits > -np.inf))

    def only(self, kept: Indices | None) -> Candidates:
        """Those at some indices, ascending; None: all of them."""
        if kept is None:
            return self
        return Candidates(self.logits[kept], kept if self.ids is None else self.ids[kept])

    def row(self, vocab_size: int) -> Row:
        """The whole row, with the other ids at -inf."""
        if self.ids is None:
            return self.logits
        row = np.full(vocab_size, -np.inf, np.float32)
        row[self.ids] = self.logits
        return row


def candidates(
    filters: Sequence[BoundFilter], logits: Row, params: SamplingParams, history: History, watcher: Watcher | None = None
) -> Candidates:
    """What the filters leave, one after the other. NumericalError if the logits hold NaN or +inf, or nothing finite."""
    require_finite(logits)
    kept = Candidates(logits)
    if watcher is not None:
        watcher.filtered(GIVEN, kept)
    for bound in filters:
        if watcher is not None and bound.number is not None:
            watcher.drew(bound.name, bound.number(params, history))
        kept = _filtered(bound, kept, len(logits), params, history)
        if watcher is not None:
            watcher.filtered(bound.name, kept)
    return kept


def _filtered(bound: BoundFilter, kept: Candidates, vocab_size: int, params: SamplingParams, history: History) -> Candidates:
    """What one filter leaves."""
    if bound.keeps is not None:
        return kept.only(bound.keeps(kept.logits, params))
    before = kept.row(vocab_size) if bound.is_edit else kept.logits  # an edit must find the places of ids
    row = bound.step(before, params, history)
    if row is before:
        return kept
    if not bound.is_edit:
        return Candidates(row, kept.ids).narrowed()
    require_finite(row)  # a penalty multiplies, so a logit can overflow
    return Candidates(row)


def apply(filters: Sequence[BoundFilter], logits: Row, params: SamplingParams, history: History) -> Row:
    """The row that the filters leave."""
    return candidates(filters, logits, params, history).row(len(logits))


def _drawn(kept: Candidates, params: SamplingParams, uniform: float) -> int:
    """The index of the candidate that is taken."""
    return draw(kept.logits, uniform) if params.temperature > 0 else int(kept.logits.argmax())


def draw(logits: Row, uniform: float) -> int:
    """The index at which the cumulative probability passes `uniform`. Only one block of the row is added up token by token.

    >>> [draw(np.log(np.float32([0.25, 0.5, 0.25])), u) for u in (0.0, 0.3, 0.7, 0.8)]
    [0, 1, 1, 2]
    """
    masses = masses_of(logits)
    index = _passing_surely(masses, uniform) if len(masses) > BLOCK else None
    return _passing(masses, uniform) if index is None else index


def _passing(masses: Row, uniform: float) -> int:
    ends = _block_ends(masses, np.float64)
    wanted = uniform * ends[-1]
    block = min(int(ends.searchsorted(wanted, side="right")), len(ends) - 1)
    before = ends[block - 1] if block else 0.0
    inside = masses[block * BLOCK : (block + 1) * BLOCK]
    index = int(inside.cumsum(dtype=np.float64).searchsorted(wanted - before, side="right"))
    return block * BLOCK + index if index < len(inside) else int(np.flatnonzero(masses[: (block + 1) * BLOCK])[-1])


def _passing_surely(masses: Row, uniform: float) -> int | None:
    """`_passing` by sums in float32, which take a third of the time; None if the index is not the same for all that they may
    stand for."""
    ends = _block_ends(masses, np.float32)
    wanted = uniform * ends[-1] * np.array((1 - 2 * SLACK, 1 + 2 * SLACK))
    block = int(ends.searchsorted(wanted[0], side="right"))
    before = ends[block - 1] if block else 0.0
    running = before + masses[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    low, high = running.searchsorted(wanted, side="right")
    return block * BLOCK + int(low) if low == high < len(running) else None


def _block_ends(masses: Row, precision: type[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The running sums after each block of masses; the last block is shorter than the others."""
    whole = len(masses) // BLOCK * BLOCK
    last = masses[whole:].sum(dtype=precision)
    if whole == 0:
        return np.array([last], np.float64)
    sums = masses[:whole].reshape(-1, BLOCK).sum(axis=1, dtype=precision)
    return np.append(sums, last).cumsum(dtype=np.float64)


def token_logprob(logits: Row, token_id: int, num_top: int) -> TokenLogprob:
    """Log-softmax of a row: of `token_id`, and of the `num_top` most likely ids that it allows, best first.

    The masses are summed in float64: the result differs from an all-float64 one by some 1e-8, in a ninth of its time (LOG).
    """
    total = float(logits.max()) + math.log(float(masses_of(logits).sum(dtype=np.float64)))
    top = tuple((int(i), float(logits[i]) - total) for i in _ranked(logits, num_top) if logits[i] > -np.inf)
    return TokenLogprob(token_id, float(logits[token_id]) - total, top)


def require_finite(logits: Row) -> None:
    """Raise NumericalError for NaN or +inf. argmax stops at NaN, so checking the largest value is enough."""
    largest = logits[logits.argmax()]
    if not np.isfinite(largest):
        raise not_finite(f" (the largest is {largest})")


def not_finite(which: str = "") -> NumericalError:
    return NumericalError(
        f"the model's logits are not finite{which}",
        hint="The weights or the file's metadata are damaged: fetch the model again, or take another one.",
    )


def _ranked(logits: Row, count: int) -> npt.NDArray[np.intp]:
    """Ids of the `count` largest, the largest first; on a tie, the lower id first."""
    if count == 1:
        return np.array([logits.argmax()])
    best = largest(logits, count)
    return best[np.argsort(-logits[best], kind="stable")]
