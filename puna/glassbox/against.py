"""Compares two runs of one prompt: where they part, how far apart their models are there, and the first layer that differs.

The first run is as it is. The other runs on its own, and once more with the first run's tokens given to it, so that both say what
they think of each token after the same text: the divergence is that of Kullback and Leibler (1951), of the models' own
probabilities, before any filter. Layers are compared by the reference (`layers.py`), with the weights as the models' files have
them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.completion import Completion
from puna.draft_model import vocabulary_difference
from puna.errors import InsufficientMemoryError, UsageError
from puna.formats.base import Checkpoint
from puna.glassbox.diff import FORMAT, ComparedRun, Divergence, LayerErrors, OtherRun, Parting, RunDiff, SharedCandidate
from puna.glassbox.layers import LayerTap, TracedText, pass_through, require_memory
from puna.glassbox.record import TracedModel, settings_of
from puna.glassbox.replay import Comparison
from puna.glassbox.trace import Candidate
from puna.history import History, Row
from puna.progress import SILENT, Reporter
from puna.request import SamplingParams
from puna.runner import Runner
from puna.sampling import Candidates, require_finite, token_logprob
from puna.version import __version__

Wide = npt.NDArray[np.float64]

MAX_LOGITS = 1 << 27  # of the first run, that are kept: 512 MB
MAX_HIDDEN = 1 << 26  # numbers of the first run's hidden states: 256 MB


# ---- how it is made ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """A model that runs, and all that is told of it."""

    name: str
    runner: Runner
    model: TracedModel
    checkpoint: Checkpoint
    weights: str
    kv_type: str
    source: tuple[str, ...]  # what the weights come from: the files, and the adapters merged into them

    def source_of(self, params: SamplingParams) -> tuple[str, ...]:
        """What the weights of a request come from: its adapter, too."""
        return (*self.source, *(one.digest for one in self.checkpoint.adapters if one.name == params.lora_name))

    def run(self, completion: Completion, params: SamplingParams) -> ComparedRun:
        return ComparedRun(
            self.name,
            self.model.path,
            self.model.backend,
            self.weights,
            self.kv_type,
            settings_of(params),
            completion.seed,
            completion.token_ids,
            completion.text,
            completion.finish_reason.value,
        )


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The first run, with what others are compared with. It holds no memory of the backend, which may be closed."""

    side: Side
    run: ComparedRun
    completion: Completion
    logits: dict[int, Row]  # step -> (vocab_size,)
    num_left_out: int  # steps whose logits are not kept


class LogitsKeeper:
    """A watcher that copies the model's logits of each step, until it holds MAX_LOGITS numbers."""

    def __init__(self) -> None:
        self.logits: dict[int, Row] = {}
        self.num_left_out = 0
        self._left = MAX_LOGITS

    def computed(self, first: int, last: int, num_drafts: int) -> None:
        """Not kept."""

    def begin(self, logits: Row, history: History) -> None:
        self._left -= len(logits)
        if self._left >= 0:
            self.logits[history.num_generated] = logits.copy()
        else:
            self.num_left_out += 1

    def filtered(self, name: str, kept: Candidates) -> None:
        """Not kept."""

    def drew(self, name: str, uniform: float) -> None:
        """Not kept."""

    def drawn(self, kept: Candidates, uniform: float | None, index: int) -> None:
        """Not kept."""

    def end(self, token_id: int) -> None:
        """Not kept."""


@dataclass(eq=False)
class GivenTokens:
    """A sampler that takes the tokens of another run, and compares the logits with its."""

    first: FirstRun
    divergences: dict[int, float] = field(default_factory=dict)
    num_same_top: int = 0
    row: Row | None = None  # at the step `kept_step`
    kept_step: int = -1

    def sample(self, logits: Row, history: History) -> int:
        require_finite(logits)
        step = history.num_generated
        if (own := self.first.logits.get(step)) is not None:
            width = min(len(own), len(logits))  # beyond it a model has padding, which no token has
            self.divergences[step] = divergence(own[:width], logits[:width])
            self.num_same_top += int(own[:width].argmax() == logits[:width].argmax())
        if step == self.kept_step:
            self.row = logits.copy()
        return self.first.completion.token_ids[step]

    def told(self) -> Divergence:
        values = self.divergences
        at = max(values, key=lambda step: values[step], default=None)
        return Divergence(
            mean=math.fsum(values.values()) / len(values) if values else 0.0,
            max=0.0 if at is None else values[at],
            at=at,
            per_step=tuple(values.get(step) for step in range(len(self.first.completion.token_ids))),
            num_left_out=self.first.num_left_out,
            same_top=self.num_same_top / len(values) if values else 1.0,
        )


