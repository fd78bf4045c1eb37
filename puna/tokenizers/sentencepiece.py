"""SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226), as Llama 1 and 2 use it.

With scores, the merging is the `sentencepiece` library's; with merges instead, see `piece_merges.py`. The library reads a
serialized ModelProto, which is written here by hand: a page of protobuf wire format costs less than a dependency on protobuf
and its generated classes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.tokenizers.piece_merges import SPACE, cut_by_merges
from puna.tokenizers.vocabulary import BYTE, NORMAL, VocabularyTokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class SentencePieceTokenizer(VocabularyTokenizer):
    """GGUF's tokenizer model "llama", and llama2.c's tokenizer.bin. A U+2581 in a text comes back as a space."""

    def __init__(self, spec: TokenizerSpec) -> None:
        super().__init__(spec)
        self._adds_space = spec.add_space_prefix
        self._changes_text = bool(spec.charsmap) or spec.remove_extra_spaces
        self._bytes = _byte_values(spec, self._pieces, self._types)
        by_merges = spec.scores is None and len(spec.merges) > 0
        self._cut = (
            cut_by_merges(spec, self._pieces, self._types) if by_merges else _cut_by_scores(spec, self._pieces, self._types)
        )

    def strips_leading_space(self) -> bool:
        return self._adds_space

    @cached_property
    def _longest(self) -> float:
        """As the pieces are spelled, for a text may hold U+2581 itself. Without byte tokens, no bound: one id is all of a run of
        unknown characters. Nor where a normalizer may shorten the text."""
        bounded = self._bytes and not self._changes_text
        return max(len(piece.encode()) for piece in self._pieces) if bounded else math.inf

    def _encode_plain(self, text: str) -> list[int]:
        return self._cut(text)

    def _bytes_of(self, token_id: int) -> bytes:
        byte = self._bytes.get(token_id)
        return self._pieces[token_id].replace(SPACE, " ").encode() if byte is None else byte


def _cut_by_scores(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> Callable[[str], list[int]]:
    rule = normalizer_spec(spec.normalizer, spec.charsmap, spec.add_space_prefix, spec.remove_extra_spaces)
    encode: Callable[[str], list[int]] = _load(spec, model_proto(pieces, _scores(spec), types, rule)).encode
    return encode


def _byte_values(spec: TokenizerSpec, pieces: list[str], types: list[int]) -> dict[int, bytes]:
    values = {}
    for token_id, kind in enumerate(types):
        if kind == BYTE:
            match = _BYTE_PIECE.fullmatch(pieces[token_id])
            if match is None:
                problem = f"is {pieces[token_id][:40]!r}; a byte token is spelled <0x00> to <0xFF>"
                raise ModelFormatError(spec.source, f"tokenizer token {token_id}", None, problem)
            values[token_id] = bytes.fromhex(match[1])
    return values


def _scores(spec: TokenizerSpec) -> list[float]:
    """Finite, one per token: the library orders merges by them, and NaN has no order."""
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
    except RuntimeError as error:  # duplicate or empty pieces, no unknown token, not all of the 256 byte tokens
        raise ModelFormatError(spec.source, "tokenizer tokens", None, f"are refused by sentencepiece: {error}") from error


# Field numbers of sentencepiece_model.proto, and the wire types of protobuf (0 varint, 2 length-delimited, 5 32-bit).
# ModelProto: pieces 1, trainer_spec 2, normalizer_spec 3. SentencePiece: piece 1, score 2, type 3.
# TrainerSpec: model_type 3, byte_fallback 35. NormalizerSpec: name 1, precompiled_charsmap 2, add_dummy_prefix 3,
# remove_extra_whitespaces 4, escape_whitespaces 5.
_VARINT, _BYTES, _FLOAT = 0, 2, 5
_BPE = 2  # TrainerSpec.ModelType


def model_proto(pieces: list[str], scores: list[float], types: list[int], normalizer: bytes) -> bytes:
    """A serialized ModelProto of BPE."""
    entries = [_message(1, _piece(*entry)) for entry in zip(pieces, scores, types)]
    trainer = _number(3, _BPE) + _number(35, BYTE in types)
    return b"".join(entries) + _message(2, trainer) + _message(3, normalizer)


def normalizer_spec(name: str, charsmap: bytes, add_space_prefix: bool, remove_extra_spaces: bool) -> bytes:
    """A serialized NormalizerSpec that spells spaces as U+2581."""
    flags = _number(3, add_space_prefix) + _number(4, remove_extra_spaces) + _number(5, True)
    return _message(1, (name or "identity").encode()) + (_message(2, charsmap) if charsmap else b"") + flags


def _piece(text: str, score: float, kind: int) -> bytes:
    return _message(1, text.encode()) + bytes([2 << 3 | _FLOAT]) + struct.pack("<f", score) + _number(3, kind or NORMAL)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow.

    >>> _varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
