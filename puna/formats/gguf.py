"""GGUF files -> Checkpoint: keys to sizes, tensor names to ours, the tokenizer's keys to a TokenizerSpec.

Rows of attn_q and attn_k are in the rotary order that `families.py` says. A model's tensors tell which biases it has; there
are no keys for that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from puna.errors import ConfigError, ModelFormatError, UnsupportedModelError
from puna.formats.base import Checkpoint, RankingHead, Tensor
from puna.formats.families import ARCHITECTURES, FAMILIES, NEUTRAL, Factors, Facts, Family, model_of
from puna.formats.gguf_file import MAGIC, GGUFFile, GGUFTensor, Value, read_gguf
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.gguf_values import Values
from puna.formats.mapped import shown
from puna.formats.names import GGUF_NAMES, foreign_name
from puna.formats.notices import ConversionLoss, Doubt
from puna.formats.regrouped import separated
from puna.formats.rope_tables import with_factors
from puna.formats.rows import HalfSplitHeads, Rows, half_split_vector
from puna.formats.template_file import other_templates
from puna.formats.unsupported import refuse_unsupported_gguf
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import Experts, ModelConfig
from puna.model.weights import role_of, tensor_shapes
from puna.pooling import Pooling

# A bias -> the tensor of layer 0 that shows it.
BIAS_TENSORS = {
    "qkv_bias": "blk.0.attn_q.bias",
    "o_bias": "blk.0.attn_output.bias",
    "ffn_bias": "blk.0.ffn_down.bias",
}

# Our name of a size -> the key after `<architecture>.`; errors about that size name the key.
CONFIG_KEYS = {
    "num_layers": "block_count",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "hidden_size": "embedding_length",
    "ffn_size": "feed_forward_length",
    "max_context": "context_length",
    "norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "rope factor": "rope.scaling.factor",
    "rope original_context": "rope.scaling.original_context_length",
    "rope beta_fast": "rope.scaling.yarn_beta_fast",
    "rope beta_slow": "rope.scaling.yarn_beta_slow",
    "rope attention_factor": "rope.scaling.attn_factor",
    "num_experts": "expert_count",
    "experts per token": "expert_used_count",
    "expert_size": "expert_feed_forward_length",
    "q_beta": "attention.temperature_scale",
    "local_theta": "rope.freq_base_swa",
    "rotated": "rope.dimension_count",
    "windowed": "attention.sliding_window_pattern",
}
# Our name of a factor -> the key after `<architecture>.`; 0 is no factor.
FACTOR_KEYS = {
    "embedding_scale": "embedding_scale",
    "residual_scale": "residual_scale",
    "logit_scale": "logit_scale",
    "scale": "attention.scale",
    "softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
SOFTCAPS = ("softcap", "logit_softcap")  # factors whose absence means the family's default, as in llama.cpp

# Keys that change results: with any other value a model is not the one that puna computes, unless its family reads the key.
PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "expert_shared_count": (0,),
    "expert_group_count": (0, 1),
    "expert_weights_norm": (True,),
    "expert_weights_scale": (0.0, 1.0),
    "expert_gating_func": (0, 1),  # 1: softmax
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.temperature_scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "rope.scaling.yarn_attn_factor": (0.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}

SAMPLING = "general.sampling."
# Key after it -> the name in generation_config.json, if that has one.
SAMPLING_KEYS = {
    **{name: name for name in ("top_k", "top_p", "min_p", "penalty_last_n", "sequence", "xtc_probability", "xtc_threshold")},
    **{name: name for name in ("mirostat", "mirostat_tau", "mirostat_eta")},
    "temp": "temperature",
    "penalty_repeat": "repetition_penalty",
}

ROPE_FACTORS, ROPE_LONG, ROPE_SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
OLD_EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")
EXPERT_KEYS = ("expert_count", "expert_used_count")
Q_BETA_KEYS = ("attention.temperature_scale", "rope.scaling.yarn_log_multiplier")
MAX_NAME_CHARACTERS = 128
MAX_SHOWN = 16  # elements of an array that `metadata` lists; a longer one shows its length


def matches(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` is GGUF."""
    return head.startswith(MAGIC)


