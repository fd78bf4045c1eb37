"""llama2.c's files: versions 0, 1 and 2 and the tokenizer beside them."""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.llama2c_tokenizer import read_tokenizer
from puna.model.weights import tensor_shapes
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import write_sentencepiece, write_tokenizer_json
from tests.formats.hostile import run_mutants
from tests.formats.micro import SPM, micro_config
from tests.models import (
    llama2c_bytes,
    random_tensors,
    spm_tokenizer,
    tiny_config,
    tokenizer_bin_bytes,
    write_gguf,
    write_llama2c,
)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_sizes_and_weights_are_those_written(version: int, tied: bool, tmp_path: Path) -> None:
    config = tiny_config(tie_embeddings=tied, name="")
    tensors = random_tensors(config, seed=1)
    checkpoint = open_checkpoint(write_llama2c(tmp_path / "m.bin", config, tensors, version))
    assert tensor_shapes(checkpoint.config) == tensor_shapes(config) and checkpoint.tensors.keys() == tensors.keys()
    assert (checkpoint.config.max_context, checkpoint.config.norm_eps, checkpoint.config.rope.theta) == (128, 1e-5, 10000.0)
    for name, tensor in checkpoint.tensors.items():
        worst = np.abs(tensor.dequantize() - tensors[name]).max()
        assert worst <= (np.abs(tensors[name]).max() / 253 if version == 2 and len(tensor.shape) == 2 else 0), name


@pytest.mark.parametrize("group_size", [1, 4, 32])
def test_numbers_of_version_2_are_int8_with_one_scale_per_group(group_size: int, tmp_path: Path) -> None:
    config = tiny_config()
    tensor = open_checkpoint(write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1), 2, group_size)).tensors["embed"]
    assert tensor.type.name == "Q8_GROUP" and tensor.scales is not None and tensor.scales.flags.aligned
    assert tensor.data.shape == (300, 64) and tensor.scales.shape == (300, 64 // group_size)
    assert tensor.num_bytes == 300 * 64 + 4 * 300 * 64 // group_size
    assert np.array_equal(tensor.dequantize(5, 7), tensor.dequantize()[5:7])


def test_the_same_model_as_gguf_has_equal_weights(tmp_path: Path) -> None:
    config = tiny_config()
    tensors = random_tensors(config, 4)
    ours = [open_checkpoint(write_llama2c(tmp_path / f"{version}.bin", config, tensors, version)) for version in (0, 1)]
    theirs = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, tensors))
    for checkpoint in ours:
        for name, tensor in theirs.tensors.items():
            assert np.array_equal(checkpoint.tensors[name].dequantize(), tensor.dequantize())


def test_stories260k_is_equal_in_both_versions(shared_data: Path) -> None:
    old, new = (open_checkpoint(shared_data / "stories260K" / name) for name in ("stories260K.bin", "stories260K_v1.bin"))
    assert old.config == new.config and old.tokenizer is not None and len(old.tokenizer.tokens) == 512
    assert (old.config.num_layers, old.config.hidden_size, old.config.ffn_size, old.config.num_kv_heads) == (5, 64, 172, 4)
    assert old.config.tie_embeddings and old.tensors.keys() == new.tensors.keys()
    for name, tensor in old.tensors.items():
        assert np.array_equal(tensor.data[:], new.tensors[name].data[:]), name


def test_a_group_that_does_not_divide_the_rows_is_refused(tmp_path: Path) -> None:
    config = tiny_config(ffn_size=172)
    data = bytearray(llama2c_bytes(config, random_tensors(config, 1), 2, group_size=4))
    struct.pack_into("<i", data, 37, 64)
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(UnsupportedModelError, match="group_size 64 does not divide hidden_dim 172") as caught:
        open_checkpoint(tmp_path / "m.bin")
    assert "divides 4" in caught.value.hint


