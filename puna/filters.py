"""The filters of sampling: each one turns a row of logits into another, and never changes the row that it is given.

`FILTERS` names them, the fields that switch each one on, and its name in `SamplingParams.samplers`, which orders them. A filter
that needs more than a row, the parameters and the history is a class: one object for each request, called as a function is.
What follows a cut reads the few ids that it keeps, not a row of a whole vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from puna.bans import BannedStrings, bad_words
from puna.dry import Dry
from puna.history import History, Row
from puna.philox import uniform
from puna.request import SAMPLERS, SamplingParams
from puna.tokenizers.base import Tokenizer

Indices = npt.NDArray[np.intp]
Sums = npt.NDArray[np.float64]
RowFilter = Callable[[Row, SamplingParams, History], Row]
KeptIds = Callable[[Row, SamplingParams], Indices | None]
OwnNumber = Callable[[SamplingParams, History], float]

LARGEST = float(np.finfo(np.float32).max)
SMALLEST = float(np.finfo(np.float32).tiny)
SUPPRESSED = -1e30  # the bias of a suppressed id: below any logit, and finite after any penalty
REMOVED = SUPPRESSED / 1000  # a logit of an id that was not suppressed is above this
REMOVED_LOGIT = np.float32(-np.inf)
SLACK = 1e-5  # no float32 sum of masses is off by such a share: numpy adds them in pairs, some 30 roundings deep
XTC_STREAM = 1 << 61  # first of the random numbers that XTC takes; a text's own begin at 0


# ---- edits: they also apply to greedy sampling ------------------------------------------------------------------------------


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
    """Make ids that occurred less likely: repetition (prompt and output), then presence and frequency (output only).

    Only the last `penalty_last_n` tokens count.
    """
    penalised, recent = logits, history.last(params.penalty_last_n)
    if params.repetition_penalty != 1.0:
        seen, penalised = np.unique(np.array([*recent.prompt_ids, *recent.output_ids], np.int64)), logits.copy()
        factor = np.float32(params.repetition_penalty)
        with np.errstate(over="ignore"):
            penalised[seen] = np.where(logits[seen] > 0, logits[seen] / factor, logits[seen] * factor)
    if recent.output_ids and (params.presence_penalty or params.frequency_penalty):
        (ids, counts), penalised = np.unique(recent.output_ids, return_counts=True), penalised.copy()
        penalised[ids] -= (params.presence_penalty + params.frequency_penalty * counts).astype(np.float32)
    return penalised


# ---- filters of draws -------------------------------------------------------------------------------------------------------


def top_n_sigma(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep logits within n standard deviations of the largest (Tang et al. 2024, arXiv 2411.07641).

    >>> top_n_sigma(np.float32([4, 0, 0, 0]), SamplingParams(top_n_sigma=2.0), History()).tolist()
    [4.0, -inf, -inf, -inf]
    """
    return _only(logits, _top_n_sigma(logits, params))


def _top_n_sigma(logits: Row, params: SamplingParams) -> Indices | None:
    present = logits if logits.min() > REMOVED else logits[logits > REMOVED]
    if not len(present):  # a form allows only what is suppressed
        return None
    best, centred = float(present.max()), present.astype(np.float64)
    centred -= centred.mean()
    deviation = math.sqrt(float(np.square(centred, out=centred).mean()))
    return np.flatnonzero(logits >= best - params.top_n_sigma * deviation)


