"""A tiny random model that runs anywhere, and a sampler as a user would write it."""

from __future__ import annotations

from typing import Any

from puna.backends.reference import ReferenceBackend
from puna.config import EngineConfig
from puna.history import History, Row
from puna.llm import LLM
from puna.request import SamplingParams
from puna.sampling import Sampler
from tests.fakes import VOCAB_SIZE, ByteTokenizer, make_plan, random_checkpoint, tiny_config


def make_llm(num_pages: int = 64, **settings: Any) -> LLM:
    """With a byte for a token, on the reference backend."""
    checkpoint, sizes = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), make_plan(num_pages=num_pages)
    config = EngineConfig(device="reference", **settings)
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, ByteTokenizer(), backend, sizes, config)


class Forcing:
    """It forces a prefix, and then samples as usual."""

    def __init__(self, prefix: list[int], params: SamplingParams) -> None:
        self._prefix, self._sampler = prefix, Sampler(params, VOCAB_SIZE, tokenizer=ByteTokenizer())

    def sample(self, logits: Row, history: History) -> int:
        done = history.num_generated
        return self._prefix[done] if done < len(self._prefix) else self._sampler.sample(logits, history)
