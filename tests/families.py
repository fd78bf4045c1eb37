"""Tiny random models of each family, as transformers builds them: the oracle of what a family computes.

family = FAMILIES["qwen3"]
model = family.transformers_model(seed=1)      # float32, on the CPU
checkpoint = family.checkpoint(model)          # the same weights under our names
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from puna.formats.base import Checkpoint
from puna.formats.rows import interleaved_order
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import Dense, Experts, LayerSpec, ModelConfig, plain_model
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


DEVICES = ["reference", "cpu"]  # that compute LLaMA's block
BEYOND_LLAMA = ["reference", "cpu", "torch"]  # that compute what other families have


@dataclass(frozen=True)
class Family:
    """The model's config for transformers, and our config of the same model."""

    kind: str  # "Llama": LlamaConfig, LlamaForCausalLM
    changes: Mapping[str, Any] = field(default_factory=dict)  # of SIZES
    ours: Mapping[str, Any] = field(default_factory=dict)  # of PLAIN
    model: Callable[[ModelConfig], ModelConfig] | None = None  # what a plain model cannot have
    norm_offset: float = 0.0  # norms multiply by their weights and this
    logit_scale: float = 1.0  # logits are divided by it
    config_kind: str = ""  # of the config's class, if not `kind`
    not_gguf: str = ""  # why GGUF cannot hold it

    @property
    def config(self) -> ModelConfig:
        plain = plain_model(**(PLAIN | dict(self.ours)))
        return plain if self.model is None else self.model(plain)

    @property
    def devices(self) -> list[str]:
        return DEVICES if self.model is None else BEYOND_LLAMA

    def transformers_model(self, seed: int) -> Any:
        """A float32 model with random weights, norms and biases too.  # transformers.PreTrainedModel"""
        import torch
        import transformers

        torch.manual_seed(seed)
        settings = SIZES | dict(self.changes)
        config = getattr(transformers, f"{self.config_kind or self.kind}Config")(**settings, attn_implementation="eager")
        model = getattr(transformers, f"{self.kind}ForCausalLM")(config).float().eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 1:
                    mean = 0.0 if name.endswith("bias") else 1.0 - self.norm_offset
                    weight.copy_(mean + 0.2 * torch.randn_like(weight))
        return model

    def checkpoint(self, model: Any) -> Checkpoint:
        """The model's weights in our names and orders, made without any code of the readers."""
        config, state = self.config, {name: weight.detach().numpy() for name, weight in model.state_dict().items()}
        tensors = {}
        for name in tensor_shapes(config):
            values = stored(state, name, config)
            part = name.rpartition(".")[2]
            if part in ("q_proj", "k_proj", "q_bias", "k_bias", "q_norm", "k_norm"):
                heads = values.reshape(-1, config.head_dim, *values.shape[1:])
                values = heads[:, interleaved_order(config.head_dim, config.rope.dim)].reshape(values.shape)
            if part.endswith("norm"):
                values = values + np.float32(self.norm_offset)
            if part == "final_norm":
                values = values / np.float32(self.logit_scale)
            tensors[name] = make_tensor(name, np.ascontiguousarray(values, np.float32), "F32")
        return Checkpoint(path=Path("random"), format="memory", config=config, tensors=tensors)


Floats = np.ndarray[Any, Any]
# Role -> its names in a model of transformers; the first of them that is there counts.
STORED: dict[str, tuple[str, ...]] = {
    "embed": ("model.embed_tokens.weight",),
    "final_norm": ("model.norm.weight",),
    "lm_head": ("lm_head.weight",),
    "attn_norm": ("input_layernorm.weight",),
    "ffn_norm": ("pre_feedforward_layernorm.weight", "post_attention_layernorm.weight"),
    "attn_post_norm": ("post_attention_layernorm.weight",),
    "ffn_post_norm": ("post_feedforward_layernorm.weight",),
    "router": ("mlp.gate.weight",),
    "down_experts": ("mlp.experts.down_proj",),
    **{f"{name}_proj": (f"self_attn.{name}_proj.weight",) for name in "qkvo"},
    **{f"{name}_bias": (f"self_attn.{name}_proj.bias",) for name in "qkvo"},
    **{f"{name}_norm": (f"self_attn.{name}_norm.weight",) for name in "qk"},
    **{f"{name}_proj": (f"mlp.{name}_proj.weight",) for name in ("gate", "up")},
    "down_proj": ("mlp.down_proj.weight", "shared_mlp.output_linear.weight"),
    **{f"{name}_bias": (f"mlp.{name}_proj.bias",) for name in ("gate", "up", "down")},
}


