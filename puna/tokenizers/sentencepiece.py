"""SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226), as Llama 1 and 2 use it.

With scores, the `sentencepiece` library merges, from a `tokenizer.model` made in memory; with merges instead, see
`piece_merges.py`.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.sentencepiece_model import sentencepiece_model
from puna.formats.token_types import BYTE, USER_DEFINED
from puna.tokenizers.piece_merges import SPACE, cut_by_merges
from puna.tokenizers.vocabulary import VocabularyTokenizer, cutter

Cutter = Callable[[str], list[int]]
BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
EACH_BYTE = "puna-each-byte"


def _replace_each(error: UnicodeError) -> tuple[str, int]:
    """One U+FFFD for each byte that belongs to no character, as in the library. Python's "replace" has one for a run that could
    have begun a character.

    >>> b"\\xe2\\x82A".decode("utf-8", EACH_BYTE), b"\\xe2\\x82A".decode("utf-8", "replace")
    ('��A', '�A')
    """
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error(EACH_BYTE, _replace_each)


class SentencePieceTokenizer(VocabularyTokenizer):
    """GGUF's tokenizer models "llama" and "t5", and llama2.c's tokenizer.bin. A U+2581 in a text comes back as a space."""

    utf8_errors = EACH_BYTE
    controls_part_bytes = True

    def __init__(self, spec: TokenizerSpec) -> None:
        super().__init__(spec)
        self.controls_are_text = spec.scores is None  # a tokenizer.json's
        self._adds_space = spec.add_space_prefix
        self._prefix_first_only = spec.prefix_first_only
        self._prefix_unless_space = spec.prefix_unless_space
        self._changes_text = bool(spec.charsmap) or spec.remove_extra_spaces
        self._bytes = _byte_values(spec, self._pieces, self._types)
        first = {self._pieces[i]: i for i in spec.found_first if i < self.vocab_size and self._types[i] == USER_DEFINED}
        self._cut_at_first = cutter({piece: i for piece, i in first.items() if piece})
        self._cut = self._cutter(spec)
        self._cut_prefixed = self._prefixed_cutter(spec)

    def _cutter(self, spec: TokenizerSpec) -> Cutter:
        """Text -> ids, without an added space."""
        if spec.scores is None and len(spec.merges) > 0:
            return cut_by_merges(spec, self._pieces, self._types)
        return _cut_by_scores(replace(spec, add_space_prefix=False))

    def _prefixed_cutter(self, spec: TokenizerSpec) -> Cutter:
        """Text -> ids, with one space added before it, whatever it begins with."""
        if not spec.add_space_prefix:
            return self._cut
        if self._changes_text:  # the library adds the space, because it must come after the changes
            return _cut_by_scores(spec)
        return lambda text: self._cut(SPACE + text) if text else []

    def first_bytes(self, token_id: int) -> bytes:
        """Strips the added space, which belongs to a piece: a byte token 0x20 stays, as in the library."""
        data = self.token_bytes(token_id)
        return data.removeprefix(b" ") if self._adds_space and token_id not in self._bytes else data

    def strips_leading_space(self) -> bool:
        return self._adds_space

    @cached_property
    def _longest(self) -> float:
        """By the pieces' spelling, because a text may hold U+2581 itself. No bound without byte tokens, where one id stands for a
        run of unknown characters, or with a normalizer that may shorten the text."""
        bounded = self._bytes and not self._changes_text
        return max(len(piece.encode()) for piece in self._pieces) if bounded else math.inf

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        ids: list[int] = []
        for number, (part, token_id) in enumerate(self._cut_at_first(text)):
            ids += [token_id] if token_id is not None else self._encode_spaced(part, is_first and number == 0)
        return ids

    def _encode_spaced(self, text: str, is_first: bool) -> list[int]:
        has_space = self._prefix_unless_space and text.startswith((" ", SPACE))
        adds_space = not has_space and (is_first or not self._prefix_first_only)
        return self._cut_prefixed(text) if adds_space else self._cut(text)

    def _bytes_of(self, token_id: int) -> bytes:
        byte = self._bytes.get(token_id)
        return self._pieces[token_id].replace(SPACE, " ").encode() if byte is None else byte


def _cut_by_scores(spec: TokenizerSpec) -> Cutter:
    encode: Cutter = _load(spec, sentencepiece_model(spec, _scores(spec))).encode
    return encode


def _byte_values(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> dict[int, bytes]:
    values = {}
    for token_id, kind in enumerate(types):
        if kind == BYTE:
            match = BYTE_PIECE.fullmatch(pieces[token_id])
            if match is None:
                problem = f"is {pieces[token_id][:40]!r}; a byte token is spelled <0x00> to <0xFF>"
                raise ModelFormatError(spec.source, f"tokenizer token {token_id}", None, problem)
            values[token_id] = bytes.fromhex(match[1])
    return values


def _scores(spec: TokenizerSpec) -> list[float]:
    """Require one finite score per token: the library orders merges by them, and NaN has no order."""
    if spec.scores is None or len(spec.scores) != len(spec.tokens):
        given = "is missing" if spec.scores is None else f"has {len(spec.scores)} entries"
        raise ModelFormatError(spec.source, "tokenizer scores", None, f"{given}, but there are {len(spec.tokens)} tokens")
    if not np.isfinite(spec.scores).all():
        number = int(np.flatnonzero(~np.isfinite(spec.scores))[0])
        raise ModelFormatError(spec.source, f"tokenizer score {number}", None, f"is {spec.scores[number]}, not a finite number")
    scores: list[float] = spec.scores.tolist()
    return scores


def _load(spec: TokenizerSpec, proto: bytes) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:  # duplicate or empty pieces, no unknown token, not all 256 byte tokens
        raise ModelFormatError(
            spec.source, "tokenizer tokens", None, f"are refused by sentencepiece: {shown(str(error))}"
        ) from error
