"""Embeddings: one vector per prompt, from its hidden states after the final norm. They run beside generation, in the same steps.

How the hidden states become one vector is the model file's to say (`Checkpoint.pooling`); where it does not, the last token's is
taken, as vLLM does for models that generate text: only that token has seen all others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self, TypedDict

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.errors import NumericalError, UsageError
from puna.pooling import Floats, Pool, Pooling, checked_pooling
from puna.request import FinishReason, SamplingParams
from puna.runner import Call, Handle, Runner

DEFAULT_POOLING: Pooling = "last"
PROMPT_ONLY = SamplingParams(max_tokens=0)
LEAST_NORM = 1e-12  # a vector of zeros stays one, as in torch.nn.functional.normalize


class EmbeddingSettings(TypedDict, total=False):
    """Arguments of `LLM.embed`, which explains them."""

    pooling: Pooling | None
    normalize: bool
    dimensions: int | None
    lora_name: str | None


@dataclass(slots=True)
class EmbeddingJob:
    """Prompts to embed, and what becomes of their hidden states. `pooling` is that of a call that names none."""

    prompts: Sequence[Sequence[int]]
    hidden_size: int
    pooling: Pooling = DEFAULT_POOLING
    normalize: bool = True
    dimensions: int | None = None
    lora_name: str | None = None
    pools: list[Pool] = field(default_factory=list)

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], hidden_size: int, pooling: Pooling, settings: Mapping[str, Any]) -> Self:
        """Raises UsageError for a setting that is not allowed."""
        unknown = settings.keys() - EmbeddingSettings.__annotations__.keys()
        if unknown:
            raise UsageError(f"unknown setting {min(unknown)!r}", hint=f"Known: {', '.join(EmbeddingSettings.__annotations__)}.")
        given = {name: _CHECKS[name](name, value) for name, value in settings.items() if value is not None or name == "normalize"}
        job = cls(prompts, hidden_size, **{"pooling": pooling, **given})
        if job.dimensions is not None:
            checks.whole("dimensions", job.dimensions, 1, hidden_size)
        return job

    def begin(self, runner: Runner, listener: Callable[[Handle], object] = lambda handle: None) -> list[Handle]:
        """Submit all prompts."""
        self.pools = [Pool(self.pooling) for _ in self.prompts]
        params, call = replace(PROMPT_ONLY, lora_name=self.lora_name), Call()
        pairs = zip(self.prompts, self.pools, strict=True)
        return [runner.submit(prompt, params, listener=listener, pool=pool, call=call) for prompt, pool in pairs]

    def vectors(self, handles: Sequence[Handle]) -> list[npt.NDArray[np.float64]]:
        """The pooled hidden states, once all have ended.  # (hidden_size,) each. NumericalError if they are not finite"""
        for handle in handles:
            _require_success(handle)
        return [pool.vector() for pool in self.pools]

    def rows(self, handles: Sequence[Handle]) -> Floats:
        """The embeddings, once all have ended.  # (prompts, dimensions). NumericalError if the model's numbers are not finite"""
        rows = [shortened(vector, self.dimensions, self.normalize) for vector in self.vectors(handles)]
        return np.array(rows, np.float32).reshape(len(rows), self.dimensions or self.hidden_size)


def no_tokens(number: int, text: str) -> UsageError:
    """The error for a text without a token, which llama-server refuses too. With a BOS of the tokenizer's there is one."""
    return UsageError(
        f"text {number} to embed is {text!r}, which has no tokens",
        hint="Give texts of at least one token, and leave out empty ones.",
    )


def run(job: EmbeddingJob, runner: Runner) -> Floats:
    """The embeddings of a job.  # (prompts, dimensions)

    Raises what `Engine.add` raises for a prompt, before any is computed, and what `EmbeddingJob.rows` raises.
    """
    handles = job.begin(runner)
    read_all(handles)
    return job.rows(handles)


def read_all(handles: Sequence[Handle]) -> None:
    """Wait for the ends of all requests. If anything is raised, end them all."""
    try:
        for handle in handles:
            handle.confirm()
        for handle in handles:
            for _ in handle:
                pass
    finally:
        for handle in handles:
            handle.close()


def _require_success(handle: Handle) -> None:
    request = handle.confirm()
    if request.error:
        raise NumericalError(request.error, hint="Fetch the model again, or take another one.")
    if request.finish_reason is not FinishReason.LENGTH:
        raise UsageError("the request was ended before its prompt was read", hint="Ask again.")


def shortened(vector: npt.NDArray[np.float64], dimensions: int | None, normalize: bool) -> Floats:
    """The first `dimensions` numbers (Kusupati et al. 2022, arXiv 2205.13147), scaled to length 1 if `normalize`.

    >>> shortened(np.array([3.0, 4.0, 12.0]), 2, True).round(3).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    kept = vector[:dimensions]
    scale = max(float(np.sqrt(np.square(kept).sum())), LEAST_NORM) if normalize else 1.0
    return np.asarray(kept / scale, np.float32)


_CHECKS: Mapping[str, checks.Check] = {
    "pooling": checked_pooling,
    "normalize": checks.flag,
    "dimensions": checks.whole,
    "lora_name": partial(checks.instance, kind=str),
}
