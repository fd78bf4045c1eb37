"""Sampling: a row of logits to a token id. The filters run in their written order, then one number is drawn.

The number depends on the request's seed and on how many tokens it has (`philox.py`), and every function works on one row, so no
result depends on the rest of the batch. The raw logits are never changed.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from puna.errors import NumericalError, UsageError
from puna.philox import uniform
from puna.request import MAX_LOGIT_BIAS, SamplingParams, TokenLogprob

Row = npt.NDArray[np.float32]  # (vocab_size,)

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
SEED_BITS = 53  # of a drawn seed: every JSON reader keeps such a number exactly
SUPPRESSED = -1e30  # the bias of a suppressed id: below any logit, and finite after any penalty


@dataclass(frozen=True, slots=True)
class History:
    """The ids so far, which the penalties count."""

    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()


class Occurrences:
    """The ids of one request, each once, and how often each was generated. An update costs time for the new ids only.

    >>> seen = Occurrences([5, 9, 9])
    >>> seen.count([9, 7]), seen.count([9, 7, 9])
    (None, None)
    >>> seen.ids.tolist(), seen.counts.tolist()
    ([5, 9, 7], [0, 2, 1])
    """

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self.ids = array("i", dict.fromkeys(prompt_ids))
        self.counts = array("i", bytes(self.ids.itemsize * len(self.ids)))
        self._slots = {token_id: slot for slot, token_id in enumerate(self.ids)}
        self._num_counted = 0

    def count(self, output_ids: Sequence[int]) -> None:
        """Count the ids that `output_ids` has beyond those of the last call."""
        for token_id in output_ids[self._num_counted :]:
            slot = self._slots.setdefault(token_id, len(self.ids))
            if slot == len(self.ids):
                self.ids.append(token_id)
                self.counts.append(0)
            self.counts[slot] += 1
        self._num_counted = len(output_ids)


Filter = Callable[[Row, SamplingParams, History], Row]


def logit_bias(logits: Row, params: SamplingParams, history: History) -> Row:
    """Add a number to the logits of some ids.

    >>> logit_bias(np.float32([1, 2, 3]), SamplingParams(logit_bias={1: 5.0}), History()).tolist()
    [1.0, 7.0, 3.0]
    """
    if not params.logit_bias:
        return logits
    ids, biases = list(params.logit_bias), np.fromiter(params.logit_bias.values(), np.float64)
    biased = logits.copy()
    biased[ids] = np.clip(logits[ids] + biases, -LARGEST, LARGEST)
    return biased


def penalties(logits: Row, params: SamplingParams, history: History) -> Row:
    """Make ids that occurred less likely: repetition (prompt and output), then presence and frequency (output only)."""
    penalised = logits
    if params.repetition_penalty != 1.0:
        seen, penalised = np.unique(np.array([*history.prompt_ids, *history.output_ids], np.int64)), logits.copy()
        factor = np.float32(params.repetition_penalty)
        with np.errstate(over="ignore"):
            penalised[seen] = np.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
    if history.output_ids and (params.presence_penalty or params.frequency_penalty):
        (ids, counts), penalised = np.unique(history.output_ids, return_counts=True), penalised.copy()
        penalised[ids] -= (params.presence_penalty + params.frequency_penalty * counts).astype(np.float32)
    return penalised


def temperature(logits: Row, params: SamplingParams, history: History) -> Row:
    """Divide by the temperature. The largest logit becomes 0 first, so that even a tiny temperature does not overflow."""
    with np.errstate(over="ignore"):
        return np.asarray((logits - logits.max()) / np.float32(max(params.temperature, SMALLEST)))


def top_k(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep the k most likely tokens; on a tie, the lower id.

    >>> top_k(np.float32([3, 1, 3, 3]), SamplingParams(top_k=2), History()).tolist()
    [3.0, -inf, 3.0, -inf]
    """
    if not 0 < params.top_k < len(logits):
        return logits
    return _only(logits, _largest(logits, params.top_k))


