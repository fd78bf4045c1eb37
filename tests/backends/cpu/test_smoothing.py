"""Smoothing loses nothing, and keeps int8 near float32 where keys have a few large channels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from puna.backends.cpu import model as cpu_model
from puna.backends.cpu.smoothing import LEAST, channel_factors, smoothing_factors
from puna.config import KVType
from puna.formats.base import Checkpoint, Tensor
from puna.model.spec import ModelConfig
from tests.conformance.test_backends import PAGES, forward, loaded, random_ids
from tests.fakes import random_checkpoint, tiny_config

CONFIGS = {
    "biases": tiny_config(qkv_bias=True, num_heads=6, num_kv_heads=2, head_dim=16),
    "norm-of-heads": tiny_config(qk_norm=True, num_heads=4, num_kv_heads=2, head_dim=16),
}


def with_large_channels(config: ModelConfig) -> Checkpoint:
    """A random model whose keys have a large pair of channels, from biases or from the norm of keys."""
    checkpoint, tensors = random_checkpoint(config, seed=3), dict[str, Tensor]()
    for name, tensor in checkpoint.tensors.items():
        if name.endswith(("k_bias", "k_norm")):
            values = tensor.dequantize().copy()
            values.reshape(-1, config.head_dim)[:, 4:6] *= 40
            tensors[name] = replace(tensor, data=values.view(np.uint8).reshape(tensor.data.shape))
    return replace(checkpoint, tensors={**checkpoint.tensors, **tensors})


def divergence(checkpoint: Checkpoint, kv: KVType) -> float:
    """The mean distance of logits from those of float32 K and V."""
    ids = random_ids(checkpoint.config, 60)
    rows = []
    kinds: list[KVType] = ["f32", kv]
    for kind in kinds:
        with loaded("cpu", checkpoint, kv=kind) as backend:
            rows.append(forward(backend, (ids, 0, PAGES)))
    return float(np.abs(rows[0] - rows[1]).mean())


@pytest.mark.parametrize("name", CONFIGS)
def test_int8_stays_near_float32_where_a_few_channels_are_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = with_large_channels(CONFIGS[name])
    smoothed = divergence(checkpoint, "int8")
    monkeypatch.setattr(cpu_model, "smoothing_factors", lambda config, tensors: ())
    plain = divergence(checkpoint, "int8")
    print(f"distance with smoothing {smoothed}, without {plain}")
    assert smoothed < 0.5 * plain


@pytest.mark.parametrize("name", CONFIGS)
def test_the_factors_of_queries_undo_those_of_keys(name: str) -> None:
    config = CONFIGS[name]
    factors = dict(smoothing_factors(config, with_large_channels(config).tensors))
    assert len(factors) == 2 * config.num_layers
    for number in range(config.num_layers):
        q = factors[f"layers.{number}.q_smoothing"].reshape(config.num_kv_heads, -1, config.head_dim)
        k = factors[f"layers.{number}.k_smoothing"].reshape(config.num_kv_heads, 1, config.head_dim)
        assert np.allclose(q * k, 1, rtol=1e-6)
        assert np.array_equal(k[..., 0::2], k[..., 1::2]), "a rotary pair has one factor"


def test_channels_of_no_size_are_not_divided_by_zero() -> None:
    factors = channel_factors(np.array([[0, 0, 0, 0], [0, 0, 3, 4]], np.float32))
    assert factors[0].tolist() == [1, 1, 1, 1]
    assert np.allclose(factors[1], np.array([LEAST, LEAST, 1, 1]) * 5**0.75)
