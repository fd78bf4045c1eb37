"""config.json of a Hugging Face folder -> ModelConfig. Keys and defaults are those of transformers' configurations.

There are four kinds of keys: those read here; those that do not affect results; those allowed only with their plain value,
because any other changes results; and unknown ones, which `puna inspect` lists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from puna.errors import ConfigError, UnsupportedModelError
from puna.formats.json_file import JsonObject
from puna.formats.mapped import shown
from puna.formats.notices import Doubt
from puna.model.rope import RopeConfig, yarn_attention_factor
from puna.model.spec import MAX_SIZES, ModelConfig, plain_model


@dataclass(frozen=True, slots=True)
class Family:
    """A row of the table: a model type's defaults, which its config.json may omit. None: only the key counts, if it is there."""

    classes: tuple[str, ...]  # of `architectures`; some files write them in another case
    max_context: int
    num_kv_heads: int | None = None  # None: as many as heads
    head_dim: int | None = None  # None: hidden size / heads
    sliding_window: int = 0
    window_flag: bool = False  # the window counts only if `use_sliding_window` is true
    qkv_bias: bool | None = None
    o_bias: bool | None = None
    ffn_bias: bool | None = None
    qk_norm: bool = False


FAMILIES: dict[str, Family] = {
    "llama": Family(("LlamaForCausalLM",), max_context=2048),
    "mistral": Family(
        ("MistralForCausalLM",), 131072, num_kv_heads=8, sliding_window=4096, qkv_bias=False, o_bias=False, ffn_bias=False
    ),
    "qwen2": Family(
        ("Qwen2ForCausalLM",), 32768, 32, sliding_window=4096, window_flag=True, qkv_bias=True, o_bias=False, ffn_bias=False
    ),
    "qwen3": Family(
        ("Qwen3ForCausalLM",), 32768, 32, head_dim=128, sliding_window=4096, window_flag=True, ffn_bias=False, qk_norm=True
    ),
}  # fmt: skip

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
    "windowed_layers": "layer_types",
}

