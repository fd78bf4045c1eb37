from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Library

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.piece_order import merges_of
from puna.formats.sentencepiece_model import read_sentencepiece_model, sentencepiece_model
from puna.formats.token_types import CONTROL, USER_DEFINED
from puna.formats.tokenizer_files import MAX_FILE_BYTES, read_given_tokenizer, read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import write_tokenizer_json
from tests.tokenizers.folders import byte_level_document, pieces_document, sentencepiece_bytes, tiktoken_bytes, write_json
from tests.tokenizers.texts import texts
from tests.tokenizers.vocabularies import small_bpe, small_spm

SPM = small_spm()
MERGES = merges_of(SPM)
COUNT = len(SPM.tokens)  # 275


def spm_folder(folder: Path, model: bool = True, fast: bool = True, **documents: Any) -> Path:
    """A Hugging Face folder of the small SentencePiece vocabulary; `documents` are further files by their stems."""
    if model:
        assert SPM.scores is not None
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(SPM, SPM.scores.tolist()))
    if fast:
        write_json(folder / "tokenizer.json", pieces_document(SPM, MERGES))
    for stem, document in documents.items():
        write_json(folder / f"{stem}.json", document)
    return folder


def added(token_id: int, content: str, special: bool = True, **flags: bool) -> dict[str, Any]:
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": token_id, "content": content, "special": special} | usual | flags


def with_added(document: dict[str, Any], *tokens: dict[str, Any]) -> dict[str, Any]:
    return document | {"added_tokens": [*document["added_tokens"], *tokens]}


def read(folder: Path, vocab_size: int = COUNT) -> tuple[TokenizerSpec, tuple[str, ...]]:
    spec, notices = read_tokenizer_folder(folder, vocab_size)
    assert spec is not None
    assert len(spec.tokens) == vocab_size
    return spec, notices


# ---- one file -------------------------------------------------------------------------------------------------------