def open_gguf(path: Path) -> Checkpoint:
    """Open and check a GGUF model; reads no weight."""
    gguf = read_gguf(path, _refuse_other_architectures)
    values = Values(gguf.path, gguf.values)
    architecture = values.text("general.architecture")
    if architecture is None:
        values.fail("general.architecture", "is missing")
    if not gguf.tensors:
        raise UnsupportedModelError(f"{path} holds a vocabulary but no weights", hint="Give the model's own GGUF file.")
    name, family = _family(values, architecture)
    _refuse_what_changes_results(values, family)
    config, logit_scale = _config(values, gguf, name)
    head = _head(values, gguf, config)
    tensors = _tensors(gguf, config, logit_scale)
    tokenizer, template = read_tokenizer(values, config.vocab_size), _template(values)
    return Checkpoint(
        path=path,
        format="gguf",
        config=config,
        tensors=tensors,
        tokenizer=tokenizer,
        chat_template=template,
        metadata={key: _shown(value) for key, value in gguf.values.items()},
        unused_keys=values.unused(),
        files=gguf.files,
        notices=tuple(values.notices),
        generation=_generation(gguf.values),
        pooling=_pooling(values, FAMILIES[name].gguf),
        head=head,
    )


# The numbers of `pooling_type`, llama.cpp's enum; 0: none. A model that ranks has a head over the last token's hidden state.
POOLINGS: Mapping[int, Pooling | None] = {0: None, 1: "mean", 2: "cls", 3: "last", 4: "last"}


def _pooling(values: Values, architecture: str) -> Pooling | None:
    key = f"{architecture}.pooling_type"
    number = values.integer(key) or 0
    if number not in POOLINGS:
        values.fail(key, f"is {number}; puna knows {', '.join(map(str, POOLINGS))}")
    return POOLINGS[number]


def _generation(values: Mapping[str, Value]) -> dict[str, Any]:
    """The file's sampling defaults, in the words of generation_config.json; settings of a draw turn drawing on."""
    found = {ours: values[f"{SAMPLING}{key}"].value for key, ours in SAMPLING_KEYS.items() if f"{SAMPLING}{key}" in values}
    rounded = {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in found.items()}
    return rounded | ({"do_sample": True} if rounded.keys() & {"temperature", "top_k", "top_p", "min_p"} else {})


TEMPLATE, TEMPLATES = "tokenizer.chat_template", "tokenizer.chat_templates"


def _template(values: Values) -> str | None:
    """The default chat template. Named ones have keys of their own; `tokenizer.chat_templates` lists the names."""
    names = [name.decode("utf-8", "replace") for name in values.array(TEMPLATES, "string") or []]
    texts = {name: values.text(f"{TEMPLATE}.{name}") for name in names}
    default = values.text(TEMPLATE)
    template = texts.pop("default", None) if default is None else default
    if others := [name for name, text in texts.items() if text not in (None, template)]:
        values.notices.append(other_templates(others))
    return template


SCORE = "cls.output.weight"


def _head(values: Values, gguf: GGUFFile, config: ModelConfig) -> RankingHead | None:
    labels = values.array(f"{FAMILIES[config.architecture].gguf}.classifier.output_labels", "string") or []
    score = gguf.tensors.get(SCORE)
    if score is None:
        return None
    if len(score.shape) != 2 or score.shape[0] not in (1, 2) or score.shape[1] != config.hidden_size:
        score.fail(f"has shape {score.shape}; (1 or 2 labels, {config.hidden_size}) is needed")
    values.notices.append(ConversionLoss(f"conversions leave out the model's head for ranking ({SCORE})"))
    return RankingHead(
        Tensor(SCORE, score.shape, score.type, score.data), tuple(one.decode("utf-8", "replace") for one in labels)
    )


