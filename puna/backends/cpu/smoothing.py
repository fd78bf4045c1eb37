"""Factors that make the channels of a key alike before int8 rounds it (SmoothAttention: Lin et al. 2024, arXiv 2405.04532).

A score is a sum over channels, so that q * s and k / s give the same. A key has one scale, by its largest number: where a model's
biases are large in a few channels (Qwen2), the others would be rounded coarsely. Here s follows from the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from puna.formats.base import Tensor
from puna.model.spec import ModelConfig

Floats = npt.NDArray[np.float32]
Tensors = Mapping[str, Tensor]

POWER = 0.75  # of a channel's size; of 0.5, 0.75, 1 the best for Qwen2.5 (docs/LOG.md). 1 would make all channels alike
LEAST = 1e-3  # of the largest factor of a head: an empty channel is not divided by 0


def smoothing_factors(config: ModelConfig, tensors: Tensors) -> Iterator[tuple[str, Floats]]:
    """`layers.N.q_smoothing` (num_heads * head_dim) and `layers.N.k_smoothing` (num_kv_heads * head_dim) of every layer, by which
    rotated queries and keys are multiplied."""
    for number in range(config.num_layers):
        factors = channel_factors(_channel_sizes(config, tensors, f"layers.{number}."))
        queries = np.repeat(factors, config.num_heads // config.num_kv_heads, axis=0)
        yield f"layers.{number}.q_smoothing", np.ascontiguousarray(queries.ravel())
        yield f"layers.{number}.k_smoothing", np.ascontiguousarray(1 / factors.ravel())


def channel_factors(sizes: Floats) -> Floats:
    """The factors of channels of these sizes; rotary pairs, which turn into each other, share one.  # (heads, head_dim)

    >>> channel_factors(np.float32([[3, 4, 0, 0]])).round(2).tolist() == np.float32([[3.34, 3.34, 0, 0]]).tolist()
    True
    """
    pairs = np.sqrt(np.square(sizes).reshape(len(sizes), -1, 2).sum(axis=2))
    factors = np.repeat(pairs**POWER, 2, axis=1)
    largest = factors.max(axis=1, keepdims=True)
    return np.asarray(np.maximum(factors, np.where(largest > 0, LEAST * largest, 1)), np.float32)


def _channel_sizes(config: ModelConfig, tensors: Tensors, layer: str) -> Floats:
    """The root mean square of each channel of a layer's keys, for uncorrelated inputs.  # (num_kv_heads, head_dim)"""
    shape = config.num_kv_heads, config.head_dim
    if (norm := tensors.get(f"{layer}k_norm")) is not None:
        weights = np.abs(norm.dequantize())
        return np.resize(weights, shape)  # of all heads, or of one, which then serves all
    gains = tensors.get(f"{layer}attn_norm")
    rows = tensors[f"{layer}k_proj"].dequantize()
    squares = np.square(rows if gains is None else rows * gains.dequantize()).sum(axis=1)
    bias = tensors.get(f"{layer}k_bias")
    return np.sqrt(squares if bias is None else squares + np.square(bias.dequantize())).reshape(shape)