def top_p(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep the smallest set of most likely tokens whose probability reaches p: the token that crosses p stays, and at
    least one does (Holtzman et al. 2020, arXiv 1904.09751).

    >>> top_p(np.log(np.float32([0.1, 0.6, 0.1, 0.2])), SamplingParams(top_p=0.7), History()).round(2).tolist()
    [-inf, -0.5099999904632568, -inf, -1.6100000143051147]
    """
    if params.top_p >= 1.0:
        return logits
    masses = _masses(logits)
    total = float(masses.sum(dtype=np.float64))
    # All tokens below this together have less than 1 - p, so mostly a few hundred remain to be sorted (llama2.c's trick).
    ids = np.flatnonzero(masses >= np.float32((1 - params.top_p) * total / len(logits) * (1 - 1e-6)))
    values = logits[ids]
    cumulative = _cumulative(np.sort(values)[::-1])
    count = int(np.searchsorted(cumulative, params.top_p * total, side="left")) + 1
    return _only(logits, ids[_largest(values, count)])


def min_p(logits: Row, params: SamplingParams, history: History) -> Row:
    """Drop tokens less likely than `min_p` times the most likely one.

    >>> min_p(np.log(np.float32([0.8, 0.1, 0.05, 0.05])), SamplingParams(min_p=0.1), History()).round(2).tolist()
    [-0.2199999988079071, -2.299999952316284, -inf, -inf]
    """
    if params.min_p <= 0.0:
        return logits
    return np.where(_masses(logits) < params.min_p, np.float32(-np.inf), logits)


# The filters in the order in which they run. Each one names the fields of SamplingParams that switch it on: while they have their
# defaults, it changes nothing. A filter without fields is always on. Those before `temperature` also apply to greedy sampling.
FILTERS: Mapping[Filter, tuple[str, ...]] = {
    logit_bias: ("logit_bias", "suppress_ids", "begin_suppress_ids", "min_tokens"),
    penalties: ("repetition_penalty", "presence_penalty", "frequency_penalty"),
    temperature: ("temperature",),
    top_k: ("top_k",),
    top_p: ("top_p",),
    min_p: ("min_p",),
}


def split_filters() -> tuple[list[Filter], list[Filter]]:
    """The filters that also apply to greedy sampling, and those that apply to draws only."""
    filters = list(FILTERS)
    at = filters.index(temperature)
    return filters[:at], filters[at:]


def needed_filters(params: SamplingParams) -> frozenset[str]:
    """The names of the filters that these parameters switch on.

    >>> sorted(needed_filters(SamplingParams(temperature=0.5, min_tokens=3)))
    ['logit_bias', 'temperature']
    """
    off = type(params)()
    return frozenset(
        step.__name__
        for step, fields in FILTERS.items()
        if not fields or any(getattr(params, name) != getattr(off, name) for name in fields)
    )


class TokenSampler(Protocol):
    """What the engine needs of a sampler. A caller may give a request one of their own."""

    def sample(self, logits: Row, history: History) -> int:
        """The next token's id; NumericalError if `logits` allow none.  # (vocab_size,)"""


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
    given. `stop_ids` end the request; they are suppressed before `min_tokens`.
    """

    def __init__(self, params: SamplingParams, vocab_size: int, stop_ids: Collection[int] = ()) -> None:
        for name in ("logit_bias", "suppress_ids", "begin_suppress_ids"):
            outside = [i for i in getattr(params, name) if not 0 <= i < vocab_size]
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
        self.filters = needed_filters(params)
        self._draws, self._seed = params.temperature > 0, params.seed or 0
        self._phases = tuple(_phases(params, stop_ids))
        self._penalises = "penalties" in self.filters
        self._occurrences: Occurrences | None = None

    def phase(self, num_generated: int) -> Phase:
        """How to sample the token after `num_generated` others."""
        return next(phase for phase in self._phases if num_generated < phase.end)

    def edits_logits(self, num_generated: int) -> bool:
        """Whether biases or penalties change the logits of the next token."""
        return self._penalises or len(self.phase(num_generated).bias_ids) > 0

    def sample(self, logits: Row, history: History) -> int:
        """The next token's id. Raises NumericalError if the logits hold NaN or +inf, or nothing finite."""
        num_generated = len(history.output_ids)
        return sample(logits, self.phase(num_generated).params, history, self.uniform(num_generated))

    def processed(self, logits: Row, history: History) -> Row:
        """The logits after the filters, of which the next token is drawn; greedy sampling needs no temperature and no cut."""
        params = self.phase(len(history.output_ids)).params
        greedy, drawing = split_filters()
        return apply(greedy if params.temperature == 0 else [*greedy, *drawing], logits, params, history)

    def uniform(self, num_generated: int) -> float:
        """The random number of the token after `num_generated` others, in [0, 1); 0 if sampling is greedy.

        It depends on the seed and on that count only, so any token of a text can be sampled again.
        """
        return uniform(self._seed, num_generated) if self._draws else 0.0

    def occurrences(self, history: History) -> Occurrences:
        """The occurrences in a history, which must continue that of the last call."""
        if self._occurrences is None:
            self._occurrences = Occurrences(history.prompt_ids if self.params.repetition_penalty != 1.0 else ())
        if self._penalises:
            self._occurrences.count(history.output_ids)
        return self._occurrences


def sample(logits: Row, params: SamplingParams, history: History, uniform: float) -> int:
    """The most likely id if the temperature is 0, else the one at `uniform`. NumericalError if there is none."""
    require_finite(logits)
    greedy, drawing = split_filters()
    edited = apply(greedy, logits, params, history)
    if edited is not logits:
        require_finite(edited)  # a penalty multiplies, so a logit can overflow
    if params.temperature == 0:
        return int(edited.argmax())
    return draw(apply(drawing, edited, params, history), uniform)


def apply(filters: Iterable[Filter], logits: Row, params: SamplingParams, history: History) -> Row:
    """The filters, one after the other."""
    for step in filters:
        logits = step(logits, params, history)
    return logits


def draw(logits: Row, uniform: float) -> int:
    """The id at which the cumulative probability passes `uniform`.

    >>> [draw(np.log(np.float32([0.25, 0.5, 0.25])), u) for u in (0.0, 0.3, 0.7, 0.8)]
    [0, 1, 1, 2]
    """
    ids = np.flatnonzero(logits > -np.inf)
    cumulative = _cumulative(logits[ids])
    return int(ids[min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(ids) - 1)])


