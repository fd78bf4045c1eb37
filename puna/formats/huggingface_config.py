"""config.json of a Hugging Face folder -> ModelConfig. Keys and defaults are those of transformers' configurations.

There are four kinds of keys: those read here; those that do not affect results; those allowed only with their plain value,
because any other changes results; and unknown ones, which `puna inspect` lists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from puna.errors import ConfigError, UnsupportedModelError
from puna.formats.families import FAMILIES, NEUTRAL, WRAPPERS, DefaultExperts, Factors, Facts, Family, model_of
from puna.formats.huggingface_rope import FULL, LOCAL, ORIGINAL, PARTIAL, in_range, lengthened, read_ropes
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.ranking_head import classes_of
from puna.model.spec import Activation, Experts, ModelConfig

# Our name of a size -> the key; errors about that size name the key.
CONFIG_KEYS = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_size": "hidden_size",
    "ffn_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "sliding_window": "sliding_window",
}
OTHER_KEYS = {
    "num_experts": "num_experts",
    "experts per token": "num_experts_per_tok",
    "attention softcap": "attn_logit_softcapping",
}
# Our name of a factor -> the key.
FACTOR_KEYS = {
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
    "scale": "attention_multiplier",
    "softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
SCORE_DIM, NOPE = "query_pre_attn_scalar", "no_rope_layers"
PERIODS = ("sliding_window_pattern", "no_rope_layer_interval")
NUM_EXPERTS = ("num_local_experts", "num_experts")
ACTIVATIONS: dict[Activation, tuple[str | None, ...]] = {"silu": ("silu", "swish", None), "gelu": ("gelu_pytorch_tanh", None)}
ACTIVATION_KEYS = ("hidden_act", "hidden_activation")
OF_THE_WHOLE = ("quantization_config", "compression_config", "tie_word_embeddings")  # of config.json, if not of its text_config

# Keys that change results: with any other value a model is not the one that puna computes, unless its family reads the key.
PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(ACTIVATION_KEYS, ACTIVATIONS["silu"]),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "position_embedding_type": ("rope", "rotary", None),
    "alibi": (False, None),
    "use_alibi": (False, None),
    "no_rope_layers": ([], None),
    "no_rope_layer_interval": (None,),
    "rope_local_base_freq": (None,),
    "sliding_window_pattern": (1, None),
    "query_pre_attn_scalar": (None,),
    "use_bidirectional_attention": (False, None),
    "clip_qkv": (0, None),
    "qk_layernorm": (False, None),
    "use_mrope": (False, None),
    "use_qk_norm": (False, None),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "attention_multiplier": (None,),
    "embedding_multiplier": (1, None),
    "residual_multiplier": (1, None),
    "logits_scaling": (1, None),
    "scale_emb": (1, None),
    "num_local_experts": (0, 1, None),
    "num_experts": (0, 1, None),
    "n_routed_experts": (0, None),
    "moe_intermediate_size": (None,),
    "attention_chunk_size": (None,),
    "is_encoder_decoder": (False, None),
    "add_cross_attention": (False, None),
    "cross_attention_layers": ([], None),
    "mamba_d_state": (None,),
    "parallel_attn": (False, None),
    "use_parallel_residual": (False, None),
    "norm_type": ("rmsnorm", "rms_norm", None),
}

# Keys that do not affect results, and those that tokenizer and generation read elsewhere.
WITHOUT_EFFECT = {
    "_attn_implementation", "_name_or_path", "_sliding_window_pattern", "add_bos_token", "add_eos_token", "architectures",
    "attention_dropout", "attention_probs_dropout_prob", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "compression_config", "do_sample", "dtype", "embd_pdrop", "eos_token_id",
    "finetuning_task", "hidden_dropout", "id2label",
    "initializer_range", "is_decoder", "is_llama_config", "label2id", "max_length", "max_sequence_length", "max_window_layers",
    "min_length", "model_max_length", "model_type", "num_labels", "output_attentions", "output_hidden_states", "output_scores",
    "pad_token_id", "prefix", "pretraining_tp", "problem_type", "pruned_heads", "quantization_config", "repetition_penalty",
    "resid_pdrop", "return_dict", "return_dict_in_generate", "sep_token_id", "task_specific_params", "temperature",
    "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p", "torch_dtype", "torchscript", "transformers.js_config",
    "transformers_version", "unk_token_id", "unsloth_fixed", "unsloth_version", "use_bfloat16", "use_cache", "use_flash_attn",
    "use_sliding_window",
}  # fmt: skip
# Settings of `generate` that transformers reads from config.json if a folder has no generation_config.json.
SAMPLING = (
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size"),
    *("num_beams", "max_length", "min_length", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens"),
)
READ = {
    ORIGINAL,
    *CONFIG_KEYS.values(),
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "layer_types",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
}


def sampling_in(config: JsonObject) -> dict[str, Any]:
    """The settings of `generate` in config.json, in the words of generation_config.json."""
    found = {key: config.values[key] for key in SAMPLING if config.values.get(key) is not None}
    return {**found, "_from_model_config": True} if found else {}


def read_config(config: JsonObject, name: str) -> ModelConfig:
    """The sizes of a model; `name` is the model's name for people.

    Raises ModelFormatError, and UnsupportedModelError for another architecture and for keys that change results.
    """
    config = text_part(config)
    family = family_in(config)
    refuse_other_values(config, _plain_values(family))
    _require_values(config, family)
    try:
        return model_of(config.values["model_type"], _facts(config, family, name))
    except ConfigError as error:
        config.fail(_key_of(family, error.field), str(error))


def logit_scale(config: JsonObject) -> float:
    """The divisor of the logits."""
    config = text_part(config)
    factors = family_in(config).factors
    return _factor(config, "logit_scale", factors["logit_scale"]) if "logit_scale" in factors else 1.0


def unused_keys(config: JsonObject) -> tuple[str, ...]:
    """Keys that puna neither reads nor knows."""
    config = text_part(config)
    known = READ | WITHOUT_EFFECT | PLAIN_VALUES.keys() | set(family_in(config).keys)
    return tuple(key for key in config.values if key not in known)


def family_in(config: JsonObject) -> Family:
    """The family that config.json names."""
    model_type = config.text("model_type") or ""
    family = FAMILIES.get(model_type)
    if family is None:
        found = f"the model type is {shown(model_type)}" if model_type else "no model type is named"
        raise UnsupportedModelError(
            f"{config.file}: {found}; puna runs: {', '.join(FAMILIES)}", hint="Choose a model of one of these families."
        )
    _require_class(config, classes_of(family.classes))
    return family


def _require_class(config: JsonObject, classes: tuple[str, ...]) -> None:
    for kind in config.array("architectures"):
        if not isinstance(kind, str) or kind.lower() not in map(str.lower, classes):
            raise UnsupportedModelError(
                f"{config.file}: the architecture is {shown(kind)}; puna runs models that write text ({classes[0]})"
            )


def text_part(config: JsonObject) -> JsonObject:
    """The part of config.json that describes the language model: all of it, or `text_config` if the model also reads images."""
    wrapper = WRAPPERS.get(config.text("model_type") or "")
    if wrapper is None:
        return config
    _require_class(config, wrapper)
    inner = config.object("text_config")
    if inner is None:
        config.fail("text_config", "is missing")
    outer = {key: config.values[key] for key in OF_THE_WHOLE if key in config.values}
    return JsonObject(config.file, {**outer, **inner.values}, inner.name)


def _plain_values(family: Family) -> dict[str, tuple[Any, ...]]:
    """The plain values of the keys that a family does not read."""
    read = {*family.keys, *(FACTOR_KEYS[name] for name in family.factors), *((SCORE_DIM,) if family.score_dim else ())}
    read |= {PARTIAL} if family.partial else set()
    kept = {key: values for key, values in PLAIN_VALUES.items() if key not in read}
    return kept | dict.fromkeys(ACTIVATION_KEYS, ACTIVATIONS[family.activation])


def _require_values(config: JsonObject, family: Family) -> None:
    for key, allowed in family.needs.items():
        found = config.values.get(key)
        each = found if isinstance(found, list) else [found]
        if not each or any(one not in allowed for one in each):
            words = " or ".join(map(str, allowed))
            raise UnsupportedModelError(
                f"{config.file}: {key} is {shown(found)}; puna runs models of this type where it is {words}"
            )


def _key_of(family: Family, field: str) -> str:
    return (
        SCORE_DIM
        if family.score_dim and field == "attention scale"
        else (CONFIG_KEYS | FACTOR_KEYS | OTHER_KEYS).get(field, field)
    )


def refuse_other_values(config: JsonObject, plain_values: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedModelError for a key that changes results and has none of its plain values."""
    for key, plain in plain_values.items():
        if key in config.values and config.values[key] not in plain:
            allowed = " or ".join("absent" if value is None else repr(value) for value in plain)
            name = f"{config.name}.{key}" if config.name else key
            found = f"{name} is {shown(config.values[key])}, which changes results"
            raise UnsupportedModelError(f"{config.file}: {found}; puna runs models where it is {allowed}")


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _facts(config: JsonObject, family: Family, name: str) -> Facts:
    num_layers, hidden_size = _needed(config, "num_hidden_layers"), _needed(config, "hidden_size")
    num_heads = _needed(config, "num_attention_heads", family.num_heads)
    num_kv_heads = _integer(config, "num_key_value_heads", family.num_kv_heads or num_heads)
    head_dim, context = _head_dim(config, family, num_heads, hidden_size), _context(config, family)
    ropes, stretch = read_ropes(config, family, head_dim, context)
    norm_eps, window = config.real("rms_norm_eps"), _window(config, family)
    ffn_size = _needed(config, family.ffn_key)
    return Facts(
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
        head_dim=head_dim,
        hidden_size=hidden_size,
        ffn_size=ffn_size,
        vocab_size=_needed(config, "vocab_size", family.vocab_size),
        max_context=lengthened(context, stretch),
        norm_eps=family.norm_eps if norm_eps is None else norm_eps,
        ropes=ropes,
        tie_embeddings=config.flag("tie_word_embeddings", family.tied),
        name=name,
        biases=_biases(config, family),
        window=window,
        windowed=_listed(config, num_layers) if window else None,
        rotated=_rotated(config, num_layers) if NOPE in family.keys else None,
        period=_period(config, family),
        first_windowed=_integer(config, "max_window_layers", 28) or 0,
        experts=_experts(config, family.experts, ffn_size),
        experts_every=_integer(config, "decoder_sparse_step", 1) or 1,
        dense_layers=frozenset(config.whole_numbers("mlp_only_layers")),
        factors=_factors(config, family),
    )


