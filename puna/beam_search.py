"""Beam search: the most likely answers that a search finds which keeps `width` beginnings at a time.

Each round computes the next token's logits of every beam, as requests of one token; the beams' full pages come from the prefix
cache, so a round costs at most a page per beam (without a prefix cache, the whole sequence). The rules are those of transformers
(`num_beams`, `length_penalty`, `early_stopping`), and so are the ids; no filter and no penalty applies.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypedDict

import numpy as np

from puna import checks
from puna.embedding import read_all
from puna.errors import UsageError
from puna.request import SamplingParams
from puna.runner import Call, Runner
from puna.sampling import History, Row, require_finite

MAX_WIDTH = 64
ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)
NextLogits = Callable[[list[tuple[int, ...]]], list[Row]]  # answers so far -> the logits after each


class BeamSettings(TypedDict, total=False):
    """Arguments of a beam search; `LLM.beam_search` explains them."""

    width: int
    max_tokens: int
    length_penalty: float
    early_stopping: bool
    ignore_eos: bool
    stop_ids: Collection[int]


@dataclass(frozen=True, slots=True)
class Beam:
    """An answer. `token_ids` include the id that ended it; `text` does not."""

    token_ids: tuple[int, ...]
    logprob: float  # of the whole answer
    score: float = -math.inf  # logprob / number of tokens ** length_penalty; -inf while it goes on
    text: str = ""


@dataclass(frozen=True, slots=True)
class BeamSearch:
    """The rules. `search` knows no model: it asks for rows of logits."""

    width: int = 4
    max_tokens: int = 64
    length_penalty: float = 1.0
    early_stopping: bool = False
    stop_ids: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        checks.whole("width", self.width, 1, MAX_WIDTH)
        checks.whole("max_tokens", self.max_tokens, 1, 1 << 27)
        checks.real("length_penalty", self.length_penalty, -10.0, 10.0)
        checks.flag("early_stopping", self.early_stopping)

    def search(self, next_logits: NextLogits) -> list[Beam]:
        """The finished answers, the best first: at most `width`."""
        running, finished = [Beam((), 0.0)], list[Beam]()
        for length in range(1, self.max_tokens + 1):
            candidates = self._continued(running, next_logits([beam.token_ids for beam in running]))
            ends = [length == self.max_tokens or beam.token_ids[-1] in self.stop_ids for beam in candidates]
            running = [beam for beam, is_end in zip(candidates, ends) if not is_end][: self.width]
            new = [self._scored(beam) for beam, is_end in zip(candidates[: self.width], ends) if is_end]
            if not (self.early_stopping and len(finished) == self.width):
                finished = sorted([*finished, *new], key=attrgetter("score"), reverse=True)[: self.width]
            if not running or not self._can_improve(running[0], finished):
                break
        return finished

    def _continued(self, running: list[Beam], rows: list[Row]) -> list[Beam]:
        """The most likely continuations by one token: enough that `width` of them go on, whatever ends."""
        count = max(2, 1 + len(self.stop_ids)) * self.width
        found = (
            Beam((*beam.token_ids, token_id), beam.logprob + logprob)
            for beam, row in zip(running, rows, strict=True)
            for token_id, logprob in most_likely(row, count)
        )
        return heapq.nlargest(count, found, key=attrgetter("logprob"))

    def _scored(self, beam: Beam) -> Beam:
        return Beam(beam.token_ids, beam.logprob, beam.logprob / len(beam.token_ids) ** self.length_penalty)

    def _can_improve(self, best: Beam, finished: list[Beam]) -> bool:
        """Whether to go on: until `width` answers are there and, without early stopping, none that runs scores better."""
        if len(finished) < self.width:
            return True
        return not self.early_stopping and self._scored(best).score > finished[-1].score


def most_likely(row: Row, count: int) -> list[tuple[int, float]]:
    """(id, log-probability) of the `count` most likely ids, the likeliest first; on a tie, the lower id.

    >>> [(i, round(p, 3)) for i, p in most_likely(np.log(np.float32([0.5, 0.2, 0.3])), 2)]
    [(0, -0.693), (2, -1.204)]
    """
    total = float(np.logaddexp.reduce(row.astype(np.float64)))
    best = np.argsort(-row, kind="stable")[:count]
    return [(int(i), float(row[i]) - total) for i in best]


class Look:
    """A sampler that only looks: it keeps the logits."""

    row: Row

    def sample(self, logits: Row, history: History) -> int:
        require_finite(logits)
        self.row = logits.copy()
        return int(logits.argmax())


def logits_after(runner: Runner, prompt_ids: Sequence[int]) -> NextLogits:
    """The logits after a prompt and each of several answers to it, computed together."""

    call = Call()

    def next_logits(answers: list[tuple[int, ...]]) -> list[Row]:
        looks = [Look() for _ in answers]
        pairs = zip(answers, looks, strict=True)
        handles = [runner.submit([*prompt_ids, *answer], ONE_TOKEN, look, call=call) for answer, look in pairs]
        read_all(handles)
        for handle in handles:
            if (fault := handle.confirm().fault) is not None:
                raise fault
        return [look.row for look in looks]

    return next_logits


def require_room(prompt_ids: Sequence[int], max_context: int) -> int:
    """How many tokens an answer may have. UsageError if the prompt leaves none."""
    room = max_context - len(prompt_ids)
    if room < 1:
        raise UsageError(f"the prompt has {len(prompt_ids)} tokens; the context holds {max_context}, including the answer")
    return room