def top_k(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep the k most likely tokens; on a tie, the lower id.

    >>> top_k(np.float32([3, 1, 3, 3]), SamplingParams(top_k=2), History()).tolist()
    [3.0, -inf, 3.0, -inf]
    """
    return _only(logits, _top_k(logits, params))


def _top_k(logits: Row, params: SamplingParams) -> Indices | None:
    return largest(logits, params.top_k) if 0 < params.top_k < len(logits) else None


def typical_p(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep the tokens whose surprise is nearest to the entropy, until together they exceed p (Meister et al. 2022, arXiv
    2202.00666).

    >>> typical_p(np.log(np.float32([0.5, 0.25, 0.125, 0.125])), SamplingParams(typical_p=0.2), History()).round(2).tolist()
    [-inf, -1.3899999856948853, -inf, -inf]
    """
    return _only(logits, _typical(logits, params))


def _typical(logits: Row, params: SamplingParams) -> Indices | None:
    """The ids that typical-p keeps. A token's surprise less the entropy is its logit's distance below the mean logit."""
    if params.typical_p >= 1.0:
        return None
    shifted = logits - logits.max()
    masses = np.exp(shifted)
    total = float(masses.sum(dtype=np.float64))
    mean = float((masses * np.maximum(shifted, -LARGEST)).sum(dtype=np.float64)) / total
    distances = np.abs(np.subtract(shifted, np.float32(mean), out=shifted), out=shifted)
    nearness = np.negative(distances, out=distances)
    return _first_reaching(nearness, masses, lambda sums: 1 + int(sums.searchsorted(params.typical_p * total, side="right")))


def top_p(logits: Row, params: SamplingParams, history: History) -> Row:
    """Keep the smallest set of most likely tokens whose probability reaches p: the token that crosses p stays, and at
    least one does (Holtzman et al. 2020, arXiv 1904.09751).

    >>> top_p(np.log(np.float32([0.1, 0.6, 0.1, 0.2])), SamplingParams(top_p=0.7), History()).round(2).tolist()
    [-inf, -0.5099999904632568, -inf, -1.6100000143051147]
    """
    return _only(logits, _nucleus(logits, params))


def _nucleus(logits: Row, params: SamplingParams) -> Indices | None:
    """The ids that top-p keeps. A sum in float32 takes a third of the time of one in float64, and mostly tells which they are."""
    if params.top_p >= 1.0:
        return None
    masses = masses_of(logits)
    total = float(masses.sum())

    def crossing(sums: Sums) -> int:
        low, high = sums.searchsorted((params.top_p * total * (1 - SLACK), params.top_p * total * (1 + SLACK)))
        return 1 + int(low if low == high else sums.searchsorted(params.top_p * float(masses.sum(dtype=np.float64))))

    # All tokens below this together have less than 1 - p, so a few thousand remain of most rows (llama2.c's trick).
    ids = np.flatnonzero(masses >= np.float32((1 - params.top_p) * total / len(logits) * (1 - 2 * SLACK)))
    return ids[_first_reaching(logits[ids], masses[ids], crossing)]


def min_p(logits: Row, params: SamplingParams, history: History) -> Row:
    """Drop tokens less likely than `min_p` times the most likely one.

    >>> min_p(np.log(np.float32([0.8, 0.1, 0.05, 0.05])), SamplingParams(min_p=0.1), History()).round(2).tolist()
    [-0.2199999988079071, -2.299999952316284, -inf, -inf]
    """
    return _only(logits, _min_p(logits, params))


def _min_p(logits: Row, params: SamplingParams) -> Indices | None:
    """The ids that min-p keeps. Most logits are so far below the largest that their probabilities need not be computed."""
    if np.float32(params.min_p) <= 0.0:
        return None
    best = logits.max()
    near = np.flatnonzero(logits >= best + np.float32(math.log(params.min_p) - 1))  # 1: beyond any rounding
    return np.asarray(near[np.exp(logits[near] - best) >= params.min_p])


def xtc(logits: Row, params: SamplingParams, history: History) -> Row:
    """With some probability, drop all but the least likely of the tokens that reach the threshold ("exclude top choices").

    It acts where the number that it draws for a token (`xtc_number`) is below the probability.

    >>> row, history = np.log(np.float32([0.5, 0.3, 0.2])), History()
    >>> xtc(row, SamplingParams(xtc_probability=1.0, xtc_threshold=0.25, seed=1), history).round(2).tolist()
    [-inf, -1.2000000476837158, -1.6100000143051147]
    """
    if xtc_number(params, history) >= params.xtc_probability:
        return logits
    ids, shares = _shares(logits)
    likely = ids[shares >= params.xtc_threshold]
    if len(likely) < 2:
        return logits
    excluded = logits.copy()
    excluded[np.delete(likely, _last_of_smallest(logits[likely]))] = REMOVED_LOGIT
    return excluded


def xtc_number(params: SamplingParams, history: History) -> float:
    """XTC's own random number for the next token, in [0, 1). The token's draw has another one."""
    return uniform(params.seed or 0, XTC_STREAM + history.num_generated)


def temperature(logits: Row, params: SamplingParams, history: History) -> Row:
    """Divide by the temperature. The largest logit becomes 0 first, so that even a tiny temperature does not overflow."""
    return _divided(logits, params.temperature)


def dynamic_temperature(logits: Row, params: SamplingParams, history: History) -> Row:
    """Divide by a temperature between T - range and T + range: the higher, the more evenly the tokens are likely.

    Its position in that range is the entropy, as a share of the largest possible one, to the power of the exponent.

    >>> settings = SamplingParams(temperature=1.0, dynatemp_range=0.5)
    >>> dynamic_temperature(np.float32([2, 2]), settings, History()).tolist()  # all are equally likely: 1.5
    [0.0, 0.0]
    >>> dynamic_temperature(np.float32([8, 0]), settings, History()).round(2).tolist()  # nearly certain: 0.5
    [0.0, -15.859999656677246]
    """
    _, shares = _shares(logits)
    low, high = max(params.temperature - params.dynatemp_range, 0.0), params.temperature + params.dynatemp_range
    evenness = float(-(shares * np.log(shares)).sum()) / math.log(len(shares)) if len(shares) > 1 else 0.0
    return _divided(logits, low + (high - low) * min(max(evenness, 0.0), 1.0) ** params.dynatemp_exponent)


# ---- filters with a state ---------------------------------------------------------------------------------------------------


class States:
    """A number before each token of a text. Token i changes what comes after it only, so that it can be sampled again."""

    def __init__(self, first: tuple[float, ...]) -> None:
        self._states = [first]

    def before(self, index: int) -> tuple[float, ...]:
        """The state before token `index`; the last known one if a token was accepted without being sampled."""
        return self._states[min(index, len(self._states) - 1)]

    def set_after(self, index: int, state: tuple[float, ...]) -> None:
        """Token `index` was sampled. What was known beyond it is forgotten."""
        del self._states[index + 1 :]
        self._states += [self._states[-1]] * (index + 1 - len(self._states)) + [state]


class Mirostat:
    """Mirostat 2: keep tokens of at most `mu` bits of surprise, which is adjusted so that the mean nears tau (arXiv 2007.14966).

    >>> mirostat, row = Mirostat(SamplingParams(mirostat=2, mirostat_tau=1.0)), np.log(np.float32([0.5, 0.3, 0.2]))
    >>> kept = mirostat(row, SamplingParams(), History())  # mu begins at 2 * tau: 2 bits, a probability of 1/4
    >>> kept.round(2).tolist(), mirostat.accept(kept, 1, History())
    ([-0.6899999976158142, -1.2000000476837158, -inf], None)
    >>> round(mirostat.states.before(1)[0], 3)  # mu - eta * (surprise - tau)
    1.958
    """

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None = None) -> None:
        self._tau, self._eta = params.mirostat_tau, params.mirostat_eta
        self.states = States((2 * self._tau,))

    def __call__(self, logits: Row, params: SamplingParams, history: History) -> Row:
        (mu,) = self.states.before(history.num_generated)
        masses = masses_of(logits)
        kept = np.flatnonzero(masses >= 2.0**-mu * float(masses.sum(dtype=np.float64)))
        return _only(logits, kept if len(kept) else largest(logits, 1))

    def accept(self, kept: Row, index: int, history: History) -> None:
        """The token at `index` of the row `kept` was sampled."""
        (mu,) = self.states.before(history.num_generated)
        surprise = -math.log2(_share(kept, index))
        self.states.set_after(history.num_generated, (mu - self._eta * (surprise - self._tau),))


