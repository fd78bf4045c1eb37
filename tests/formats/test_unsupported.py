"""Files that are not readable language models: the error names their kind and the next step, and never says damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import DamagedFileError, ModelFormatError, PunaError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.unsupported import FILES, FOLDERS, GGUF_KINDS, QUANTISATIONS
from tests.models import draft_gguf, random_tensors, tiny_config, write_gguf, write_llama2c

CONFIG = tiny_config()
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "vocab_size": 300,
    "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


def refused(path: Path) -> PunaError:
    with pytest.raises(PunaError) as caught:
        open_checkpoint(path)
    assert caught.value.hint and "damaged" not in caught.value.line
    assert not isinstance(caught.value, DamagedFileError)
    return caught.value


@pytest.mark.parametrize("row", FILES, ids=lambda row: row.what[:32])
def test_a_foreign_file_is_named_by_its_first_bytes(row: Any, tmp_path: Path) -> None:
    for number, beginning in enumerate(row.beginnings):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(bytes(row.at) + beginning + bytes(600))
        error = refused(path)
        assert row.what in error.message and error.hint == row.cure


@pytest.mark.parametrize("row", FOLDERS, ids=lambda row: row.what[:32])
@pytest.mark.parametrize("with_config", [True, False], ids=["with config.json", "alone"])
def test_a_foreign_folder_is_named_by_what_lies_in_it(row: Any, with_config: bool, tmp_path: Path) -> None:
    for number, mark in enumerate(row.marks):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / mark.replace("*", "x")).write_bytes(b"1")
        if with_config:
            (folder / "config.json").write_text(json.dumps(LLAMA))
        error = refused(folder)
        assert row.what in error.message and error.hint == row.cure


def test_a_model_that_puna_reads_is_read_though_an_export_lies_beside_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", CONFIG, random_tensors(CONFIG, seed=1))
    (tmp_path / "model.onnx").write_bytes(b"1")
    assert open_checkpoint(tmp_path).format == "gguf"
    (tmp_path / "m.gguf").unlink()
    write_llama2c(tmp_path / "model.bin", CONFIG, random_tensors(CONFIG, seed=1))
    assert open_checkpoint(tmp_path).format == "llama2c"


@pytest.mark.parametrize(
    ("name", "words"), [("unsloth/Llama-3.2-1B", "for unsloth/Llama-3.2-1B, not a model"), (None, "adapter, not a")]
)
def test_an_adapter_alone_names_its_base_model(name: str | None, words: str, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": name}))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"1")
    error = refused(tmp_path)
    assert "holds a LoRA adapter" in error.message and words in error.message and "Merge it" in error.hint


@pytest.mark.parametrize("kind", GGUF_KINDS)
@pytest.mark.parametrize("key", ["general.type", "general.architecture"])
def test_a_gguf_file_that_is_a_part_or_a_tools_is_named(kind: str, key: str, tmp_path: Path) -> None:
    draft = draft_gguf(CONFIG, random_tensors(CONFIG, seed=1))
    from tests.models import DraftValue

    draft.values = [value for value in draft.values if value.key != key.encode()] + [DraftValue(key.encode(), "string", kind)]
    (tmp_path / "m.gguf").write_bytes(draft.to_bytes())
    assert GGUF_KINDS[kind][0] in refused(tmp_path / "m.gguf").message


def folder_of(path: Path, config: dict[str, Any], names: dict[str, Any]) -> Path:
    from safetensors.numpy import save_file

    path.mkdir()
    (path / "config.json").write_text(json.dumps({**LLAMA, **config}))
    save_file(names, path / "model.safetensors")
    return path


@pytest.mark.parametrize("method", QUANTISATIONS)
def test_a_quantisation_that_puna_does_not_read_is_named(method: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "m", {"quantization_config": {"quant_method": method}}, {"x": np.zeros(2, np.float32)})
    error = refused(folder)
    assert QUANTISATIONS[method] in error.message and "GGUF" in error.hint


@pytest.mark.parametrize(
    ("config", "names", "words"),
    [
        ({"quantization": {"group_size": 64, "bits": 4}}, ("weight", "scales", "biases"), "MLX"),
        (
            {"quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"group_size": 64, "bits": 4}},
            ("weight", "scales", "biases"),
            "MLX",
        ),
        ({}, ("q_weight", "q_groups", "q_scale"), "EXL2"),
        ({}, ("trellis", "svh", "suh"), "EXL3"),
    ],
)
def test_weights_of_mlx_and_exllama_are_named_without_a_method(
    config: dict[str, Any], names: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    arrays = {f"model.layers.0.self_attn.q_proj.{name}": np.zeros((4, 4), np.uint32) for name in names}
    assert words in refused(folder_of(tmp_path / "m", config, arrays)).message


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "generation_config.json", "tokenizer_config.json"]
)
def test_a_settings_file_in_the_place_of_a_model_is_no_tokenizer(name: str, tmp_path: Path) -> None:
    contents = {
        "config.json": LLAMA,
        "model.safetensors.index.json": {"weight_map": {}},
        "generation_config.json": {"eos_token_id": 2},
    }
    (tmp_path / name).write_text(json.dumps(contents.get(name, {"tokenizer_class": "LlamaTokenizer"})))
    error = refused(tmp_path / name)
    assert "settings file" in error.message and error.hint == "Give the folder, not this file."


def test_a_folder_of_settings_alone_is_an_incomplete_download(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(PunaError, match="no weights"):
        open_checkpoint(tmp_path)


def test_both_kinds_of_refusal_are_there() -> None:
    assert issubclass(DamagedFileError, ModelFormatError) and not issubclass(UnsupportedModelError, ModelFormatError)
