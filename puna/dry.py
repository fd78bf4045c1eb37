"""DRY ("don't repeat yourself"): the longer a repetition that a token would continue, the less likely the token.

The rule is that of text-generation-webui, where it began, and of llama.cpp: a token that would make a repetition of n + 1 tokens
loses multiplier * base ** (n - allowed_length), if n is at least `allowed_length`. No repetition reaches over a sequence breaker.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from puna.errors import UsageError
from puna.history import History, Row
from puna.request import DRY_BREAKERS, MAX_DRY_BREAKER_BYTES, SamplingParams
from puna.spelling import spelling_of
from puna.tokenizers.base import Tokenizer

LARGEST_LOG = 88.7228391  # of float32: greater powers are not computed
FLAT = 1.000001  # bases up to this grow so slowly that no power is too large


class Dry:
    """The DRY filter of one request.

    >>> params = SamplingParams(dry_multiplier=1.0, dry_base=2.0, dry_allowed_length=2)
    >>> row, text = np.zeros(4, np.float32), History([1, 2, 3, 0, 1, 2])  # 1, 2 was followed by 3
    >>> Dry(params)(row, params, text).tolist()
    [0.0, 0.0, 0.0, -1.0]
    """

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None = None) -> None:
        given = params.dry_sequence_breakers
        if tokenizer is None and tuple(given) != DRY_BREAKERS:
            raise UsageError("dry_sequence_breakers need a tokenizer, and the model has none", hint="Leave them out.")
        self._spelling = None if tokenizer is None else spelling_of(tokenizer)
        self._breakers = [text.encode() for text in given]
        holding = [] if self._spelling is None else [self._spelling.holding(text) for text in self._breakers]
        self._breaking = frozenset(np.concatenate(holding).tolist()) if holding else frozenset()
        self._most = int(LARGEST_LOG / math.log(params.dry_base)) if params.dry_base > FLAT else None

    def __call__(self, logits: Row, params: SamplingParams, history: History) -> Row:
        allowed, ids = params.dry_allowed_length, history.ids(params.dry_penalty_last_n)
        most = len(ids) if self._most is None else min(len(ids), allowed + self._most)
        limit = min(most, self._since_breaker(ids, most))
        if len(ids) <= allowed or limit < allowed:
            return logits
        lengths = {i: n for i, n in repetitions(np.array(ids), limit).items() if n >= allowed and i not in self._breaking}
        penalised = logits.copy()
        with np.errstate(over="ignore"):
            for token_id, length in lengths.items():
                penalised[token_id] -= np.float32(params.dry_multiplier * params.dry_base ** (length - allowed))
        return penalised

    def _since_breaker(self, ids: list[int], most: int) -> int:
        """The number of tokens after the last one in which a breaker ends; at least `most` if there is none among those."""
        if self._spelling is None or not self._breakers:
            return most
        parts = [self._spelling.bytes_of(token_id) for token_id in ids[-(most + MAX_DRY_BREAKER_BYTES) :]]
        text = b"".join(parts)
        end = max(text.rfind(breaker) + len(breaker) if breaker in text else 0 for breaker in self._breakers)
        if end == 0:
            return most
        ends = np.cumsum([len(part) for part in parts])
        return len(parts) - 1 - int(np.searchsorted(ends, end))


def repetitions(ids: npt.NDArray[np.int64], most: int) -> dict[int, int]:
    """Token -> how many tokens of the end also stand before one of its positions, at most `most`. Tokens with none are left out.

    >>> repetitions(np.array([1, 2, 3, 0, 1, 2, 9, 2]), 9), repetitions(np.array([1, 2, 3, 0, 1, 2]), 1)
    ({3: 1, 9: 1}, {3: 1})
    """
    found: dict[int, int] = {}
    positions, length = np.flatnonzero(ids[:-1] == ids[-1]), 0  # where the last `length` + 1 tokens end once more
    while len(positions) and length < most:
        length += 1
        found |= dict.fromkeys(ids[positions + 1].tolist(), length)
        positions = positions[positions >= length]
        positions = positions[ids[positions - length] == ids[len(ids) - 1 - length]]
    return found