def test_a_file_of_the_wrong_length_is_told_both_lengths(tmp_path: Path) -> None:
    config = tiny_config()
    data = llama2c_bytes(config, random_tensors(config, 1), 1)
    (tmp_path / "m.bin").write_bytes(data + b"x")
    with pytest.raises(ModelFormatError, match=f"file at byte {len(data)}: is {len(data) + 1} bytes long; .* needs {len(data)}"):
        open_checkpoint(tmp_path / "m.bin")


WRONG_NUMBERS = [(4, 3, "version"), (8, 0, "dim"), (12, -1, "hidden_dim"), (16, 2**30, "n_layers"), (20, 0, "n_heads")]
WRONG_NUMBERS += [(20, 5, "n_heads"), (24, 3, "n_kv_heads"), (28, -300, "vocab_size"), (32, 0, "seq_len")]
WRONG_NUMBERS += [(36, 2, "shared_classifier"), (200, 1, "header")]


@pytest.mark.parametrize(("at", "number", "field"), WRONG_NUMBERS)
def test_a_wrong_number_of_the_header_is_named_with_its_byte(at: int, number: int, field: str, tmp_path: Path) -> None:
    config = tiny_config()
    data = bytearray(llama2c_bytes(config, random_tensors(config, 1), 1))
    struct.pack_into("<i", data, at, number)
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(ModelFormatError, match=field) as caught:
        open_checkpoint(tmp_path / "m.bin")
    assert caught.value.offset is not None and caught.value.offset <= at


@pytest.mark.parametrize("group_size", [0, -4])
def test_a_group_that_is_not_above_zero_is_refused(group_size: int, tmp_path: Path) -> None:
    config = tiny_config()
    data = bytearray(llama2c_bytes(config, random_tensors(config, 1), 2))
    struct.pack_into("<i", data, 37, group_size)
    (tmp_path / "m.bin").write_bytes(data)
    with pytest.raises(ModelFormatError, match="group_size at byte 37"):
        open_checkpoint(tmp_path / "m.bin")


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_file_cut_at_any_byte_is_refused(version: int, tmp_path: Path) -> None:
    config = micro_config(hidden_size=16, head_dim=8, ffn_size=16)
    data = llama2c_bytes(config, random_tensors(config, 1), version, group_size=16)
    path = tmp_path / "m.bin"
    path.write_bytes(data)
    open_checkpoint(path)
    for length in range(len(data) - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ModelFormatError):
            open_checkpoint(path)


def test_a_thousand_mutants_load_or_are_refused() -> None:
    run_mutants("llama2c", seed=2026, count=1_000)


@pytest.mark.full
def test_ten_thousand_mutants_load_or_are_refused() -> None:
    run_mutants("llama2c", seed=1, count=10_000)


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def test_a_tokenizer_comes_in_sentencepieces_spelling(tmp_path: Path) -> None:
    tokenizer = spm_tokenizer()
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(tokenizer_bin_bytes(tokenizer))
    spec = read_tokenizer(path, 300)
    assert spec.kind == "spm" and list(spec.tokens) == tokenizer.tokens
    assert spec.token_types is not None and spec.token_types.tolist() == tokenizer.types
    assert spec.scores is not None and spec.scores.tolist() == tokenizer.scores
    assert (spec.bos_id, spec.eos_id, spec.unk_id, spec.add_bos, spec.add_space_prefix) == (1, 2, 0, True, True)


def test_llama_2s_tokenizer_is_read(shared_data: Path) -> None:
    spec = read_tokenizer(shared_data / "llama2" / "tokenizer.bin", 32000)
    assert [spec.tokens[i] for i in (0, 1, 2, 3, 258)] == [b"<unk>", b"<s>", b"</s>", b"<0x00>", b"<0xFF>"]
    assert spec.tokens[15043] == "▁Hello".encode()


