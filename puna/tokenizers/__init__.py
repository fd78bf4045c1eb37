"""Text <-> token ids, by the kind that the model file names."""

from __future__ import annotations

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.bpe import BytePairTokenizer
from puna.tokenizers.sentencepiece import SentencePieceTokenizer

TOKENIZERS = {
    "bpe": BytePairTokenizer,
    "spm": SentencePieceTokenizer,
}


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """The tokenizer that `spec` describes. ModelFormatError for a vocabulary that contradicts itself."""
    kind = TOKENIZERS.get(spec.kind)
    if kind is None:
        known = ", ".join(TOKENIZERS)
        raise UnsupportedModelError(f"{spec.source}: tokenizer kind {spec.kind!r} is not one that puna knows ({known})")
    tokenizer: Tokenizer = kind(spec)
    return tokenizer
