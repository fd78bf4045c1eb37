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

from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.huggingface_config import read_config
from puna.formats.huggingface_rope import rope_notices
from puna.formats.json_file import JsonObject
from puna.model.spec import is_near

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


def of_sizes(hidden: int, ffn: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads}
    return sizes | more


QWEN3_30B = of_sizes(2048, 6144, 48, 32, head_dim=128, vocab_size=151936, rope_theta=1e6) | {
    "num_key_value_heads": 4, "max_position_embeddings": 40960, "num_experts": 128, "num_experts_per_tok": 8,
    "moe_intermediate_size": 768, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "use_sliding_window": False, "sliding_window": None, "max_window_layers": 48,
}  # fmt: skip
LONGROPE = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [float(n + 1) for n in range(48)]}
# As the makers publish them, before transformers writes every default into them.
AS_PUBLISHED: dict[str, dict[str, Any]] = {
    "gemma3_text": {  # no number of heads, no vocab_size
        "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    },
    "gemma3_text, a pattern": of_sizes(1152, 6912, 26, 4) | {
        "num_key_value_heads": 1, "sliding_window": 512, "sliding_window_pattern": 4, "rope_theta": 1e6,
        "rope_local_base_freq": 1e4, "vocab_size": 262144,
    },
    "gemma2": of_sizes(2304, 9216, 26, 8, vocab_size=256000),
    "olmo3": of_sizes(4096, 11008, 32, 32, vocab_size=100278, rms_norm_eps=1e-6) | {
        "max_position_embeddings": 65536, "rope_theta": 500000, "rope_scaling": {
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192, "attention_factor": 1.2079441541679836,
            "beta_fast": 32.0, "beta_slow": 1.0,
        },
    },
    "olmo2": of_sizes(4096, 11008, 32, 32, vocab_size=100352, rope_theta=500000),
    "phi3": of_sizes(3072, 8192, 32, 32, vocab_size=32064, sliding_window=262144) | {
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_scaling": LONGROPE,
    },
    "smollm3": of_sizes(2048, 11008, 36, 16, vocab_size=128256),
    "granite": of_sizes(2048, 8192, 40, 32, vocab_size=49159, rope_theta=1e7, tie_word_embeddings=True) | {
        "num_key_value_heads": 8, "embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0,
        "attention_multiplier": 0.015625,
    },
    "mixtral": of_sizes(4096, 14336, 32, 32, vocab_size=32000),
    "qwen3_moe": QWEN3_30B,
    "ministral3": of_sizes(3072, 9216, 26, 32, vocab_size=131072, tie_word_embeddings=True) | {
        "rope_parameters": {
            "beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1, "mscale": 1.0,
            "mscale_all_dim": 1.0, "original_max_position_embeddings": 16384, "rope_theta": 1000000.0, "rope_type": "yarn",
            "type": "yarn",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", AS_PUBLISHED)
def test_a_config_that_omits_defaults_is_read_as_transformers_reads_it(name: str) -> None:
    """What transformers makes of a config.json, with every default written out, means the same to puna."""
    import copy

    import transformers

    given = {"model_type": name.partition(",")[0], **AS_PUBLISHED[name]}
    whole = transformers.AutoConfig.for_model(**copy.deepcopy(given)).to_dict()
    ours, theirs = (read_config(JsonObject(Path("config.json"), keys), "") for keys in (given, whole))
    assert is_near(ours, theirs), (ours, theirs)


def test_longrope_under_its_old_name_is_the_same() -> None:
    published = {"model_type": "phi3", **AS_PUBLISHED["phi3"]}
    new, old = (
        read_config(JsonObject(Path("config.json"), published | {"rope_scaling": {**LONGROPE, "type": kind}}), "")
        for kind in ("longrope", "su")
    )
    assert new == old and new.rope.scaling == "longrope"


def test_scalings_that_only_some_families_have() -> None:
    sizes = {**SIZES, "max_position_embeddings": 128}
    with pytest.raises(ModelFormatError, match="rope_parameters: is missing"):
        read_config(JsonObject(Path("config.json"), {"model_type": "ministral3", **sizes}), "")
    with pytest.raises(ModelFormatError, match=r"rope_scaling\.short_factor: is missing"):
        read_config(JsonObject(Path("config.json"), {"model_type": "phi3", **sizes, "rope_scaling": {"type": "su"}}), "")
    factors = {"type": "su", "short_factor": [1.0] * 8, "long_factor": [1.0] * 7}
    with pytest.raises(ModelFormatError, match="rope factors are 7; head_dim 16 needs 8"):
        read_config(JsonObject(Path("config.json"), {"model_type": "phi3", **sizes, "rope_scaling": factors}), "")


def test_a_key_that_nobody_knows_is_refused_by_name() -> None:
    keys = {"model_type": "llama", **SIZES, "rope_scaling": {"type": "linear", "factor": 4.0, "gamma": 1}}
    with pytest.raises(UnsupportedModelError, match="has the key 'gamma'"):
        read_config(JsonObject(Path("config.json"), keys), "tiny")