def _needed(config: JsonObject, key: str, default: int | None = None) -> int:
    value = config.integer(key)
    if value is None and default is None:
        config.fail(key, "is missing")
    return default if value is None and default is not None else value or 0


def _integer(config: JsonObject, key: str, default: int) -> int | None:
    """The default if the key is absent; None if it is null."""
    return config.integer(key) if key in config.values else default


def _head_dim(config: JsonObject, family: Family, num_heads: int, hidden_size: int) -> int:
    given = config.integer("head_dim")
    if given is None and family.head_dim is not None and "head_dim" not in config.values:
        return family.head_dim
    if given is None and (num_heads <= 0 or hidden_size % num_heads):
        config.fail("num_attention_heads", f"is {num_heads}, which does not divide the hidden size {hidden_size}")
    return hidden_size // num_heads if given is None else given


def _context(config: JsonObject, family: Family) -> int:
    given = config.integer("max_position_embeddings")
    return family.max_context if given is None else in_range(config, "max_position_embeddings", given)


def _biases(config: JsonObject, family: Family) -> frozenset[str]:
    asked = {name for name in family.biases if config.flag("mlp_bias" if name == "ffn_bias" else "attention_bias")}
    return frozenset((*family.always, *asked))


def _factors(config: JsonObject, family: Family) -> Factors:
    found = {name: _factor(config, name, default) for name, default in family.factors.items()}
    if family.score_dim:
        divisor = config.real(SCORE_DIM) or family.score_dim
        found["scale"] = divisor**-0.5 if divisor > 0 else divisor  # ModelConfig refuses the latter
    return Factors(**found)


