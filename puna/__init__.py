"""puna runs LLaMA-family models on the user's machine, in Python only.

>>> from puna import LLM, SamplingParams                           # doctest: +SKIP
>>> llm = LLM()                                                 # doctest: +SKIP
>>> llm.generate("The largest animal is", SamplingParams(max_tokens=20)).text   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError
from puna.version import __version__

if TYPE_CHECKING:
    from puna.async_llm import AsyncLLM
    from puna.completion import Completion
    from puna.config import EngineConfig
    from puna.llm import LLM
    from puna.request import SamplingParams, TokenLogprob

__all__ = ["LLM", "AsyncLLM", "Completion", "EngineConfig", "PunaError", "SamplingParams", "TokenLogprob", "__version__"]

_HOMES = {
    "LLM": "puna.llm",
    "AsyncLLM": "puna.async_llm",
    "Completion": "puna.completion",
    "EngineConfig": "puna.config",
    "SamplingParams": "puna.request",
    "TokenLogprob": "puna.request",
}


def __dir__() -> list[str]:
    """The public names, so that an interpreter completes them before their first use."""
    return [*__all__, "__doc__", "__file__", "__name__", "__path__"]


def __getattr__(name: str) -> Any:
    """Import at first use, so that `import puna` is quick and does not load numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'puna' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