def stored(state: Mapping[str, Floats], name: str, config: ModelConfig) -> Floats:
    """The numbers of our tensor `name`, in transformers' order."""
    layer, part = name.rpartition(".")[::2]
    beginning = f"model.{layer}." if layer else ""
    found = next((state[beginning + theirs] for theirs in STORED.get(part, ()) if beginning + theirs in state), None)
    return fused(state, beginning, part, config) if found is None else found


def fused(state: Mapping[str, Floats], beginning: str, part: str, config: ModelConfig) -> Floats:
    q, kv = config.q_size, config.kv_size
    ffn = next((layer.ffn.size for layer in config.layers if isinstance(layer.ffn, Experts)), config.ffn_size)
    name, rows = {
        "q_proj": ("self_attn.qkv_proj.weight", slice(0, q)),
        "k_proj": ("self_attn.qkv_proj.weight", slice(q, q + kv)),
        "v_proj": ("self_attn.qkv_proj.weight", slice(q + kv, None)),
        "gate_proj": ("mlp.gate_up_proj.weight", slice(0, ffn)),
        "up_proj": ("mlp.gate_up_proj.weight", slice(ffn, None)),
        "gate_experts": ("mlp.experts.gate_up_proj", slice(0, ffn)),
        "up_experts": ("mlp.experts.gate_up_proj", slice(ffn, None)),
    }[part]
    whole = state.get(beginning + name)
    return state[beginning + "shared_mlp.input_linear.weight"][rows] if whole is None else whole[..., rows, :]


def layered(change: Callable[[int, LayerSpec], LayerSpec], **more: Any) -> Callable[[ModelConfig], ModelConfig]:
    """A model whose layers are changed, each by its number, and more."""

    def changed(plain: ModelConfig) -> ModelConfig:
        return replace(plain, layers=tuple(change(number, layer) for number, layer in enumerate(plain.layers)), **more)

    return changed


def _scaled(kind: str, **keys: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **keys}}


def _yarn(factor: float, **changes: Any) -> RopeConfig:
    attention = changes.pop("attention_factor", yarn_attention_factor(factor))
    return RopeConfig(scaling="yarn", factor=factor, original_context=ORIGINAL_CONTEXT, attention_factor=attention, **changes)


