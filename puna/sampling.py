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
from puna.filters import SUPPRESSED, BoundFilter, cumulative_masses, effective, largest, make_steps, masses_of
from puna.history import EVERYTHING, Occurrences
from puna.history import History as History
from puna.history import Row as Row
from puna.philox import uniform
from puna.processors import PROCESSORS, LogitsProcessor, Processors
from puna.request import MAX_LOGIT_BIAS, SamplingParams, TokenLogprob
from puna.tokenizers.base import Tokenizer

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


@runtime_checkable
class Stateful(Protocol):
    """A filter that changes with the tokens that were sampled."""

    def accept(self, kept: Row, token_id: int, history: History) -> None:
        """Token `token_id` was sampled after `history` from the row `kept`, which the filters left."""


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

    def __init__(
        self,
        params: SamplingParams,
        vocab_size: int,
        stop_ids: Collection[int] = (),
        tokenizer: Tokenizer | None = None,
        processors: Sequence[LogitsProcessor] = (),
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

    def phase(self, num_generated: int) -> Phase:
        """How to sample the token after `num_generated` others."""
        return next(phase for phase in self._phases if num_generated < phase.end)

    def edits_logits(self, num_generated: int) -> bool:
        """Whether biases or penalties change the logits of the next token."""
        return self._penalises or len(self.phase(num_generated).bias_ids) > 0

    def sample(self, logits: Row, history: History) -> int:
        """The next token's id. Raises NumericalError if the logits hold NaN or +inf, or nothing finite."""
        kept, uniform = self.processed(logits, history), self.uniform(history.num_generated)
        token_id = draw(kept, uniform) if self._draws else int(kept.argmax())
        for step in self._stateful:
            step.accept(kept, token_id, history)
        return token_id

    def processed(self, logits: Row, history: History) -> Row:
        """The logits after the filters, of which the next token is drawn; greedy sampling needs no temperature and no cut."""
        return apply(self._bound, logits, self.phase(history.num_generated).params, history)

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
    kept = apply(make_steps(params), logits, params, history)
    return draw(kept, uniform) if params.temperature > 0 else int(kept.argmax())


def apply(filters: Sequence[BoundFilter], logits: Row, params: SamplingParams, history: History) -> Row:
    """The filters, one after the other. NumericalError if the logits hold NaN or +inf, or nothing finite."""
    require_finite(logits)
    for _, step, is_edit in filters:
        before, logits = logits, step(logits, params, history)
        if is_edit and logits is not before:
            require_finite(logits)  # a penalty multiplies, so a logit can overflow
    return logits


def draw(logits: Row, uniform: float) -> int:
    """The id at which the cumulative probability passes `uniform`.

    >>> [draw(np.log(np.float32([0.25, 0.5, 0.25])), u) for u in (0.0, 0.3, 0.7, 0.8)]
    [0, 1, 1, 2]
    """
    ids = np.flatnonzero(logits > -np.inf)
    cumulative = cumulative_masses(logits[ids])
    return int(ids[min(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"), len(ids) - 1)])


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
