"""A checkpoint as a Hugging Face folder: config.json, safetensors in one file or sharded by an index, tokenizer files.

The config uses words that transformers 4 and 5 both read.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from puna.errors import UnsupportedModelError
from puna.formats.families import FAMILIES
from puna.formats.huggingface_rope import context_beside
from puna.formats.json_file import JsonObject
from puna.formats.names import HUGGINGFACE_NAMES, foreign_name
from puna.model.rope import RopeConfig
from puna.model.spec import EXTRAS, MAX_SIZES, ModelConfig
from puna.writers.base import WriteJob, Writer, dealt_out, write_rows
from puna.writers.text_files import require_frame, write_huggingface_texts, write_json

ALIGNMENT = 8  # of the first array, as in the format's own library
TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
WINDOWED, FULL = "sliding_attention", "full_attention"
HELD = ("qkv_bias", "o_bias", "ffn_bias", "qk_norm", "sliding_window", "windowed_layers")  # extras that a folder can hold


def _model_type(config: ModelConfig) -> str:
    """GGUF calls Mistral's models llama: a sliding window, which transformers' llama lacks, shows them."""
    return "mistral" if config.architecture == "llama" and config.sliding_window else config.architecture


def _require(job: WriteJob) -> None:
    config = job.checkpoint.config
    kind, extras = _model_type(config), config.extras
    wrong = {
        "a table of rope factors": config.rope.factors is not None,
        "biases of q, k, v without one of o": kind in ("llama", "qwen3") and ("qkv_bias" in extras) != ("o_bias" in extras),
        "no biases of q, k, v": kind == "qwen2" and "qkv_bias" not in extras,
        "a bias of o": kind in ("qwen2", "mistral") and "o_bias" in extras,
        "biases of q, k, v": kind == "mistral" and "qkv_bias" in extras,
        "biases of the feed-forward part": kind != "llama" and "ffn_bias" in extras,
        "norms of heads": (kind == "qwen3") != ("qk_norm" in extras),
        "windows in some layers": kind == "mistral" and config.windowed_layers is not None,
        **{what: what in extras for what in EXTRAS if what not in HELD},
    }
    if kind not in FAMILY_KEYS:
        raise UnsupportedModelError(
            f"puna does not write folders of the architecture {kind!r}", hint="Convert to gguf instead, or keep the folder."
        )
    for what in [what for what, is_so in wrong.items() if is_so]:
        raise UnsupportedModelError(f"a {kind} model with {what} has no form in transformers' configurations")
    if _context(config) is None:
        raise UnsupportedModelError(
            f"config.json has no form for a context of {config.max_context} tokens beside {config.rope.scaling} rope scaling by"
            f" {config.rope.factor:g}: no whole number of tokens is lengthened to it",
            hint="Convert to gguf instead.",
        )
    require_frame(job.checkpoint.tokenizer)


# ---- config.json ----------------------------------------------------------------------------------------------------


def _config(job: WriteJob) -> dict[str, Any]:
    checkpoint, config = job.checkpoint, job.checkpoint.config
    kind, spec = _model_type(config), checkpoint.tokenizer
    matrices = Counter(job.types[name] for name, tensor in checkpoint.tensors.items() if len(tensor.shape) == 2)
    values: dict[str, Any] = {
        "architectures": [FAMILIES[kind].classes[0]],
        "model_type": kind,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": _context(config),
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope.theta,
        "rope_scaling": _rope_scaling(config.rope),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": TORCH_TYPES[matrices.most_common(1)[0][0]],
        "bos_token_id": None if spec is None else spec.bos_id,
        "eos_token_id": None if spec is None else spec.eos_id,
    }
    return values | FAMILY_KEYS[kind](config)


def _llama(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": "qkv_bias" in config.extras, "mlp_bias": "ffn_bias" in config.extras}


def _mistral(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.sliding_window or None}


def _qwen2(config: ModelConfig) -> dict[str, Any]:
    if not config.sliding_window:
        return {"use_sliding_window": False}
    kinds = [WINDOWED if layer.attention.window else FULL for layer in config.layers]
    full = next((layer for layer, kind in enumerate(kinds) if kind == WINDOWED), config.num_layers)
    window = {"use_sliding_window": True, "sliding_window": config.sliding_window, "max_window_layers": full}
    return window | {"layer_types": kinds}


def _qwen3(config: ModelConfig) -> dict[str, Any]:
    return {"attention_bias": "qkv_bias" in config.extras, **_qwen2(config)}


FAMILY_KEYS = {"llama": _llama, "mistral": _mistral, "qwen2": _qwen2, "qwen3": _qwen3}


def _context(config: ModelConfig) -> int | None:
    """The max_position_embeddings from which a reader gets the model's context; None if there is none.

    Linear and dynamic scaling lengthen config.json's number; yarn does so if it is below factor times the original.
    """
    rope = config.rope
    if rope.scaling == "none":
        return config.max_context
    scaling, unscaled = JsonObject(Path(), _rope_scaling(rope) or {}), int(config.max_context / rope.factor)
    tried = {
        "linear": (unscaled, unscaled + 1),
        "dynamic": (rope.original_context,),
    }.get(rope.scaling, (config.max_context,))
    fits = (
        n for n in tried if 0 < n <= MAX_SIZES["max_context"] and context_beside(scaling, rope.scaling, n) == config.max_context
    )
    return next(fits, None)


SCALING_KEYS: dict[str, dict[str, str]] = {  # scaling -> key: our field
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_context",
    },
    "yarn": {
        "factor": "factor",
        "original_max_position_embeddings": "original_context",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
        "truncate": "truncate",
    },
}


def _rope_scaling(rope: RopeConfig) -> dict[str, Any] | None:
    if rope.scaling == "none":
        return None
    return {"rope_type": rope.scaling, **{key: getattr(rope, ours) for key, ours in SCALING_KEYS[rope.scaling].items()}}


# ---- weights --------------------------------------------------------------------------------------------------------


def _write_weights(job: WriteJob, path: Path, names: Sequence[str]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    rows, offset = {name: job.half_split_rows(name) for name in names}, 0
    for name in names:
        end = offset + rows[name].nbytes
        header[foreign_name(HUGGINGFACE_NAMES, name)] = {
            "dtype": job.types[name],
            "shape": list(job.checkpoint.tensors[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % ALIGNMENT)
    with path.open("xb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name in names:
            write_rows(file, rows[name], job.wrote)


def _write(job: WriteJob, folder: Path) -> None:
    write_json(_config(job), folder / "config.json")
    write_huggingface_texts(job.checkpoint, folder)
    sizes = job.sizes
    shards = dealt_out(sizes, job.num_shards)
    if len(shards) == 1:
        _write_weights(job, folder / "model.safetensors", shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_weights(job, folder / file, names)
        weight_map |= {foreign_name(HUGGINGFACE_NAMES, name): file for name in names}
    index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
    write_json(index, folder / "model.safetensors.index.json")


SAFETENSORS = Writer(
    is_folder=lambda shards: True,
    types=("F32", "F16", "BF16"),
    vector_types=("F32", "F16", "BF16"),
    require=_require,
    write=_write,
    keeps_generation=True,
)