LLAMA2C_PIECES = [b"<unk>", b"\n<s>\n", b"\n</s>\n", *(b"<0x%02X>" % byte for byte in range(256)), b" "]
LLAMA2C_BYTES = b"\x06\0\0\0" + b"".join(b"\0\0\0\0" + len(t).to_bytes(4, "little") + t for t in LLAMA2C_PIECES)
FILES: dict[str, tuple[Callable[[], bytes], str, int]] = {
    "SentencePiece": (sentencepiece_bytes, "spm", 520),
    "tiktoken": (tiktoken_bytes, "bpe", 264 + 256),
    "tokenizer.json": (lambda: json.dumps(byte_level_document()).encode(), "bpe", len(small_bpe().tokens)),
    "llama2.c": (lambda: LLAMA2C_BYTES, "spm", 260),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    content, kind, count = FILES[name]
    (tmp_path / "x").write_bytes(content())
    spec = read_tokenizer_file(tmp_path / "x", None)
    assert (spec.kind, len(spec.tokens)) == (kind, count)
    assert spec.source == str(tmp_path / "x")
    tokenizer = build_tokenizer(spec)
    assert tokenizer.decode(tokenizer.encode("the llama")) == "the llama"


def test_what_is_no_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such file"):
        read_tokenizer_file(tmp_path / "x", None)
    (tmp_path / "x").write_bytes(b"\x7fELF")
    with pytest.raises(UnsupportedModelError, match="puna does not know this kind of tokenizer"):
        read_tokenizer_file(tmp_path / "x", None)
    os.truncate(tmp_path / "x", MAX_FILE_BYTES + 1)
    with pytest.raises(ModelFormatError, match="bytes long"):
        read_tokenizer_file(tmp_path / "x", None)


def test_rows_of_the_embedding_beyond_the_tokens_are_unused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(sentencepiece_bytes())
    spec = read_tokenizer_file(tmp_path / "x", 544)
    assert len(spec.tokens) == 544
    tokenizer = build_tokenizer(spec)
    assert tokenizer.piece(543) == "[PAD543]"
    assert tokenizer.encode("the llama") == build_tokenizer(read_tokenizer_file(tmp_path / "x", None)).encode("the llama")


@pytest.mark.parametrize("rows", [519, 256, 600, 128256])
def test_a_tokenizer_of_other_weights_is_refused_with_both_sizes(tmp_path: Path, rows: int) -> None:
    (tmp_path / "x").write_bytes(sentencepiece_bytes())
    with pytest.raises(ModelFormatError, match=f"there are 520 tokens; the model has {rows} ") as error:
        read_tokenizer_file(tmp_path / "x", rows)
    assert "belongs to another model" in error.value.hint


# ---- a folder: which file counts ------------------------------------------------------------------------------------


def test_a_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert read_tokenizer_folder(tmp_path, 100) == (None, ())
    write_json(tmp_path / "tokenizer_config.json", {"bos_token": "<s>"})
    assert read_tokenizer_folder(tmp_path, 100) == (None, ())


def test_vocab_json_and_merges_txt_are_named_and_what_to_do_about_them(tmp_path: Path) -> None:
    """They do not say by which expression words are cut: nothing is guessed."""
    (tmp_path / "merges.txt").write_text("a b", "ascii")
    write_json(tmp_path / "vocab.json", {"a": 0, "b": 1, "ab": 2})
    spec, (notice,) = read_tokenizer_folder(tmp_path, 100)
    assert spec is None
    assert notice.startswith("vocab.json and merges.txt do not say how to split a text into words")
    assert "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)" in notice
    with pytest.raises(ModelNotFoundError, match="is a folder that holds no tokenizer") as error:
        read_given_tokenizer(tmp_path, 100)
    assert "save_pretrained" in error.value.hint


# ---- what --tokenizer names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_given_folder_is_searched_as_a_models_is(tmp_path: Path, name: str) -> None:
    content, kind, count = FILES[name]
    file = {"tokenizer.json": "tokenizer.json", "llama2.c": f"tok{count}.bin"}.get(name, "tokenizer.model")
    (tmp_path / file).write_bytes(content())
    own = read_tokenizer_file(tmp_path / file, count).eos_id
    write_json(tmp_path / "generation_config.json", {"eos_token_id": [2 if own is None else own, 7]})
    spec, notices = read_given_tokenizer(tmp_path, count)
    assert (spec.kind, len(spec.tokens), spec.source, notices) == (kind, count, str(tmp_path / file), ())
    assert name == "llama2.c" or 7 in spec.stop_ids


def test_what_differs_in_a_given_folder_is_told(tmp_path: Path) -> None:
    folder = spm_folder(tmp_path, tokenizer=pieces_document(SPM, MERGES[::-1]))
    assert "puna uses tokenizer.model" in read_given_tokenizer(folder, COUNT)[1][0]


def test_a_given_folder_without_a_tokenizer_says_which_files_may_be_given(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a folder that holds no tokenizer") as error:
        read_given_tokenizer(tmp_path, 100)
    assert "tokenizer.json, tokenizer.model or tokenizer.bin" in error.value.hint


def test_each_file_alone_gives_the_same_ids(tmp_path: Path) -> None:
    tokenizers = []
    for name, files in {"model": {"fast": False}, "fast": {"model": False}, "both": {}}.items():
        (tmp_path / name).mkdir()
        spec, notices = read(spm_folder(tmp_path / name, **files))
        assert notices == ()
        assert (spec.scores is None) == (name == "fast")
        tokenizers.append(build_tokenizer(spec))
    for text in texts(5, 500):
        ids = [tokenizer.encode(text) for tokenizer in tokenizers]
        assert ids[0] == ids[1] == ids[2], text
        assert ids[0][0] == 1


def test_where_both_files_differ_tokenizer_model_cuts_the_text_and_a_word_is_said(tmp_path: Path) -> None:
    """OpenLLaMA's case."""
    folder = spm_folder(tmp_path)
    write_json(folder / "tokenizer.json", pieces_document(SPM, MERGES[::-1]))
    spec, notices = read(folder)
    assert spec.scores is not None
    assert notices == ("tokenizer.json and tokenizer.model split text differently: puna uses tokenizer.model",)


def test_merges_that_leave_out_a_pair_differ(tmp_path: Path) -> None:
    folder = spm_folder(tmp_path)
    write_json(folder / "tokenizer.json", pieces_document(SPM, MERGES[:-1]))
    assert "split text differently" in read(folder)[1][0]


def test_a_tokenizer_json_that_puna_cannot_do_gives_way_to_tokenizer_model(tmp_path: Path) -> None:
    folder = spm_folder(tmp_path)
    write_json(folder / "tokenizer.json", pieces_document(SPM, MERGES) | {"normalizer": {"type": "NFKC"}})
    spec, notices = read(folder)
    assert spec.scores is not None
    assert notices[0].startswith("tokenizer.model is used instead of tokenizer.json")
    assert "NFKC" in notices[0]
    (folder / "tokenizer.model").unlink()
    library = Library.from_file(str(folder / "tokenizer.json"))
    assert build_tokenizer(read(folder)[0]).encode("ﬁ the") == library.encode("ﬁ the").ids


def test_tokens_that_only_tokenizer_json_has_are_kept(tmp_path: Path) -> None:
    """Vicuna, and chat models with an extended vocabulary."""
    folder = spm_folder(tmp_path)
    tokens = [added(COUNT, "<|im_start|>"), added(COUNT + 1, "<|im_end|>"), added(COUNT + 2, "<think>", special=False)]
    write_json(folder / "tokenizer.json", with_added(pieces_document(SPM, MERGES), *tokens))
    spec, notices = read(folder, COUNT + 3)
    assert notices == ()
    assert spec.scores is not None
    tokenizer = build_tokenizer(spec)
    assert tokenizer.special_tokens["<|im_end|>"] == COUNT + 1
    assert COUNT + 1 in tokenizer.stop_ids
    assert tokenizer.encode("<|im_start|>the", special=True)[1] == COUNT
    assert COUNT + 2 in tokenizer.encode("the<think>")


def test_a_vocabulary_of_tokenizer_json_that_goes_further_wins(tmp_path: Path) -> None:
    folder = spm_folder(tmp_path)
    longer = replace(
        SPM,
        tokens=[*SPM.tokens, "日th".encode()],
        token_types=np.append(np.array(SPM.token_types), np.int32(1)),
    )
    write_json(folder / "tokenizer.json", pieces_document(longer, [*MERGES, ("日", "th")]))
    spec, notices = read(folder, COUNT + 1)
    assert spec.scores is None
    assert notices == (f"tokenizer.json has {COUNT + 1} tokens, tokenizer.model {COUNT}: puna uses tokenizer.json",)


def test_llama_3s_tokenizer_model_gives_way_to_tokenizer_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tiktoken_bytes())
    document = byte_level_document()
    write_json(tmp_path / "tokenizer.json", document)
    spec, notices = read(tmp_path, len(small_bpe().tokens))
    assert (spec.pre, notices) == ("smollm", ())


def test_a_tokenizer_of_another_model_in_a_folder_is_refused_with_both_sizes(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=f"there are {COUNT} tokens; the model has 200 "):
        read_tokenizer_folder(spm_folder(tmp_path), 200)


# ---- a folder: added tokens and parts -------------------------------------------------------------------------------


def test_added_tokens_of_every_file_are_taken(tmp_path: Path) -> None:
    folder = spm_folder(
        tmp_path,
        fast=False,
        added_tokens={"<a>": COUNT, "word": COUNT + 1},
        tokenizer_config={"added_tokens_decoder": {str(COUNT + 3): added(0, "<b>") | {"id": None}}},
    )
    spec, _ = read(folder, COUNT + 4)
    assert spec.token_types is not None
    assert [token.decode() for token in spec.tokens[COUNT:]] == ["<a>", "word", f"[PAD{COUNT + 2}]", "<b>"]
    assert spec.token_types[COUNT:].tolist() == [CONTROL, USER_DEFINED, 5, CONTROL]


def test_a_token_that_was_given_another_name_has_that_name(tmp_path: Path) -> None:
    folder = spm_folder(tmp_path, tokenizer_config={"added_tokens_decoder": {"274": added(0, "<|im_end|>")}})
    spec, _ = read(folder)
    assert build_tokenizer(spec).special_tokens["<|im_end|>"] == 274


@pytest.mark.parametrize("form", ["text", "object", "special_tokens_map"])
def test_bos_and_eos_are_those_of_the_config(tmp_path: Path, form: str) -> None:
    tokens = [added(COUNT, "<|begin|>"), added(COUNT + 1, "<|end|>")]
    fast = with_added(pieces_document(SPM, MERGES), *tokens)
    parts: dict[str, Any] = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    if form == "object":
        parts = {key: {"content": text, "lstrip": False} for key, text in parts.items()}
    spm_folder(tmp_path)
    write_json(tmp_path / ("special_tokens_map.json" if form == "special_tokens_map" else "tokenizer_config.json"), parts)
    write_json(tmp_path / "tokenizer.json", fast)
    spec, notices = read(tmp_path, COUNT + 2)
    assert (spec.bos_id, spec.eos_id, notices) == (COUNT, COUNT + 1, ())


def test_a_part_without_token_is_told_and_left_out(tmp_path: Path) -> None:
    spec, notices = read(spm_folder(tmp_path, tokenizer_config={"pad_token": "[PAD]", "bos_token": None}))
    assert (spec.pad_id, spec.bos_id) == (None, 1)
    assert notices == ("pad_token '[PAD]' is not used: the tokenizer has no such token",)


def test_special_tokens_that_only_the_config_names_are_control_tokens(tmp_path: Path) -> None:
    config = {"additional_special_tokens": ["la", {"content": "ma"}, 7, "not there"]}
    tokenizer = build_tokenizer(read(spm_folder(tmp_path, tokenizer_config=config))[0])
    assert {"la", "ma"} < set(tokenizer.special_tokens)


def test_a_padding_token_without_a_row_is_left_out_and_another_token_is_refused(tmp_path: Path) -> None:
    spm_folder(tmp_path, fast=False, added_tokens={"[PAD]": COUNT})
    _, notices = read(tmp_path)
    assert notices == (f"'[PAD]' has the id {COUNT}, but the embedding has {COUNT} rows: puna drops it",)
    write_json(tmp_path / "added_tokens.json", {"<|im_end|>": COUNT})
    with pytest.raises(ModelFormatError, match=f"there are {COUNT + 1} tokens; the model has {COUNT} "):
        read_tokenizer_folder(tmp_path, COUNT)


@pytest.mark.parametrize(
    ("config", "bos", "eos"),
    [
        ({}, True, False),
        ({"add_bos_token": False}, False, False),
        ({"add_eos_token": True}, True, True),
        ({"add_bos_token": None}, True, False),
    ],
)
def test_bos_and_eos_are_added_as_the_config_says(tmp_path: Path, config: dict[str, Any], bos: bool, eos: bool) -> None:
    tokenizer = build_tokenizer(read(spm_folder(tmp_path, fast=False, tokenizer_config=config))[0])
    ids = tokenizer.encode("the")
    assert (ids[0] == 1, ids[-1] == 2) == (bos, eos)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "LlamaTokenizerFast", "PreTrainedTokenizerFast"])