class AdaptiveP:
    """Prefer tokens near a target probability, which moves against the mean of those that were drawn (llama.cpp's adaptive-p).

    The mean is an exponential one: `adaptive_decay` is the weight of each token against the one after it.
    """

    WIDTH, PEAK, SHARPNESS = 0.3, 5.0, 10.0  # llama.cpp's

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None = None) -> None:
        self._target, self._decay = params.adaptive_target, params.adaptive_decay
        weight = 1 / (1 - self._decay)
        self.states = States((self._target * weight, weight))  # the weighted sum of probabilities, and of weights
        self._before: Row = np.zeros(0, np.float32)

    def __call__(self, logits: Row, params: SamplingParams, history: History) -> Row:
        total, weight = self.states.before(history.num_generated)
        target = min(max(2 * self._target - total / weight, 0.0), 1.0)
        ids, shares = _shares(logits)
        distances = np.abs(shares - target) / self.WIDTH
        self._before, adapted = logits, np.full_like(logits, REMOVED_LOGIT)
        adapted[ids] = self.PEAK - self.SHARPNESS * distances**2 / (1 + distances)
        return adapted

    def accept(self, kept: Row, index: int, history: History) -> None:
        total, weight = self.states.before(history.num_generated)
        share = _share(self._before, index)
        self.states.set_after(history.num_generated, (share + self._decay * total, 1 + self._decay * weight))