def _refuse_other_architectures(file: Path, values: Mapping[str, Value]) -> None:
    """Runs before the tensors are read: their types would fail first, and another quantisation would not help."""
    given = Values(file, values)
    name = given.text("general.architecture")
    refuse_unsupported_gguf(file, given.text("general.type"), name)
    if name is not None and name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file}: the architecture is {shown(name)}; puna runs: {', '.join(ARCHITECTURES)}",
            hint="Choose a model of one of these families.",
        )


def _family(values: Values, architecture: str) -> tuple[str, Family]:
    """The family of an architecture: of several, the one whose mark the file has, or the first without a mark."""
    marks = {name: FAMILIES[name].gguf_mark for name in ARCHITECTURES[architecture]}
    marked = (name for name, mark in marks.items() if mark and values.integer(f"{architecture}.{mark}"))
    name = next(marked, next(name for name, mark in marks.items() if not mark))
    return name, FAMILIES[name]


def _refuse_what_changes_results(values: Values, family: Family) -> None:
    read = {*(FACTOR_KEYS[name] for name in family.factors), *(EXPERT_KEYS if family.experts else ())}
    read |= set(Q_BETA_KEYS if family.scales_queries else ())
    for suffix, plain in (PLAIN_VALUES | dict(family.gguf_needs)).items():
        key = f"{family.gguf}.{suffix}"
        found = None if suffix in read else values.scalar(key)
        if found is not None and found not in plain:
            allowed = " or ".join(repr(value) for value in plain)
            raise UnsupportedModelError(
                f"{values.file}: {key} is {shown(found)}; puna runs models where it is {allowed} or absent"
            )


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _config(values: Values, gguf: GGUFFile, name: str) -> tuple[ModelConfig, float]:
    """The model, and the divisor of its logits."""
    key = {ours: f"{FAMILIES[name].gguf}.{suffix}" for ours, suffix in (CONFIG_KEYS | FACTOR_KEYS).items()}
    try:
        facts = _facts(values, gguf, FAMILIES[name], key)
        return model_of(name, facts), facts.factors.logit_scale
    except ConfigError as error:
        values.fail(key.get(error.field, error.field), str(error))


def _facts(values: Values, gguf: GGUFFile, family: Family, key: Mapping[str, str]) -> Facts:
    num_layers, hidden_size = values.needed_integer(key["num_layers"]), values.needed_integer(key["hidden_size"])
    num_heads = _needed_for_each_layer(values, key["num_heads"], num_layers)
    head_dim = _head_dim(values, family.gguf, num_heads, hidden_size)
    num_kv_heads = values.for_each_layer(key["num_kv_heads"], num_layers)
    ffn_size = _needed_for_each_layer(values, key["ffn_size"], num_layers)
    windowed, period = _windowed(values, key["windowed"], num_layers, family.period)
    factors = {name: _factor(values, key[name], name, default) for name, default in family.factors.items()}
    if family.score_dim:
        factors["scale"] = implied_scale(family, num_layers, num_heads, head_dim, hidden_size)
    return Facts(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        ffn_size=ffn_size,
        vocab_size=_vocab_size(values, gguf, family.gguf),
        max_context=values.needed_integer(key["max_context"]),
        norm_eps=values.needed_real(key["norm_eps"]),
        ropes=_ropes(values, gguf, family, head_dim),
        tie_embeddings=GGUF_NAMES["lm_head"] not in gguf.tensors,
        name=_printable(values.text("general.name") or ""),
        biases=frozenset(bias for bias in family.gguf_biases if BIAS_TENSORS[bias] in gguf.tensors),
        window=values.integer(key["sliding_window"]) or 0,
        windowed=windowed,
        period=period,
        experts=_experts(values, family, key, ffn_size) if family.experts else None,
        factors=Factors(**factors),
    )


def _factor(values: Values, key: str, name: str, default: float) -> float:
    given = values.real(key)
    if given is None and name in SOFTCAPS:
        return default
    return given or float(getattr(NEUTRAL, name))


