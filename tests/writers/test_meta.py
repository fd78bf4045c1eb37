"""Folders that Meta's own package loads: its arguments, its rule for the feed-forward size, and a head for every model."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.convert import convert
from puna.errors import ModelFormatError
from puna.formats import open_checkpoint
from puna.formats.tokenizer_files import read_tokenizer_file
from puna.formats.torch_file import read_torch_file
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from puna.writers.base import WriteJob
from puna.writers.meta import META, ffn_keys
from tests.models import TinyTokenizer, bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf
from tests.tokenizers.folders import tiktoken_bytes

TIKTOKEN_SIZE = 520  # tokens of `tiktoken_bytes`, the special ones included


@dataclass
class ModelArgs:
    """The arguments of Llama 2's package, by their names: any other key of params.json is a TypeError."""

    dim: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    vocab_size: int = -1
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    max_batch_size: int = 32
    max_seq_len: int = 2048


def metas_ffn_size(dim: int, multiple_of: int, ffn_dim_multiplier: float | None = None) -> int:
    """What Meta's code computes."""
    hidden = int(2 * (4 * dim) / 3)
    if ffn_dim_multiplier is not None:
        hidden = int(ffn_dim_multiplier * hidden)
    return multiple_of * ((hidden + multiple_of - 1) // multiple_of)


def folder_of(config: ModelConfig, tmp_path: Path, shards: int = 1, tokenizer: TinyTokenizer | None = None) -> Path:
    """The model as GGUF and then as Meta's folder; with a SentencePiece tokenizer where none is named."""
    tokenizer = tokenizer or spm_tokenizer(config.vocab_size)
    source = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=7), "F32", tokenizer)
    return convert(source, tmp_path / "made", to="meta", shards=shards).path


def params_of(folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / "params.json").read_text())
    return values


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- params.json and puna.json --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"num_kv_heads": 4}, {"ffn_size": 51}, {"max_context": 4096}, {"norm_eps": 1e-6}],
    ids=str,
)
def test_llama_2s_package_takes_every_key(changes: dict[str, Any], tmp_path: Path) -> None:
    config = tiny_config(**changes)
    params = params_of(folder_of(config, tmp_path))
    arguments = ModelArgs(max_seq_len=128, max_batch_size=4, **params)
    assert (arguments.dim, arguments.vocab_size, arguments.n_kv_heads) == (64, 300, config.num_kv_heads)
    assert metas_ffn_size(arguments.dim, arguments.multiple_of, arguments.ffn_dim_multiplier) == config.ffn_size


def test_another_rotary_base_is_named_and_the_usual_one_is_not(tmp_path: Path) -> None:
    for number, theta in enumerate((10000.0, 1000000.0)):
        (tmp_path / str(number)).mkdir()
        folder = folder_of(tiny_config(rope=RopeConfig(theta=theta)), tmp_path / str(number))
        assert params_of(folder).get("rope_theta", 10000.0) == theta and ("rope_theta" in params_of(folder)) == bool(number)
        assert open_checkpoint(folder).config.rope.theta == theta


def test_with_llama_3s_tokenizer_the_base_is_always_named(tmp_path: Path) -> None:
    """Its code takes 500000 where there is none, and so does our reader."""
    (tmp_path / "tiktoken").write_bytes(tiktoken_bytes())
    config = tiny_config(vocab_size=TIKTOKEN_SIZE, name="made")
    source = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=7)))
    source = replace(source, tokenizer=read_tokenizer_file(tmp_path / "tiktoken", TIKTOKEN_SIZE))
    folder = tmp_path / "made"
    folder.mkdir()
    META.write(WriteJob(source, dict.fromkeys(source.tensors, "F32")), folder)
    params = params_of(folder)
    assert (folder / "tokenizer.model").read_bytes() == tiktoken_bytes()
    assert params["rope_theta"] == 10000.0 and open_checkpoint(folder).config == config
    del params["rope_theta"]
    (folder / "params.json").write_text(json.dumps(params))
    (folder / "puna.json").unlink()
    found = open_checkpoint(folder).config
    assert (found.rope, found.max_context) == (RopeConfig(theta=500000.0), 8192)