# ---- the table --------------------------------------------------------------------------------------------------------------


class Filter(NamedTuple):
    """A filter, and when it runs."""

    step: RowFilter | None  # None: `make` makes one for each request
    fields: tuple[str, ...]  # on while one of them differs from its default; none: always on
    sampler: str = ""  # its name in `SamplingParams.samplers`; FIRST and LAST stand in no list
    details: tuple[str, ...] = ()  # further fields that it reads
    is_edit: bool = False  # also applies to greedy sampling
    window: str = ""  # a field that is 0 switches it off
    instead_of: tuple[str, ...] = ()  # the filters that do not run if this one does
    keeps: KeptIds | None = None  # the ids that `step` keeps, ascending (None: all): it need not make a row, nor read one again
    make: Callable[[SamplingParams, Tokenizer | None], RowFilter] | None = None
    number: OwnNumber | None = None  # the random number that it draws for each token; None: it draws none


FIRST, LAST = "", "last"
FILTERS: Mapping[str, Filter] = {
    "logit_bias": Filter(
        logit_bias, ("logit_bias", "suppress_ids", "begin_suppress_ids", "min_tokens"), FIRST, is_edit=True
    ),
    "bad_words": Filter(bad_words, ("bad_words_ids",), FIRST, is_edit=True),
    "banned_strings": Filter(None, ("banned_strings",), FIRST, is_edit=True, make=BannedStrings),
    "penalties": Filter(
        penalties, ("repetition_penalty", "presence_penalty", "frequency_penalty"), "penalties", ("penalty_last_n",),
        is_edit=True, window="penalty_last_n",
    ),
    "dry": Filter(
        None, ("dry_multiplier",), "dry", ("dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers"),
        is_edit=True, window="dry_penalty_last_n", make=Dry,
    ),
    "top_n_sigma": Filter(top_n_sigma, ("top_n_sigma",), "top_n_sigma", keeps=_top_n_sigma),
    "top_k": Filter(top_k, ("top_k",), "top_k", keeps=_top_k),
    "typical_p": Filter(typical_p, ("typical_p",), "typ_p", keeps=_typical),
    "top_p": Filter(top_p, ("top_p",), "top_p", keeps=_nucleus),
    "min_p": Filter(min_p, ("min_p",), "min_p", keeps=_min_p),
    "xtc": Filter(xtc, ("xtc_probability",), "xtc", ("xtc_threshold", "seed"), number=xtc_number),
    "temperature": Filter(temperature, ("temperature",), "temperature"),
    "dynamic_temperature": Filter(
        dynamic_temperature, ("dynatemp_range",), "temperature", ("dynatemp_exponent", "temperature"), instead_of=("temperature",)
    ),
    "mirostat": Filter(
        None, ("mirostat",), LAST, ("mirostat_tau", "mirostat_eta"), make=Mirostat,
        instead_of=("top_n_sigma", "top_k", "typical_p", "top_p", "min_p", "xtc"),
    ),
    "adaptive_p": Filter(None, ("adaptive_target",), LAST, ("adaptive_decay",), make=AdaptiveP),
}  # fmt: skip


