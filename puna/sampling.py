"""Sampling: a row of logits to a token id. The filters run in their written order, then one number is drawn.

Each request has its own generator, and every function works on one row, so no result depends on the rest of the batch. The raw
logits are never changed.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from puna.errors import NumericalError, UsageError
from puna.request import MAX_LOGIT_BIAS, UNREAD, Choices, Edits, IntArray, SamplingParams, TokenLogprob

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
        self._places = {token_id: place for place, token_id in enumerate(self.ids)}
        self._num_counted = 0

    def count(self, output_ids: Sequence[int]) -> None:
        """Count the ids that `output_ids` has beyond those of the last call."""
        for token_id in output_ids[self._num_counted :]:
            place = self._places.setdefault(token_id, len(self.ids))
            if place == len(self.ids):
                self.ids.append(token_id)
                self.counts.append(0)
            self.counts[place] += 1
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


# The written order. The first two also apply to greedy sampling.
FILTERS: tuple[Filter, ...] = (logit_bias, penalties, temperature, top_k, top_p, min_p)
GREEDY_FILTERS, DRAWING_FILTERS = FILTERS[:2], FILTERS[2:]

# Fields of SamplingParams that a device applies (from `Choices` and `Edits`), or that only the engine reads. If a request sets
# any other field, the host samples for it, so that no device ignores a filter that it does not know.
DEVICE_FIELDS = frozenset(
    {
        *("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("logit_bias", "suppress_ids", "begin_suppress_ids", "min_tokens"),
        *("max_tokens", "seed", "stop", "stop_ids", "ignore_eos"),
    }
)
_HOST_DEFAULTS = {f.name: f.default for f in dataclasses.fields(SamplingParams) if f.name not in DEVICE_FIELDS}


class Chooser(Protocol):
    """The interface of a sampler to the engine."""

    def choose(self, logits: Row, history: History) -> int:
        """The next token's id; NumericalError if `logits` allow none.  # (vocab_size,)"""


