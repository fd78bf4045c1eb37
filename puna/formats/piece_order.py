"""The order in which SentencePiece joins pieces has two forms: a score of each piece (SentencePiece, GGUF, llama2.c), or a list
of pairs (`tokenizer.json`). This module converts them; UnsupportedModelError if the two would not split text alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import groupby, pairwise
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.token_types import NORMAL, UNUSED
from puna.formats.vocabulary import piece_texts, piece_types

MAX_SQUARES = 1 << 26  # of the pieces' lengths, in all: more than any tokenizer has (Llama 2: 2 million)
MAX_RUN = 128  # the longest token that repeats one letter
MAX_TRIED = MAX_RUN**3  # cubes of the longest run of each score pattern to try, in all: 4 s; Llama 2 has one, of 16

Pair = tuple[str, str]
Pieces = dict[str, int]  # text -> id
Order = tuple[tuple[tuple[int, int], float], ...]  # (lengths of a pair, rank), sorted


def scores_of(spec: TokenizerSpec) -> npt.NDArray[np.float32]:
    """The pieces' scores. From a list of pairs: minus the rank of the pairs that make the piece; 0 for what is not text."""
    if spec.scores is not None:
        return np.asarray(spec.scores, np.float32)
    pieces = _pieces(spec)
    _refuse_odd(spec, pieces)
    made = [(piece, set(pairs)) for piece, pairs in groupby(_pairs(spec), key="".join)]
    if len({piece for piece, _ in made}) < len(made):
        _refuse(spec, "as scores: pairs that make the same token are not adjacent in its merges")
    if dict(made) != {piece: pairs for piece in pieces if (pairs := set(_splits(piece, pieces)))}:
        _refuse(spec, "as scores: its merges are not all the pairs that make a token")
    order = dict.fromkeys([*(piece for piece, _ in made), *pieces])  # letters last: no pair makes them
    scores = np.zeros(len(spec.tokens), np.float32)
    for rank, piece in enumerate(order):
        scores[pieces[piece]] = -rank
    return scores


def merges_of(spec: TokenizerSpec) -> list[Pair]:
    """The pairs in merge order. From scores: all pairs that make a piece, pieces by falling score."""
    if spec.scores is None:
        return _pairs(spec)
    pieces, scores = _pieces(spec), spec.scores
    _refuse_odd(spec, pieces)
    pairs = {piece: sorted(_splits(piece, pieces), key=lambda pair: (pieces[pair[0]], pieces[pair[1]])) for piece in pieces}
    score = {piece: float(scores[pieces[piece]]) for piece in pieces if pairs[piece]}
    made = sorted(score, key=lambda piece: (-score[piece], not _is_power_of_two(len(piece)), pieces[piece]))
    merges = [pair for piece in made for pair in pairs[piece]]
    tied = [group for _, pieces_of in groupby(made, key=score.__getitem__) if len(group := list(pieces_of)) > 1]
    _require_alike(spec, tied, score, merges)
    return merges


def agree(scored: TokenizerSpec, merged: TokenizerSpec) -> bool:
    """Whether a tokenizer by scores and one by merges, made from it, split every text alike."""
    if scored.charsmap or scored.remove_extra_spaces or not same_prefix(scored, merged):
        return False
    if not _is_of_usual_size(scored):
        return False
    pieces, pairs = _pieces(scored), _pairs(merged)
    if merged.kind != "spm" or any(merged.tokens[i : i + 1] != [text.encode()] for text, i in pieces.items()):
        return False
    known = [float(scored.scores[pieces[a + b]]) for a, b in pairs if a + b in pieces] if scored.scores is not None else []
    complete = {pair for piece in pieces for pair in _splits(piece, pieces)} <= set(pairs)
    return complete and all(earlier >= later for earlier, later in pairwise(known))