def needed_filters(params: SamplingParams) -> tuple[str, ...]:
    """The names of the filters that these parameters switch on, in the order in which they run. Greedy sampling needs edits only.

    >>> needed_filters(SamplingParams(temperature=0.5, top_p=0.9, min_tokens=3))
    ('logit_bias', 'top_p', 'temperature')
    >>> needed_filters(SamplingParams(temperature=0.5, top_p=0.9, samplers=["temperature", "top_p"]))
    ('temperature', 'top_p')
    """
    off, is_greedy = type(params)(), params.temperature == 0
    order = {name: index for index, name in enumerate((FIRST, *(SAMPLERS if params.samplers is None else params.samplers), LAST))}
    on = [name for name, each in FILTERS.items() if each.sampler in order and (each.is_edit or not is_greedy)]
    on = [name for name in on if _is_on(FILTERS[name], params, off)]
    replaced = {other for name in on for other in FILTERS[name].instead_of}
    return tuple(sorted((name for name in on if name not in replaced), key=lambda name: order[FILTERS[name].sampler]))


def effective(params: SamplingParams) -> SamplingParams:
    """The same sampling, with the settings of filters that do not run at their defaults. Without its filter, temperature is 1."""
    off, running = type(params)(), needed_filters(params)
    idle = [name for each, filter_ in FILTERS.items() if each not in running for name in filter_.fields]
    still = {name: getattr(off, name) for name in idle if getattr(params, name, None) != getattr(off, name, None)}
    if "temperature" in still:
        still["temperature"] = 1.0
    return dataclasses.replace(params, **still) if still else params


