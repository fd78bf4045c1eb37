"""SentencePiece's Unigram models: ids and texts are those of the `sentencepiece` library, whichever file holds the model."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.tokenizer_files import read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import gguf_tokenizer_metadata, write_sentencepiece, write_tokenizer_json
from tests.tokenizers.folders import sentencepiece_bytes
from tests.tokenizers.libraries import texts
from tests.writers.test_tokenizers import gguf_values

SEED = 23
OPTIONS: dict[str, dict[str, Any]] = {
    "bytes": {},
    "no bytes": {"byte_fallback": False},
    "normalized": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "no space": {"add_dummy_prefix": False},
    "user-defined": {"user_defined_symbols": ["<x>", "tok"], "control_symbols": ["<c>"]},
}


def trained(path: Path, **options: Any) -> tuple[TokenizerSpec, SentencePieceProcessor]:
    content = sentencepiece_bytes(vocab_size=520, model_type="unigram", hard_vocab_limit=False, **options)
    path.write_bytes(content)
    return read_tokenizer_file(path, None), SentencePieceProcessor(model_proto=content)


def samples(name: str) -> list[str]:
    return texts(random.Random(f"{SEED} {name}"), 300, ("<x>", "tok", "the", "llama", "<c>"))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_unigram_model_gives_the_ids_and_texts_of_sentencepiece(tmp_path: Path, name: str) -> None:
    spec, oracle = trained(tmp_path / "tokenizer.model", **OPTIONS[name])
    assert spec.kind == "unigram"
    tokenizer = build_tokenizer(spec)
    for text in samples(name):
        ids = oracle.encode(text)
        assert tokenizer.encode(text, bos=False) == ids, repr(text)
        if oracle.unk_id() not in ids:
            assert tokenizer.decode(ids) == oracle.decode(ids).replace("▁", " "), repr(text)


def test_a_unigram_model_is_written_and_read_again(tmp_path: Path) -> None:
    spec, oracle = trained(tmp_path / "a.model", **OPTIONS["normalized"])
    write_sentencepiece(spec, tmp_path / "b.model")
    again = build_tokenizer(read_tokenizer_file(tmp_path / "b.model", None))
    assert [again.encode(text, bos=False) for text in samples("again")] == oracle.encode(samples("again"))
    with pytest.raises(UnsupportedModelError, match="Unigram model splits differently"):
        write_tokenizer_json(spec, tmp_path / "tokenizer.json")


def test_a_unigram_model_is_t5_in_gguf(tmp_path: Path) -> None:
    """llama.cpp's defaults for that model stand in where a key is absent."""
    spec, oracle = trained(tmp_path / "a.model", **OPTIONS["normalized"])
    keys = gguf_tokenizer_metadata(spec)
    assert keys["tokenizer.ggml.model"] == "t5"
    again = read_tokenizer(gguf_values(tmp_path / "x.gguf", dict(keys)), len(spec.tokens))
    assert again is not None
    assert [build_tokenizer(again).encode(text, bos=False) for text in samples("gguf")] == oracle.encode(samples("gguf"))
    bare = {key: value for key, value in keys.items() if not key.endswith(("_token_id", "_token"))}
    others = read_tokenizer(gguf_values(tmp_path / "x.gguf", bare), len(spec.tokens))
    assert others is not None
    assert (others.bos_id, others.eos_id, others.unk_id, others.pad_id, others.add_bos, others.add_eos) == (
        None,
        1,
        2,
        0,
        False,
        True,
    )


def test_scores_of_a_unigram_model_must_be_there(tmp_path: Path) -> None:
    spec, _ = trained(tmp_path / "a.model")
    for scores in (None, np.zeros(3, np.float32)):
        with pytest.raises(ModelFormatError):
            build_tokenizer(replace(spec, scores=scores))


def test_a_folder_with_both_files_is_cut_as_transformers_cuts_it(tmp_path: Path) -> None:
    """By tokenizer.json, while the fields are those of tokenizer.model, which other formats can hold."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    spec, _ = trained(tmp_path / "tokenizer.model")
    assert spec.scores is not None
    scored = list(zip((token.decode() for token in spec.tokens), spec.scores.astype(float).tolist()))
    library = Tokenizer(models.Unigram(scored, spec.unk_id, True))
    library.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always", False)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    read, notices = read_tokenizer_folder(tmp_path, len(spec.tokens))
    assert read is not None
    assert (read.kind, read.only_json, notices) == ("unigram", "", ())
    tokenizer = build_tokenizer(read)
    library.encode_special_tokens = True
    for text in samples("both"):
        assert tokenizer.encode(text) == library.encode(text).ids, repr(text)
