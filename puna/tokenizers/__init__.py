"""Text <-> token ids, by the kind that the model file names."""

from __future__ import annotations

from collections.abc import Callable

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.bpe import BytePairTokenizer
from puna.tokenizers.library import LibraryTokenizer
from puna.tokenizers.sentencepiece import SentencePieceTokenizer

TOKENIZERS: dict[str, Callable[[TokenizerSpec], Tokenizer]] = {
    "bpe": BytePairTokenizer,
    "spm": SentencePieceTokenizer,
    "unigram": SentencePieceTokenizer,
}


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Build the tokenizer that `spec` describes. ModelFormatError for a vocabulary that contradicts itself."""
    kind = TOKENIZERS.get(spec.kind)
    if kind is None:
        known = ", ".join(TOKENIZERS)
        raise UnsupportedModelError(f"{spec.source}: puna does not know the tokenizer kind {spec.kind!r} (known: {known})")
    return LibraryTokenizer(spec) if spec.pipeline else kind(spec)
