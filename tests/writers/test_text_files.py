from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.formats.base import Checkpoint, TokenizerSpec
from puna.formats.tiktoken_file import SPECIAL, same_but_reserved
from puna.formats.tokenizer_files import means_the_same, read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.text_files import write_huggingface_texts, write_tokenizer
from tests.models import tiny_config
from tests.tokenizers.folders import sentencepiece_bytes, tiktoken_bytes
from tests.tokenizers.texts import texts
from tests.tokenizers.vocabularies import small_bpe, small_spm


def checkpoint(path: Path, content: bytes) -> Checkpoint:
    (path / "source").write_bytes(content)
    return Checkpoint(path, "huggingface", tiny_config(), {}, read_tokenizer_file(path / "source", None), "{{ messages }}")


def assert_same_ids(spec: TokenizerSpec, other: TokenizerSpec | None) -> None:
    assert other is not None
    ours, theirs = build_tokenizer(spec), build_tokenizer(other)
    assert [ours.encode(text) for text in texts(8, 500)] == [theirs.encode(text) for text in texts(8, 500)]


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({}, {"tokenizer.json", "tokenizer.model"}),
        ({"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}, {"tokenizer.model"}),  # as OpenLLaMA's
    ],
)
def test_a_sentencepiece_tokenizer_is_written_into_a_folder(tmp_path: Path, options: dict[str, Any], files: set[str]) -> None:
    source = checkpoint(tmp_path, sentencepiece_bytes(**options))
    assert source.tokenizer is not None
    (tmp_path / "made").mkdir()
    write_huggingface_texts(source, tmp_path / "made")
    assert {path.name for path in (tmp_path / "made").glob("tokenizer.*")} == files
    spec, notices = read_tokenizer_folder(tmp_path / "made", len(source.tokenizer.tokens))
    assert notices == ()
    assert_same_ids(source.tokenizer, spec)


def test_a_byte_level_tokenizer_is_written_into_a_folder_as_json_only(tmp_path: Path) -> None:
    write_huggingface_texts(Checkpoint(tmp_path, "gguf", tiny_config(), {}, small_bpe()), tmp_path)
    assert {path.name for path in tmp_path.glob("tokenizer*")} == {"tokenizer.json", "tokenizer_config.json"}


def test_metas_folder_gets_llama_3s_file_whatever_the_reserved_tokens_are_called(tmp_path: Path) -> None:
    """Llama 3.1's tokenizer.json calls <|step_id|> <|reserved_special_token_2|>, and all behind it by other numbers."""
    source = checkpoint(tmp_path, tiktoken_bytes())
    spec = source.tokenizer
    assert spec is not None
    renamed = [b"<|reserved_special_token_2|>" if token == b"<|step_id|>" else token for token in spec.tokens[:-244]]
    renamed += [b"<|reserved_special_token_%d|>" % number for number in range(3, 247)]
    assert (len(renamed), len(SPECIAL)) == (len(spec.tokens), 256)
    write_tokenizer(replace(source, tokenizer=replace(spec, tokens=renamed)), tmp_path, "meta")
    again = read_tokenizer_file(tmp_path / "tokenizer.model", None)
    assert same_but_reserved(again.tokens, renamed)
    assert not same_but_reserved(again.tokens, [b"x", *renamed[1:]])
    assert not same_but_reserved(again.tokens, renamed[:-1])


def test_where_metas_own_forms_cannot_hold_a_tokenizer_its_folder_gets_tokenizer_json(tmp_path: Path) -> None:
    source = Checkpoint(tmp_path, "gguf", tiny_config(), {}, small_bpe())
    write_tokenizer(source, tmp_path, "meta")
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}
    spec = read_tokenizer_file(tmp_path / "tokenizer.json", None)
    assert means_the_same(spec, small_bpe()) and spec.bos_id == small_bpe().bos_id


@pytest.mark.parametrize(
    "changes",
    [{"add_space_prefix": False}, {"prefix_first_only": True}, {"prefix_unless_space": True}, {"remove_extra_spaces": True}],
)
def test_tokenizers_that_treat_spaces_in_other_ways_do_not_mean_the_same(changes: dict[str, Any]) -> None:
    assert means_the_same(small_spm(), small_spm())
    assert not means_the_same(small_spm(), small_spm(**changes))
    assert means_the_same(small_bpe(), small_bpe(**changes))  # they are SentencePiece's


@pytest.mark.parametrize("form", ["meta", "llama2c"])
@pytest.mark.parametrize("changes", [{"prefix_first_only": True}, {"prefix_unless_space": True}])
def test_spaces_that_a_format_cannot_say_are_written_as_tokenizer_json(
    tmp_path: Path, form: str, changes: dict[str, Any]
) -> None:
    spec = small_spm(**changes)
    write_tokenizer(Checkpoint(tmp_path, "gguf", tiny_config(), {}, spec), tmp_path, form)
    assert {path.name for path in tmp_path.glob("tokenizer.*")} == {"tokenizer.json"}
    assert_same_ids(spec, read_tokenizer_file(tmp_path / "tokenizer.json", None))
