"""puna runs any LLaMA-family model on the machine its user has, in Python all the way down.

>>> from puna import LLM, SamplingParams                           # doctest: +SKIP
>>> llm = LLM.load()                                            # doctest: +SKIP
>>> llm.generate("The largest animal is", SamplingParams(max_tokens=20)).text   # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from puna.errors import PunaError
from puna.request import SamplingParams

if TYPE_CHECKING:
    from puna.llm import LLM

__version__ = "0.1.0"
__all__ = ["LLM", "PunaError", "SamplingParams", "__version__"]


def __getattr__(name: str) -> Any:
    """`LLM` is imported at first use: `import puna` stays light."""
    if name == "LLM":
        from puna.llm import LLM

        return LLM
    raise AttributeError(f"module 'puna' has no attribute {name!r}")
