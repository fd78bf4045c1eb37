"""Meta's folders: any number of shards in both layouts become one model; incomplete folders give an error."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import ModelFormatError, ModelNotFoundError, PunaError, UnsupportedModelError
from puna.formats import open_checkpoint
from puna.formats.base import Checkpoint
from puna.formats.names import META_NAMES, foreign_name
from puna.formats.shards import BY_COLUMNS, BY_VOCABULARY, cut_of
from puna.model.rope import RopeConfig
from puna.model.weights import Cut
from puna.writers.torch_file import OutputArray, write_torch_file
from tests.models import Floats, random_tensors, tiny_config

CONFIG = tiny_config(num_heads=8, num_kv_heads=4, head_dim=8, vocab_size=320)
WEIGHTS = random_tensors(CONFIG, seed=4)
PARAMS: dict[str, Any] = {
    "dim": CONFIG.hidden_size, "n_layers": CONFIG.num_layers, "n_heads": CONFIG.num_heads, "n_kv_heads": CONFIG.num_kv_heads,
    "multiple_of": 256, "norm_eps": 1e-5, "vocab_size": -1,
}  # fmt: skip


def parts_of(values: Floats, cut: Cut, count: int) -> list[Floats]:
    """By numpy alone: no code of the reader's."""
    if cut.direction == "whole":
        return [values] * count
    repeats = count // min(count, CONFIG.num_kv_heads) if cut.by_heads else 1
    made = np.split(values, count // repeats, axis=0 if cut.direction == "rows" else 1)
    return [part for part in made for _ in range(repeats)]


def write_shards(
    folder: Path,
    count: int,
    cuts: Mapping[str, Cut] = BY_COLUMNS,
    change: Callable[[int, dict[str, Floats]], object] | None = None,
    **params: Any,
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    parts = {name: parts_of(values, cut_of(name, cuts), count) for name, values in WEIGHTS.items()}
    for rank in range(count):
        state = {foreign_name(META_NAMES, name): part[rank] for name, part in parts.items()}
        state["rope.freqs"] = np.ones(4, np.float32)
        if change is not None:
            change(rank, state)
        arrays = {name: _array(values) for name, values in state.items()}
        write_torch_file(folder / f"consolidated.{rank:02}.pth", arrays, lambda num_bytes: None)
    return folder


def _array(values: Floats) -> OutputArray:
    values = np.ascontiguousarray(values)
    rows = values.view(np.uint8).reshape(int(np.prod(values.shape[:-1])), -1)
    return OutputArray({2: "F16", 4: "F32"}[values.itemsize], values.shape, rows)


def require_whole(checkpoint: Checkpoint) -> None:
    assert checkpoint.tensors.keys() == WEIGHTS.keys()
    for name, values in WEIGHTS.items():
        assert np.array_equal(checkpoint.tensors[name].dequantize(), values), name
        assert np.array_equal(checkpoint.tensors[name].dequantize(0, 1), values[:1] if values.ndim == 2 else values), name


@pytest.mark.parametrize("cuts", [BY_COLUMNS, BY_VOCABULARY], ids=["as Llama 1 and 2", "as Llama 3"])
@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_any_number_of_shards_becomes_one_model(count: int, cuts: Mapping[str, Cut], tmp_path: Path) -> None:
    """Eight shards of four K/V heads hold each of them twice."""
    checkpoint = open_checkpoint(write_shards(tmp_path / "m", count, cuts))
    assert checkpoint.format == "meta" and len(checkpoint.files) == count and checkpoint.unused_keys == ()
    require_whole(checkpoint)


def test_any_file_of_the_folder_stands_for_it(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 2)
    assert open_checkpoint(folder / "consolidated.01.pth").path == folder


def test_putting_shards_together_holds_no_copy(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 4)
    open_checkpoint(folder)
    tracemalloc.start()
    checkpoint = open_checkpoint(folder)
    for tensor in checkpoint.tensors.values():
        for first in range(len(tensor.data)):
            tensor.data[first : first + 1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = max(tensor.num_bytes for tensor in checkpoint.tensors.values())
    assert peak < 600_000 + largest, peak


# ---- params.json ----------------------------------------------------------------------------------------------------

LLAMA3 = RopeConfig(theta=500000.0, scaling="llama3", factor=8.0, original_context=8192)


@pytest.mark.parametrize(
    ("params", "rope", "context"),
    [
        ({"norm_eps": 1e-6}, RopeConfig(), 2048),
        ({}, RopeConfig(), 4096),
        ({"rope_theta": 500000.0}, RopeConfig(theta=500000.0), 8192),
        ({"rope_theta": 1000000.0}, RopeConfig(theta=1000000.0), 16384),
        ({"rope_theta": 500000.0, "use_scaled_rope": True}, LLAMA3, 131072),
        ({"max_seq_len": 77}, RopeConfig(), 77),
    ],
    ids=["Llama 1", "Llama 2", "Llama 3", "CodeLlama", "Llama 3.1", "a given context"],
)
def test_each_generation_has_its_rotary_embedding_and_context(
    params: dict[str, Any], rope: RopeConfig, context: int, tmp_path: Path
) -> None:
    config = open_checkpoint(write_shards(tmp_path / "m", 1, **params)).config
    assert (config.rope, config.max_context) == (rope, context)


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"dim": None}, ModelFormatError, "dim: is missing"),
        ({"dim": "64"}, ModelFormatError, "dim: is '64'"),
        ({"n_layers": 3}, ModelFormatError, r"'layers.2.attention_norm.weight': is missing; the model has 3 layers"),
        ({"n_layers": 1}, UnsupportedModelError, r"'layers.1.* is no part of a LLaMA model of 1 layers"),
        ({"n_heads": 7}, ModelFormatError, "n_heads: is 7, which does not divide dim 64"),
        ({"n_kv_heads": 3}, ModelFormatError, "num_kv_heads is 3"),
        ({"vocab_size": 32000}, ModelFormatError, "vocab_size: is 32000, but the embedding has 320 rows"),
        ({"dim": 96}, ModelFormatError, "has 64 rows; heads of 96 rows in all cannot be split so"),
        ({"moe": {"num_experts": 8}}, UnsupportedModelError, "moe is set, which changes results"),
        ({"vision_chunk_size": 560}, UnsupportedModelError, "vision_chunk_size is set"),
        ({"quantization_args": {"group_size": 32}}, UnsupportedModelError, "quantization_args is set"),
        ({"norm_eps": 0}, ModelFormatError, "norm_eps is 0"),
        ({"head_dim": 10**4299}, ModelFormatError, "a number has 4300 digits"),
        ({"head_dim": 10**400, "n_heads": 10**400}, ModelFormatError, "cannot be split so"),
        ({"rope_theta": [1]}, ModelFormatError, r"rope_theta: is \[1\]; a number is needed"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], error: type[PunaError], words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        open_checkpoint(write_shards(tmp_path / "m", 1, **params))


def test_unknown_parameters_are_listed(tmp_path: Path) -> None:
    assert open_checkpoint(write_shards(tmp_path / "m", 1, colour="red")).unused_keys == ("colour",)


def test_mistrals_own_keys_are_read(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 1, head_dim=8, hidden_dim=CONFIG.ffn_size, sliding_window=64)
    assert open_checkpoint(folder).config.sliding_window == 64


def test_mistrals_own_folders_hold_safetensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    save_file({foreign_name(META_NAMES, name): values for name, values in WEIGHTS.items()}, tmp_path / "consolidated.safetensors")
    for path in (tmp_path, tmp_path / "consolidated.safetensors"):
        require_whole(open_checkpoint(path))


def test_a_template_is_found_in_the_settings_of_the_tokenizer(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 1)
    (folder / "tokenizer_config.json").write_text('{"chat_template": [{"name": "default", "template": "{{ messages }}"}]}')
    assert open_checkpoint(folder).chat_template == "{{ messages }}"
    (folder / "chat_template.jinja").write_text("own file")
    assert open_checkpoint(folder).chat_template == "own file"


# ---- folders that are not whole -------------------------------------------------------------------------------------


def test_missing_shards_are_named(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 4)
    (folder / "consolidated.00.pth").unlink()
    (folder / "consolidated.02.pth").unlink()
    with pytest.raises(ModelNotFoundError, match=r"holds shard 01, 03 of 4 of a Meta checkpoint; 00, 02 are missing"):
        open_checkpoint(folder)


def test_shards_of_two_checkpoints_are_told(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 2)
    shutil.copy(folder / "consolidated.01.pth", folder / "consolidated.02.pth")
    with pytest.raises(ModelFormatError, match=r"are 3 \(00, 01, 02\), but each holds a 2th of the model"):
        open_checkpoint(folder)


def test_a_folder_without_params_says_so(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 1)
    (folder / "params.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"but no params\.json"):
        open_checkpoint(folder)


def test_files_of_other_names_are_told(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "m", 1)
    (folder / "consolidated.00.pth").rename(folder / "model.pth")
    with pytest.raises(ModelNotFoundError, match=r"no consolidated\.NN\.pth \(but model\.pth\)"):
        open_checkpoint(folder)


def _drop(rank: int, state: dict[str, Floats]) -> None:
    if rank == 1:
        del state["layers.1.feed_forward.w2.weight"]


def _more(rank: int, state: dict[str, Floats]) -> None:
    if rank == 1:
        state["layers.0.attention.wq.bias"] = np.ones(4, np.float32)


def _narrow(rank: int, state: dict[str, Floats]) -> None:
    if rank == 1:
        state["layers.0.attention.wo.weight"] = state["layers.0.attention.wo.weight"][:, :-8]


def _half(rank: int, state: dict[str, Floats]) -> None:
    if rank == 1:
        state["norm.weight"] = state["output.weight"] = state["output.weight"].astype(np.float16)
        state["norm.weight"] = np.ones(64, np.float32)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (_drop, ModelFormatError, r"consolidated.01.pth: tensor 'layers.1.feed_forward.w2.weight': is missing"),
        (_more, UnsupportedModelError, r"consolidated.01.pth: tensor 'layers.0.attention.wq.bias' is no part"),
        (_narrow, ModelFormatError, r"has shape \(64, 24\); a shard of a tensor \(64, 64\) split in 2 must be \(64, 32\)"),
        (_half, ModelFormatError, r"is F16, but its other part in consolidated.00.pth is F32"),
    ],
)
def test_a_shard_that_does_not_fit_is_named(
    change: Callable[[int, dict[str, Floats]], object], error: type[PunaError], words: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        open_checkpoint(write_shards(tmp_path / "m", 2, change=change))
