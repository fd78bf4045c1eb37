"""Rotary settings that contradict each other: random ones, each read as transformers reads it, or refused by name.

The oracle is the configuration class and the rotary embedding of transformers, asked for frequencies and for the factor of cos
and sin. What is compared is `RopeConfig.frequencies` and `attention_factor`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import UnsupportedModelError
from puna.formats.huggingface_config import read_config
from puna.formats.huggingface_rope import rope_notices
from puna.formats.json_file import JsonObject

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 96, "head_dim": 16,
}  # fmt: skip
KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
CASES = 160


def scaling(rng: random.Random) -> dict[str, Any]:
    """Keys of one kind, perhaps the old name of the kind beside the new one, perhaps keys of another kind."""
    kind = rng.choice(KINDS)
    keys: dict[str, Any] = {rng.choice(("rope_type", "type")): kind}
    if rng.random() < 0.2:
        keys |= {"rope_type": kind, "type": rng.choice(KINDS)}
    if kind != "default" or rng.random() < 0.2:
        keys["factor"] = rng.choice((2.0, 4.0, 8.0))
    if kind == "llama3" or rng.random() < 0.1:
        keys |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if kind in ("llama3", "yarn") and rng.random() < 0.8:
        keys["original_max_position_embeddings"] = rng.choice((16, 32, 64))
    if rng.random() < 0.5:
        keys["rope_theta"] = rng.choice((1e4, 5e5, 1e6))
    if kind == "yarn" and rng.random() < 0.3:
        keys |= {"beta_fast": 16.0, "beta_slow": 2.0}
    return keys


def contradicting_config(rng: random.Random, model_type: str) -> dict[str, Any]:
    config: dict[str, Any] = {"model_type": model_type, "max_position_embeddings": rng.choice((128, 256)), **SIZES}
    if rng.random() < 0.7:
        config["rope_theta"] = rng.choice((1e4, 5e5, 1e6))
    if rng.random() < 0.6:
        config["rope_scaling"] = rng.choice((None, {}, scaling(rng), scaling(rng)))
    if rng.random() < 0.6:
        config["rope_parameters"] = rng.choice((None, {}, scaling(rng), scaling(rng)))
    if rng.random() < 0.3:
        config["original_max_position_embeddings"] = rng.choice((16, 32, 64))
    return config


def theirs(config: dict[str, Any]) -> tuple[np.ndarray[Any, Any], float]:
    """Frequencies (radians per position of each pair) and the factor of cos and sin."""
    import copy

    import transformers
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    made = transformers.AutoConfig.for_model(**copy.deepcopy(config))
    rotary = LlamaRotaryEmbedding(made)
    return rotary.inv_freq.double().numpy(), float(rotary.attention_scaling)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_rotary_settings_that_contradict_each_other_are_read_as_transformers_reads_them(model_type: str) -> None:
    read = told = 0
    for seed in range(CASES // 4):
        config = contradicting_config(random.Random(f"{model_type} {seed}"), model_type)
        document = JsonObject(Path("config.json"), config)
        ours = read_config(document, "tiny").rope
        frequencies, factor = theirs(config)
        assert np.allclose(ours.frequencies(16), frequencies, rtol=1e-5, atol=0), (seed, config, ours)
        assert ours.attention_factor == pytest.approx(factor, rel=1e-6), (seed, config)
        read += 1
        told += bool(rope_notices(document))
    assert read == CASES // 4 and told > read / 4


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_theta is 10000, in rope_par"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
            "is of rope_type 'dynamic' and type 'linear'",
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
            "rope_parameters and rope_scaling differ; puna uses rope_scaling",
        ),
        ({"rope_scaling": {"type": "default", "factor": 2.0}}, "of type 'default' does not use factor"),
        (
            {
                "original_max_position_embeddings": 32,
                "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64},
            },
            "is 32, in rope_scaling 64; puna uses 32",
        ),
    ],
)
def test_each_contradiction_of_rotary_settings_is_told(keys: dict[str, Any], words: str) -> None:
    (notice,) = rope_notices(JsonObject(Path("config.json"), {"model_type": "llama", **SIZES, **keys}))
    assert words in notice


@pytest.mark.parametrize(
    "same", [{"rope_theta": 5e5}, {"rope_scaling": {"type": "linear", "rope_type": "linear", "factor": 2.0}}]
)
def test_the_same_said_twice_is_no_contradiction(same: dict[str, Any]) -> None:
    twice = {**same, "rope_parameters": same.get("rope_scaling", {"rope_type": "default", "rope_theta": 5e5})}
    assert rope_notices(JsonObject(Path("config.json"), {**SIZES, **twice})) == ()


def test_a_key_that_nobody_knows_is_refused_by_name() -> None:
    keys = {"model_type": "llama", **SIZES, "rope_scaling": {"type": "linear", "factor": 4.0, "gamma": 1}}
    with pytest.raises(UnsupportedModelError, match="has the key 'gamma'"):
        read_config(JsonObject(Path("config.json"), keys), "tiny")