def first_run(side: Side, prompt_ids: Sequence[int], params: SamplingParams) -> FirstRun:
    """Run a prompt to its end, and keep what others are compared with."""
    require_comparable(params)
    keeper = LogitsKeeper()
    completion = _completed(side, prompt_ids, params, watcher=keeper)
    return FirstRun(side, side.run(completion, params), completion, keeper.logits, keeper.num_left_out)


def other_run(first: FirstRun, side: Side, params: SamplingParams, report: Reporter = SILENT) -> OtherRun:
    """Run the same prompt on another side, and compare. UsageError if its vocabulary is another one."""
    require_comparable(params)
    require_same_tokens(first.side, side)
    expected = first.completion.token_ids
    comparison = Comparison(expected, side.model)
    own = _completed(side, first.completion.prompt_ids, params, watcher=comparison)
    pairs = enumerate(zip_longest(expected, own.token_ids))
    num_equal = next((index for index, (one, other) in pairs if one != other), len(expected))
    given = GivenTokens(first, kept_step=num_equal)
    if expected:
        forced = dataclasses.replace(_plain(params), max_tokens=len(expected))
        _completed(side, first.completion.prompt_ids, forced, sampler=given)
    parting = None
    if expected != own.token_ids:
        parting = _parting(first, comparison, given.row, num_equal, own.token_ids)
    layers, why = compared_layers(first, side, params, report)
    return OtherRun(side.run(own, params), num_equal, parting, given.told(), layers, why)


def compared(first: FirstRun, others: Sequence[OtherRun]) -> RunDiff:
    """All of a comparison."""
    return RunDiff(FORMAT, __version__, first.completion.prompt_ids, first.run, tuple(others))


def _completed(side: Side, prompt_ids: Sequence[int], params: SamplingParams, **how: Any) -> Completion:
    handle = side.runner.submit(prompt_ids, params, **how)
    try:
        for _ in handle:
            pass
    finally:
        handle.close()
    return Completion.of(handle)


def _plain(params: SamplingParams) -> SamplingParams:
    """What a run needs that takes given tokens: nothing that ends it before them."""
    return SamplingParams(ignore_eos=True, lora_name=params.lora_name)


def require_comparable(params: SamplingParams) -> None:
    """UsageError for runs of which there is more than one answer, or that forget their beginning."""
    if params.num_samples > 1:
        raise UsageError("one sample is compared with another", hint="Leave n and best_of out.")
    if params.context_shift:
        raise UsageError("runs that drop their oldest tokens cannot be compared", hint="Leave context_shift out.")


def require_same_tokens(first: Side, other: Side) -> None:
    """UsageError if an id of the other model is another token than the first one's."""
    problem, ours, theirs = "", first.model.tokenizer, other.model.tokenizer
    if ours is not None and theirs is not None:
        problem = vocabulary_difference(ours, theirs, "the first model", other.name)
    elif first.checkpoint.config.vocab_size != other.checkpoint.config.vocab_size:
        sizes = other.checkpoint.config.vocab_size, first.checkpoint.config.vocab_size
        problem = f"{other.name} has {sizes[0]} tokens, and the first model {sizes[1]}"
    if problem:
        raise UsageError(
            f"these models have different vocabularies: {problem}",
            hint="Compare models of one family, whose tokens are the same.",
        )


def divergence(first: Row, other: Row) -> float:
    """The divergence of Kullback and Leibler of the probabilities of other logits from those of the first, in nats.

    >>> even, odd = np.log(np.float32([0.5, 0.5])), np.log(np.float32([0.25, 0.75]))
    >>> divergence(even, even), round(divergence(even, odd), 4)
    (0.0, 0.1438)
    """
    p, q = _logprobs(first), _logprobs(other)
    shares = np.exp(p)
    return max(0.0, float((shares * np.where(shares > 0, p - q, 0.0)).sum()))


def _logprobs(logits: Row) -> Wide:
    wide = logits.astype(np.float64) - float(logits.max())
    return np.asarray(wide - math.log(float(np.exp(wide).sum())))