def test_the_tokenizer_named_after_the_vocabulary_goes_before_the_other(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1))
    (tmp_path / "tokenizer.bin").rename(tmp_path / "tok300.bin")
    (tmp_path / "tokenizer.bin").write_bytes(tokenizer_bin_bytes(spm_tokenizer(320)))
    checkpoint = open_checkpoint(path)
    assert checkpoint.files == (path, tmp_path / "tok300.bin")


def test_without_a_tokenizer_the_model_loads_all_the_same(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1))
    (tmp_path / "tokenizer.bin").unlink()
    assert open_checkpoint(path).tokenizer is None


def test_a_tokenizer_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1), tokenizer=spm_tokenizer(320))
    with pytest.raises(ModelFormatError, match=r"there are 320, but the model's vocabulary has 300"):
        open_checkpoint(path)


def test_a_given_tokenizer_is_the_one_that_is_read(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1), tokenizer=spm_tokenizer(320))
    (tmp_path / "mine").write_bytes(tokenizer_bin_bytes(spm_tokenizer()))
    spec = open_checkpoint(path, tokenizer=tmp_path / "mine").tokenizer
    assert spec is not None and spec.source == str(tmp_path / "mine")
    with pytest.raises(ModelNotFoundError, match="no such file"):
        open_checkpoint(path, tokenizer=tmp_path / "absent")


@pytest.mark.parametrize("kind", ["tokenizer.model", "tokenizer.json"])
def test_a_given_tokenizer_may_be_of_any_kind(kind: str, tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1))
    expected = open_checkpoint(path).tokenizer
    assert expected is not None
    write = {"tokenizer.model": write_sentencepiece, "tokenizer.json": write_tokenizer_json}[kind]
    (tmp_path / "other").mkdir()
    write(expected, tmp_path / "other" / kind)
    for given in (tmp_path / "other" / kind, tmp_path / "other"):
        spec = open_checkpoint(path, tokenizer=given).tokenizer
        assert spec is not None and spec.source == str(tmp_path / "other" / kind)
        assert build_tokenizer(spec).encode("the day was long") == build_tokenizer(expected).encode("the day was long")


def test_a_given_tokenizer_of_another_size_is_refused_with_both_sizes(tmp_path: Path, shared_data: Path) -> None:
    model = shared_data / "stories260K" / "stories260K.bin"
    for name in ("tokenizer.bin", "tokenizer.model"):
        with pytest.raises(ModelFormatError, match="there are 32000 tokens; the model has 512") as error:
            open_checkpoint(model, tokenizer=shared_data / "llama2" / name)
        assert "belongs to another model" in error.value.hint


def test_a_template_beside_a_model_is_found_in_the_settings_of_its_tokenizer(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_llama2c(tmp_path / "m.bin", config, random_tensors(config, 1))
    assert open_checkpoint(path).chat_template is None
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages }}"}')
    assert open_checkpoint(path).chat_template == "{{ messages }}"


def test_a_tokenizer_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(tokenizer_bin_bytes(spm_tokenizer()))
    for length in range(path.stat().st_size - 1, -1, -1):
        os.truncate(path, length)
        with pytest.raises(ModelFormatError):
            read_tokenizer(path, 300)


def test_a_tokenizer_of_absurd_size_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").touch()
    os.truncate(tmp_path / "tokenizer.bin", 33 << 20)
    with pytest.raises(ModelFormatError, match="a tokenizer has at most"):
        read_tokenizer(tmp_path / "tokenizer.bin", 300)


@pytest.mark.parametrize(("score", "length"), [(math.nan, 1), (math.inf, 1), (0.0, -1), (0.0, 100), (0.0, 2**31 - 1)])
def test_a_wrong_piece_is_named_with_its_byte(score: float, length: int, tmp_path: Path) -> None:
    data = bytearray(tokenizer_bin_bytes(SPM))
    struct.pack_into("<fi", data, 4, score, length)
    (tmp_path / "tokenizer.bin").write_bytes(data)
    with pytest.raises(ModelFormatError, match="token 0 at byte 4"):
        read_tokenizer(tmp_path / "tokenizer.bin", 12)
