"""A loaded model as a trace uses it: logits of whole rows, and the texts of tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from puna.compat.session import Session
from puna.errors import UsageError
from puna.llm import LLM

NO_ID = -1
MAX_BATCH = 32  # rows; the default of Meta's programs. A trace computes its rows one after the other


class EngineModel:
    """An LLM that was loaded without a prefix cache: a trace uses the pages of K and V itself."""

    def __init__(self, llm: LLM) -> None:
        if llm.config.prefix_cache:
            raise UsageError("a trace of source needs a model that was loaded with prefix_cache=False")
        if llm.tokenizer is None:
            raise UsageError(f"{llm.path} has no tokenizer", hint="Name another model: --model MODEL")
        self.name = llm.path.name
        self._llm, self._tokenizer, spec = llm, llm.tokenizer, llm.model
        self.vocab_size, self.max_context = spec.vocab_size, llm.plan.max_context
        self.bos_id = NO_ID if self._tokenizer.bos_id is None else self._tokenizer.bos_id
        self.eos_id = NO_ID if self._tokenizer.eos_id is None else self._tokenizer.eos_id
        self.stop_ids = sorted(self._tokenizer.stop_ids)
        self.sizes: dict[str, int | float] = {
            "hidden_size": spec.hidden_size,
            "num_layers": spec.num_layers,
            "num_heads": spec.num_heads,
            "num_kv_heads": spec.num_kv_heads,
            "norm_eps": spec.norm_eps,
            "max_batch": MAX_BATCH,
        }

    def logits(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The logits after each token.  # (len(ids), vocab_size)"""
        rows = self._llm.runner.alone(lambda: Session(self._llm).feed(list(ids), every=True))
        return np.asarray(rows[:, : self.vocab_size], np.float32)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, eos=False)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)

    def piece(self, token_id: int) -> str:
        """The text that a token adds; of a part of a character "�". A control token in its own spelling."""
        text = self._tokenizer.token_bytes(token_id).decode("utf-8", "replace")
        return text or self._tokenizer.piece(token_id)