def same_prefix(one: TokenizerSpec, other: TokenizerSpec) -> bool:
    """Whether two add a space to the same texts; where in a text is a separate question (`prefix_first_only`)."""
    adds = one.add_space_prefix
    return adds == other.add_space_prefix and (not adds or one.prefix_unless_space == other.prefix_unless_space)


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _require_alike(spec: TokenizerSpec, groups: list[list[str]], score: Mapping[str, float], merges: list[Pair]) -> None:
    """SentencePiece joins the leftmost of pieces with the same score first, which a list of pairs cannot say. For runs of one
    letter (Llama's of 2 to 16 spaces) the result is the same if those of 2, 4, 8 and so on come first: this tries them.
    """
    longest: dict[str, int] = {}
    for tied in groups:
        letters = set("".join(tied))
        if len(letters) > 1 or len(max(tied, key=len)) > MAX_RUN:
            _refuse(spec, f"as merges: {shown(tied[0])} and {shown(tied[1])} have the same score")
        (letter,) = letters
        longest[letter] = max(longest.get(letter, 0), *map(len, tied))
    tried: set[tuple[int, Order, Order]] = set()
    work = 0
    for letter, runs in _runs(merges, longest).items():
        by_rank = _order({pair: float(rank) for pair, rank in runs.items()})
        by_score = _order({pair: -score[letter * sum(pair)] for pair in runs})
        pattern = longest[letter], by_rank, by_score
        if pattern in tried:
            continue
        tried.add(pattern)
        work += longest[letter] ** 3
        if work > MAX_TRIED:
            _refuse(spec, "as merges: runs of many letters have the same score")
        if not _cut_alike(*pattern):
            _refuse(spec, f"as merges: runs of {letter!r} have the same score")


def _runs(merges: list[Pair], letters: Collection[str]) -> dict[str, dict[tuple[int, int], int]]:
    """For each letter, the pairs of its runs by their lengths, and the rank of each."""
    runs: dict[str, dict[tuple[int, int], int]] = {letter: {} for letter in letters}
    for rank, (a, b) in enumerate(merges):
        if a[0] in runs and a + b == a[0] * len(a + b):
            runs[a[0]][len(a), len(b)] = rank
    return runs


def _order(values: Mapping[tuple[int, int], float]) -> Order:
    """The pairs and their ranks: many letters have the same ones."""
    ranks = {value: rank for rank, value in enumerate(sorted(set(values.values())))}
    return tuple(sorted((pair, ranks[value]) for pair, value in values.items()))


def _cut_alike(longest: int, one: Order, other: Order) -> bool:
    return all(_cut_run(count, dict(one)) == _cut_run(count, dict(other)) for count in range(3 * longest))


def _cut_run(count: int, order: Mapping[tuple[int, int], float]) -> list[int]:
    """The lengths into which a run of one letter splits, if pairs are joined in order and the leftmost of equal ones first."""
    run = [1] * count
    while pairs := [(order[pair], at) for at, pair in enumerate(pairwise(run)) if pair in order]:
        _, at = min(pairs)
        run[at : at + 2] = [run[at] + run[at + 1]]
    return run


def _pairs(spec: TokenizerSpec) -> list[Pair]:
    return [(a, b) for a, _, b in (merge.decode("utf-8", "replace").partition(" ") for merge in spec.merges)]


def _pieces(spec: TokenizerSpec) -> Pieces:
    """The tokens that merging makes or starts from."""
    entries = enumerate(zip(piece_texts(spec), piece_types(spec)))
    return {text: i for i, (text, kind) in entries if kind in (0, NORMAL)}


def _is_of_usual_size(spec: TokenizerSpec) -> bool:
    return sum(len(token) ** 2 for token in spec.tokens) <= MAX_SQUARES


def _refuse_odd(spec: TokenizerSpec, pieces: Pieces) -> None:
    """Refuse too much work, and unused tokens: SentencePiece makes them on the way and takes them apart again."""
    if not _is_of_usual_size(spec):
        _refuse(spec, "in another order: it has more and longer tokens than any")
    if any(kind == UNUSED and any(_splits(text, pieces)) for text, kind in zip(piece_texts(spec), piece_types(spec))):
        _refuse(spec, "in another order: merging passes through tokens that are marked as unused")


def _splits(piece: str, pieces: Pieces) -> Iterator[Pair]:
    """Every way to make a piece of two others."""
    halves = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return (pair for pair in halves if pair[0] in pieces and pair[1] in pieces)


def _refuse(spec: TokenizerSpec, why: str) -> NoReturn:
    raise UnsupportedModelError(
        f"{spec.source}: the tokenizer cannot be written {why}",
        hint="Convert to the format of the model's own tokenizer, which keeps it as it is.",
    )
