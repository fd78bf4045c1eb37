"""SentencePiece BPE that merges by a list of pairs: a `tokenizer.json` that was made from a SentencePiece model.

The `tokenizers` library merges. As in SentencePiece, user-defined tokens match in the text whose spaces are already U+2581.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.token_types import BYTE, CONTROL, UNKNOWN, USER_DEFINED
from puna.tokenizers.bpe import merge_pairs
from puna.tokenizers.vocabulary import cutter

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Merger

SPACE = "\u2581"  # how a piece spells a space: LOWER ONE EIGHTH BLOCK


def cut_by_merges(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> Callable[[str], list[int]]:
    """Text -> ids. ModelFormatError for merges of unknown tokens."""
    cut_at_user_defined = cutter({piece: i for i, piece in enumerate(pieces) if types[i] == USER_DEFINED and piece})
    merger = _merger(spec, pieces, types)

    def cut(text: str) -> list[int]:
        ids: list[int] = []
        for part, token_id in cut_at_user_defined(text.replace(" ", SPACE)):
            ids += merger.encode(part, add_special_tokens=False).ids if token_id is None else [token_id]
        return ids

    return cut


def _merger(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> Merger:
    from tokenizers import Tokenizer, models

    vocabulary = {piece: i for i, (piece, kind) in enumerate(zip(pieces, types)) if kind != CONTROL}
    unknown = next((piece for piece, kind in zip(pieces, types) if kind == UNKNOWN), None)
    byte_fallback = BYTE in types
    if unknown is None and types.count(BYTE) < 256:
        problem = "hold neither an unknown token nor all 256 byte tokens: some characters would be dropped"
        raise ModelFormatError(spec.source, "tokenizer tokens", None, problem)
    merges = merge_pairs(spec, vocabulary)
    return Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback))