SHORT_FACTORS, LONG_FACTORS = [1.0, 1.1, 1.2, 1.5, 1.7, 2.0], [1.5, 2.0, 3.0, 5.0, 8.0, 16.0]
ORIGINAL = {"original_max_position_embeddings": ORIGINAL_CONTEXT}
LLAMA3_KEYS = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL}
LLAMA3 = RopeConfig(scaling="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=ORIGINAL_CONTEXT)
QWEN2 = {"qkv_bias": True, "architecture": "qwen2"}
QWEN3 = {"qk_norm": True, "architecture": "qwen3"}
MISTRAL = {"architecture": "mistral"}


def unrotated(number: int, layer: LayerSpec) -> LayerSpec:
    """SmolLM3's: each fourth layer does not rotate."""
    return replace(layer, attention=replace(layer.attention, rope=None)) if number % 4 == 3 else layer


def olmo(number: int, layer: LayerSpec) -> LayerSpec:
    return replace(layer, norms="after", attention=replace(layer.attention, qk_norm="full"))


def olmo3(number: int, layer: LayerSpec) -> LayerSpec:
    return local_rope(number, olmo(number, layer))


def local_rope(number: int, layer: LayerSpec) -> LayerSpec:
    """Layers with a window rotate by the second table."""
    return replace(layer, attention=replace(layer.attention, rope=int(layer.attention.window > 0)))


def gemma(number: int, layer: LayerSpec, **changes: Any) -> LayerSpec:
    ffn = Dense(layer.ffn.size, activation="gelu")
    return LayerSpec(replace(layer.attention, **changes), ffn, norms="both")


def gemma3(number: int, layer: LayerSpec) -> LayerSpec:
    return local_rope(number, gemma(number, layer, qk_norm="head"))


def mixed(experts: Experts, number: int, layer: LayerSpec) -> LayerSpec:
    return replace(layer, ffn=experts)


def exaone(number: int, layer: LayerSpec) -> LayerSpec:
    """Only layers with a window rotate."""
    return replace(layer, norms="after", attention=replace(layer.attention, rope=0 if layer.attention.window else None))


TIED = {"tie_word_embeddings": True}
GEMMA = {"head_dim": 24, "tie_embeddings": True}

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
        not_gguf="dynamic rope scaling",
    ),
    "yarn": Family("Llama", _scaled("yarn", factor=4.0, **ORIGINAL), {"rope": _yarn(4.0)}),
    "yarn, own numbers": Family(
        "Llama",
        _scaled("yarn", factor=8.0, beta_fast=16.0, beta_slow=2.0, attention_factor=0.9, truncate=False, **ORIGINAL),
        {"rope": _yarn(8.0, beta_fast=16.0, beta_slow=2.0, attention_factor=0.9, truncate=False)},
        not_gguf="not truncated",
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
    "qwen3, biases": Family(
        "Qwen3", {"head_dim": 16, "attention_bias": True}, {"qkv_bias": True, "o_bias": True, **QWEN3}, not_gguf="o_bias"
    ),
    "qwen3": Family("Qwen3", {"head_dim": 24}, {"head_dim": 24, **QWEN3}),
    "qwen3, yarn, tied": Family(
        "Qwen3",
        _scaled("yarn", factor=4.0, **ORIGINAL) | {"head_dim": 16, "tie_word_embeddings": True},
        {"rope": _yarn(4.0), "tie_embeddings": True, **QWEN3},
    ),
    "smollm3": Family(
        "SmolLM3",
        _scaled("default", rope_theta=2e6) | {"num_hidden_layers": 5},
        {"num_layers": 5, "rope": RopeConfig(theta=2e6), "architecture": "smollm3"},
        layered(unrotated),
    ),
    "smollm3, windows, biases": Family(
        "SmolLM3",
        {
            "num_hidden_layers": 3,
            "no_rope_layers": [0, 1, 0],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
        {
            "num_layers": 3,
            "rope": RopeConfig(theta=2e6),
            "tie_embeddings": True,
            "architecture": "smollm3",
            "qkv_bias": True,
            "o_bias": True,
            "ffn_bias": True,
            "sliding_window": WINDOW,
            "windowed_layers": (0, 2),
        },
        layered(lambda number, layer: layer if number == 1 else replace(layer, attention=replace(layer.attention, rope=None))),
        not_gguf="o_bias, ffn_bias",
    ),
    "granite": Family(
        "Granite",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "logits_scaling": 8.0, "attention_multiplier": 0.1},
        {"architecture": "granite", "norm_eps": 1e-6 / 0.22**2},
        layered(lambda number, layer: replace(layer, attention=replace(layer.attention, scale=0.1)), embedding_scale=12.0 / 0.22),
        logit_scale=8.0,
    ),
    "olmo2": Family("Olmo2", {}, {"architecture": "olmo2"}, layered(olmo)),
    "olmo2, biases, groups": Family(
        "Olmo2",
        {"attention_bias": True, "num_key_value_heads": 1},
        {"architecture": "olmo2", "qkv_bias": True, "o_bias": True, "num_kv_heads": 1},
        layered(olmo),
        not_gguf="o_bias",
    ),
    "olmo3": Family(
        "Olmo3",
        {
            "num_hidden_layers": 5,
            "sliding_window": WINDOW,
            "rope_scaling": {"rope_type": "yarn", "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, **ORIGINAL},
            "rope_theta": 500000.0,
        },
        {"architecture": "olmo3", "num_layers": 5, "sliding_window": WINDOW, "windowed_layers": (0, 1, 2, 4)},
        layered(olmo3, ropes=(replace(_yarn(8.0), theta=500000.0), RopeConfig(theta=500000.0))),
    ),
    "olmo3, plain rotation, windows listed": Family(
        "Olmo3",
        {"num_hidden_layers": 3, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"architecture": "olmo3", "num_layers": 3, "sliding_window": 9, "windowed_layers": (1,)},
        layered(olmo3, ropes=(RopeConfig(theta=500000.0), RopeConfig(theta=500000.0))),
    ),
    "phi3": Family("Phi3", {}, {"architecture": "phi3"}, lambda plain: plain),
    "phi3, a window": Family(
        "Phi3", {"sliding_window": WINDOW}, {"architecture": "phi3", "sliding_window": WINDOW}, lambda plain: plain
    ),
    "phi3, longrope, partial rotation": Family(
        "Phi3",
        {
            "rope_scaling": {"rope_type": "longrope", "short_factor": SHORT_FACTORS, "long_factor": LONG_FACTORS},
            "partial_rotary_factor": 0.75,
            "tie_word_embeddings": True,
            **ORIGINAL,
        },
        {
            "architecture": "phi3",
            "tie_embeddings": True,
            "rope": RopeConfig(
                scaling="longrope",
                factors=tuple(SHORT_FACTORS),
                long_factors=tuple(LONG_FACTORS),
                dim=12,
                original_context=ORIGINAL_CONTEXT,
                attention_factor=(1 + np.log(8) / np.log(ORIGINAL_CONTEXT)) ** 0.5,
            ),
        },
        lambda plain: plain,
    ),
    "ministral3": Family(
        "Ministral3",
        {
            "head_dim": 24,
            "rope_parameters": {
                "rope_type": "yarn",
                "type": "yarn",
                "rope_theta": 1e6,
                "factor": 16.0,
                "max_position_embeddings": 512,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.1,
                **ORIGINAL,
            },
        },
        {
            "architecture": "ministral3",
            "head_dim": 24,
            "max_context": 1024,
            "rope": replace(_yarn(16.0, attention_factor=1.0), theta=1e6, q_beta=0.1),
        },
        lambda plain: plain,
    ),
    "gemma2": Family(
        "Gemma2",
        {"num_hidden_layers": 3, "head_dim": 24, "sliding_window": WINDOW, "query_pre_attn_scalar": 24, **TIED},
        {"num_layers": 3, "sliding_window": WINDOW, "windowed_layers": (0, 2), "architecture": "gemma2", **GEMMA},
        layered(partial(gemma, softcap=50.0), embedding_scale=8.0, logit_softcap=30.0),
        norm_offset=1.0,
    ),
    "gemma2, other scores": Family(
        "Gemma2",
        {
            "head_dim": 24,
            "sliding_window": 9,
            "query_pre_attn_scalar": 50,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": None,
            "attention_bias": True,
            **TIED,
        },
        {"sliding_window": 9, "windowed_layers": (0,), "architecture": "gemma2", "qkv_bias": True, "o_bias": True, **GEMMA},
        layered(partial(gemma, softcap=5.0, scale=50**-0.5), embedding_scale=8.0),
        norm_offset=1.0,
        not_gguf="a scale of the scores, .*o_bias|o_bias, .*a scale of the scores",
    ),
    "gemma3": Family(
        "Gemma3",
        {"num_hidden_layers": 7, "head_dim": 24, "sliding_window": WINDOW, "query_pre_attn_scalar": 24, **TIED},
        {
            "num_layers": 7,
            "sliding_window": WINDOW,
            "windowed_layers": (0, 1, 2, 3, 4, 6),
            "architecture": "gemma3_text",
            **GEMMA,
        },
        layered(gemma3, ropes=(RopeConfig(theta=1e6), RopeConfig(theta=1e4)), embedding_scale=8.0),
        norm_offset=1.0,
        config_kind="Gemma3Text",
    ),
    "gemma3, linear, windows listed": Family(
        "Gemma3",
        {
            "head_dim": 24,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 4.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            "rope_theta": 1e5,
            "rope_local_base_freq": 5e3,
            "layer_types": ["full_attention", "sliding_attention"],
            **TIED,
        },
        {"sliding_window": 9, "windowed_layers": (1,), "architecture": "gemma3_text", **GEMMA},
        layered(
            gemma3,
            ropes=(RopeConfig(theta=1e5, scaling="linear", factor=8.0), RopeConfig(theta=5e3)),
            embedding_scale=8.0,
            logit_softcap=4.0,
        ),
        norm_offset=1.0,
        config_kind="Gemma3Text",
    ),
    "qwen3_moe": Family(
        "Qwen3Moe",
        {"head_dim": 24, "num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True},
        {"head_dim": 24, "architecture": "qwen3_moe", "qk_norm": True, "ffn_size": 40},
        layered(partial(mixed, Experts(size=40, count=6, top_k=3))),
    ),
    "qwen3_moe, dense layers between": Family(
        "Qwen3Moe",
        {
            "num_hidden_layers": 6,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 40,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            **TIED,
        },
        {"num_layers": 6, "architecture": "qwen3_moe", "qk_norm": True, "sliding_window": WINDOW, "tie_embeddings": True},
        layered(
            lambda number, layer: (
                mixed(Experts(size=40, count=4, top_k=2, normalises=False), number, layer) if number in (1, 5) else layer
            )
        ),
        not_gguf="such layers",
    ),
    "mixtral": Family(
        "Mixtral",
        {"num_local_experts": 4, "num_experts_per_tok": 2} | _scaled("default", rope_theta=1e6),
        {"architecture": "mixtral", "rope": RopeConfig(theta=1e6)},
        layered(partial(mixed, Experts(size=96, count=4, top_k=2))),
    ),
    "mixtral, a window": Family(
        "Mixtral",
        {"num_local_experts": 3, "num_experts_per_tok": 3, "sliding_window": WINDOW} | _scaled("default", rope_theta=1e6),
        {"architecture": "mixtral", "rope": RopeConfig(theta=1e6), "sliding_window": WINDOW},
        layered(partial(mixed, Experts(size=96, count=3, top_k=3))),
    ),
    "granite 4, dense": Family(
        "GraniteMoeHybrid",
        {
            "embedding_multiplier": 12.0,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
            "attention_multiplier": 0.1,
            "num_local_experts": 0,
            "shared_intermediate_size": 96,
            "intermediate_size": 200,
            "position_embedding_type": "rope",
            "layer_types": ["full_attention"] * 2,
            "mamba_n_heads": 8,
        },
        {"architecture": "granitemoehybrid", "norm_eps": 1e-6 / 0.22**2},
        layered(lambda number, layer: replace(layer, attention=replace(layer.attention, scale=0.1)), embedding_scale=12.0 / 0.22),
        logit_scale=8.0,
    ),
    "exaone4": Family(
        "Exaone4",
        {"num_hidden_layers": 4, "sliding_window": WINDOW, **_scaled("llama3", **LLAMA3_KEYS)},
        {
            "num_layers": 4,
            "sliding_window": WINDOW,
            "windowed_layers": (0, 1, 2),
            "rope": LLAMA3,
            "qk_norm": True,
            "architecture": "exaone4",
        },
        layered(exaone),
    ),
    "exaone4, no window, tied": Family(
        "Exaone4",
        {"sliding_window": None, "layer_types": ["full_attention"] * 2, **TIED},
        {"qk_norm": True, "architecture": "exaone4", "tie_embeddings": True},
        layered(lambda number, layer: replace(layer, norms="after")),
    ),
    "granite, biases, usual scale": Family(
        "Granite",
        {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.25, "tie_word_embeddings": True},
        {"architecture": "granite", "qkv_bias": True, "o_bias": True, "ffn_bias": True, "tie_embeddings": True},
    ),
}