def _parting(first: FirstRun, comparison: Comparison, row: Row | None, step: int, token_ids: Sequence[int]) -> Parting:
    """`row`: the other model's logits at the step; None where the first run had ended, or no choice was left."""
    found, own, expected = comparison.difference, first.logits.get(step), first.completion.token_ids
    ids = [expected[step] if step < len(expected) else None, token_ids[step] if step < len(token_ids) else None]
    pairs = [None if row is None or own is None or one is None else _shared(first, own, row, one) for one in ids]
    is_there = found is not None and found.step == step
    return Parting(
        step=step,
        first=pairs[0],
        other=pairs[1],
        draw=found.draw if found is not None and is_there else None,
        margin=found.margin if found is not None and is_there else None,
        is_near_tie=found is not None and is_there and found.is_near_tie,
    )


def _shared(first: FirstRun, own: Row, row: Row, token_id: int) -> SharedCandidate:
    text = first.side.model.token(token_id).text
    one, other = (Candidate(token_id, text, float(logits[token_id]), *_likely(logits, token_id)) for logits in (own, row))
    return SharedCandidate(one, other)


def _likely(logits: Row, token_id: int) -> tuple[float, float]:
    logprob = token_logprob(logits, token_id, 0).logprob
    return math.exp(logprob), logprob


# ---- layers -----------------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class ErrorTap:
    """Compares the hidden states that it hears with those that another tap kept."""

    kept: LayerTap

    def __post_init__(self) -> None:
        self._index = {row: index for index, row in enumerate(self.kept.rows)}
        self.errors: Wide = np.zeros(self.kept.hidden_states.shape[:2])  # (rows, layers + 1)

    def hidden(self, layer: int, row: int, x: Row) -> None:
        if row in self._index:
            own = self.kept.hidden_states[self._index[row], layer].astype(np.float64)
            self.errors[self._index[row], layer] = np.linalg.norm(x - own) / max(float(np.linalg.norm(own)), TINY)

    def attention(self, layer: int, row: int, weights: Row) -> None:
        """Not compared."""

    def told(self) -> LayerErrors:
        largest = self.errors.max(axis=0)  # (layers + 1,)
        first = next((layer for layer, error in enumerate(largest.tolist()) if error != 0), None)
        return LayerErrors(
            errors=tuple(error if math.isfinite(error) else None for error in largest.tolist()),
            first=first,
            at=None if first is None else self.kept.rows[int(self.errors[:, first].argmax())],
            num_positions=len(self.kept.rows),
        )


TINY = 1e-30


def compared_layers(first: FirstRun, side: Side, params: SamplingParams, report: Reporter) -> tuple[LayerErrors | None, str]:
    """How far the hidden states are apart with the first run's text; or None, and why they are not compared."""
    own = first.completion.params or SamplingParams()
    one, other = first.side.checkpoint, side.checkpoint
    if first.side.source_of(own) == side.source_of(params):
        return None, "both runs read the same weights: only rounding, or the sampling, can part them"
    if sizes(one) != sizes(other):
        return None, "the models have {} and {} layers, of {} and {} numbers".format(*chain(*zip(sizes(one), sizes(other))))
    rows = _compared_rows(first)
    if not rows:
        return None, "the first run has no answer"
    try:
        for checkpoint in (one, other):
            require_memory(checkpoint, rows, only_states=True)
    except InsufficientMemoryError as error:
        return None, error.line
    kept = LayerTap(one.config, rows, report, keeps_attention=False)
    pass_through(one, TracedText.of(first.completion, one, own.lora_name), rows[-1] + 1, kept)
    tap = ErrorTap(kept)
    pass_through(other, TracedText.of(first.completion, other, params.lora_name), rows[-1] + 1, tap)
    return tap.told(), ""


def sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """Layers, and numbers of a hidden state."""
    return checkpoint.config.num_layers, checkpoint.config.hidden_size


def _compared_rows(first: FirstRun) -> list[int]:
    """The positions that foretell the answer's tokens, as many as memory is meant for."""
    (num_layers, hidden_size), start = sizes(first.side.checkpoint), len(first.completion.prompt_ids) - 1
    most = max(1, MAX_HIDDEN // ((num_layers + 1) * hidden_size))
    return list(range(start, start + min(most, len(first.completion.token_ids))))
