"""GGUF files become checkpoints: sizes, weights, tokenizer, template, shards."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as peer
import numpy as np
import pytest

from puna.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError, UsageError
from puna.formats import open_checkpoint
from puna.formats.blocks import BLOCK_TYPES, GGUF_READABLE
from puna.formats.names import GGUF_NAMES, foreign_name
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig
from puna.model.weights import tensor_shapes
from tests.models import (
    CONFIGS,
    Draft,
    DraftValue,
    Floats,
    bpe_tokenizer,
    draft_gguf,
    encode,
    random_tensors,
    spm_tokenizer,
    tiny_config,
    write_gguf,
)

CONFIG = tiny_config()
WEIGHTS = random_tensors(CONFIG, seed=1)


def write(path: Path, edit: Callable[[Draft], Any] | None = None, **how: Any) -> Path:
    """The tiny model, its draft edited."""
    draft = draft_gguf(how.pop("config", CONFIG), how.pop("tensors", WEIGHTS), **how)
    if edit is not None:
        edit(draft)
    path.write_bytes(draft.to_bytes())
    return path


def with_values(*values: tuple[str, str, Any]) -> list[DraftValue]:
    return [DraftValue(key.encode(), kind, value) for key, kind, value in values]


@pytest.mark.parametrize("quant", GGUF_READABLE)
def test_sizes_and_weights_of_every_block_type_are_those_written(quant: str, tmp_path: Path) -> None:
    config = CONFIGS[quant]
    tensors = random_tensors(config, seed=2)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, tensors, quant))
    assert checkpoint.config == config and checkpoint.format == "gguf"
    assert list(checkpoint.tensors) == list(tensor_shapes(config))
    for name, tensor in checkpoint.tensors.items():
        kind = quant if tensors[name].ndim == 2 else "F32"
        assert (tensor.type.name, tensor.shape) == (kind, tensors[name].shape)
        assert np.array_equal(tensor.data[:], encode(tensors[name], kind))
        assert tensor.dequantize().shape == tensors[name].shape
    norm = checkpoint.tensors["final_norm"]
    assert np.array_equal(norm.dequantize(), tensors["final_norm"])


def test_rows_of_a_weight_can_be_taken_by_themselves(tmp_path: Path) -> None:
    embed = open_checkpoint(write(tmp_path / "m.gguf", quant="Q8_0")).tensors["embed"]
    assert np.array_equal(embed.dequantize(10, 13), embed.dequantize()[10:13])


def test_weights_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    data = open_checkpoint(write(tmp_path / "m.gguf")).tensors["embed"].data
    assert not data[:].flags.owndata and not data[:].flags.writeable


@pytest.mark.parametrize("quant", ["F32", "Q4_0", "Q6_K"])
def test_the_gguf_package_reads_what_the_tests_write(quant: str, tmp_path: Path) -> None:
    config = CONFIGS[quant]
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 3), quant)
    checkpoint = open_checkpoint(path)
    theirs = {tensor.name: tensor for tensor in peer.GGUFReader(path).tensors}
    for ours, tensor in checkpoint.tensors.items():
        found = theirs[foreign_name(GGUF_NAMES, ours)]
        assert found.tensor_type.name == tensor.type.name
        assert np.array_equal(np.ravel(found.data).view(np.uint8), np.ravel(tensor.data[:]))


@pytest.mark.parametrize("alignment", [32, 64, 4096])
def test_what_the_gguf_package_writes_is_read(alignment: int, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = peer.GGUFWriter(path, "llama")
    writer.add_custom_alignment(alignment)
    _describe(writer, CONFIG)
    tokenizer = bpe_tokenizer()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges([merge.decode() for merge in tokenizer.merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{{ messages }}")
    for ours, values in WEIGHTS.items():
        quant = peer.GGMLQuantizationType.Q8_0 if values.ndim == 2 else peer.GGMLQuantizationType.F32
        writer.add_tensor(foreign_name(GGUF_NAMES, ours), peer.quants.quantize(values, quant), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    checkpoint = open_checkpoint(path)
    assert checkpoint.config == CONFIG
    spec = checkpoint.tokenizer
    assert spec is not None and list(spec.tokens) == tokenizer.tokens and list(spec.merges) == tokenizer.merges
    assert spec.token_types is not None and spec.token_types.tolist() == tokenizer.types
    assert (spec.kind, spec.pre, spec.bos_id, spec.eos_id, spec.add_bos) == ("bpe", "smollm", 1, 2, False)
    assert checkpoint.chat_template == "{{ messages }}"
    assert np.array_equal(checkpoint.tensors["embed"].data[:], encode(WEIGHTS["embed"], "Q8_0"))


def _describe(writer: peer.GGUFWriter, config: ModelConfig) -> None:
    writer.add_name(config.name)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    writer.add_rope_dimension_count(config.head_dim)


# ---- sizes ----------------------------------------------------------------------------------------------------------


def test_absent_sizes_take_their_defaults(tmp_path: Path) -> None:
    absent = {b"llama.attention.head_count_kv", b"llama.attention.key_length", b"llama.rope.freq_base"}
    config = tiny_config(num_kv_heads=4)

    def edit(draft: Draft) -> None:
        draft.values = [value for value in draft.values if value.key not in absent]

    path = write(tmp_path / "m.gguf", edit, config=config, tensors=random_tensors(config, 1))
    assert open_checkpoint(path).config == config


def test_an_absent_output_matrix_ties_it_to_the_embedding(tmp_path: Path) -> None:
    config = tiny_config(tie_embeddings=True)
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", config=config, tensors=random_tensors(config, 1)))
    assert checkpoint.config.tie_embeddings and "lm_head" not in checkpoint.tensors


@pytest.mark.parametrize(
    ("values", "rope"),
    [
        ([("llama.rope.scaling.type", "string", "linear"), ("llama.rope.scaling.factor", "float32", 4.0)], ("linear", 4.0)),
        ([("llama.rope.scaling.factor", "float32", 2.0)], ("linear", 2.0)),
        ([("llama.rope.scale_linear", "float32", 2.0)], ("linear", 2.0)),
        ([("llama.rope.scaling.type", "string", "none"), ("llama.rope.scaling.factor", "float32", 4.0)], ("none", 1.0)),
        ([("llama.rope.scaling.factor", "float32", 0.0)], ("none", 1.0)),
    ],
)
def test_rotary_scaling_is_taken_from_its_keys(
    values: list[tuple[str, str, Any]], rope: tuple[str, float], tmp_path: Path
) -> None:
    config = open_checkpoint(write(tmp_path / "m.gguf", extra=with_values(*values))).config
    assert (config.rope.scaling, config.rope.factor) == rope


def test_rotary_factors_are_taken_from_their_tensor(tmp_path: Path) -> None:
    factors = (1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0)
    config = tiny_config(rope=RopeConfig(theta=500000.0, factors=factors))
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", config=config))
    assert checkpoint.config.rope.factors == factors and "rope_freqs" not in checkpoint.tensors


@pytest.mark.parametrize(
    ("key", "kind", "value"),
    [
        ("llama.expert_shared_count", "uint32", 1),
        ("llama.expert_gating_func", "uint32", 2),
        ("llama.attention.scale", "float32", 0.5),
        ("llama.attention.temperature_scale", "float32", 0.1),
        ("llama.rope.scaling.yarn_log_multiplier", "float32", 1.0),
        ("llama.final_logit_softcapping", "float32", 30.0),
        ("llama.attention.causal", "bool", 0),
        ("llama.logit_scale", "float32", 8.0),
        ("llama.rope.dimension_count", "uint32", 8),
        ("llama.attention.value_length", "uint32", 8),
        ("llama.rope.scaling.type", "string", "longrope"),
        ("llama.rope.scaling.yarn_ext_factor", "float32", 0.5),
    ],
)
def test_keys_that_would_change_results_are_refused(key: str, kind: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        open_checkpoint(write(tmp_path / "m.gguf", extra=with_values((key, kind, value))))


YARN_KEYS: list[tuple[str, str, Any]] = [
    ("llama.rope.scaling.type", "string", "yarn"),
    ("llama.rope.scaling.factor", "float32", 4.0),
    ("llama.rope.scaling.original_context_length", "uint32", 32),
]


@pytest.mark.parametrize(
    ("more", "changes"),
    [
        ([], {}),
        ([("llama.rope.scaling.yarn_beta_fast", "float32", 16.0)], {"beta_fast": 16.0}),
        ([("llama.rope.scaling.yarn_beta_slow", "float32", 2.0)], {"beta_slow": 2.0}),
        ([("llama.rope.scaling.attn_factor", "float32", 0.5)], {"attention_factor": 0.5 * (0.1 * math.log(4) + 1)}),
    ],
)
def test_yarn_scaling_is_read(more: list[tuple[str, str, Any]], changes: dict[str, Any], tmp_path: Path) -> None:
    expected = RopeConfig(scaling="yarn", factor=4.0, original_context=32, attention_factor=0.1 * math.log(4) + 1)
    found = open_checkpoint(write(tmp_path / "m.gguf", extra=with_values(*YARN_KEYS, *more))).config.rope
    assert found == replace(expected, **changes)


FAMILIES = {
    "llama with biases": tiny_config(qkv_bias=True, o_bias=True, ffn_bias=True),
    "qwen2": tiny_config(architecture="qwen2", qkv_bias=True),
    "qwen3": tiny_config(architecture="qwen3", qk_norm=True, tie_embeddings=True),
}


def half_split(config: ModelConfig, tensors: dict[str, Floats]) -> dict[str, Floats]:
    """Heads of q and k with the even numbers first, then the odd ones: as llama.cpp keeps Qwen's."""
    order = [*range(0, config.head_dim, 2), *range(1, config.head_dim, 2)]
    turned = dict(tensors)
    for name in tensors:
        if name.endswith(("q_proj", "k_proj", "q_bias", "k_bias", "q_norm", "k_norm")):
            values = tensors[name]
            turned[name] = values.reshape(-1, config.head_dim, *values.shape[1:])[:, order].reshape(values.shape)
    return turned


