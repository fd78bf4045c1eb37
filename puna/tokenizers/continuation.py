"""Tokens of a text that goes on after other tokens."""

from __future__ import annotations

from puna.tokenizers.base import Tokenizer

SENTINEL = "\x02"  # a character that merges with no other


def continuation_ids(text: str, tokenizer: Tokenizer, limit: int | None = None) -> list[int]:
    """The ids of a text that continues another one: without the space that some tokenizers add before the first word.

    `limit`: as for `Tokenizer.encode`.
    """
    if not tokenizer.strips_leading_space():
        return tokenizer.encode(text, bos=False, eos=False, limit=limit)
    before = len(tokenizer.encode(SENTINEL, bos=False, eos=False))
    return tokenizer.encode(SENTINEL + text, bos=False, eos=False, limit=limit)[before:]
