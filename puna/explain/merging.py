"""How a tokenizer builds a word: it merges pairs of pieces, the best pair first. For showing; the tokenizers do it faster."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import byte_alphabet

SPACE = "▁"  # SentencePiece's
Rank = Callable[[str, str], float]  # of a pair: the lowest is merged first; infinite: never


def merge_steps(spec: TokenizerSpec, word: str) -> Iterator[list[str]]:
    """The pieces of a word: its letters, then what each merge leaves. Nothing for a tokenizer that merges no pairs (unigram)."""
    if spec.kind not in ("bpe", "spm"):
        return
    rank = _by_merges(spec) if spec.merges else _by_scores(spec)
    pieces = _letters(spec, word)
    while True:
        yield pieces
        ranks = [rank(a, b) for a, b in itertools.pairwise(pieces)]
        if not ranks or (best := min(ranks)) == math.inf:
            return
        at = ranks.index(best)
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]


def _letters(spec: TokenizerSpec, word: str) -> list[str]:
    """The smallest pieces: bytes in GPT-2's alphabet, or characters.

    >>> _letters(TokenizerSpec("bpe", []), " hé")
    ['Ġ', 'h', 'Ã', '©']
    """
    if spec.kind == "bpe":
        alphabet = byte_alphabet()
        return [alphabet[byte] for byte in word.encode()]
    return list(word.replace(" ", SPACE))


def _by_merges(spec: TokenizerSpec) -> Rank:
    order = {merge.decode("utf-8", "replace"): float(number) for number, merge in enumerate(spec.merges)}
    return lambda a, b: order.get(f"{a} {b}", math.inf)


def _by_scores(spec: TokenizerSpec) -> Rank:
    scores = [] if spec.scores is None else spec.scores.tolist()
    order = {piece.decode("utf-8", "replace"): -score for piece, score in zip(spec.tokens, scores)}
    return lambda a, b: order.get(a + b, math.inf)
