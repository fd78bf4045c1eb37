"""GGUF files -> Checkpoint: keys to sizes, tensor names to ours, the tokenizer's keys to a TokenizerSpec.

Rows of attn_q and attn_k are already in the interleaved rotary order for the architectures of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from puna.config import ConfigError, ModelConfig, RopeConfig
from puna.errors import ModelFormatError, UnsupportedModelError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.gguf_file import MAGIC, GGUFFile, PlacedTensor, Value, read_gguf
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.gguf_values import Values
from puna.formats.mapped import shown
from puna.formats.names import GGUF_NAMES, foreign_name

# Architecture -> names of its tensors.
ARCHITECTURES: dict[str, dict[str, str]] = {"llama": GGUF_NAMES}

# Our name of a size -> the key behind `<architecture>.`; also where an error about that size points.
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
    "rope factor": "rope.scaling.factor",
}

# Keys that change results: a model with any other value is not the plain one that puna computes.
PLAIN_VALUES: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "expert_used_count": (0,),
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attention.scale": (0.0,),
    "attention.sliding_window": (0,),
    "embedding_scale": (0.0, 1.0),
    "logit_scale": (0.0, 1.0),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (0.0, 1.0),
    "use_parallel_residual": (False,),
    "tensor_data_layout": ("Meta AI original pth",),
}

ROPE_FACTORS = "rope_freqs.weight"
MAX_NAME_CHARACTERS = 128
MAX_SHOWN = 16  # elements of an array that `metadata` lists; of a longer one it tells the length


def matches(head: bytes, size: int) -> bool:
    """Whether a file that begins with `head` is GGUF."""
    return head.startswith(MAGIC)


def open_gguf(path: Path) -> Checkpoint:
    """Open and check a GGUF model; no weight is read."""
    gguf = read_gguf(path, _refuse_other_architectures)
    values = Values(gguf.path, gguf.values)
    architecture = values.text("general.architecture")
    if architecture is None:
        values.fail("general.architecture", "is missing")
    _refuse_what_changes_results(values, architecture)
    config = _config(values, gguf, architecture)
    tensors = _tensors(gguf, config, ARCHITECTURES[architecture])
    return Checkpoint(
        path=path,
        format="gguf",
        config=config,
        tensors=tensors,
        tokenizer=read_tokenizer(values, config.vocab_size),
        chat_template=values.text("tokenizer.chat_template"),
        metadata={key: _shown(value) for key, value in gguf.values.items()},
        unused_keys=values.unused(),
        files=gguf.files,
    )


def _refuse_other_architectures(file: Path, values: Mapping[str, Value]) -> None:
    """Before the tensors: their types would be refused first, and another quantisation would not help."""
    name = Values(file, values).text("general.architecture")
    if name is not None and name not in ARCHITECTURES:
        raise UnsupportedModelError(
            f"{file}: the architecture is {shown(name)}; puna runs: {', '.join(ARCHITECTURES)}",
            hint="Choose a model of the LLaMA family.",
        )


def _refuse_what_changes_results(values: Values, architecture: str) -> None:
    for suffix, plain in PLAIN_VALUES.items():
        key = f"{architecture}.{suffix}"
        found = values.scalar(key)
        if found is not None and found not in plain:
            allowed = " or ".join(repr(value) for value in plain)
            raise UnsupportedModelError(
                f"{values.file}: {key} is {shown(found)}; puna runs models where it is {allowed} or absent"
            )


# ---- sizes ----------------------------------------------------------------------------------------------------------


def _config(values: Values, gguf: GGUFFile, architecture: str) -> ModelConfig:
    key = {name: f"{architecture}.{suffix}" for name, suffix in CONFIG_KEYS.items()}
    num_heads, hidden_size = values.needed_integer(key["num_heads"]), values.needed_integer(key["hidden_size"])
    head_dim = _head_dim(values, architecture, num_heads, hidden_size)
    num_kv_heads = values.integer(key["num_kv_heads"])
    try:
        return ModelConfig(
            num_layers=values.needed_integer(key["num_layers"]),
            num_heads=num_heads,
            num_kv_heads=num_heads if num_kv_heads is None else num_kv_heads,
            head_dim=head_dim,
            hidden_size=hidden_size,
            ffn_size=values.needed_integer(key["ffn_size"]),
            vocab_size=_vocab_size(gguf),
            max_context=values.needed_integer(key["max_context"]),
            norm_eps=values.needed_real(key["norm_eps"]),
            rope=_rope(values, gguf, architecture, head_dim),
            tie_embeddings=GGUF_NAMES["lm_head"] not in gguf.tensors,
            architecture=architecture,
            name=_printable(values.text("general.name") or ""),
        )
    except ConfigError as error:
        values.fail(key.get(error.field, error.field), str(error))


def _head_dim(values: Values, architecture: str, num_heads: int, hidden_size: int) -> int:
    """The given key_length, else an equal share of the hidden size; value_length and the rotary dimensions must agree."""
    given = values.integer(f"{architecture}.attention.key_length")
    if given is None and (num_heads == 0 or hidden_size % num_heads):
        values.fail(
            f"{architecture}.attention.head_count", f"is {num_heads}, which does not divide the hidden size {hidden_size}"
        )
    head_dim = hidden_size // num_heads if given is None else given
    for suffix in ("attention.value_length", "rope.dimension_count"):
        size = values.integer(f"{architecture}.{suffix}")
        if size not in (None, head_dim):
            raise UnsupportedModelError(
                f"{values.file}: {architecture}.{suffix} is {size}, and the heads are {head_dim} wide; puna needs them equal"
            )
    return head_dim


def _vocab_size(gguf: GGUFFile) -> int:
    embed = gguf.tensors.get(GGUF_NAMES["embed"])
    if embed is None:
        raise ModelFormatError(gguf.path, f"tensor '{GGUF_NAMES['embed']}'", None, "is missing")
    return embed.shape[0]


def _rope(values: Values, gguf: GGUFFile, architecture: str, head_dim: int) -> RopeConfig:
    kind = values.text(f"{architecture}.rope.scaling.type") or "linear"
    if kind not in ("none", "linear"):
        raise UnsupportedModelError(f"{values.file}: {architecture}.rope.scaling.type is {shown(kind)}; puna knows none, linear")
    factor = values.real(f"{architecture}.rope.scaling.factor")
    if factor is None:
        factor = values.real(f"{architecture}.rope.scale_linear")
    theta = values.real(f"{architecture}.rope.freq_base")
    stretched = kind == "linear" and factor not in (None, 0.0, 1.0)  # 0: not set, as in llama.cpp
    return RopeConfig(
        theta=10000.0 if theta is None else theta,
        scaling="linear" if stretched else "none",
        factor=factor if stretched and factor is not None else 1.0,
        factors=_rope_factors(gguf, head_dim),
    )


def _rope_factors(gguf: GGUFFile, head_dim: int) -> tuple[float, ...] | None:
    placed = gguf.tensors.get(ROPE_FACTORS)
    if placed is None:
        return None
    if placed.type.name != "F32" or placed.shape != (head_dim // 2,):
        _fail(placed, f"is {placed.type.name} {placed.shape}; F32 ({head_dim // 2},) is needed")
    factors = placed.type.dequantize(placed.data)[0]
    if not (np.isfinite(factors).all() and (factors > 0).all()):
        _fail(placed, "holds a number that is not finite and above 0")
    return tuple(factors.tolist())


# ---- tensors --------------------------------------------------------------------------------------------------------


def _tensors(gguf: GGUFFile, config: ModelConfig, names: dict[str, str]) -> dict[str, Tensor]:
    shapes = config.tensor_shapes()
    foreign = {foreign_name(names, ours): ours for ours in shapes}
    for name in [name for name in gguf.tensors if name not in foreign and name != ROPE_FACTORS]:
        raise UnsupportedModelError(
            f"{gguf.tensors[name].file}: tensor '{name}' is no part of a {config.architecture} model with "
            f"{config.num_layers} layers{' (biases are not supported)' if name.endswith('.bias') else ''}"
        )
    for name in [name for name in foreign if name not in gguf.tensors]:
        raise ModelFormatError(gguf.path, f"tensor '{name}'", None, f"is missing; the model has {config.num_layers} layers")
    return {ours: _tensor(gguf.tensors[name], ours, shapes[ours]) for name, ours in foreign.items()}


def _tensor(placed: PlacedTensor, ours: str, shape: tuple[int, ...]) -> Tensor:
    if placed.shape != shape:
        _fail(placed, f"has shape {placed.shape}; the sizes of the model ask for {shape}")
    return Tensor(ours, shape, placed.type, placed.data)


def _fail(placed: PlacedTensor, problem: str) -> NoReturn:
    raise ModelFormatError(placed.file, f"tensor '{placed.name}'", placed.offset, problem)


# ---- for people -----------------------------------------------------------------------------------------------------


def _printable(name: str) -> str:
    """A name without line breaks and control characters, cut to a length that fits a line."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name[:MAX_NAME_CHARACTERS])


def _shown(value: Value) -> Any:
    """A value as `puna inspect` tells it: long arrays by their length."""
    if not value.kind.startswith("array"):
        return value.value
    if len(value.value) > MAX_SHOWN:
        return f"{len(value.value)} x {value.kind.removeprefix('array of ')}"
    if isinstance(value.value, list):
        return [text.decode("utf-8", "replace") for text in value.value]
    return value.value.tolist()
