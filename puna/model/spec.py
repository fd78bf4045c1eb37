"""The sizes of a model, and what each of its layers computes. Frozen. This module checks every number, for all formats.

Foreign spellings (`block_count`, `num_hidden_layers`, `n_layers`) live in `formats/` only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Literal, get_args

import numpy as np

from puna.checks import require
from puna.model.rope import RopeConfig

Activation = Literal["silu", "gelu"]
HeadNorm = Literal["none", "head", "full"]
NormPosition = Literal["before", "after", "both"]

MAX_SIZES = {  # generous: the largest LLaMA (405B) has 126 layers, hidden 16384, ffn 53248, vocabulary 128256
    "num_layers": 1024,
    "num_heads": 4096,
    "num_kv_heads": 4096,
    "head_dim": 1024,
    "hidden_size": 1 << 18,
    "ffn_size": 1 << 20,
    "vocab_size": 1 << 22,
    "max_context": 1 << 27,
}
MAX_EXPERTS = 1024


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """What a layer's attention does beyond plain grouped-query attention.

    Fields:
        window: tokens that a position attends to, itself included. 0: all before it
        rope: which of the model's `ropes` rotates q and k. None: no rotation (NoPE, arXiv 2305.19466)
        scale: factor of the scores. 0: 1 / sqrt(head_dim)
        softcap: scores become softcap * tanh(score / softcap) (Gemma 2, arXiv 2408.00118). 0: they stay
        qk_norm: RMS norm of q and k before they are rotated: none, of each head (Qwen3), of all heads together (OLMo 2)
        qkv_bias: q_proj, k_proj and v_proj add a vector (Qwen2)
        o_bias: o_proj adds a vector
    """

    window: int = 0
    rope: int | None = 0
    scale: float = 0.0
    softcap: float = 0.0
    qk_norm: HeadNorm = "none"
    qkv_bias: bool = False
    o_bias: bool = False

    def __post_init__(self) -> None:
        _require_size("sliding_window", self.window, MAX_SIZES["max_context"], least=0)
        for name in ("scale", "softcap"):
            _require_positive(f"attention {name}", getattr(self, name), least=0.0)
        _require_one_of("qk_norm", self.qk_norm, get_args(HeadNorm))


@dataclass(frozen=True, slots=True)
class Dense:
    """A gated feed-forward part: W_down (act(W_gate x) * W_up x) (Shazeer 2020, arXiv 2002.05202)."""

    size: int
    activation: Activation = "silu"  # "gelu": its tanh form
    bias: bool = False  # gate_proj, up_proj and down_proj add a vector

    def __post_init__(self) -> None:
        _require_size("ffn_size", self.size, MAX_SIZES["ffn_size"])
        _require_one_of("activation", self.activation, get_args(Activation))


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts (Shazeer et al. 2017, arXiv 1701.06538): each token takes the `top_k` experts that the router ranks
    first, and the sum of their outputs, each times its softmax probability.

    `normalises`: the chosen probabilities are divided by their sum. On a tie the lower expert comes first.
    """

    size: int  # of one expert's feed-forward part
    count: int
    top_k: int
    activation: Activation = "silu"
    normalises: bool = True

    def __post_init__(self) -> None:
        _require_size("ffn_size", self.size, MAX_SIZES["ffn_size"])
        _require_size("num_experts", self.count, MAX_EXPERTS)
        _require_size("experts per token", self.top_k, self.count)
        _require_one_of("activation", self.activation, get_args(Activation))


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one layer computes. `norms`: where x, or what is added to it, is normed.

    before   x + f(norm(x))           (LLaMA)
    after    x + norm(f(x))           (OLMo 2)
    both     x + norm(f(norm(x)))     (Gemma 2)
    """

    attention: AttentionSpec
    ffn: Dense | Experts
    norms: NormPosition = "before"

    def __post_init__(self) -> None:
        _require_one_of("norms", self.norms, get_args(NormPosition))

    @property
    def norms_before(self) -> bool:
        return self.norms != "after"

    @property
    def norms_after(self) -> bool:
        return self.norms != "before"


def stack(num_layers: int, layer: Callable[[int], LayerSpec]) -> tuple[LayerSpec, ...]:
    """The layers of a model, each made from its number. ConfigError, before any is made, if there are too many."""
    _require_size("num_layers", num_layers, MAX_SIZES["num_layers"])
    return tuple(map(layer, range(num_layers)))


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes and layers of a model, under the same names for all formats.

    Families with a factor for each of the layers' outputs (Granite's residual_multiplier) or for the logits need no field: their
    readers fold such a factor into `embedding_scale` and `norm_eps`, and into the final norm.
    """

    layers: tuple[LayerSpec, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int
    max_context: int
    norm_eps: float = 1e-5
    ropes: tuple[RopeConfig, ...] = (RopeConfig(),)
    tie_embeddings: bool = False
    architecture: str = "llama"  # a line of the table of `formats/families.py`: "llama", "mistral", "qwen2", "qwen3", ...
    name: str = ""
    embedding_scale: float = 1.0  # factor of the embeddings
    logit_softcap: float = 0.0  # logits become softcap * tanh(logit / softcap); 0: they stay

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_heads", "num_kv_heads", "head_dim", "hidden_size", "vocab_size", "max_context"):
            _require_size(name, getattr(self, name), MAX_SIZES[name])
        require(
            self.num_heads % self.num_kv_heads == 0,
            "num_kv_heads",
            f"is {self.num_kv_heads}; it must divide num_heads {self.num_heads}",
        )
        require(self.head_dim % 2 == 0, "head_dim", f"is {self.head_dim}; rotary pairs need an even number")
        ok = math.isfinite(self.norm_eps) and 0 < self.norm_eps < 1
        require(ok, "norm_eps", f"is {self.norm_eps}; it must lie in (0, 1)")
        _require_positive("embedding_scale", self.embedding_scale)
        _require_positive("logit_softcap", self.logit_softcap, least=0.0)
        for rope in self.ropes:
            for length in (0, rope.original_context + 1):
                rope.frequencies(self.head_dim, length)
        used = {layer.attention.rope for layer in self.layers} - {None}
        assert all(0 <= rope < len(self.ropes) for rope in used if rope is not None), "a layer names a rope that is not there"

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def rope(self) -> RopeConfig:
        """The first of the ropes: the only one, or that of the layers without a window."""
        return self.ropes[0]

    @property
    def q_size(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        return self.num_kv_heads * self.head_dim

    @property
    def ffn_size(self) -> int:
        """Size of the feed-forward part, or of an expert; the largest if layers differ."""
        return max(layer.ffn.size for layer in self.layers)

    @property
    def sliding_window(self) -> int:
        """The window of the layers that have one, the largest if they differ; 0: none has."""
        return max(layer.attention.window for layer in self.layers)

    @property
    def windowed_layers(self) -> tuple[int, ...] | None:
        """The layers that have a window; None: all have one, or none."""
        found = tuple(number for number, layer in enumerate(self.layers) if layer.attention.window)
        return None if len(found) in (0, self.num_layers) else found

    @property
    def extras(self) -> tuple[str, ...]:
        """What it has beyond LLaMA's block, by name: a format that knows only that block cannot hold it."""
        return tuple(name for name, has in EXTRAS.items() if has(self))

    def prefix_key(self, prompt_length: int) -> int:
        """Prefix-cache key: where K depends on the prompt's length, only prompts with equal keys share pages."""
        return max((rope.prefix_key(prompt_length) for rope in self.ropes), default=0)


def _any(has: Callable[[LayerSpec], bool]) -> Callable[[ModelConfig], bool]:
    return lambda model: any(map(has, model.layers))


EXTRAS: Mapping[str, Callable[[ModelConfig], bool]] = {
    "qkv_bias": _any(lambda layer: layer.attention.qkv_bias),
    "o_bias": _any(lambda layer: layer.attention.o_bias),
    "ffn_bias": _any(lambda layer: isinstance(layer.ffn, Dense) and layer.ffn.bias),
    "qk_norm": _any(lambda layer: layer.attention.qk_norm == "head"),
    "full qk_norm": _any(lambda layer: layer.attention.qk_norm == "full"),
    "sliding_window": _any(lambda layer: layer.attention.window > 0),
    "windowed_layers": lambda model: model.windowed_layers is not None,
    "layers without rotation": _any(lambda layer: layer.attention.rope is None),
    "several rotary tables": lambda model: len(model.ropes) > 1,
    "partial rotation": lambda model: any(0 < rope.dim < model.head_dim for rope in model.ropes),
    "scaled queries": lambda model: any(rope.q_beta > 0 for rope in model.ropes),
    "a scale of the scores": _any(lambda layer: layer.attention.scale > 0),
    "soft-capped scores": _any(lambda layer: layer.attention.softcap > 0),
    "norms after": _any(lambda layer: layer.norms_after),
    "gelu": _any(lambda layer: layer.ffn.activation == "gelu"),
    "experts": _any(lambda layer: isinstance(layer.ffn, Experts)),
    "embedding_scale": lambda model: model.embedding_scale != 1.0,
    "soft-capped logits": lambda model: model.logit_softcap > 0,
}


def plain_model(
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int,
    hidden_size: int,
    ffn_size: int,
    vocab_size: int,
    max_context: int,
    *,
    norm_eps: float = 1e-5,
    rope: RopeConfig | None = None,
    tie_embeddings: bool = False,
    architecture: str = "llama",
    name: str = "",
    qkv_bias: bool = False,
    o_bias: bool = False,
    ffn_bias: bool = False,
    qk_norm: bool = False,
    sliding_window: int = 0,
    windowed_layers: tuple[int, ...] | None = None,
) -> ModelConfig:
    """A model of LLaMA's block. Its layers differ at most in their window: all have it, or `windowed_layers` do."""
    inside = all(0 <= layer < num_layers for layer in windowed_layers or ())
    require(inside, "windowed_layers", f"names a layer outside 0..{num_layers - 1}")
    full = AttentionSpec(qk_norm="head" if qk_norm else "none", qkv_bias=qkv_bias, o_bias=o_bias)
    ffn = Dense(ffn_size, bias=ffn_bias)
    kinds = LayerSpec(full, ffn), LayerSpec(replace(full, window=sliding_window), ffn)
    return ModelConfig(
        layers=stack(num_layers, lambda layer: kinds[windowed_layers is None or layer in windowed_layers]),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        max_context=max_context,
        norm_eps=norm_eps,
        ropes=(rope or RopeConfig(),),
        tie_embeddings=tie_embeddings,
        architecture=architecture,
        name=name,
    )


def is_near(one: object, other: object) -> bool:
    """Whether two values are equal; floats are compared in single precision, in configurations field by field."""
    if isinstance(one, float) and isinstance(other, float):
        return bool(np.float32(one) == np.float32(other))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(is_near, one, other))
    if is_dataclass(one) and type(one) is type(other):
        return all(is_near(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return one == other


def _require_size(name: str, value: int, limit: int, least: int = 1) -> None:
    ok = isinstance(value, int) and least <= value <= limit
    require(ok, name, f"is {value!r}; it must lie in {least}..{limit}")


def _require_positive(name: str, value: float, least: float = 1e-9) -> None:
    ok = math.isfinite(value) and least <= value < 1e9
    require(ok, name, f"is {value}; it must lie in {least:g}..1e9")


def _require_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    require(value in allowed, name, f"is {value!r}; puna knows {', '.join(allowed)}")
