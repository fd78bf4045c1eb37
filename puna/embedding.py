"""Embeddings: one vector per prompt, from its hidden states after the final norm. They run beside generation, in the same steps.

How the hidden states become one vector is the model file's to say (`Checkpoint.pooling`); where it does not, the last token's is
taken, as vLLM does for models that generate text: only that token has seen all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.errors import NumericalError, UsageError
from puna.pooling import Floats, Pool, Pooling
from puna.request import FinishReason, SamplingParams
from puna.runner import Handle, Runner

DEFAULT_POOLING: Pooling = "last"
PROMPT_ONLY = SamplingParams(max_tokens=0)
LEAST_NORM = 1e-12  # a vector of zeros stays one, as in torch.nn.functional.normalize


def pooled(runner: Runner, prompts: Sequence[Sequence[int]], pooling: Pooling) -> list[npt.NDArray[np.float64]]:
    """The pooled hidden state of each prompt.  # (hidden_size,) each

    Raises what `Engine.add` raises for a prompt, before any is computed, and NumericalError.
    """
    pools = [Pool(pooling) for _ in prompts]
    handles = [runner.submit(prompt, PROMPT_ONLY, pool=pool) for prompt, pool in zip(prompts, pools, strict=True)]
    try:
        for handle in handles:
            handle.confirm()
        for handle in handles:
            _read_to_end(handle)
    finally:
        for handle in handles:
            handle.close()
    return [pool.vector() for pool in pools]


def _read_to_end(handle: Handle) -> None:
    for _ in handle:
        pass
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


def checked_dimensions(value: Any, hidden_size: int) -> int | None:
    """UsageError for a number of dimensions that the model does not have."""
    return None if value is None else checks.whole("dimensions", value, 1, hidden_size)
