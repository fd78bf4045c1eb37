"""Runs the prompt of a receipt again, and compares token for token."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from puna.completion import Completion
from puna.glassbox.receipt import Receipt
from puna.glassbox.record import TracedModel
from puna.glassbox.recorder import place_of
from puna.glassbox.trace import Candidate, Draw
from puna.history import History, Row
from puna.opening import Opening
from puna.runner import Handle, Runner, nobody_listens
from puna.sampling import Candidates, token_logprob

NEAR_TIE = 0.01  # of a logarithm, or of the numbers 0..1: what another device or type of K and V may well turn


@dataclass(frozen=True, slots=True)
class Difference:
    """The first token that is another one than the receipt's. Logits and probabilities are the model's own, of this run."""

    step: int  # its place in the answer, from 0
    expected: Candidate | None  # the receipt's; None: its answer had ended
    found: Candidate | None  # this run's; None: it had ended
    draw: Draw | None  # where the number fell in this run; None: sampling is greedy
    margin: float | None  # greedy: between the two logarithms; drawn: from the number to the nearer end of its part

    @property
    def is_near_tie(self) -> bool:
        return self.margin is not None and abs(self.margin) < NEAR_TIE


@dataclass(frozen=True, slots=True)
class Replay:
    """What a replay found."""

    num_equal: int  # tokens, from the first on
    num_tokens: int  # of the receipt
    difference: Difference | None  # None: verified
    token_ids: tuple[int, ...]  # of this run
    backend: str

    @property
    def is_verified(self) -> bool:
        return self.difference is None

    def as_json(self) -> dict[str, Any]:
        near = None if self.difference is None else self.difference.is_near_tie
        return {"is_verified": self.is_verified, "is_near_tie": near, **dataclasses.asdict(self)}


class Comparison:
    """Watches a replay, and looks closer at the first token that differs from the expected ones."""

    difference: Difference | None = None

    def __init__(self, expected: tuple[int, ...], model: TracedModel) -> None:
        self._expected, self._model = expected, model
        self._draw: tuple[Candidates, float, int] | None = None

    def computed(self, first: int, last: int, num_drafts: int) -> None:
        """Not compared."""

    def begin(self, logits: Row, history: History) -> None:
        self._logits, self._index, self._draw = logits, history.num_generated, None

    def filtered(self, name: str, kept: Candidates) -> None:
        """Not compared."""

    def drew(self, name: str, uniform: float) -> None:
        """Not compared."""

    def drawn(self, kept: Candidates, uniform: float | None, index: int) -> None:
        self._draw = None if uniform is None else (kept, uniform, index)

    def end(self, token_id: int) -> None:
        if self.difference is None and self._index < len(self._expected) and token_id != self._expected[self._index]:
            self.difference = self._compared(self._expected[self._index], token_id)

    def _compared(self, expected_id: int, found_id: int) -> Difference:
        expected, found = self._candidate(expected_id), self._candidate(found_id)
        draw = None if self._draw is None else place_of(*self._draw)
        margin = found.logprob - expected.logprob
        if draw is not None:
            margin = min(draw.uniform - draw.low, draw.high - draw.uniform)
        return Difference(self._index, expected, found, draw, margin)

    def _candidate(self, token_id: int) -> Candidate:
        logprob = token_logprob(self._logits, token_id, 0).logprob
        return Candidate(token_id, self._model.token(token_id).text, float(self._logits[token_id]), math.exp(logprob), logprob)


class ReplayJob:
    """A receipt's prompt, ready to run again, as many tokens as the receipt has. `begin` submits it; `result` compares."""

    def __init__(self, runner: Runner, model: TracedModel, receipt: Receipt) -> None:
        self._runner, self._receipt, self._backend = runner, receipt, model.backend
        self._params = dataclasses.replace(receipt.params, max_tokens=len(receipt.token_ids), timeout=None)
        self._comparison = Comparison(receipt.token_ids, model)

    def run(self) -> Replay:
        """Run it to its end."""
        handle = self.begin()
        try:
            for _ in handle:
                pass
        finally:
            handle.close()
        return self.result(handle)

    def begin(self, listener: Callable[[Handle], object] = nobody_listens) -> Handle:
        """Submit it. Who gives it up closes the handle."""
        opening = Opening(self._receipt.token_ids[: self._receipt.num_opened])
        prompt_ids, watcher = self._receipt.prompt_ids, self._comparison
        return self._runner.submit(prompt_ids, self._params, opening=opening, listener=listener, watcher=watcher)

    def result(self, handle: Handle) -> Replay:
        """What the ended run found."""
        expected, found = self._receipt.token_ids, Completion.of(handle).token_ids
        pairs = enumerate(zip_longest(expected, found))
        num_equal = next((index for index, (one, other) in pairs if one != other), len(expected))
        difference = self._comparison.difference
        if difference is None and expected != found:  # where nothing was sampled: a form left no choice, or the run ended
            difference = Difference(num_equal, None, None, None, None)
        return Replay(num_equal, len(expected), difference, found, self._backend)
