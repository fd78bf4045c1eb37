"""Cutting a model into parts and putting it together again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from puna.errors import UsageError
from puna.formats.shards import BY_COLUMNS, BY_VOCABULARY, check_parts, cut, cut_of, joined, part_of
from puna.model.spec import AttentionSpec, Dense, Experts, ModelConfig
from puna.model.weights import Cut, tensor_shapes
from tests.fakes import random_checkpoint, tiny_config, with_layers

CONFIG = tiny_config(num_heads=8, num_kv_heads=4, hidden_size=64, ffn_size=128, vocab_size=97, qkv_bias=True, o_bias=True)


@pytest.mark.parametrize("cuts", [BY_COLUMNS, BY_VOCABULARY], ids=["by columns", "by vocabulary"])
@pytest.mark.parametrize("quant", ["F32", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("count", [1, 2])
def test_parts_put_together_are_the_whole(count: int, quant: str, cuts: Mapping[str, Cut]) -> None:
    checkpoint = random_checkpoint(CONFIG, quant, seed=1)
    parts = [cut(checkpoint, rank, count, cuts) for rank in range(count)]
    for name, tensor in checkpoint.tensors.items():
        whole = joined([part[name].data for part in parts], cut_of(name, cuts))
        assert np.array_equal(whole[:], tensor.data[:]), name


def test_a_part_computes_its_share_of_a_product() -> None:
    checkpoint = random_checkpoint(CONFIG, seed=2)
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    parts = [cut(checkpoint, rank, 2) for rank in range(2)]
    rows = np.concatenate([part["layers.0.gate_proj"].dequantize() @ x for part in parts])
    sums = sum(part["layers.0.o_proj"].dequantize() @ half for part, half in zip(parts, np.split(x, 2)))
    np.testing.assert_allclose(rows, checkpoint.tensors["layers.0.gate_proj"].dequantize() @ x, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums, checkpoint.tensors["layers.0.o_proj"].dequantize() @ x, rtol=1e-5, atol=1e-5)


def test_more_parts_than_kv_heads_repeat_them() -> None:
    checkpoint = random_checkpoint(CONFIG, seed=3)
    parts = [cut(checkpoint, rank, 8) for rank in range(8)]
    keys = checkpoint.tensors["layers.1.k_proj"].dequantize().reshape(4, 8, 64)
    for rank, part in enumerate(parts):
        assert np.array_equal(part["layers.1.k_proj"].dequantize(), keys[rank // 2])
        assert part["layers.1.q_proj"].shape == (8, 64) and part["layers.1.k_bias"].shape == (8,)


@pytest.mark.parametrize(
    ("config", "count", "works"),
    [
        (CONFIG, 3, "1, 2, 4, 8"),
        (CONFIG, 0, "1, 2, 4, 8"),
        (tiny_config(num_heads=9, num_kv_heads=3, hidden_size=576, ffn_size=1536), 2, "1, 3"),
    ],
)
def test_a_number_that_does_not_work_is_refused_with_those_that_do(config: ModelConfig, count: int, works: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be split in {count} parts") as caught:
        check_parts(config, count)
    assert caught.value.hint == f"These numbers of parts work: {works}."


@pytest.mark.parametrize(
    ("attention", "ffn", "words"),
    [
        (AttentionSpec(qk_norm="full"), Dense(96), "full qk_norm"),
        (AttentionSpec(), Experts(64, count=4, top_k=2), "experts"),
    ],
)
def test_what_needs_more_sums_is_not_split(attention: AttentionSpec, ffn: Dense | Experts, words: str) -> None:
    config = with_layers(CONFIG, attention, ffn, "after")
    check_parts(config, 1)
    with pytest.raises(UsageError, match=f"cannot be split in parts: it has {words}\n"):
        check_parts(config, 2)


def test_a_block_that_would_be_cut_becomes_numbers() -> None:
    checkpoint = random_checkpoint(CONFIG, "Q8_0", seed=4)
    parts = [cut(checkpoint, rank, 4)["layers.0.o_proj"] for rank in range(4)]  # 64 columns: 16 each, half a block
    assert {part.type.name for part in parts} == {"F16"}
    whole = checkpoint.tensors["layers.0.o_proj"].dequantize()
    np.testing.assert_allclose(np.concatenate([part.dequantize() for part in parts], axis=1), whole, rtol=1e-3)


def test_a_large_block_that_would_be_cut_becomes_small_ones() -> None:
    config = tiny_config(num_heads=4, num_kv_heads=2, head_dim=128, hidden_size=512, ffn_size=256)
    checkpoint = random_checkpoint(config, "Q6_K", seed=6)
    parts = [cut(checkpoint, rank, 4)["layers.0.o_proj"] for rank in range(4)]  # 512 columns: 128 each, half a block
    assert {part.type.name for part in parts} == {"Q8_0"}
    whole = checkpoint.tensors["layers.0.o_proj"].dequantize()
    found = np.concatenate([part.dequantize() for part in parts], axis=1)
    assert np.abs(found - whole).max() < np.abs(whole).max() / 127


def test_a_part_is_a_model_of_its_own_sizes() -> None:
    checkpoint = random_checkpoint(CONFIG, seed=5)
    for count, kv_heads in ((2, 2), (4, 1), (8, 1)):
        parts = [part_of(checkpoint, rank, count) for rank in range(count)]
        assert sum(part.config.vocab_size for part in parts) == 97
        for part in parts:
            assert (part.config.num_heads, part.config.num_kv_heads) == (8 // count, kv_heads)
            assert {name: tensor.shape for name, tensor in part.tensors.items()} == tensor_shapes(part.config)
    assert part_of(checkpoint, 0, 1) is checkpoint