def _factor(config: JsonObject, name: str, default: float) -> float:
    """The default if the key is absent; no factor if it is null."""
    key = FACTOR_KEYS[name]
    value = config.real(key) if key in config.values else default
    return float(getattr(NEUTRAL, name)) if value is None else value


def _experts(config: JsonObject, default: DefaultExperts | None, ffn_size: int) -> Experts | None:
    if default is None:
        return None
    count = next((found for key in NUM_EXPERTS if (found := config.integer(key)) is not None), default.num_experts)
    top_k = config.integer("num_experts_per_tok") or default.top_k
    size = (config.integer("moe_intermediate_size") or default.size) if default.size else ffn_size
    normalises = config.flag("norm_topk_prob") if default.normalises is None else default.normalises
    return Experts(size, count, top_k, normalises=normalises) if count else None


# ---- layers ---------------------------------------------------------------------------------------------------------


def _window(config: JsonObject, family: Family) -> int:
    if family.window is None or (family.window_flag and not config.flag("use_sliding_window")):
        return 0
    return _integer(config, "sliding_window", family.window) or 0


def _listed(config: JsonObject, num_layers: int) -> tuple[bool, ...] | None:
    """The layers with a window, if config.json lists them."""
    kinds = config.array("layer_types")
    if kinds and (len(kinds) != num_layers or not all(kind in (LOCAL, FULL) for kind in kinds)):
        config.fail("layer_types", f"is {shown(kinds)}; {num_layers} of {LOCAL!r} and {FULL!r} are needed")
    return tuple(kind == LOCAL for kind in kinds) if kinds else None


def _rotated(config: JsonObject, num_layers: int) -> tuple[bool, ...] | None:
    """The layers that rotate q and k, if config.json lists them (as ones; `no_rope_layers` means the zeros)."""
    ones = config.whole_numbers(NOPE)
    if ones and len(ones) < num_layers:
        config.fail(NOPE, f"has {len(ones)} numbers; the model has {num_layers} layers")
    return tuple(map(bool, ones)) if ones else None


def _period(config: JsonObject, family: Family) -> int:
    """A pattern is a number, or letters, of which only the last differs: LLLG."""
    key = next((key for key in PERIODS if key in family.keys), None)
    pattern = None if key is None else config.values.get(key)
    if key is None or pattern is None:
        return family.period
    if isinstance(pattern, str) and re.fullmatch("L+G", pattern):
        return len(pattern)
    period = config.integer(key)
    return period if period is not None and period >= 0 else config.fail(key, f"is {shown(pattern)}; it must not be negative")
