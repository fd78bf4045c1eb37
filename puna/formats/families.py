"""The families of models that puna runs: a row says how one differs from LLaMA, for every format that has families.

A reader collects what a file says under our names (`Facts`); `model_of` makes a ModelConfig of that and the family's row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from puna.checks import require
from puna.formats.names import (
    EXPERT_NAMES,
    FUSED_EXPERTS,
    GRANITE_NAMES,
    HUGGINGFACE_NAMES,
    MIXTRAL_NAMES,
    PHI_GGUF_NAMES,
    PHI_NAMES,
    SANDWICH_NAMES,
)
from puna.model.rope import RopeConfig
from puna.model.spec import (
    MAX_SIZES,
    Activation,
    AttentionSpec,
    Dense,
    Experts,
    HeadNorm,
    LayerSpec,
    ModelConfig,
    NormPosition,
    stack,
)


class Factors(NamedTuple):
    """What a model multiplies, beside what LLaMA does.

    embedding_scale, logit_softcap: as in ModelConfig. scale, softcap: as in AttentionSpec
    residual_scale: what each part of a layer adds is multiplied by it
    logit_scale: logits are divided by it. `model_of` leaves that to the reader, which divides the final norm's weights
    """

    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    scale: float = 0.0
    softcap: float = 0.0
    logit_softcap: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says of a model, or its family's default.

    Beside the fields of ModelConfig:
        biases: those of "qkv_bias", "o_bias" and "ffn_bias" that it has
        window, windowed: tokens of the window, and which layers have it; None: the family's rule
        rotated: which layers rotate q and k; None: the family's rule
        period: of the family's rules: each period-th layer differs from those before it
        first_windowed: of the family's rules: layers before it have no window
        experts_every, dense_layers: which layers have the experts; the others are dense
    """

    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    ffn_size: int
    vocab_size: int
    max_context: int
    norm_eps: float
    ropes: tuple[RopeConfig, ...]
    tie_embeddings: bool
    name: str = ""
    biases: frozenset[str] = frozenset()
    window: int = 0
    windowed: tuple[bool, ...] | None = None
    rotated: tuple[bool, ...] | None = None
    period: int = 0
    first_windowed: int = 0
    experts: Experts | None = None
    experts_every: int = 1
    dense_layers: frozenset[int] = frozenset()
    factors: Factors = Factors()  # noqa: RUF009

    def ends_period(self, layer: int) -> bool:
        return self.period > 0 and (layer + 1) % self.period == 0

    def has_experts(self, layer: int) -> bool:
        return self.experts is not None and layer not in self.dense_layers and (layer + 1) % max(self.experts_every, 1) == 0


NEUTRAL = Factors()
Rule = Callable[[Facts, int], bool]


def every_layer(facts: Facts, layer: int) -> bool:
    return True


def from_first(facts: Facts, layer: int) -> bool:
    return layer >= facts.first_windowed


def within_period(facts: Facts, layer: int) -> bool:
    return not facts.ends_period(layer)


def unrotated(facts: Facts, layer: int) -> bool:
    return not (facts.rotated[layer] if facts.rotated else within_period(facts, layer))


def where_windowed(facts: Facts, layer: int) -> bool:
    """All layers, or those with a window if there are some."""
    return not facts.window or (facts.windowed[layer] if facts.windowed else within_period(facts, layer))


