"""Tiny random models of each family, as transformers builds them: the oracle of what a family computes.

family = FAMILIES["qwen3"]
model = family.transformers_model(seed=1)      # float32, on the CPU
checkpoint = family.checkpoint(model)          # the same weights under our names
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from puna.formats.base import Checkpoint
from puna.formats.names import HUGGINGFACE_NAMES, foreign_name
from puna.formats.rows import interleaved_order
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes
from tests.fakes import make_tensor

VOCAB_SIZE = 96
WINDOW = 40  # tokens; of the families that have one
ORIGINAL_CONTEXT = 64  # tokens; of the rotary scalings that have one
SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "intermediate_size": 96,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
PLAIN: dict[str, Any] = {
    "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "hidden_size": 64, "ffn_size": 96,
    "vocab_size": VOCAB_SIZE, "max_context": 512, "norm_eps": 1e-6,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """The model's config for transformers, and our config of the same model."""

    kind: str  # "Llama": LlamaConfig, LlamaForCausalLM
    changes: Mapping[str, Any] = field(default_factory=dict)  # of SIZES
    ours: Mapping[str, Any] = field(default_factory=dict)  # of PLAIN

    @property
    def config(self) -> ModelConfig:
        return plain_model(**(PLAIN | dict(self.ours)))

    def transformers_model(self, seed: int) -> Any:
        """A float32 model with random weights, norms and biases too.  # transformers.PreTrainedModel"""
        import torch
        import transformers

        torch.manual_seed(seed)
        settings = SIZES | dict(self.changes)
        config = getattr(transformers, f"{self.kind}Config")(**settings, attn_implementation="eager")
        model = getattr(transformers, f"{self.kind}ForCausalLM")(config).float().eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 1:
                    weight.copy_((0.0 if name.endswith("bias") else 1.0) + 0.2 * torch.randn_like(weight))
        return model

    def checkpoint(self, model: Any) -> Checkpoint:
        """The model's weights in our names and orders, made without any code of the readers."""
        config, state = self.config, {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
        tensors = {}
        for name in tensor_shapes(config):
            values = state[foreign_name(HUGGINGFACE_NAMES, name)]
            if name.rpartition(".")[2] in ("q_proj", "k_proj", "q_bias", "k_bias", "q_norm", "k_norm"):
                heads = values.reshape(-1, config.head_dim, *values.shape[1:])
                values = heads[:, interleaved_order(config.head_dim)].reshape(values.shape)
            tensors[name] = make_tensor(name, np.ascontiguousarray(values, np.float32), "F32")
        return Checkpoint(path=Path("random"), format="memory", config=config, tensors=tensors)


def _scaled(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **keys}}


def _yarn(factor: float, **changes: Any) -> RopeConfig:
    attention = changes.pop("attention_factor", yarn_attention_factor(factor))
    return RopeConfig(scaling="yarn", factor=factor, original_context=ORIGINAL_CONTEXT, attention_factor=attention, **changes)


ORIGINAL = {"original_max_position_embeddings": ORIGINAL_CONTEXT}
LLAMA3_KEYS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
LLAMA3 = RopeConfig(scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=ORIGINAL_CONTEXT)
QWEN2 = {"qkv_bias": True, "architecture": "qwen2"}
QWEN3 = {"qk_norm": True, "architecture": "qwen3"}
MISTRAL = {"architecture": "mistral"}

FAMILIES: dict[str, Family] = {
    "llama-2": Family("Llama"),
    "llama-1, no groups": Family("Llama", {"num_key_value_heads": 4}, {"num_kv_heads": 4}),
    "llama-3": Family("Llama", _scaled("default", rope_theta=500000.0), {"rope": RopeConfig(theta=500000.0)}),
    "llama-3.1": Family("Llama", _scaled("llama3", **LLAMA3_KEYS), {"rope": LLAMA3}),
    "llama-3.2, tied": Family(
        "Llama", _scaled("llama3", **LLAMA3_KEYS) | {"tie_word_embeddings": True}, {"rope": LLAMA3, "tie_embeddings": True}
    ),
    "linear": Family(
        "Llama", _scaled("linear", factor=4.0), {"rope": RopeConfig(scaling="linear", factor=4.0), "max_context": 2048}
    ),
    "dynamic": Family(
        "Llama",
        _scaled("dynamic", factor=8.0) | {"max_position_embeddings": ORIGINAL_CONTEXT},
        {"rope": RopeConfig(scaling="dynamic", factor=8.0, original_context=ORIGINAL_CONTEXT)},
    ),
    "yarn": Family("Llama", _scaled("yarn", factor=4.0, **ORIGINAL), {"rope": _yarn(4.0)}),
    "yarn, own numbers": Family(
        "Llama",
        _scaled("yarn", factor=8.0, beta_fast=16.0, beta_slow=2.0, attention_factor=0.9, truncate=False, **ORIGINAL),
        {"rope": _yarn(8.0, beta_fast=16.0, beta_slow=2.0, attention_factor=0.9, truncate=False)},
    ),
    "yarn, mscale": Family(
        "Llama",
        _scaled("yarn", factor=8.0, mscale=0.7, mscale_all_dim=0.4, **ORIGINAL),
        {"rope": _yarn(8.0, attention_factor=yarn_attention_factor(8.0, 0.7, 0.4))},
    ),
    "llama, biases": Family(
        "Llama", {"attention_bias": True, "mlp_bias": True}, {"qkv_bias": True, "o_bias": True, "ffn_bias": True}
    ),
    "llama, head_dim": Family("Llama", {"head_dim": 24}, {"head_dim": 24}),
    "mistral": Family("Mistral", {"sliding_window": WINDOW}, {"sliding_window": WINDOW, **MISTRAL}),
    "llama, one K/V head": Family("Llama", {"num_key_value_heads": 1}, {"num_kv_heads": 1}),
    "llama, sizes that are no multiples": Family(
        "Llama",
        {"hidden_size": 60, "intermediate_size": 50, "num_attention_heads": 6, "num_key_value_heads": 3},
        {"hidden_size": 60, "ffn_size": 50, "num_heads": 6, "num_kv_heads": 3, "head_dim": 10},
    ),
    "mistral, window of two": Family("Mistral", {"sliding_window": 2}, {"sliding_window": 2, **MISTRAL}),
    "mistral, no window": Family("Mistral", {"sliding_window": None}, MISTRAL),
    "qwen2": Family("Qwen2", {}, QWEN2),
    "qwen2, a window": Family(
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
        {"sliding_window": WINDOW, "windowed_layers": (1,), **QWEN2},
    ),
    "qwen2, windows in every other layer": Family(
        "Qwen2",
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention"] * 2,
        },
        {"num_layers": 4, "sliding_window": 9, "windowed_layers": (1, 3), **QWEN2},
    ),
    "qwen3, biases": Family("Qwen3", {"head_dim": 16, "attention_bias": True}, {"qkv_bias": True, "o_bias": True, **QWEN3}),
    "qwen3": Family("Qwen3", {"head_dim": 24}, {"head_dim": 24, **QWEN3}),
    "qwen3, yarn, tied": Family(
        "Qwen3",
        _scaled("yarn", factor=4.0, **ORIGINAL) | {"head_dim": 16, "tie_word_embeddings": True},
        {"rope": _yarn(4.0), "tie_embeddings": True, **QWEN3},
    ),
}
