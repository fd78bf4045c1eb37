"""Tokens that must not come next: those that would complete a banned string, or a banned sequence of ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.errors import NumericalError, UsageError
from puna.history import History, Row
from puna.request import SamplingParams
from puna.spelling import Ids, spelling_of
from puna.tokenizers.base import Tokenizer


def bad_words(logits: Row, params: SamplingParams, history: History) -> Row:
    """Remove the last id of each sequence whose other ids end the text so far, prompt included (transformers' `bad_words_ids`).

    >>> row, params = np.float32([1, 2, 3]), SamplingParams(bad_words_ids=[[0, 2], [1]])
    >>> bad_words(row, params, History([0])).tolist(), bad_words(row, params, History([0, 1])).tolist()
    ([1.0, -inf, -inf], [1.0, -inf, 3.0])
    """
    recent = history.ids(max(map(len, params.bad_words_ids)) - 1)
    banned = [last for *others, last in params.bad_words_ids if _ends_with(recent, others)]
    return without(logits, np.array(banned, np.int64), "bad_words_ids")


def _ends_with(ids: Sequence[int], end: Sequence[int]) -> bool:
    return len(end) <= len(ids) and list(ids[len(ids) - len(end) :]) == list(end)


class BannedStrings:
    """Remove each token whose bytes would complete a banned string, which may have begun in any token before, or within one.

    So no text of output tokens ever holds one. The prompt is not part of that text; a control token has no text.
    """

    def __init__(self, params: SamplingParams, tokenizer: Tokenizer | None) -> None:
        if tokenizer is None:
            raise UsageError("banned_strings need a tokenizer, and the model has none", hint="Use bad_words_ids.")
        self._texts = [text.encode() for text in params.banned_strings]
        self._spelling = spelling_of(tokenizer)
        self._always = np.concatenate([self._spelling.holding(text) for text in self._texts])
        self._longest = max(map(len, self._texts))
        self._completions: dict[bytes, Ids] = {}  # the rest of a string -> the tokens that begin with it

    def __call__(self, logits: Row, params: SamplingParams, history: History) -> Row:
        end = self._spelling.end_of(history.output_ids, self._longest - 1)
        rests = [text[i:] for text in self._texts for i in range(1, len(text)) if end.endswith(text[:i])]
        return without(logits, np.concatenate([self._always, *map(self._completing, rests)]), "banned_strings")

    def _completing(self, rest: bytes) -> Ids:
        found = self._completions.get(rest)
        if found is None:
            found = self._completions[rest] = self._spelling.beginning(rest)
        return found


def without(logits: Row, ids: Ids, setting: str) -> Row:
    """The row with some ids at -inf. NumericalError if none is left."""
    if len(ids) == 0:
        return logits
    kept = logits.copy()
    kept[ids] = -np.inf
    if kept.max() == -np.inf:
        raise NumericalError(f"{setting} leaves no token that may come next", hint="Ban less.")
    return kept
