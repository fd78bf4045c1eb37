"""What an error text advises itself: sentences that name a flag, a variable or a setting to change."""

from __future__ import annotations

import re
from collections.abc import Iterator

from puna.causes.lines import ASIDES
from puna.causes.reading import Reading

BEFORE, AFTER = 300, 900  # characters around an error
MAX_SENTENCE = 240
MAX_SENTENCES = 2
_SETTING = re.compile(
    r"""(?<![\w-])(?:--([a-z][\w-]{2,40})                     # --mem-fraction-static
      | ([A-Z][A-Z0-9]{1,20}(?:_[A-Z0-9]{1,20}){1,6})=\S     # OLLAMA_LOAD_TIMEOUT=30m
      | `-{0,2}([a-z]\w{1,40}_\w{1,40})(?:=[^`]{1,40})?`)    # `gpu_memory_utilization`""",
    re.VERBOSE,
)
_ASKS = re.compile(
    r"\b(?:try|please|consider|increas\w+|decreas\w+|reduc\w+|rais\w+|lower\w*|pass\w*|add|enable|disable|specify|use|run with)\b"
    r"|(?<!not )(?<!is )(?<!was )\bset\b",
    re.IGNORECASE,
)
# Advice that fixes nothing: it looks for the source of a fault, or passes over it.
_IDLE = re.compile(
    r"debug|verbose|details|stack ?trace|traceback|more information|\b(?:bugs?|log)\b|assertion|suppress|skip|regardless|"
    r"override|unsafe|own risk|not recommended|even with",
    re.IGNORECASE,
)
TOLD_BY_NUMBERS = frozenset({"pytorch-cuda-alloc-conf", "pytorch-alloc-conf"})  # of use to some full cards only: see `memory.py`


def advice(reading: Reading, at: int, known: str) -> tuple[str, ...]:
    """Sentences near a position that advise a setting which `known` does not name."""
    found = (sentence for sentence in _sentences(reading, at) if _is_new(sentence, _bare(known)))
    return tuple(dict.fromkeys(found))[:MAX_SENTENCES]


def _sentences(reading: Reading, at: int) -> Iterator[str]:
    begin, end = max(0, at - BEFORE), at + AFTER
    line_begin = 0
    for line, kind in zip(reading.shown.split("\n"), reading.kinds, strict=True):
        if kind not in ASIDES and begin <= line_begin + len(line) and line_begin <= end:
            yield from (sentence[:MAX_SENTENCE] for sentence in re.split(r"(?<=[.!?;])\s", line))
        line_begin += len(line) + 1


def _is_new(sentence: str, known: str) -> bool:
    """Whether a sentence advises a setting that is not known.

    >>> [_is_new("Try increasing `gpu_memory_utilization`.", known) for known in ("", "--gpu-memory-utilization 0.95")]
    [True, False]
    >>> _is_new("For debugging consider passing CUDA_LAUNCH_BLOCKING=1", "")
    False
    """
    if _ASKS.search(sentence) is None or _IDLE.search(sentence) is not None:
        return False
    names = {_bare(next(filter(None, found))) for found in _SETTING.findall(sentence)} - TOLD_BY_NUMBERS
    return bool(names) and not any(name in known for name in names)


def _bare(text: str) -> str:
    return text.lower().replace("_", "-")