def without_effect(params: SamplingParams, given: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The fields of `given` that change nothing, and why.

    >>> params = SamplingParams(top_k=9, xtc_threshold=0.2, temperature=1.0, samplers=["temperature"])
    >>> dict(without_effect(params, ["top_k", "xtc_threshold"]))
    {'top_k': 'because samplers does not name top_k', 'xtc_threshold': 'without xtc_probability'}
    """
    running, off = needed_filters(params), type(params)()
    for name in given:
        owners = [key for key, each in FILTERS.items() if name in (*each.fields, *each.details)]
        if name == "seed" and params.temperature == 0:
            yield name, "at temperature 0: sampling is greedy"
        elif owners and name != "seed" and not set(owners) & set(running):
            reason = _why_idle(owners[0], name, params, off)
            yield from [(name, reason)] if reason else []


def _why_idle(key: str, name: str, params: SamplingParams, off: SamplingParams) -> str:
    """Why a filter does not run although its field was given; "" if the field itself switches it off."""
    filter_ = FILTERS[key]
    if params.temperature == 0 and not filter_.is_edit:
        return "at temperature 0: sampling is greedy" if name != "temperature" else ""
    if not _is_on(filter_, params, off):
        is_off = name in filter_.fields or (name == filter_.window and getattr(params, name) == 0)
        return "" if is_off else f"without {filter_.fields[0]}"
    replacing = [other for other in needed_filters(params) if key in FILTERS[other].instead_of]
    return f"beside {replacing[0]}" if replacing else f"because samplers does not name {filter_.sampler}"


def _is_on(filter_: Filter, params: SamplingParams, off: SamplingParams) -> bool:
    if filter_.window and getattr(params, filter_.window) == 0:
        return False
    return not filter_.fields or any(getattr(params, name, None) != getattr(off, name, None) for name in filter_.fields)


class BoundFilter(NamedTuple):
    """A filter of one request."""

    name: str
    step: RowFilter
    is_edit: bool
    keeps: KeptIds | None = None
    number: OwnNumber | None = None


def make_steps(params: SamplingParams, tokenizer: Tokenizer | None = None) -> list[BoundFilter]:
    """The filters that these parameters need, in their order. `tokenizer` spells the tokens of banned strings and breakers."""
    return [_bound(name, FILTERS[name], params, tokenizer) for name in needed_filters(params)]


def _bound(name: str, filter_: Filter, params: SamplingParams, tokenizer: Tokenizer | None) -> BoundFilter:
    step = filter_.make(params, tokenizer) if filter_.make is not None else filter_.step
    assert step is not None, name
    return BoundFilter(name, step, filter_.is_edit, filter_.keeps, filter_.number)


# ---- rows -------------------------------------------------------------------------------------------------------------------


def _divided(logits: Row, by: float) -> Row:
    shifted = logits - logits.max()
    with np.errstate(over="ignore"):
        return np.asarray(np.divide(shifted, np.float32(max(by, SMALLEST)), out=shifted))


def masses_of(logits: Row) -> Row:
    """Probabilities, scaled so that the largest is 1. In place: a second large array would cost most of the time."""
    best = logits.max()
    if best == 0:  # after the temperature
        return np.asarray(np.exp(logits))
    shifted = logits - best
    return np.asarray(np.exp(shifted, out=shifted))


def _shares(logits: Row) -> tuple[Indices, npt.NDArray[np.float64]]:
    """The ids that can be drawn, ascending, and their probabilities."""
    masses = masses_of(logits)
    ids = np.flatnonzero(masses)
    shares = masses[ids].astype(np.float64)
    return ids, shares / shares.sum()


FEW = 512  # so many are sorted as fast as bins are made
BINS, BINS_PER_UNIT = 4096, np.float32(64)  # of keys, which are logits or their distances; beyond 64 nothing has a mass


def _first_reaching(keys: Row, masses: Row, crossing: Callable[[Sums], int]) -> Indices:
    """The indices, ascending, of the largest keys (of equal ones the lower index first). How many: `crossing` tells it of the
    running sums of their masses, a number beyond these if more are needed; all if all do not suffice.

    Bins of keys are added up first. Only the bin with the crossing needs to be sorted, however many ids are likely.
    """
    if len(keys) <= FEW:
        order = np.argsort(-keys, kind="stable")
        return np.sort(order[: crossing(masses[order].cumsum(dtype=np.float64))])
    bins = np.minimum((keys.max() - keys) * BINS_PER_UNIT, BINS - 1).astype(np.intp)
    sums = np.bincount(bins, masses).cumsum()
    last = min(crossing(sums), len(sums)) - 1
    inside = np.flatnonzero(bins == last)
    order = inside[np.argsort(-keys[inside], kind="stable")]
    before = sums[last - 1] if last else 0.0
    kept = bins < last
    kept[order[: crossing(before + masses[order].cumsum(dtype=np.float64))]] = True
    return np.flatnonzero(kept)


GROUPS = 1024  # at least: to read fewer takes numpy longer


def _leading(keys: Row, count: int) -> Indices:
    """The indices of all keys from some key on: at least `count`, and few more (but none at -inf).

    Of the maxima of interleaved groups, `count` reach that key. There are few to partition, where a vocabulary takes 600 us.
    """
    groups = max(GROUPS, 4 * count)
    rows = max(1, len(keys) // groups)
    maxima = keys[: rows * groups].reshape(rows, -1).max(axis=0)
    least = np.partition(maxima, len(maxima) - count)[len(maxima) - count]
    return np.flatnonzero(keys >= max(least, -LARGEST))


def _share(logits: Row, index: int) -> float:
    """The probability of a token of the row."""
    masses = masses_of(logits)
    return float(masses[index]) / float(masses.sum(dtype=np.float64))


def _only(logits: Row, ids: Indices | None) -> Row:
    """The row with all other ids at -inf; None: all stay."""
    if ids is None:
        return logits
    kept = np.full_like(logits, -np.inf)
    kept[ids] = logits[ids]
    return kept


def largest(logits: Row, count: int) -> Indices:
    """Ids of the `count` largest, ascending, but none at -inf; on a tie, the lower ids."""
    if not 0 < count < len(logits):
        return np.arange(min(count, len(logits)))
    near = _leading(logits, count)
    return np.sort(near[np.argsort(-logits[near], kind="stable")[:count]])


def _last_of_smallest(logits: Row) -> int:
    """Of equal ones the last, which a stable sort by probability puts last."""
    return len(logits) - 1 - int(logits[::-1].argmin())
