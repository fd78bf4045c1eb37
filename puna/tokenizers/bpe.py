"""Byte-level BPE (Radford et al. 2019, GPT-2): every byte is a letter, and frequent pairs are merged into tokens.

The `tokenizers` library merges, fed from memory; this module decides which words it sees and which bytes a token has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from puna.errors import ModelFormatError, UnsupportedModelError, UsageError
from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import byte_alphabet
from puna.formats.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from puna.formats.token_types import CONTROL, USER_DEFINED
from puna.tokenizers.vocabulary import VocabularyTokenizer, cutter

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Merger
    from tokenizers.models import BPE as MergerModel


class BytePairTokenizer(VocabularyTokenizer):
    """GGUF's tokenizer model "gpt2". Safe to share between threads: the library locks its own cache."""

    def __init__(self, spec: TokenizerSpec) -> None:
        super().__init__(spec)
        pre = _pre_tokenizer(spec)
        self._letters = _Letters()
        vocabulary = {piece: i for i, (piece, kind) in enumerate(zip(self._pieces, self._types)) if kind != CONTROL}
        self._normalizes = spec.normalizer != ""
        self._merger = _merger(_model(spec, vocabulary, pre), pre, _normalizer(spec))
        self._missing = _missing_bytes(vocabulary)
        self._cut_at_user_defined = cutter(self._ids_of_type(USER_DEFINED))

    @cached_property
    def _longest(self) -> float:
        """No bound if a text is normalized first: composed characters have fewer bytes."""
        return math.inf if self._normalizes else super()._longest

    def _encode_plain(self, text: str, is_first: bool) -> list[int]:
        ids: list[int] = []
        for piece, token_id in self._cut_at_user_defined(text):
            ids += self._merge(piece) if token_id is None else [token_id]
        return ids

    def _merge(self, text: str) -> list[int]:
        if self._missing:
            self._refuse_missing(text)
        # `encode` would hold the GIL: an event loop stood still for 15 s over 4 MB of text.
        ids: list[int] = self._merger.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def _refuse_missing(self, text: str) -> None:
        """Refuse a byte without a token: the library would drop it silently."""
        present = bytes(set(range(256)) - self._missing)
        if lost := text.encode().translate(None, present):
            raise UsageError(
                f"the text holds the byte 0x{lost[0]:02X}, for which this model's vocabulary has no token",
                hint="Remove that character from the text.",
            )

    def _bytes_of(self, token_id: int) -> bytes:
        piece = self._pieces[token_id]
        if self._types[token_id] == USER_DEFINED:  # plain text, not in the byte alphabet
            return piece.encode()
        return piece.translate(self._letters).encode("latin-1")


class _Letters(dict[int, str]):
    """Letter -> byte, both as code points for `str.translate`; a character outside the alphabet is its own UTF-8."""

    def __init__(self) -> None:
        super().__init__({ord(letter): chr(byte) for byte, letter in enumerate(byte_alphabet())})

    def __missing__(self, code: int) -> str:
        return chr(code).encode().decode("latin-1")


def _missing_bytes(vocabulary: dict[str, int]) -> frozenset[int]:
    return frozenset(byte for byte, letter in enumerate(byte_alphabet()) if letter not in vocabulary)


def _pre_tokenizer(spec: TokenizerSpec) -> PreTokenizer:
    pre = PRE_TOKENIZERS.get(spec.pre)
    if pre is None:
        known = ", ".join(sorted(PRE_TOKENIZERS))
        raise UnsupportedModelError(f"{spec.source}: puna does not know the pre-tokenizer {spec.pre!r} (known: {known})")
    return pre if spec.whole_words is None else replace(pre, whole_words=spec.whole_words)


def merge_pairs(spec: TokenizerSpec, vocabulary: dict[str, int]) -> Sequence[tuple[str, str]]:
    """The pairs, in merge order; "Ġ t" becomes ("Ġ", "t")."""
    pairs = _pairs(spec)
    _require_tokens(spec, pairs, vocabulary)
    return pairs


def _pairs(spec: TokenizerSpec) -> list[tuple[str, str]]:
    return [(first, second) for first, _, second in [merge.decode("utf-8", "replace").partition(" ") for merge in spec.merges]]


def _require_tokens(spec: TokenizerSpec, pairs: Sequence[tuple[str, str]], vocabulary: dict[str, int]) -> None:
    """Require that the two parts of each merge and what they make are tokens."""
    wrong = (i for i, (a, b) in enumerate(pairs) if not (a in vocabulary and b in vocabulary and a + b in vocabulary))
    if (number := next(wrong, None)) is not None:
        problem = f"is {spec.merges[number][:80]!r}; it must be two tokens with a space between, which join to a token"
        raise ModelFormatError(spec.source, f"tokenizer merge {number}", None, problem)


NORMALIZERS = ("", "NFC")


def _normalizer(spec: TokenizerSpec) -> str:
    if spec.normalizer not in NORMALIZERS:
        raise UnsupportedModelError(f"{spec.source}: puna does not know the normalizer {spec.normalizer!r} (known: NFC)")
    return spec.normalizer


def _model(spec: TokenizerSpec, vocabulary: dict[str, int], pre: PreTokenizer) -> MergerModel:
    """Passes Python objects: 0.08 s for 49152 tokens (2 cores, 2026-11), against 0.20 s through the library's JSON. The library
    requires what `_require_tokens` does, which is asked for what to say only."""
    from tokenizers import models

    pairs = _pairs(spec)
    try:
        return models.BPE(vocabulary, pairs, ignore_merges=pre.whole_words)
    except Exception:
        _require_tokens(spec, pairs, vocabulary)
        raise


def _merger(model: MergerModel, pre: PreTokenizer, normalizer: str) -> Merger:
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers

    merger = Tokenizer(model)
    if normalizer == "NFC":
        merger.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(stage), "isolated") for stage in pre.stages]
    merger.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return merger