# Keys that change results: with any other value a model is not the one that puna computes.
PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish", None),
    "hidden_activation": ("silu", "swish", None),
    "partial_rotary_factor": (1, None),
    "rope_interleaved": (False, None),
    "position_embedding_type": ("rope", "rotary", None),
    "alibi": (False, None),
    "use_alibi": (False, None),
    "no_rope_layers": ([], None),
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
    "_attn_implementation", "_name_or_path", "add_bos_token", "add_eos_token", "architectures", "attention_dropout",
    "attention_probs_dropout_prob", "attn_implementation", "auto_map", "bos_token_id", "chunk_size_feed_forward",
    "compression_config", "do_sample", "dtype", "embd_pdrop", "eos_token_id", "finetuning_task", "hidden_dropout", "id2label",
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
ORIGINAL = "original_max_position_embeddings"
READ = {
    ORIGINAL,
    *CONFIG_KEYS.values(),
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
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
    model_type, family = _family(config)
    refuse_other_values(config, PLAIN_VALUES)
    rope, stretch = _rope(config, family)
    num_layers, num_heads, hidden_size = (
        _needed(config, CONFIG_KEYS[size]) for size in ("num_layers", "num_heads", "hidden_size")
    )
    window = _window(config, family)
    norm_eps = config.real("rms_norm_eps")
    num_kv_heads = _integer(config, "num_key_value_heads", family.num_kv_heads or num_heads)
    try:
        return plain_model(
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=_head_dim(config, family, num_heads, hidden_size),
            hidden_size=hidden_size,
            ffn_size=_needed(config, "intermediate_size"),
            vocab_size=_needed(config, "vocab_size"),
            max_context=_lengthened(_context(config, family), stretch),
            norm_eps=1e-6 if norm_eps is None else norm_eps,
            rope=_made(config, rope),
            tie_embeddings=config.flag("tie_word_embeddings"),
            architecture=model_type,
            name=name,
            qkv_bias=_flag(config, "attention_bias", family.qkv_bias),
            o_bias=_flag(config, "attention_bias", family.o_bias),
            ffn_bias=_flag(config, "mlp_bias", family.ffn_bias),
            qk_norm=family.qk_norm,
            sliding_window=window,
            windowed_layers=_windowed_layers(config, family, num_layers) if window else None,
        )
    except ConfigError as error:
        config.fail(CONFIG_KEYS.get(error.field, error.field), str(error))


def unused_keys(config: JsonObject) -> tuple[str, ...]:
    """Keys that puna neither reads nor knows."""
    known = READ | WITHOUT_EFFECT | PLAIN_VALUES.keys()
    return tuple(key for key in config.values if key not in known)


def _family(config: JsonObject) -> tuple[str, Family]:
    model_type = config.text("model_type") or ""
    family = FAMILIES.get(model_type)
    if family is None:
        found = f"the model type is {shown(model_type)}" if model_type else "no model type is named"
        raise UnsupportedModelError(
            f"{config.file}: {found}; puna runs: {', '.join(FAMILIES)}", hint="Choose a model of the LLaMA family."
        )
    for kind in config.array("architectures"):
        if not isinstance(kind, str) or kind.lower() not in map(str.lower, family.classes):
            raise UnsupportedModelError(
                f"{config.file}: the architecture is {shown(kind)}; puna runs models that write text ({family.classes[0]})"
            )
    return model_type, family


def refuse_other_values(config: JsonObject, plain_values: Mapping[str, tuple[Any, ...]]) -> None:
    """Raise UnsupportedModelError for a key that changes results and has none of its plain values."""
    for key, plain in plain_values.items():
        if key in config.values and config.values[key] not in plain:
            allowed = " or ".join("absent" if value is None else repr(value) for value in plain)
            name = f"{config.name}.{key}" if config.name else key
            found = f"{name} is {shown(config.values[key])}, which changes results"
            raise UnsupportedModelError(f"{config.file}: {found}; puna runs models where it is {allowed}")


def _needed(config: JsonObject, key: str) -> int:
    value = config.integer(key)
    if value is None:
        config.fail(key, "is missing")
    return value


def _integer(config: JsonObject, key: str, default: int) -> int | None:
    """The default if the key is absent; None if it is null."""
    return config.integer(key) if key in config.values else default


def _flag(config: JsonObject, key: str, fixed: bool | None) -> bool:
    return config.flag(key) if fixed is None else fixed


def _head_dim(config: JsonObject, family: Family, num_heads: int, hidden_size: int) -> int:
    given = config.integer("head_dim")
    if given is None and family.head_dim is not None and "head_dim" not in config.values:
        return family.head_dim
    if given is None and (num_heads <= 0 or hidden_size % num_heads):
        config.fail("num_attention_heads", f"is {num_heads}, which does not divide the hidden size {hidden_size}")
    return hidden_size // num_heads if given is None else given


def _context(config: JsonObject, family: Family) -> int:
    given = config.integer("max_position_embeddings")
    return family.max_context if given is None else _in_range(config, "max_position_embeddings", given)


def _lengthened(tokens: int, stretch: float) -> int:
    """Never beyond what ModelConfig allows: a file may give any factor."""
    return int(min(tokens * stretch, 2.0 * MAX_SIZES["max_context"]))


def _in_range(config: JsonObject, key: str, tokens: int) -> int:
    """Check before anything is computed from it: numbers of JSON have no limit."""
    if not 1 <= tokens <= MAX_SIZES["max_context"]:
        config.fail(key, f"is {shown(tokens)}; it must lie in 1..{MAX_SIZES['max_context']}")
    return tokens


# ---- windows --------------------------------------------------------------------------------------------------------

WINDOWED, FULL = "sliding_attention", "full_attention"


def _window(config: JsonObject, family: Family) -> int:
    if not family.sliding_window or (family.window_flag and not config.flag("use_sliding_window")):
        return 0
    return _integer(config, "sliding_window", family.sliding_window) or 0


def _windowed_layers(config: JsonObject, family: Family, num_layers: int) -> tuple[int, ...] | None:
    kinds = config.array("layer_types")
    if kinds:
        if len(kinds) != num_layers or not all(kind in (WINDOWED, FULL) for kind in kinds):
            config.fail("layer_types", f"is {shown(kinds)}; {num_layers} of {WINDOWED!r} and {FULL!r} are needed")
        return tuple(layer for layer, kind in enumerate(kinds) if kind == WINDOWED)
    if not family.window_flag:
        return None
    first = _integer(config, "max_window_layers", 28) or 0
    return tuple(range(max(first, 0), min(num_layers, MAX_SIZES["num_layers"])))


# ---- rotary embedding -----------------------------------------------------------------------------------------------


def _rope(config: JsonObject, family: Family) -> tuple[dict[str, Any], float]:
    """Fields of RopeConfig, and the factor by which they lengthen the config's context."""
    scaling = _scaling(config)
    nested = [key for key, value in scaling.values.items() if isinstance(value, dict)]
    if nested:
        raise UnsupportedModelError(
            f"{config.file}: {scaling.name} differs between layers ({shown(nested[0])}), which puna cannot run"
        )
    kind = _kind(scaling)
    if kind not in SCALINGS:
        raise UnsupportedModelError(
            f"{config.file}: {scaling.name} is of type {shown(kind)}, which changes results; puna knows {', '.join(SCALINGS)}"
        )
    keys, read = SCALINGS[kind]
    unknown = scaling.values.keys() - OF_ANY_SCALING - OTHER_ROPE_KEYS
    if unknown:
        raise UnsupportedModelError(
            f"{config.file}: {scaling.name} has the key {shown(min(unknown))}; puna knows for {kind}: {', '.join(keys) or 'none'}"
        )
    if scaling.real("partial_rotary_factor") not in (1.0, None):
        raise UnsupportedModelError(f"{config.file}: partial_rotary_factor is not 1; puna rotates whole heads only")
    theta = scaling.real("rope_theta") or config.real("rope_theta") or 10000.0
    fields = read(_with_original(config, scaling, kind), _context(config, family))
    stretch = fields.pop("stretch", 1.0)
    return {"theta": theta, **fields}, stretch


def _scaling(config: JsonObject) -> JsonObject:
    """The scaling that counts: as in transformers 5, an old `rope_scaling` wins over `rope_parameters`."""
    given = (config.object(key) for key in ("rope_scaling", "rope_parameters"))
    nothing = JsonObject(config.file, {}, "rope_scaling")
    return next((scaling for scaling in given if scaling is not None and scaling.values), nothing)


def _kind(scaling: JsonObject) -> str:
    return scaling.text("rope_type") or scaling.text("type") or "default"


def _with_original(config: JsonObject, scaling: JsonObject, kind: str) -> JsonObject:
    """`scaling` with the original context beside it, which wins over its own (transformers 5)."""
    beside = config.integer(ORIGINAL)
    if beside is None or kind not in OUTER_ORIGINAL:
        return scaling
    return JsonObject(scaling.file, {**scaling.values, ORIGINAL: beside}, scaling.name)


def rope_notices(config: JsonObject) -> tuple[Doubt, ...]:
    """Notices for keys of the rotary embedding that contradict each other: puna reads them as transformers 5 does."""
    scaling = _scaling(config)
    return tuple(map(Doubt, _rope_contradictions(config, scaling, _kind(scaling))))


def _rope_contradictions(config: JsonObject, scaling: JsonObject, kind: str) -> Iterator[str]:
    new, theta, outer = config.object("rope_parameters"), config.real("rope_theta"), config.integer(ORIGINAL)
    if new is not None and new.values and new.values is not scaling.values and new.values != scaling.values:
        yield f"{config.file.name}: rope_parameters and rope_scaling differ; puna uses rope_scaling, as transformers does"
    inner = scaling.real("rope_theta")
    if theta is not None and inner is not None and theta != inner:
        yield f"{config.file.name}: rope_theta is {theta:g}, in {scaling.name} {inner:g}; puna uses the latter, as transformers"
    old_kind = scaling.text("type")
    if old_kind not in (None, kind):
        yield f"{config.file.name}: {scaling.name} is of rope_type {kind!r} and type {old_kind!r}; puna uses rope_type"
    own = scaling.integer(ORIGINAL)
    if outer is not None and own is not None and outer != own and kind in OUTER_ORIGINAL:
        yield f"{config.file.name}: {ORIGINAL} is {outer}, in {scaling.name} {own}; puna uses {outer}, as transformers does"
    idle = sorted((scaling.values.keys() & OF_ANY_SCALING) - set(SCALINGS[kind][0]))
    if idle:
        yield f"{config.file.name}: {scaling.name} of type {kind!r} does not use {', '.join(idle)}; puna ignores that"


def context_beside(scaling: JsonObject, kind: str, tokens: int) -> int:
    """The context of a model whose config.json says `tokens` beside this rope scaling of a kind of SCALINGS."""
    return _lengthened(tokens, SCALINGS[kind][1](scaling, tokens).get("stretch", 1.0))


def _made(config: JsonObject, fields: dict[str, Any]) -> RopeConfig:
    try:
        return RopeConfig(**fields)
    except ConfigError as error:
        config.fail("rope_scaling", str(error))


def _factor(scaling: JsonObject, key: str = "factor") -> float:
    value = scaling.real(key)
    if value is None:
        scaling.fail(key, "is missing")
    return value


def _original(scaling: JsonObject, context: int) -> int:
    given = scaling.integer(ORIGINAL)
    return context if given is None else _in_range(scaling, ORIGINAL, given)


def _not_negative(scaling: JsonObject, key: str) -> float | None:
    value = scaling.real(key)
    if value is not None and value < 0:
        scaling.fail(key, f"is {value}; it must not be negative")
    return value


def _default(scaling: JsonObject, context: int) -> dict[str, Any]:
    return {}


def _linear(scaling: JsonObject, context: int) -> dict[str, Any]:
    factor = _factor(scaling)
    return {"scaling": "linear", "factor": factor, "stretch": factor}


def _dynamic(scaling: JsonObject, context: int) -> dict[str, Any]:
    factor = _factor(scaling)
    return {"scaling": "dynamic", "factor": factor, "original_context": context, "stretch": factor}


def _llama3(scaling: JsonObject, context: int) -> dict[str, Any]:
    return {
        "scaling": "llama3",
        "factor": _factor(scaling),
        "low_freq_factor": _factor(scaling, "low_freq_factor"),
        "high_freq_factor": _factor(scaling, "high_freq_factor"),
        "original_context": _original(scaling, context),
    }


def _yarn(scaling: JsonObject, context: int) -> dict[str, Any]:
    original = _original(scaling, context)
    factor = scaling.real("factor") or context / max(original, 1)
    attention = scaling.real("attention_factor")
    if attention is None:
        attention = yarn_attention_factor(factor, *(_not_negative(scaling, key) for key in ("mscale", "mscale_all_dim")))
    return {
        "scaling": "yarn",
        "factor": factor,
        "original_context": original,
        "beta_fast": scaling.real("beta_fast") or 32.0,
        "beta_slow": scaling.real("beta_slow") or 1.0,
        "truncate": scaling.flag("truncate", True),
        "attention_factor": attention,
        "stretch": max(original * factor / context, 1.0) if context > 0 else 1.0,
    }


YARN = ("factor", ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "finetuned")

# Type of scaling -> the keys that it may have, and how to read them.
SCALINGS: dict[str, tuple[tuple[str, ...], Callable[[JsonObject, int], dict[str, Any]]]] = {
    "default": ((), _default),
    "linear": (("factor",), _linear),
    "dynamic": (("factor", ORIGINAL), _dynamic),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), _llama3),
    "yarn": (YARN, _yarn),
}
OF_ANY_SCALING = {key for keys, _ in SCALINGS.values() for key in keys}
OTHER_ROPE_KEYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
OUTER_ORIGINAL = ("llama3", "yarn")  # kinds whose original context transformers reads from beside the scaling
