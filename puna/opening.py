"""The tokens that an answer opens with, whatever the model would say: a branch of another answer, or an answer to look at again.

They count as generated: for the penalties, the draws, stop texts, `max_tokens` and the form of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from puna.history import History, Row
from puna.sampling import Sampler


@dataclass(frozen=True, slots=True)
class Opening:
    """The first tokens of an answer.

    Fields:
        token_ids: the ids
        sampled_from: from this one on, each is sampled before it takes the place of what was sampled, so that watchers see it;
            None: none is, and nothing of them is computed whose K and V are in the prefix cache. Where filters have a state, or
            log-probabilities are asked for, all of them are sampled.
    """

    token_ids: tuple[int, ...] = ()
    sampled_from: int | None = None


NO_OPENING = Opening()


class OpenedSampler:
    """Gives the tokens of an opening; then those of `sampler`."""

    def __init__(self, sampler: Sampler, token_ids: tuple[int, ...]) -> None:
        self._sampler, self._ids = sampler, token_ids

    def sample(self, logits: Row, history: History) -> int:
        index = history.num_generated
        if index >= len(self._ids):
            return self._sampler.sample(logits, history)
        return self._sampler.sample(logits, history, given=self._ids[index])