@pytest.mark.parametrize("flag", [None, True, False])
@pytest.mark.parametrize("is_framed", [True, False])
@pytest.mark.parametrize("model", [True, False])
def test_a_post_processor_frames_a_text_whatever_a_flag_says_as_in_transformers(
    kind: str, flag: bool | None, is_framed: bool, model: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    config = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": flag}
    spm_folder(tmp_path, model=model, tokenizer_config={key: value for key, value in config.items() if value is not None})
    document = pieces_document(SPM, MERGES)
    write_json(tmp_path / "tokenizer.json", document if is_framed else document | {"post_processor": None})
    write_json(tmp_path / "config.json", {"model_type": "llama"})
    spec, notices = read(tmp_path)
    assert build_tokenizer(spec).encode("the la") == AutoTokenizer.from_pretrained(tmp_path)("the la")["input_ids"]
    assert any("add_bos_token" in notice for notice in notices) == (flag is not None and flag != is_framed)


def metaspace(scheme: str, split: bool = False) -> dict[str, Any]:
    """What a tokenizer.json of later years has instead of the normalizer."""
    part = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
    return pieces_document(SPM, MERGES) | {"normalizer": None, "pre_tokenizer": part}


# Llama's tokenizers of 2023 add a space behind each control token too, later ones at the beginning only.
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"fast": False}, "▁the|▁the"),
        ({"fast": False, "tokenizer_config": {"legacy": True}}, "▁the|▁the"),
        ({"fast": False, "tokenizer_config": {"legacy": False}}, "▁the|the"),
        ({"fast": False, "tokenizer_config": {"add_prefix_space": False}}, "the|the"),
        ({}, "▁the|▁the"),
        ({"tokenizer": metaspace("always")}, "▁the|▁the"),
        ({"tokenizer": metaspace("first")}, "▁the|the"),
        ({"model": False}, "▁the|▁the"),
        ({"model": False, "tokenizer": metaspace("always")}, "▁the|▁the"),
        ({"model": False, "tokenizer": metaspace("first")}, "▁the|the"),
        ({"model": False, "tokenizer": metaspace("never")}, "the|the"),
    ],
)
def test_the_added_space_is_where_the_files_say(tmp_path: Path, files: dict[str, Any], expected: str) -> None:
    tokenizer = build_tokenizer(read(spm_folder(tmp_path, **files))[0])
    ids = tokenizer.encode("the</s>the", special=True, bos=False)
    spelled = "".join("|" if i == 2 else tokenizer.piece(i) for i in ids)
    assert spelled == expected
    has_two = files.get("model", True) or "tokenizer" not in files  # the library's decoder takes the first space in any case
    assert tokenizer.decode(tokenizer.encode(" the the")) == (" the the" if has_two else "the the")


