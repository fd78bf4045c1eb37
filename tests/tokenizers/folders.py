"""Tokenizer files of small vocabularies, written by the libraries whose formats they are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

from puna.formats.base import TokenizerSpec
from tests.tokenizers.texts import WORDS
from tests.tokenizers.vocabularies import CORPUS, small_bpe

Document = dict[str, Any]


def sentencepiece_bytes(vocab_size: int = 520, **options: Any) -> bytes:
    """A tokenizer.model that SentencePiece trained, as Llama's: identity, byte fallback, one space added."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    settings: Document = {
        "model_type": "bpe",
        "vocab_size": vocab_size,
        "byte_fallback": True,
        "character_coverage": 0.98,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    SentencePieceTrainer.train(sentence_iterator=iter([CORPUS, *WORDS] * 8), model_writer=model, **(settings | options))
    return model.getvalue()


def byte_level_document(spec: TokenizerSpec | None = None) -> Document:
    """A tokenizer.json of the library, with the parts of SmolLM2's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    spec = small_bpe() if spec is None else spec
    assert spec.token_types is not None
    tokens = [token.decode() for token in spec.tokens]
    merges = [(a, b) for a, _, b in (merge.decode().partition(" ") for merge in spec.merges)]
    library = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    library.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, spec.token_types.tolist()):
        if kind in (3, 4):
            library.add_tokens([AddedToken(token, special=kind == 3, normalized=False)])
    document: Document = json.loads(library.to_str())
    return document


def pieces_document(spec: TokenizerSpec, merges: list[tuple[str, str]]) -> Document:
    """A tokenizer.json of the library for a SentencePiece vocabulary, in the manner of Llama 2's."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    assert spec.token_types is not None
    tokens = [token.decode() for token in spec.tokens]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    library = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    strip = decoders.Strip(content=" ", left=1, right=0)
    library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), strip])
    library.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B:1", [("<s>", vocabulary["<s>"])])
    library.add_special_tokens([AddedToken(token, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    document: Document = json.loads(library.to_str())
    return document


def tiktoken_bytes(more: tuple[bytes, ...] = (b"th", b"the", b" the", b"ll", b"la", b"lla", b"llam", b"llama")) -> bytes:
    """Lines of the 256 bytes and a few words."""
    tokens = [*(bytes([byte]) for byte in range(256)), *more]
    return b"".join(b"%s %d\n" % (base64.b64encode(token), rank) for rank, token in enumerate(tokens))


def write_json(path: Path, document: Document) -> Path:
    path.write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return path