def test_what_meta_has_no_key_for_stands_beside_and_only_where_it_must(tmp_path: Path) -> None:
    for number, (changes, expected) in enumerate([
        ({"max_context": 77, "tie_embeddings": True}, {"max_context": 77, "tie_embeddings": True}),
        ({"max_context": 4096, "tie_embeddings": True}, {"tie_embeddings": True}),
        ({"max_context": 4096}, None),
    ]):  # fmt: skip
        (tmp_path / str(number)).mkdir()
        config = tiny_config(**changes)
        folder = folder_of(config, tmp_path / str(number))
        side = folder / "puna.json"
        assert (json.loads(side.read_text()) if side.exists() else None) == expected
        found = open_checkpoint(folder)
        assert (found.config.max_context, found.config.tie_embeddings) == (config.max_context, config.tie_embeddings)
        assert found.notices == () and found.unused_keys == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", r"puna.json: file at byte 0: holds \[\]; an object is needed"),
        ("{", "puna.json.*is not JSON"),
        ('{"max_context": "8"}', "max_context: is '8'; a whole number is needed"),
        ('{"max_context": 0}', r"puna.json: max_context: max_context is 0; it must lie in 1\.\.134217728"),
        ('{"max_context": 8, "max_context": 9}', "occurs twice"),
        ('{"tie_embeddings": 1}', "tie_embeddings: is 1; true or false is needed"),
        ('{"x": "' + "x" * (1 << 20) + '"}', "at most 1048576 are read"),
    ],
    ids=["list", "cut short", "text", "nothing", "twice", "number", "long"],
)
def test_a_side_file_that_is_wrong_is_named(text: str, words: str, tmp_path: Path) -> None:
    folder = folder_of(tiny_config(), tmp_path)
    (folder / "puna.json").write_text(text)
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(folder)


def test_two_contexts_must_agree_and_unknown_keys_are_listed(tmp_path: Path) -> None:
    folder = folder_of(tiny_config(max_context=77), tmp_path)
    rewrite(folder / "params.json", max_seq_len=77)
    rewrite(folder / "puna.json", colour="red")
    found = open_checkpoint(folder)
    assert found.config.max_context == 77 and found.unused_keys == ("puna.json: colour",)
    rewrite(folder / "params.json", max_seq_len=78)
    with pytest.raises(ModelFormatError, match=r"puna.json: max_context: is 77, but max_seq_len of params.json is 78"):
        open_checkpoint(folder)


# ---- the feed-forward size ------------------------------------------------------------------------------------------


def test_the_keys_give_every_feed_forward_size_by_metas_rule() -> None:
    for dim in range(16, 513):
        for size in (*range(1, 600), 2 * dim, 3 * dim + 1, 4 * dim, 4 * dim + 2):
            assert metas_ffn_size(dim, **ffn_keys(dim, size)) == size, (dim, size)


@pytest.mark.parametrize(
    ("dim", "size", "keys"),
    [(4096, 11008, {"multiple_of": 256}), (5120, 13824, {"multiple_of": 512}), (64, 172, {"multiple_of": 4})],
    ids=["Llama 2 7B", "Llama 2 13B", "stories260K"],
)
def test_known_sizes_need_no_multiplier(dim: int, size: int, keys: dict[str, int]) -> None:
    assert ffn_keys(dim, size) == keys


@pytest.mark.parametrize(
    ("dim", "size"), [(8192, 28672), (4096, 14336), (2048, 8192), (16384, 53248), (1 << 18, (1 << 20) - 1), (2, 1 << 20)]
)
def test_large_sizes_come_out_too(dim: int, size: int) -> None:
    assert metas_ffn_size(dim, **ffn_keys(dim, size)) == size