@pytest.mark.parametrize("scheme", ["always", "first", "never"])
@pytest.mark.parametrize("split", [False, True])
def test_a_metaspace_adds_no_space_before_one(tmp_path: Path, scheme: str, split: bool) -> None:
    """As the library does it, which decodes such a text without its first space."""
    document = metaspace(scheme, split)
    decoders = document["decoder"]["decoders"]
    document["decoder"] = {"type": "Sequence", "decoders": decoders[:-1] if scheme == "never" else decoders}
    merges = [pair for pair in MERGES if "▁" not in "".join(pair)[1:]]
    document["model"]["merges"] = [list(pair) for pair in merges]
    path = write_json(tmp_path / "tokenizer.json", document)
    library, tokenizer = Library.from_file(str(path)), build_tokenizer(read_tokenizer_file(path, None))
    assert tokenizer.encode(" the", bos=False) == tokenizer.encode("▁the", bos=False)
    samples = [text for text in texts(14, 1000) if "<unk>" not in text and not text.startswith("<s>")]
    samples += [" the", "▁the", "  the", "\n the", " ", "", "the</s>the", "the</s> the", " </s>the", "</s>▁the", "</s></s>the"]
    for text in samples:
        ids = library.encode(text).ids
        assert tokenizer.encode(text, special=True) == ids, text
        assert tokenizer.decode(ids) == library.decode(ids), text