def token_logprob(logits: Row, token_id: int, num_top: int) -> TokenLogprob:
    """Log-softmax of a row: of `token_id`, and of the `num_top` most likely ids that it allows, best first.

    The masses are summed in float64: the result differs from an all-float64 one by some 1e-8, in a ninth of its time (LOG).
    """
    total = float(logits.max()) + math.log(float(_masses(logits).sum(dtype=np.float64)))
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


def _masses(logits: Row) -> Row:
    """Probabilities, scaled so that the largest is 1."""
    return np.asarray(np.exp(logits - logits.max()))


def _cumulative(logits: Row) -> npt.NDArray[np.float64]:
    """Cumulative sums of `_masses`."""
    masses = _masses(logits).astype(np.float64)
    return np.cumsum(masses, out=masses)


def _only(logits: Row, ids: npt.NDArray[np.intp]) -> Row:
    """The row with all other ids at -inf."""
    kept = np.full_like(logits, -np.inf)
    kept[ids] = logits[ids]
    return kept


def _largest(logits: Row, count: int) -> npt.NDArray[np.intp]:
    """Ids of the `count` largest, ascending; on a tie, the lower ids. Partitions the vocabulary instead of sorting it."""
    if count >= len(logits):
        return np.arange(len(logits))
    if count == 0:
        return np.arange(0)
    threshold = np.partition(logits, len(logits) - count)[len(logits) - count]
    above = np.flatnonzero(logits > threshold)
    equal = np.flatnonzero(logits == threshold)[: count - len(above)]
    return np.sort(np.concatenate((above, equal)))


def _ranked(logits: Row, count: int) -> npt.NDArray[np.intp]:
    """Ids of the `count` largest, the largest first; on a tie, the lower id first."""
    if count == 1:
        return np.array([logits.argmax()])
    best = _largest(logits, count)
    return best[np.argsort(-logits[best], kind="stable")]