# ---- a tied output matrix -------------------------------------------------------------------------------------------

TIED = tiny_config(tie_embeddings=True, name="made")
CUTS = {"columns": spm_tokenizer, "rows of the vocabulary": bpe_tokenizer}


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("cut", CUTS)
def test_a_tied_model_has_a_head_for_metas_code_and_is_tied_again_when_it_is_read(cut: str, shards: int, tmp_path: Path) -> None:
    folder = folder_of(TIED, tmp_path, shards, CUTS[cut](TIED.vocab_size))
    values = random_tensors(TIED, seed=7)["embed"]
    parts = [read_torch_file(file) for file in sorted(folder.glob("*.pth"))]
    heads = [part["output.weight"].array() for part in parts]
    embeds = [part["tok_embeddings.weight"].array() for part in parts]
    assert np.array_equal(np.concatenate(heads), values)
    assert np.array_equal(np.concatenate(embeds, axis=int(cut == "columns")), values)
    found = open_checkpoint(folder)
    assert found.config.tie_embeddings and found.tensors.keys() == tensor_shapes(TIED).keys()
    again = convert(folder, tmp_path / "again.gguf", to="gguf").path
    assert open_checkpoint(again).config.tie_embeddings and "lm_head" not in open_checkpoint(again).tensors


@pytest.mark.parametrize("shards", [1, 2])
def test_a_head_that_was_trained_since_is_not_thrown_away(shards: int, tmp_path: Path) -> None:
    config = tiny_config()
    folder = folder_of(config, tmp_path, shards)
    (folder / "puna.json").write_text('{"max_context": 128, "tie_embeddings": true}')
    found = open_checkpoint(folder)
    assert not found.config.tie_embeddings
    assert np.array_equal(found.tensors["lm_head"].dequantize(), random_tensors(config, seed=7)["lm_head"])
    assert found.notices == ("puna.json says that output.weight is the embedding, but they differ: puna uses both",)


def test_two_equal_matrices_stay_two_where_the_source_had_two(tmp_path: Path) -> None:
    config, tensors = tiny_config(), random_tensors(tiny_config(), seed=7)
    source = write_gguf(tmp_path / "m.gguf", config, tensors | {"lm_head": tensors["embed"]})
    assert not open_checkpoint(convert(source, tmp_path / "made", to="meta").path).config.tie_embeddings


def test_a_folder_without_a_head_is_tied_as_before(tmp_path: Path) -> None:
    """As puna wrote it once: no output.weight, the context in params.json."""
    from puna.writers.torch_file import OutputArray, write_torch_file

    folder = folder_of(TIED, tmp_path)
    stored = read_torch_file(folder / "consolidated.00.pth")
    arrays = {name: OutputArray(t.dtype, t.shape, t.rows()[:].copy()) for name, t in stored.items() if name != "output.weight"}
    del stored
    (folder / "consolidated.00.pth").unlink()
    write_torch_file(folder / "consolidated.00.pth", arrays, lambda num_bytes: None)
    (folder / "puna.json").unlink()
    rewrite(folder / "params.json", max_seq_len=128)
    assert open_checkpoint(folder).config == TIED


def test_the_copy_takes_room_on_the_disk_and_none_in_memory(tmp_path: Path) -> None:
    config = tiny_config(vocab_size=8000, tie_embeddings=True)
    folder = folder_of(config, tmp_path, 2)
    (folder / "tokenizer.model").unlink()
    source = open_checkpoint(folder)
    assert META.copied_bytes(WriteJob(source, dict.fromkeys(source.tensors, "F16"))) == 8000 * 64 * 2
    tracemalloc.start()
    tensors = open_checkpoint(folder).tensors
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(tensor.num_bytes for tensor in tensors.values()) < 1.5 * 8000 * 64 * 4
    assert peak < 8000 * 64 * 4 / 2, peak
