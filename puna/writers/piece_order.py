"""The order in which SentencePiece's pieces are joined is said in two ways: by a score of each piece (SentencePiece, GGUF, llama2.c),
or by a list of pairs (`tokenizer.json`). Here one becomes the other; UnsupportedModelError where they would not cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.token_types import NORMAL, UNUSED

Pair = tuple[str, str]
Pieces = dict[str, int]  # text -> id


def scores_of(spec: TokenizerSpec) -> npt.NDArray[np.float32]:
    """The pieces' scores. Of a list of pairs: minus the place of the pairs that make the piece; 0 for what is not text."""
    if spec.scores is not None:
        return np.asarray(spec.scores, np.float32)
    pieces = _pieces(spec)
    made = [(piece, set(pairs)) for piece, pairs in groupby(_pairs(spec), key="".join)]
    if len({piece for piece, _ in made}) < len(made):
        _refuse(spec, "as scores: pairs that make the same token stand apart in its merges")
    if dict(made) != {piece: pairs for piece in pieces if (pairs := set(_splits(piece, pieces)))}:
        _refuse(spec, "as scores: its merges are not all the pairs that make a token")
    order = dict.fromkeys([*(piece for piece, _ in made), *pieces])  # letters last: nothing makes them
    scores = np.zeros(len(spec.tokens), np.float32)
    for place, piece in enumerate(order):
        scores[pieces[piece]] = -place
    return scores


def merges_of(spec: TokenizerSpec) -> list[Pair]:
    """The pairs in the order of merging. Of scores: all that make a piece, the pieces by falling score."""
    if spec.scores is None:
        return _pairs(spec)
    pieces, scores = _pieces(spec), spec.scores
    pairs = {piece: sorted(_splits(piece, pieces), key=lambda pair: (pieces[pair[0]], pieces[pair[1]])) for piece in pieces}
    made = sorted((piece for piece in pieces if pairs[piece]), key=lambda piece: -float(scores[pieces[piece]]))
    if len({float(scores[pieces[piece]]) for piece in made}) < len(made):
        _refuse(spec, "as merges: tokens that are made of others have the same score")
    return [pair for piece in made for pair in pairs[piece]]


def _pairs(spec: TokenizerSpec) -> list[Pair]:
    return [(a, b) for a, _, b in (merge.decode("utf-8", "surrogatepass").partition(" ") for merge in spec.merges)]


def _pieces(spec: TokenizerSpec) -> Pieces:
    """The tokens that merging makes or starts from."""
    types = [NORMAL] * len(spec.tokens) if spec.token_types is None else spec.token_types.tolist()
    texts = [token.decode("utf-8", "surrogatepass") for token in spec.tokens]
    pieces = {text: i for i, (text, kind) in enumerate(zip(texts, types)) if kind in (0, NORMAL)}
    if any(kind == UNUSED and any(_splits(text, pieces)) for text, kind in zip(texts, types)):
        _refuse(spec, "in another order: merging passes through tokens that are marked as unused")
    return pieces


def _splits(piece: str, pieces: Pieces) -> Iterator[Pair]:
    """Every way to make a piece of two others."""
    halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return (pair for pair in halves if pair[0] in pieces and pair[1] in pieces)


def _refuse(spec: TokenizerSpec, why: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{spec.source}: the tokenizer cannot be written {why}",
        hint="Convert to the format of the model's own tokenizer, which keeps it as it is.",
    )
