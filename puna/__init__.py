"""puna runs any LLaMA-family model on the machine its user has, in Python all the way down.

>>> from puna import LLM, SamplingParams                           # doctest: +SKIP
>>> llm = LLM()                                                 # doctest: +SKIP
>>> llm.generate("The largest animal is", SamplingParams(max_tokens=20)).text   # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from puna.errors import PunaError

if TYPE_CHECKING:
    from puna.llm import LLM
    from puna.request import SamplingParams

__version__ = "0.1.0"
__all__ = ["LLM", "PunaError", "SamplingParams", "__version__"]

_HOMES = {"LLM": "puna.llm", "SamplingParams": "puna.request"}


def __getattr__(name: str) -> Any:
    """Imported at first use: `import puna` stays light, and does not load numpy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'puna' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
