"""The bytes of all tokens of a vocabulary, in an order in which those that begin alike stand together."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from puna.tokenizers.base import Tokenizer

Ids = npt.NDArray[np.int64]


class VocabularySpelling:
    """Which tokens hold some bytes, and which ones begin with them. A control token has no bytes.

    >>> class Letters:
    ...     vocab_size, token_bytes = 4, staticmethod([b"a", b"ba", b"", b"bab"].__getitem__)
    >>> spelling = VocabularySpelling(Letters())
    >>> spelling.holding(b"ab").tolist(), spelling.beginning(b"ba").tolist(), spelling.end_of([0, 1, 2, 3], at_least=4)
    ([3], [1, 3], b'babab')
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._bytes = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
        self._order = sorted(range(len(self._bytes)), key=self._bytes.__getitem__)
        self._sorted = [self._bytes[token_id] for token_id in self._order]

    def end_of(self, ids: Sequence[int], at_least: int) -> bytes:
        """The bytes that these ids end with: of whole tokens, and at least so many if there are."""
        parts: list[bytes] = []
        for token_id in reversed(ids):
            parts.append(self.bytes_of(token_id))
            at_least -= len(parts[-1])
            if at_least <= 0:
                break
        return b"".join(reversed(parts))

    def bytes_of(self, token_id: int) -> bytes:
        """b"" for a padding id of the model's vocabulary, which the tokenizer does not know."""
        return self._bytes[token_id] if token_id < len(self._bytes) else b""

    def holding(self, text: bytes) -> Ids:
        """The ids of tokens that hold the text, ascending."""
        return np.array([token_id for token_id, own in enumerate(self._bytes) if text in own], np.int64)

    def beginning(self, text: bytes) -> Ids:
        """The ids of tokens that begin with a text: one that is not empty, and part of one in UTF-8."""
        beyond = text[:-1] + bytes([text[-1] + 1])  # UTF-8 has no byte 255
        first, end = bisect_left(self._sorted, text), bisect_left(self._sorted, beyond)
        return np.array(sorted(self._order[first:end]), np.int64)


_SPELLINGS: WeakKeyDictionary[Tokenizer, VocabularySpelling] = (
    WeakKeyDictionary()
)  # to sort 100,000 tokens takes a tenth of a second


def spelling_of(tokenizer: Tokenizer) -> VocabularySpelling:
    """The spelling of a vocabulary, made once for each tokenizer."""
    found = _SPELLINGS.get(tokenizer)
    if found is None:
        found = _SPELLINGS[tokenizer] = VocabularySpelling(tokenizer)
    return found
