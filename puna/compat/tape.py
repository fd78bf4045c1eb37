"""A session with one sequence of a loaded model, fed by hand: for programs that choose every token themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.errors import ContextLengthError
from puna.llm import LLM
from puna.request import Batch, Logits


class Tape:
    """Tokens are added at the end; each addition gives logits.

    It uses all the model's KV pages. The model's engine must not run meanwhile, nor keep a prefix cache
    (EngineConfig.prefix_cache False), because it uses the same pages.
    """

    def __init__(self, llm: LLM) -> None:
        plan = llm.plan
        self._forward = llm.backend.forward
        self._max_tokens, self._max_logits, self.max_context = plan.max_tokens, plan.max_logits, plan.max_context
        self._page_table = np.arange(-(-plan.max_context // plan.page_size), dtype=np.int32)[None]
        self.num_tokens = 0

    def feed(self, ids: Sequence[int], *, every: bool = False) -> Logits:
        """Add `ids`; the logits after the last of them, or after every one.  # (1 or len(ids), vocab_size)

        Raises ContextLengthError if they do not fit.
        """
        if self.num_tokens + len(ids) > self.max_context:
            raise ContextLengthError.of(str(self.num_tokens + len(ids)), self.max_context)
        length = self.num_tokens + len(ids)
        size = self._max_logits if every else self._max_tokens
        rows = [self._step(ids[i : i + size], every, length) for i in range(0, len(ids), size)]
        return np.concatenate(rows) if every else rows[-1]

    def _step(self, ids: Sequence[int], every: bool, length: int) -> Logits:
        first, count = self.num_tokens, len(ids)
        self.num_tokens += count
        return self._forward(
            Batch(
                token_ids=np.array(ids, np.int32),
                positions=np.arange(first, first + count, dtype=np.int32),
                starts=np.array([0, count], np.int32),
                page_tables=self._page_table,
                logit_rows=np.arange(0 if every else count - 1, count, dtype=np.int32),
                prompt_lengths=np.array([length], np.int32),
            )
        )
