"""A session with one sequence of a loaded model, fed by hand: for programs that choose every token themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.batch import Batch, Logits
from puna.errors import ContextLengthError
from puna.llm import LLM
from puna.request import Request, SamplingParams
from puna.scheduler import ScheduledChunk


class Session:
    """Tokens are added at the end; each addition gives logits.

    It uses all the model's KV pages. The model's engine must not run meanwhile, nor keep a prefix cache
    (EngineConfig.prefix_cache False), because it uses the same pages.
    """

    def __init__(self, llm: LLM) -> None:
        plan = llm.plan
        self._backend = llm.backend
        self._max_tokens, self._max_logits, self.max_context = plan.max_tokens, plan.max_logits, plan.max_context
        self._page_size, self._sequence = plan.page_size, Request(0, [], SamplingParams())

    @property
    def num_tokens(self) -> int:
        return self._sequence.num_computed

    def feed(self, ids: Sequence[int], *, every: bool = False) -> Logits:
        """Add `ids`; the logits after the last of them, or after every one.  # (1 or len(ids), vocab_size)

        Raises ContextLengthError if they do not fit.
        """
        if self.num_tokens + len(ids) > self.max_context:
            raise ContextLengthError.of(str(self.num_tokens + len(ids)), self.max_context)
        self._sequence.prompt_ids += ids
        size = self._max_logits if every else self._max_tokens
        rows = [self._step(min(size, len(ids) - i), every) for i in range(0, len(ids), size)]
        return np.concatenate(rows) if every else rows[-1]

    def _step(self, count: int, every: bool) -> Logits:
        sequence, first = self._sequence, self._sequence.num_computed
        sequence.num_computed = last = first + count
        sequence.page_ids.extend(range(len(sequence.page_ids), -(-last // self._page_size)))
        chunk = ScheduledChunk(sequence, first, last, num_logits=count if every else 1, is_last=False)
        return self._backend.step(Batch.of([chunk])).logits()