def implied_scale(family: Family, num_layers: int, num_heads: int, head_dim: int, hidden_size: int) -> float:
    """The factor of Gemma's scores, for which GGUF has no key: llama.cpp knows the sizes by which the makers scaled."""
    wide = num_layers == family.gguf_wide_layers and num_heads > 0
    return 1 / math.sqrt(max(hidden_size // num_heads if wide else head_dim, 1))


def _experts(values: Values, family: Family, key: Mapping[str, str], ffn_size: int) -> Experts:
    own_size = family.experts is not None and family.experts.size
    size = values.needed_integer(key["expert_size"]) if own_size else ffn_size
    return Experts(size, values.needed_integer(key["num_experts"]), values.needed_integer(key["experts per token"]))


def _needed_for_each_layer(values: Values, key: str, num_layers: int) -> int:
    number = values.for_each_layer(key, num_layers)
    return values.needed_integer(key) if number is None else number


def _head_dim(values: Values, architecture: str, num_heads: int, hidden_size: int) -> int:
    """key_length if given, else an equal share of the hidden size; value_length must agree."""
    given = values.integer(f"{architecture}.attention.key_length")
    if given is None and (num_heads == 0 or hidden_size % num_heads):
        values.fail(
            f"{architecture}.attention.head_count", f"is {num_heads}, which does not divide the hidden size {hidden_size}"
        )
    head_dim = hidden_size // num_heads if given is None else given
    _require_head_dim(values, f"{architecture}.attention.value_length", head_dim)
    return head_dim


def _require_head_dim(values: Values, key: str, head_dim: int) -> None:
    size = values.integer(key)
    if size not in (None, head_dim):
        raise UnsupportedModelError(f"{values.file}: {key} is {size}, and the heads are {head_dim} wide; puna needs them equal")


def _windowed(values: Values, key: str, num_layers: int, period: int) -> tuple[tuple[bool, ...] | None, int]:
    """A flag for each layer, or None; and the period of the family's rule, which some files give instead of flags."""
    pattern = values.pattern(key) if period else values.array(key, "bool")
    if pattern is None or isinstance(pattern, int):
        return None, period if pattern is None else pattern
    if len(pattern) != num_layers:
        values.fail(key, f"holds {len(pattern)} flags; the model has {num_layers} layers")
    return tuple(map(bool, pattern)), period


def _vocab_size(values: Values, gguf: GGUFFile, architecture: str) -> int:
    """Rows of the embedding. The key of that name often predates added tokens, and proves nothing."""
    values.integer(f"{architecture}.vocab_size")
    embed = gguf.tensors.get(GGUF_NAMES["embed"])
    if embed is None:
        raise ModelFormatError(gguf.path, f"tensor '{GGUF_NAMES['embed']}'", None, "is missing")
    return embed.shape[0]


def _ropes(values: Values, gguf: GGUFFile, family: Family, head_dim: int) -> tuple[RopeConfig, ...]:
    rope = _rope(values, gguf, family, head_dim)
    if family.local_theta is None:
        return (rope,)
    theta = values.real(f"{family.gguf}.{CONFIG_KEYS['local_theta']}") or family.local_theta or rope.theta
    return rope, RopeConfig(theta=theta)


def _rope(values: Values, gguf: GGUFFile, family: Family, head_dim: int) -> RopeConfig:
    architecture = family.gguf
    has_longrope = "longrope" in family.scalings.values()
    default = "longrope" if has_longrope and ROPE_LONG in gguf.tensors else "linear"
    kind = values.text(f"{architecture}.rope.scaling.type") or default
    _tell_rope(values, gguf, architecture, kind)
    if kind not in SCALINGS or (kind == "longrope" and not has_longrope):
        known = ", ".join(name for name in SCALINGS if name != "longrope" or has_longrope)
        raise UnsupportedModelError(f"{values.file}: {architecture}.rope.scaling.type is {shown(kind)}; puna knows {known}")
    theta = values.real(f"{architecture}.rope.freq_base")
    rope = RopeConfig(
        theta=10000.0 if theta is None else theta,
        dim=_dim(values, family, head_dim),
        q_beta=(values.real(f"{architecture}.{CONFIG_KEYS['q_beta']}") or 0.0) if family.scales_queries else 0.0,
        **SCALINGS[kind](values, architecture),
    )
    if kind == "longrope":
        short, long = (_rope_factors(gguf, rope.dim_of(head_dim), name) for name in (ROPE_SHORT, ROPE_LONG))
        return replace(rope, factors=short, long_factors=long)
    factors = _rope_factors(gguf, head_dim, ROPE_FACTORS)
    return rope if factors is None else with_factors(rope, factors, head_dim)


def _dim(values: Values, family: Family, head_dim: int) -> int:
    """Rotated numbers of a head; 0: all."""
    key = f"{family.gguf}.{CONFIG_KEYS['rotated']}"
    if not family.partial:
        _require_head_dim(values, key, head_dim)
    dim = values.integer(key) or head_dim
    return 0 if dim == head_dim else dim


def _stretch(values: Values, architecture: str) -> float:
    """The factor by which the context is lengthened; 1 if no key says so (0: not set, as in llama.cpp).

    The old key counts only if the new one is absent.
    """
    new, old = values.real(f"{architecture}.rope.scaling.factor"), values.real(f"{architecture}.rope.scale_linear")
    return (old if new is None else new) or 1.0


def _tell_rope(values: Values, gguf: GGUFFile, architecture: str, kind: str) -> None:
    """Add a notice for keys that contradict each other; the result is llama.cpp's."""
    factor = values.real(f"{architecture}.rope.scaling.factor")
    old = values.real(f"{architecture}.rope.scale_linear")
    name = f"{architecture}.rope.scaling"
    if factor is not None and old is not None and (factor or 1.0) != (old or 1.0):
        values.notices.append(Doubt(f"{name}.factor is {factor:g} and rope.scale_linear {old:g}; puna uses {name}.factor"))
    stretch = _stretch(values, architecture)
    if kind == "none" and stretch != 1.0:
        values.notices.append(Doubt(f"{name}.type is 'none' beside a factor of {stretch:g}; puna scales nothing"))
    if kind != "none" and stretch != 1.0 and ROPE_FACTORS in gguf.tensors:
        values.notices.append(
            Doubt(f"{name} ({kind}, factor {stretch:g}) and {ROPE_FACTORS} are both there; puna applies both, as llama.cpp does")
        )


def _not_scaled(values: Values, architecture: str) -> dict[str, Any]:
    _stretch(values, architecture)  # files have a factor even if the type is none
    return {}


def _linear(values: Values, architecture: str) -> dict[str, Any]:
    factor = _stretch(values, architecture)
    return {"scaling": "none" if factor == 1.0 else "linear", "factor": factor}


def _yarn(values: Values, architecture: str) -> dict[str, Any]:
    """As in llama.cpp, the factor on cos and sin is always the paper's number, times `attn_factor`."""
    keys = {
        "original_context": values.integer(f"{architecture}.rope.scaling.original_context_length"),
        "beta_fast": values.real(f"{architecture}.rope.scaling.yarn_beta_fast"),
        "beta_slow": values.real(f"{architecture}.rope.scaling.yarn_beta_slow"),
    }
    factor, given = _stretch(values, architecture), {name: value for name, value in keys.items() if value}
    if "original_context" not in given:
        given["original_context"] = values.needed_integer(f"{architecture}.context_length")
    weight = values.real(f"{architecture}.rope.scaling.yarn_log_multiplier")
    usual = yarn_attention_factor(max(factor, 1.0), 1.0, weight)
    attention = (values.real(f"{architecture}.rope.scaling.attn_factor") or 1.0) * usual
    return {"scaling": "yarn", "factor": factor, "attention_factor": attention, **given}


def _longrope(values: Values, architecture: str) -> dict[str, Any]:
    original = values.integer(f"{architecture}.rope.scaling.original_context_length")
    return {
        "scaling": "longrope",
        "original_context": original or values.needed_integer(f"{architecture}.context_length"),
        "attention_factor": values.real(f"{architecture}.rope.scaling.attn_factor") or 1.0,
    }


# rope.scaling.type -> the file's values for it, as fields of RopeConfig.
SCALINGS: dict[str, Callable[[Values, str], dict[str, Any]]] = {
    "none": _not_scaled,
    "linear": _linear,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _rope_factors(gguf: GGUFFile, dim: int, name: str) -> tuple[float, ...] | None:
    tensor = gguf.tensors.get(name)
    if tensor is None:
        return None
    if tensor.type.name != "F32" or tensor.shape != (dim // 2,):
        tensor.fail(f"is {tensor.type.name} {tensor.shape}; F32 ({dim // 2},) is needed")
    factors = tensor.type.dequantize(tensor.data[:])[0]
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        tensor.fail("holds a number that is not finite and above 0")
    return tuple(factors.tolist())


# ---- tensors --------------------------------------------------------------------------------------------------------


def _tensors(gguf: GGUFFile, config: ModelConfig, logit_scale: float) -> dict[str, Tensor]:
    family, shapes = FAMILIES[config.architecture], tensor_shapes(config)
    known = {foreign_name(GGUF_NAMES, ours): ours for ours in shapes}
    found = separated(gguf.tensors, family.gguf_fused, GGUF_NAMES, config, _part)
    for name in [name for name in found if OLD_EXPERTS.fullmatch(name)]:
        raise UnsupportedModelError(
            f"{found[name].file}: tensor '{name}' is one expert's by itself, as in files from before April 2024",
            hint="Take a newer conversion of the model, in which a layer's experts are one tensor.",
        )
    for name in [name for name in found if name not in known and name not in (ROPE_FACTORS, ROPE_LONG, ROPE_SHORT, SCORE)]:
        raise UnsupportedModelError(
            f"{found[name].file}: tensor '{name}' is no part of a {config.architecture} model with "
            f"{config.num_layers} layers{', as puna knows it' if name.endswith('.bias') else ''}"
        )
    for name in [name for name in known if name not in found]:
        raise ModelFormatError(gguf.path, f"tensor '{name}'", None, f"is missing; the model has {config.num_layers} layers")
    tensors = {ours: _tensor(found[name], ours, shapes[ours], config) for name, ours in known.items()}
    if logit_scale != 1.0:
        tensors["final_norm"] = tensors["final_norm"].adjusted(1 / logit_scale)
    return tensors


def _part(whole: GGUFTensor, name: str, shape: tuple[int, ...], rows: Rows) -> GGUFTensor:
    return replace(whole, name=name, shape=shape, data=rows)


def _tensor(source: GGUFTensor, ours: str, shape: tuple[int, ...], config: ModelConfig) -> Tensor:
    if source.shape != shape:
        source.fail(f"has shape {source.shape}; the model's sizes need {shape}")
    turned = FAMILIES[config.architecture].half_split and role_of(ours).is_rotary
    rows = _interleaved(source, shape, config) if turned else source.data
    return Tensor(ours, shape, source.type, rows, file=str(source.file))


def _interleaved(source: GGUFTensor, shape: tuple[int, ...], config: ModelConfig) -> Rows:
    if len(shape) == 2:
        return HalfSplitHeads(source.data, config.head_dim, config.rope.dim)
    if source.type.block_size != 1:
        source.fail(f"is {source.type.name}; a vector of this kind must be F32, F16 or BF16")
    return half_split_vector(source.data, config.head_dim, source.data.shape[1] // shape[0], config.rope.dim)


# ---- for people -----------------------------------------------------------------------------------------------------


def _printable(name: str) -> str:
    """A name without line breaks and control characters, cut to fit a line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name[:MAX_NAME_CHARACTERS])


def _shown(value: Value) -> Any:
    """A value as `puna inspect` shows it: long arrays by their length."""
    if not value.kind.startswith("array"):
        return value.value
    if len(value.value) > MAX_SHOWN:
        return f"{len(value.value)} x {value.kind.removeprefix('array of ')}"
    if isinstance(value.value, list):
        return [text.decode("utf-8", "replace") for text in value.value]
    return value.value.tolist()