def test_where_tokenizer_model_adds_a_space_and_tokenizer_json_does_not_a_word_is_said(tmp_path: Path) -> None:
    spec, notices = read(spm_folder(tmp_path, tokenizer=metaspace("first")))
    assert "do not add a space to the same texts" in notices[0]
    assert notices[0].endswith("puna uses tokenizer.model")
    assert (spec.prefix_first_only, spec.prefix_unless_space) == (True, False)


@pytest.mark.parametrize("replaced", [True, False])
def test_other_orders_of_metaspaces_give_the_librarys_ids(tmp_path: Path, replaced: bool) -> None:
    parts = [metaspace("first")["pre_tokenizer"] | {"replacement": " "}, metaspace("never")["pre_tokenizer"]]
    document = pieces_document(SPM, MERGES) | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": parts}}
    document["normalizer"] = document["normalizer"] if replaced else None
    path = write_json(tmp_path / "tokenizer.json", document)
    library, tokenizer = Library.from_file(str(path)), build_tokenizer(read_tokenizer_file(path, None))
    for text in (" the", "the </s> the", "▁the", "  "):
        assert tokenizer.encode(text, special=True) == library.encode(text).ids


# ---- the real thing -------------------------------------------------------------------------------------------------


def test_llama_2_in_transformers_has_equal_ids(shared_data: Path, tmp_path: Path) -> None:
    """Its Llama class, which adds a space at the beginning only, and none where there is one. It takes the text <unk> for the
    token.
    """
    spec = read_tokenizer_file(shared_data / "llama2" / "tokenizer.model", None)
    write_tokenizer_json(replace(spec, prefix_first_only=True, prefix_unless_space=True), tmp_path / "tokenizer.json")
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer", "legacy": False})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        oracle = AutoTokenizer.from_pretrained(str(tmp_path))
    tokenizer = build_tokenizer(read(tmp_path, 32000)[0])
    samples = [text for text in texts(11, 2000) if "<unk>" not in text]
    assert tokenizer.encode(" leading") == [1, 8236]
    samples += ["[INST] hi [/INST] answer </s><s>[INST] more [/INST]", "<s>the", "the</s> the", "</s>\nthe"]
    expected = oracle(samples, add_special_tokens=False).input_ids
    assert [tokenizer.encode(text, bos=False, special=True) for text in samples] == expected


def test_the_small_models_agree_with_their_library(tmp_path: Path) -> None:
    """What SentencePiece trains with Llama's settings and with OpenLLaMA's, that normalizes."""
    from sentencepiece import SentencePieceProcessor

    several: list[dict[str, Any]] = [{}, {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}]
    for options in several:
        content = sentencepiece_bytes(**options)
        oracle = SentencePieceProcessor(model_proto=content)
        tokenizer = build_tokenizer(read_sentencepiece_model(tmp_path / "x", content))
        for text in texts(12, 2000):
            assert tokenizer.encode(text, bos=False) == oracle.encode(text), text