class Phase(NamedTuple):
    """How a request samples until it has `end` tokens: its parameters; the biases include its suppressed ids."""

    end: float
    params: SamplingParams
    bias_ids: IntArray
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
    """Samples the tokens of one request. `params.seed` is the seed it uses, drawn here if none was given.

    `stop_ids` end the request; they are suppressed before `min_tokens`.
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
        self._phases = tuple(_phases(params, stop_ids))
        self._bits = np.random.PCG64(params.seed)  # numpy promises to keep its raw stream
        self._penalises = params.repetition_penalty != 1.0 or params.presence_penalty != 0 or params.frequency_penalty != 0
        self._occurrences: Occurrences | None = None
        # Whether a device can sample for this request: it needs ids only, and no filter of the host's.
        self.is_plain = params.max_tokens != 0 and all(getattr(params, name) == off for name, off in _HOST_DEFAULTS.items())

    def phase(self, num_generated: int) -> Phase:
        """How to sample the token after `num_generated` others."""
        return next(phase for phase in self._phases if num_generated < phase.end)

    def edits_logits(self, num_generated: int) -> bool:
        """Whether biases or penalties change the logits of the next token."""
        return self._penalises or len(self.phase(num_generated).bias_ids) > 0

    def choose(self, logits: Row, history: History) -> int:
        """The next token's id. Raises NumericalError if the logits hold NaN or +inf, or nothing finite."""
        return choose(logits, self.phase(len(history.output_ids)).params, history, self.next_uniform())

    def next_uniform(self) -> float:
        """The random number for the next token; greedy sampling draws none."""
        return self.uniform() if self.params.temperature > 0 else 0.0

    def uniform(self) -> float:
        """A number in [0, 1): the upper 53 bits of one raw draw. Each token takes one draw, whatever the filters do."""
        return float((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def occurrences(self, history: History) -> Occurrences:
        """The occurrences in a history, which must continue that of the last call."""
        if self._occurrences is None:
            self._occurrences = Occurrences(history.prompt_ids if self.params.repetition_penalty != 1.0 else ())
        if self._penalises:
            self._occurrences.count(history.output_ids)
        return self._occurrences


def make_choices(sources: IntArray, samplers: Sequence[Sampler], edits: Edits | None = None) -> Choices:
    """The sampling batch with which a device samples as these samplers would. Draws one random number per sampled token."""
    params = [sampler.params for sampler in samplers]
    return Choices(
        sources=sources,
        temperature=np.array([p.temperature for p in params], np.float64),
        top_k=np.array([p.top_k for p in params], np.int32),
        top_p=np.array([p.top_p for p in params], np.float64),
        min_p=np.array([p.min_p for p in params], np.float64),
        uniform=np.array([sampler.next_uniform() for sampler in samplers], np.float64),
        edits=edits,
    )


def make_edits(samplers: Sequence[Sampler], histories: Sequence[History], sources: IntArray) -> Edits | None:
    """The logit edits of these samplers. `sources` gives, per row, the index of its token in flight among the ids that the
    previous step sampled; -1: it has none."""
    lengths = [len(history.output_ids) + int(source >= 0) for history, source in zip(histories, sources, strict=True)]
    rows = [row for row, sampler in enumerate(samplers) if sampler.edits_logits(lengths[row])]
    if not rows:
        return None
    edited = [samplers[row] for row in rows]
    phases = [samplers[row].phase(lengths[row]) for row in rows]
    params = [sampler.params for sampler in edited]
    seen = [samplers[row].occurrences(histories[row]) for row in rows]
    return Edits(
        rows=np.array(rows, np.int32),
        sources=sources[rows],
        repetition=np.array([p.repetition_penalty for p in params], np.float64),
        presence=np.array([p.presence_penalty for p in params], np.float64),
        frequency=np.array([p.frequency_penalty for p in params], np.float64),
        starts=_starts([len(occurrences.ids) for occurrences in seen]),
        ids=np.concatenate([np.asarray(occurrences.ids) for occurrences in seen]),
        counts=np.concatenate([np.asarray(occurrences.counts) for occurrences in seen]),
        bias_starts=_starts([len(phase.bias_ids) for phase in phases]),
        bias_ids=np.concatenate([phase.bias_ids for phase in phases]),
        biases=np.concatenate([phase.biases for phase in phases]),
    )


def _starts(lengths: list[int]) -> IntArray:
    """The start of each piece, and the end of the last one."""
    return np.concatenate((np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)))


def choose_row(logits: Row, choices: Choices, i: int, chosen: Sequence[int] = ()) -> int:
    """Sample token `i` of the batch as its sampler would: the definition for devices. UNREAD if these logits allow none.

    `chosen` are the ids that the previous step sampled.
    """
    params = SamplingParams(
        temperature=choices.temperature[i], top_k=choices.top_k[i], top_p=choices.top_p[i], min_p=choices.min_p[i]
    )
    history, edits = History(), choices.edits
    if edits is not None and i in edits.rows:
        params, history = _edited(params, edits, int(np.searchsorted(edits.rows, i)), chosen)
    try:
        return choose(logits, params, history, float(choices.uniform[i]))
    except NumericalError:
        return UNREAD


def _edited(params: SamplingParams, edits: Edits, e: int, chosen: Sequence[int]) -> tuple[SamplingParams, History]:
    """Parameters and a history that are equivalent to edit `e`."""
    seen, biases = (slice(starts[e], starts[e + 1]) for starts in (edits.starts, edits.bias_starts))
    ids, source = edits.ids[seen], edits.sources[e]
    params = dataclasses.replace(
        params,
        repetition_penalty=edits.repetition[e],
        presence_penalty=edits.presence[e],
        frequency_penalty=edits.frequency[e],
        logit_bias=dict(zip(edits.bias_ids[biases].tolist(), edits.biases[biases].tolist(), strict=True)),
    )
    last = [] if source < 0 else [chosen[source]]
    return params, History(ids.tolist(), [*np.repeat(ids, edits.counts[seen]).tolist(), *last])


def choose(logits: Row, params: SamplingParams, history: History, uniform: float) -> int:
    """The most likely id if the temperature is 0, else the one at `uniform`. NumericalError if there is none."""
    require_finite(logits)
    edited = apply(GREEDY_FILTERS, logits, params, history)
    if edited is not logits:
        require_finite(edited)  # a penalty multiplies, so a logit can overflow
    if params.temperature == 0:
        return int(edited.argmax())
    return draw(apply(DRAWING_FILTERS, edited, params, history), uniform)


def apply(filters: tuple[Filter, ...], logits: Row, params: SamplingParams, history: History) -> Row:
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
    """Log-probabilities under the raw logits, in float64: of `token_id`, and of the `num_top` most likely, best first."""
    shifted = logits.astype(np.float64) - float(logits.max())
    normaliser = float(np.log(np.exp(shifted).sum()))
    top = tuple((int(i), float(shifted[i]) - normaliser) for i in _ranked(logits, num_top))
    return TokenLogprob(token_id, float(shifted[token_id]) - normaliser, top)


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
    best = _largest(logits, count)
    return best[np.argsort(-logits[best], kind="stable")]