@pytest.mark.parametrize("quant", ["F32", "Q8_0"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_vectors_and_its_rotary_order(family: str, quant: str, tmp_path: Path) -> None:
    config = FAMILIES[family]
    tensors = random_tensors(config, seed=3)
    stored = tensors if config.architecture == "llama" else half_split(config, tensors)
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", config, stored, quant))
    assert checkpoint.config == config
    for name, values in tensors.items():
        kind = quant if values.ndim == 2 else "F32"
        expected = BLOCK_TYPES[kind].dequantize(encode(values, kind)).reshape(values.shape)
        assert np.array_equal(checkpoint.tensors[name].dequantize(), expected), name


def test_windows_are_read(tmp_path: Path) -> None:
    window = ("llama.attention.sliding_window", "uint32", 64)
    config = open_checkpoint(write(tmp_path / "a.gguf", extra=with_values(window))).config
    assert (config.sliding_window, config.windowed_layers) == (64, None)
    pattern = ("llama.attention.sliding_window_pattern", "array of bool", [False, True])
    config = open_checkpoint(write(tmp_path / "b.gguf", extra=with_values(window, pattern))).config
    assert tuple(layer.attention.window for layer in config.layers) == (0, 64)


def test_a_tensor_of_another_family_is_refused(tmp_path: Path) -> None:
    config = tiny_config(qk_norm=True)
    with pytest.raises(UnsupportedModelError, match=r"blk\.0\.attn_q_norm\.weight.*no part of a llama model"):
        open_checkpoint(write(tmp_path / "m.gguf", config=config, tensors=random_tensors(config, seed=1)))


def test_experts_one_by_one_are_refused_with_what_to_do(tmp_path: Path) -> None:
    experts = ("llama.expert_count", "uint32", 2), ("llama.expert_used_count", "uint32", 1)

    def edit(draft: Draft) -> None:
        draft.values.extend(with_values(*experts))
        next(tensor for tensor in draft.tensors if tensor.name == b"blk.0.ffn_up.weight").name = b"blk.0.ffn_up.0.weight"

    with pytest.raises(UnsupportedModelError, match=r"'blk\.0\.ffn_up\.0\.weight' is one expert's by itself") as caught:
        open_checkpoint(write(tmp_path / "m.gguf", edit))
    assert "newer conversion" in caught.value.hint


def test_an_error_of_a_size_names_the_key_and_its_byte(tmp_path: Path) -> None:
    def edit(draft: Draft) -> None:
        next(value for value in draft.values if value.key == b"llama.block_count").value = 5000

    path = write(tmp_path / "m.gguf", edit)
    at = path.read_bytes().index(b"llama.block_count") - 8
    with pytest.raises(ModelFormatError) as caught:
        open_checkpoint(path)
    assert (caught.value.file, caught.value.field, caught.value.offset) == (str(path), "llama.block_count", at)
    assert str(caught.value) == f"{path}: llama.block_count at byte {at}: num_layers is 5000; it must lie in 1..1024"


def test_a_wrong_shape_is_named_with_the_right_one(tmp_path: Path) -> None:
    tensors = WEIGHTS | {"layers.1.k_proj": np.ones((48, 64), np.float32)}
    with pytest.raises(ModelFormatError, match=r"blk.1.attn_k.weight.*\(48, 64\).*\(32, 64\)"):
        open_checkpoint(write(tmp_path / "m.gguf", tensors=tensors))


def test_an_unreadable_type_is_named_with_the_readable_ones(tmp_path: Path) -> None:
    def edit(draft: Draft) -> None:
        draft.tensors[4].code = 16

    with pytest.raises(UnsupportedModelError, match=r"is IQ2_XXS, which puna cannot read\. Readable: F32, F16, Q4_0"):
        open_checkpoint(write(tmp_path / "m.gguf", edit))


def test_another_architecture_is_named_before_its_tensor_types(tmp_path: Path) -> None:
    def edit(draft: Draft) -> None:
        draft.tensors[4].code = 39
        draft.values[0].value = "gpt-oss"

    with pytest.raises(UnsupportedModelError, match="architecture is 'gpt-oss'; puna runs: llama"):
        open_checkpoint(write(tmp_path / "m.gguf", edit))


def without(*keys: str) -> Callable[[Draft], Any]:
    def edit(draft: Draft) -> None:
        draft.values = [value for value in draft.values if value.key.decode() not in keys]

    return edit


@pytest.mark.parametrize(
    "key",
    [
        "general.architecture",
        "llama.block_count",
        "llama.context_length",
        "llama.attention.layer_norm_rms_epsilon",
        "tokenizer.ggml.tokens",
        "tokenizer.ggml.merges",
    ],
)
def test_a_key_without_which_nothing_can_be_done_is_asked_for(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=f"{key}: is missing"):
        open_checkpoint(write(tmp_path / "m.gguf", without(key), tokenizer=bpe_tokenizer()))


def test_a_sentencepiece_tokenizer_needs_its_scores(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"tokenizer\.ggml\.scores: is missing"):
        open_checkpoint(write(tmp_path / "m.gguf", without("tokenizer.ggml.scores"), tokenizer=spm_tokenizer()))


def test_token_types_may_be_absent(tmp_path: Path) -> None:
    """As in llama.cpp: all are ordinary then, but those that everybody knows as markers."""
    spec = open_checkpoint(write(tmp_path / "m.gguf", without("tokenizer.ggml.token_type"), tokenizer=bpe_tokenizer())).tokenizer
    assert spec is not None and spec.token_types is not None and spec.token_types.tolist() == [3, 3, 3, *[1] * 297]


def test_heads_that_do_not_divide_the_hidden_size_are_refused(tmp_path: Path) -> None:
    def edit(draft: Draft) -> None:
        without("llama.attention.key_length")(draft)
        next(value for value in draft.values if value.key == b"llama.attention.head_count").value = 5

    with pytest.raises(ModelFormatError, match=r"head_count .*is 5, which does not divide the hidden size 64"):
        open_checkpoint(write(tmp_path / "m.gguf", edit))


def test_rotary_factors_that_are_not_above_zero_are_refused(tmp_path: Path) -> None:
    def edit(draft: Draft) -> None:
        draft.tensors[-1].data = bytes(32)

    with pytest.raises(ModelFormatError, match=r"rope_freqs\.weight.*not finite and above 0"):
        open_checkpoint(write(tmp_path / "m.gguf", edit, config=tiny_config(rope=RopeConfig(factors=(1.0,) * 8))))


# ---- metadata -------------------------------------------------------------------------------------------------------


def test_metadata_tells_short_values_and_lengths_of_long_ones(tmp_path: Path) -> None:
    extra = with_values(("general.languages", "array of string", ["en", "fr"]), ("llama.x", "array of uint32", [1, 2]))
    metadata = open_checkpoint(write(tmp_path / "m.gguf", tokenizer=bpe_tokenizer(), extra=extra)).metadata
    assert metadata["llama.block_count"] == 2 and metadata["general.languages"] == ["en", "fr"] and metadata["llama.x"] == [1, 2]
    assert metadata["tokenizer.ggml.tokens"] == "300 x string"


def test_keys_that_are_not_used_are_told(tmp_path: Path) -> None:
    extra = with_values(("llama.mystery", "uint32", 1), ("general.author", "string", "me"), ("tokenizer.ggml.odd", "bool", 1))
    assert open_checkpoint(write(tmp_path / "m.gguf", extra=extra)).unused_keys == ("llama.mystery", "tokenizer.ggml.odd")


def test_a_name_with_control_characters_is_shown_harmless(tmp_path: Path) -> None:
    config = replace(CONFIG, name="a\x1b[2Jb\n" + "c" * 500)
    name = open_checkpoint(write(tmp_path / "m.gguf", config=config)).config.name
    assert name.isprintable() and name.startswith("a�[2Jb�c") and len(name) == 128


# ---- tokenizer ------------------------------------------------------------------------------------------------------


def test_a_model_without_tokenizer_loads(tmp_path: Path) -> None:
    assert open_checkpoint(write(tmp_path / "m.gguf")).tokenizer is None


def test_a_sentencepiece_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    tokenizer = spm_tokenizer()
    spec = open_checkpoint(write(tmp_path / "m.gguf", tokenizer=tokenizer)).tokenizer
    assert spec is not None and spec.kind == "spm" and list(spec.tokens) == tokenizer.tokens
    assert spec.scores is not None and spec.scores.tolist() == tokenizer.scores
    assert (spec.add_bos, spec.add_eos, spec.add_space_prefix) == (True, False, True)


def test_a_sentencepiece_tokenizer_has_llamas_special_ids_by_default(tmp_path: Path) -> None:
    tokenizer = replace(spm_tokenizer(), special={})
    spec = open_checkpoint(write(tmp_path / "m.gguf", tokenizer=tokenizer)).tokenizer
    assert spec is not None and (spec.bos_id, spec.eos_id, spec.unk_id, spec.pad_id) == (1, 2, 0, None)


@pytest.mark.parametrize(("pre", "add_bos"), [("llama-bpe", True), ("llama3", True), ("smollm", False), ("gpt-2", False)])
def test_bos_of_a_bpe_tokenizer_is_added_by_default_as_its_splitter_asks(pre: str, add_bos: bool, tmp_path: Path) -> None:
    spec = open_checkpoint(write(tmp_path / "m.gguf", tokenizer=replace(bpe_tokenizer(), pre=pre))).tokenizer
    assert spec is not None and (spec.add_bos, spec.add_space_prefix, spec.pre) == (add_bos, False, pre)


def test_the_files_own_rule_goes_before_the_default(tmp_path: Path) -> None:
    extra = with_values(("tokenizer.ggml.add_bos_token", "bool", 0), ("tokenizer.ggml.add_eos_token", "bool", 1))
    path = write(tmp_path / "m.gguf", tokenizer=replace(bpe_tokenizer(), pre="llama-bpe"), extra=extra)
    spec = open_checkpoint(path).tokenizer
    assert spec is not None and (spec.add_bos, spec.add_eos) == (False, True)


def test_a_tokenizer_file_beside_a_gguf_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds its own tokenizer"):
        open_checkpoint(write(tmp_path / "m.gguf"), tokenizer=tmp_path / "tokenizer.bin")


# ---- shards ---------------------------------------------------------------------------------------------------------


def write_shards(folder: Path, count: int = 3, edit: Callable[[list[Draft]], Any] | None = None) -> list[Path]:
    """The tiny model, split: the first shard holds the metadata and no tensor, as some tools write it."""
    whole = draft_gguf(CONFIG, WEIGHTS, "Q8_0", bpe_tokenizer())
    size = -(-len(whole.tensors) // (count - 1))
    drafts = []
    for number in range(count):
        split = with_values(
            ("split.no", "uint16", number), ("split.count", "uint16", count), ("split.tensors.count", "int32", len(whole.tensors))
        )
        tensors = whole.tensors[(number - 1) * size : number * size] if number else []
        drafts.append(Draft((whole.values if number == 0 else []) + split, tensors))
    if edit is not None:
        edit(drafts)
    paths = [folder / f"m-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    for path, draft in zip(paths, drafts):
        path.write_bytes(draft.to_bytes())
    return paths


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_a_split_model_opens_by_any_of_its_shards(opened: int, tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    checkpoint = open_checkpoint(paths[opened])
    assert checkpoint.config == CONFIG and checkpoint.files == tuple(paths)
    assert all(
        np.array_equal(checkpoint.tensors[name].data[:], encode(WEIGHTS[name], "Q8_0")) for name in ("embed", "layers.1.q_proj")
    )


def test_a_split_model_counts_once_in_its_folder(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    assert open_checkpoint(tmp_path).files == tuple(paths)


def test_missing_shards_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    paths[1].unlink()
    with pytest.raises(ModelNotFoundError, match=r"one of 3 files of a model; missing: m-00002-of-00003\.gguf"):
        open_checkpoint(paths[2])


def swap_numbers(drafts: list[Draft]) -> None:
    drafts[1], drafts[2] = drafts[2], drafts[1]


def repeat_a_tensor(drafts: list[Draft]) -> None:
    drafts[2].tensors.append(drafts[1].tensors[0])


def say_another_total(drafts: list[Draft]) -> None:
    drafts[0].values[-1].value = 5


@pytest.mark.parametrize(
    ("edit", "words"),
    [(swap_numbers, "split.no"), (repeat_a_tensor, "in another shard"), (say_another_total, "split.tensors.count")],
)
def test_shards_that_do_not_belong_together_are_refused(edit: Callable[[list[Draft]], Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=words):
        open_checkpoint(write_shards(tmp_path, edit=edit)[0])


def test_a_renamed_shard_is_told_how_it_should_be_called(tmp_path: Path) -> None:
    path = write_shards(tmp_path)[0].rename(tmp_path / "model.gguf")
    with pytest.raises(ModelFormatError, match="one of 3 files") as caught:
        open_checkpoint(path)
    assert "NAME-00001-of-00003.gguf" in caught.value.hint


def test_shards_are_only_looked_for_in_their_folder(tmp_path: Path) -> None:
    """The names of the other shards are made from the given one; nothing in the file can lead elsewhere."""
    folder = tmp_path / "..-00009-of-00003"
    folder.mkdir()
    paths = write_shards(folder)
    assert all(path.parent.samefile(folder) for path in open_checkpoint(paths[0]).files)