class DefaultExperts(NamedTuple):
    """Defaults of config.json."""

    num_experts: int
    top_k: int
    size: int = 0  # 0: that of the dense layers
    normalises: bool | None = None  # None: a key decides


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table. Its name is transformers' model type.

    What every model of the family computes:
        norms, qk_norm, activation: as in LayerSpec, AttentionSpec and Dense
        always: biases that it has. biases: those that it may have
        windowed, rotated: which layers have the window, and which rotate q and k, if a file does not list them
        period: the default of Facts.period
        local_theta: layers with a window rotate by a table of their own, which is never scaled: the default of its base; 0: that
            of the others. None: all layers rotate alike
        scales_embedding: embeddings are multiplied by sqrt(hidden_size)
        scales_queries: q has RopeConfig.q_beta. partial: a file may rotate a part of each head
    config.json, with defaults of keys that it may omit:
        classes: of `architectures`; some files write them in another case
        window: None: the family has none; 0: only the key counts. window_flag: it counts only if `use_sliding_window` is true
        factors: fields of Factors whose keys it reads, and their defaults
        score_dim: scores are divided by its root (query_pre_attn_scalar); 0: by that of head_dim
        keys: other keys that it reads, or that do not matter, and that most families do not have
        needs: keys that must be there, with one of these values, or with a list of these. ffn_key: that of ffn_size
        scalings: its own names of rope scalings. original_context: default of original_max_position_embeddings; None: that of the
            scaling counts
        names: of the tensors. fused: a tensor's name -> the roles whose rows it holds, in order. expert_names: role of experts ->
            the name of one expert's matrix. renamed: parts of names -> what they are called in `names` and `expert_names`
        norm_offset: its files hold the weights of norms less this
    GGUF:
        gguf: the architecture. gguf_mark: a key that shows this family, where several share an architecture
        half_split: heads of q and k are in the half-split rotary order
        gguf_biases: those of `biases` that this format has. gguf_needs: values that a key must have, if it is there
        gguf_fused: as `fused`
        gguf_wide_layers: Gemma's models of so many layers divide scores by the root of hidden size / heads
    """

    classes: tuple[str, ...]
    max_context: int
    gguf: str
    norms: NormPosition = "before"
    qk_norm: HeadNorm = "none"
    activation: Activation = "silu"
    always: tuple[str, ...] = ()
    biases: tuple[str, ...] = ()
    windowed: Rule = every_layer
    rotated: Rule = every_layer
    period: int = 0
    local_theta: float | None = None
    scales_embedding: bool = False
    scales_queries: bool = False
    partial: bool = False
    num_heads: int | None = None
    num_kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden size / heads
    vocab_size: int | None = None
    norm_eps: float = 1e-6
    theta: float = 10000.0
    tied: bool = False
    window: int | None = None
    window_flag: bool = False
    factors: Mapping[str, float] = field(default_factory=dict)
    score_dim: int = 0
    experts: DefaultExperts | None = None
    keys: tuple[str, ...] = ()
    needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ffn_key: str = "intermediate_size"
    scalings: Mapping[str, str] = field(default_factory=dict)
    original_context: int | None = None
    names: Mapping[str, str] = field(default_factory=lambda: HUGGINGFACE_NAMES)
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    expert_names: Mapping[str, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    norm_offset: float = 0.0
    gguf_mark: str = ""
    half_split: bool = True
    gguf_biases: tuple[str, ...] = ()
    gguf_needs: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    gguf_fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gguf_wide_layers: int = 0


QKVO = ("qkv_bias", "o_bias")
BIASES = (*QKVO, "ffn_bias")
EXPERT_KEYS = (
    "num_experts", "num_local_experts", "num_experts_per_tok", "output_router_logits", "router_aux_loss_coef",
    "router_jitter_noise",
)  # fmt: skip

MAMBA_KEYS = (
    "intermediate_size", "shared_intermediate_size", "position_embedding_type", "time_step_limit",
    *(f"mamba_{name}" for name in (
        "n_heads", "n_groups", "d_state", "d_head", "d_conv", "expand", "chunk_size", "conv_bias", "proj_bias")),
)  # fmt: skip
MULTIPLIERS = {"embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0, "scale": 1.0}

FAMILIES: dict[str, Family] = {
    "llama": Family(
        ("LlamaForCausalLM",), 2048, gguf="llama", half_split=False, biases=BIASES, gguf_biases=BIASES,
    ),
    "mistral": Family(
        ("MistralForCausalLM",), 131072, gguf="llama", half_split=False, num_kv_heads=8, window=4096,
    ),
    "qwen2": Family(
        ("Qwen2ForCausalLM",), 32768, gguf="qwen2", num_kv_heads=32, window=4096, window_flag=True, windowed=from_first,
        always=("qkv_bias",), gguf_biases=("qkv_bias",),
    ),
    "qwen3": Family(
        ("Qwen3ForCausalLM",), 32768, gguf="qwen3", num_kv_heads=32, head_dim=128, window=4096, window_flag=True,
        windowed=from_first, qk_norm="head", biases=QKVO, gguf_biases=("qkv_bias",),
    ),
    "smollm3": Family(
        ("SmolLM3ForCausalLM",), 32768, gguf="smollm3", half_split=False, num_kv_heads=4, theta=2e6, tied=True, period=4,
        rotated=within_period, window=0, window_flag=True, windowed=unrotated, biases=BIASES, gguf_biases=("qkv_bias",),
        keys=("no_rope_layers", "no_rope_layer_interval"),
    ),
    "granite": Family(
        ("GraniteForCausalLM",), 2048, gguf="granite", half_split=False, biases=BIASES, gguf_biases=BIASES,
        factors=MULTIPLIERS, gguf_needs={"rope.scaling.finetuned": (True,)},
    ),
    "granitemoehybrid": Family(
        ("GraniteMoeHybridForCausalLM",), 2048, gguf="granite", half_split=False, biases=QKVO, factors=MULTIPLIERS,
        needs={
            "num_local_experts": (0,), "position_embedding_type": ("rope",), "layer_types": ("attention", "full_attention"),
        },
        ffn_key="shared_intermediate_size", fused=GRANITE_NAMES, renamed={".shared_mlp.output_linear.": ".mlp.down_proj."},
        keys=(*EXPERT_KEYS, *MAMBA_KEYS), gguf_biases=BIASES,
    ),
    "olmo2": Family(
        ("Olmo2ForCausalLM",), 2048, gguf="olmo2", norm_eps=1e-5, norms="after", qk_norm="full", biases=QKVO,
        gguf_biases=("qkv_bias",),
    ),
    "olmo3": Family(
        ("Olmo3ForCausalLM",), 2048, gguf="olmo2", gguf_mark="attention.sliding_window", norm_eps=1e-5, norms="after",
        qk_norm="full", biases=QKVO, gguf_biases=("qkv_bias",), theta=5e5, local_theta=0.0, window=4096, windowed=within_period,
        period=4,
    ),
    "phi3": Family(
        ("Phi3ForCausalLM",), 4096, gguf="phi3", norm_eps=1e-5, window=0, partial=True, original_context=4096,
        scalings={"longrope": "longrope", "su": "longrope", "yarn": "longrope"}, fused=PHI_NAMES, gguf_fused=PHI_GGUF_NAMES,
    ),
    "ministral3": Family(
        ("Ministral3ForCausalLM",), 262144, gguf="mistral3", half_split=False, num_kv_heads=8, head_dim=128, norm_eps=1e-5,
        window=0, theta=1e6, scales_queries=True,
    ),
    "gemma2": Family(
        ("Gemma2ForCausalLM",), 8192, gguf="gemma2", gguf_wide_layers=46, norms="both", activation="gelu", biases=QKVO,
        gguf_biases=("qkv_bias",), scales_embedding=True, num_kv_heads=4, head_dim=256, tied=True, window=4096,
        windowed=within_period, period=2, score_dim=256, factors={"softcap": 50.0, "logit_softcap": 30.0}, names=SANDWICH_NAMES,
        norm_offset=1.0,
    ),
    "gemma3_text": Family(
        ("Gemma3ForCausalLM",), 131072, gguf="gemma3", gguf_wide_layers=62, norms="both", activation="gelu", qk_norm="head",
        biases=QKVO, gguf_biases=("qkv_bias",), scales_embedding=True, num_heads=8, num_kv_heads=4, head_dim=256,
        vocab_size=262208, tied=True, theta=1e6, local_theta=1e4, window=4096, windowed=within_period, period=6, score_dim=256,
        factors={"softcap": 0.0, "logit_softcap": 0.0}, keys=("sliding_window_pattern", "rope_local_base_freq"),
        names=SANDWICH_NAMES, norm_offset=1.0,
    ),
    "qwen3_moe": Family(
        ("Qwen3MoeForCausalLM",), 32768, gguf="qwen3moe", num_kv_heads=4, window=4096, window_flag=True, qk_norm="head",
        biases=QKVO, gguf_biases=("qkv_bias",), experts=DefaultExperts(128, 8, 768), expert_names=EXPERT_NAMES,
        fused=FUSED_EXPERTS,
        keys=(*EXPERT_KEYS, "moe_intermediate_size", "norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"),
    ),
    "mixtral": Family(
        ("MixtralForCausalLM",), 131072, gguf="llama", gguf_mark="expert_count", half_split=False, num_kv_heads=8, norm_eps=1e-5,
        theta=1e6, window=0, experts=DefaultExperts(8, 2, normalises=True), expert_names=MIXTRAL_NAMES, fused=FUSED_EXPERTS,
        renamed={".block_sparse_moe.": ".mlp."}, keys=EXPERT_KEYS,
    ),
    "exaone4": Family(
        ("Exaone4ForCausalLM",), 2048, gguf="exaone4", norm_eps=1e-5, norms="after", qk_norm="head", num_kv_heads=32, window=4096,
        windowed=within_period, rotated=where_windowed, period=4, keys=("sliding_window_pattern",),
    ),
}  # fmt: skip

# Model types that also read images -> their classes; their `text_config` is that of a family.
WRAPPERS: dict[str, tuple[str, ...]] = {
    "mistral3": ("Mistral3ForConditionalGeneration",),
    "gemma3": ("Gemma3ForConditionalGeneration",),
}


def model_of(architecture: str, facts: Facts) -> ModelConfig:
    """The model that a file of a family describes. ConfigError for a number out of range."""
    family, residual = FAMILIES[architecture], facts.factors.residual_scale
    require(math.isfinite(residual) and 1e-3 <= residual <= 1e3, "residual_scale", f"is {residual}; it must lie in 0.001..1000")
    return ModelConfig(
        layers=stack(facts.num_layers, partial(_layer, family, facts)),
        num_heads=facts.num_heads,
        num_kv_heads=facts.num_kv_heads,
        head_dim=facts.head_dim,
        hidden_size=facts.hidden_size,
        vocab_size=facts.vocab_size,
        max_context=facts.max_context,
        norm_eps=facts.norm_eps / residual**2,  # a layer's input is kept divided by the factor, and a norm does not see that
        ropes=facts.ropes if facts.window else facts.ropes[:1],
        tie_embeddings=facts.tie_embeddings,
        architecture=architecture,
        name=facts.name,
        embedding_scale=_embedding_scale(family, facts) / residual,
        logit_softcap=facts.factors.logit_softcap,
    )


def _embedding_scale(family: Family, facts: Facts) -> float:
    return _root(facts.hidden_size, "hidden_size") if family.scales_embedding else facts.factors.embedding_scale


def _root(size: int, name: str) -> float:
    """The square root of a size that nobody checked yet."""
    return math.sqrt(min(max(size, 1), MAX_SIZES[name]))


def _layer(family: Family, facts: Facts, number: int) -> LayerSpec:
    has_window = facts.window != 0 and (facts.windowed[number] if facts.windowed else family.windowed(facts, number))
    scale = facts.factors.scale
    is_rotated = facts.rotated[number] if facts.rotated else family.rotated(facts, number)
    attention = AttentionSpec(
        window=facts.window if has_window and facts.window < facts.max_context else 0,
        rope=int(has_window and family.local_theta is not None) if is_rotated else None,
        scale=0.0 if math.isclose(scale * _root(facts.head_dim, "head_dim"), 1, rel_tol=1e-6) else scale,
        softcap=facts.factors.softcap,
        qk_norm=family.qk_norm,
        qkv_bias="qkv_bias" in facts.biases,
        o_bias="o_bias" in facts.biases,
    )
    if facts.experts is not None and facts.has_experts(number):
        return LayerSpec(attention, facts.experts, family.norms)
    return LayerSpec(attention, Dense(facts.ffn_size, family.activation, "ffn_bias" in facts.biases), family.norms)


# GGUF's architecture -> its families.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    family.gguf: tuple(name for name, other in FAMILIES.items() if other.gguf == family.gguf) for family in FAMILIES.values()
}
