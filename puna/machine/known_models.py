"""Published sizes by name: what can be planned, and known again in an error text, without the model's files.

Sources: the `params.json` and `config.json` of each model. Names are lower case; `find_model` takes them as people write them.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from puna.config import ModelConfig
from puna.errors import UsageError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.rows import ComputedRows

# num_layers, num_heads, num_kv_heads, head_dim, hidden_size, ffn_size, vocab_size, max_context
_LLAMA_2_7B = ModelConfig(32, 32, 32, 128, 4096, 11008, 32000, 4096)
_LLAMA_2_13B = ModelConfig(40, 40, 40, 128, 5120, 13824, 32000, 4096)
_LLAMA_2_70B = ModelConfig(80, 64, 8, 128, 8192, 28672, 32000, 4096)
_LLAMA_30B = ModelConfig(60, 52, 52, 128, 6656, 17920, 32000, 2048)
_LLAMA_65B = ModelConfig(80, 64, 64, 128, 8192, 22016, 32000, 2048)
_LLAMA_3_8B = ModelConfig(32, 32, 8, 128, 4096, 14336, 128256, 8192)
_LLAMA_3_70B = ModelConfig(80, 64, 8, 128, 8192, 28672, 128256, 8192)


def _qwen2(layers: int, heads: int, kv_heads: int, head_dim: int, hidden: int, ffn: int, *, tied: bool = False) -> ModelConfig:
    vocab = 151936 if tied else 152064
    return ModelConfig(
        layers, heads, kv_heads, head_dim, hidden, ffn, vocab, 32768, tie_embeddings=tied, architecture="qwen2", qkv_bias=True
    )


def _qwen3(layers: int, heads: int, kv_heads: int, hidden: int, ffn: int, *, tied: bool = False) -> ModelConfig:
    return ModelConfig(
        layers, heads, kv_heads, 128, hidden, ffn, 151936, 40960, tie_embeddings=tied, architecture="qwen3", qk_norm=True
    )


KNOWN_MODELS: dict[str, ModelConfig] = {
    "llama-7b": replace(_LLAMA_2_7B, max_context=2048),
    "llama-13b": replace(_LLAMA_2_13B, max_context=2048),
    "llama-30b": _LLAMA_30B,
    "llama-65b": _LLAMA_65B,
    "llama-2-7b": _LLAMA_2_7B,
    "llama-2-13b": _LLAMA_2_13B,
    "llama-2-70b": _LLAMA_2_70B,
    "codellama-7b": replace(_LLAMA_2_7B, vocab_size=32016, max_context=16384),
    "codellama-13b": replace(_LLAMA_2_13B, vocab_size=32016, max_context=16384),
    "codellama-34b": ModelConfig(48, 64, 8, 128, 8192, 22016, 32000, 16384),
    "codellama-70b": replace(_LLAMA_2_70B, vocab_size=32016),
    "llama-3-8b": _LLAMA_3_8B,
    "llama-3-70b": _LLAMA_3_70B,
    "llama-3.1-8b": replace(_LLAMA_3_8B, max_context=131072),
    "llama-3.1-70b": replace(_LLAMA_3_70B, max_context=131072),
    "llama-3.1-405b": ModelConfig(126, 128, 8, 128, 16384, 53248, 128256, 131072),
    "llama-3.2-1b": ModelConfig(16, 32, 8, 64, 2048, 8192, 128256, 131072, tie_embeddings=True),
    "llama-3.2-3b": ModelConfig(28, 24, 8, 128, 3072, 8192, 128256, 131072, tie_embeddings=True),
    "llama-3.3-70b": replace(_LLAMA_3_70B, max_context=131072),
    "mistral-7b": ModelConfig(32, 32, 8, 128, 4096, 14336, 32000, 32768),
    "tinyllama-1.1b": ModelConfig(22, 32, 4, 64, 2048, 5632, 32000, 2048),
    "open_llama_3b": ModelConfig(26, 32, 32, 100, 3200, 8640, 32000, 2048),
    "open_llama_7b": replace(_LLAMA_2_7B, max_context=2048),
    "open_llama_13b": replace(_LLAMA_2_13B, max_context=2048),
    "vicuna-7b": _LLAMA_2_7B,
    "vicuna-13b": _LLAMA_2_13B,
    "smollm2-135m": ModelConfig(30, 9, 3, 64, 576, 1536, 49152, 8192, tie_embeddings=True),
    "smollm2-360m": ModelConfig(32, 15, 5, 64, 960, 2560, 49152, 8192, tie_embeddings=True),
    "smollm2-1.7b": ModelConfig(24, 32, 32, 64, 2048, 8192, 49152, 8192, tie_embeddings=True),
    "qwen2.5-0.5b": _qwen2(24, 14, 2, 64, 896, 4864, tied=True),
    "qwen2.5-1.5b": _qwen2(28, 12, 2, 128, 1536, 8960, tied=True),
    "qwen2.5-3b": _qwen2(36, 16, 2, 128, 2048, 11008, tied=True),
    "qwen2.5-7b": _qwen2(28, 28, 4, 128, 3584, 18944),
    "qwen2.5-14b": _qwen2(48, 40, 8, 128, 5120, 13824),
    "qwen2.5-32b": _qwen2(64, 40, 8, 128, 5120, 27648),
    "qwen2.5-72b": _qwen2(80, 64, 8, 128, 8192, 29568),
    "qwen3-0.6b": _qwen3(28, 16, 8, 1024, 3072, tied=True),
    "qwen3-1.7b": _qwen3(28, 16, 8, 2048, 6144, tied=True),
    "qwen3-4b": _qwen3(36, 32, 8, 2560, 9728, tied=True),
    "qwen3-8b": _qwen3(36, 32, 8, 4096, 12288),
    "qwen3-14b": _qwen3(40, 40, 8, 5120, 17408),
    "qwen3-32b": _qwen3(64, 64, 8, 5120, 25600),
    "stories15m": ModelConfig(6, 6, 6, 48, 288, 768, 32000, 256, tie_embeddings=True),
    "stories42m": ModelConfig(8, 8, 8, 64, 512, 1376, 32000, 1024, tie_embeddings=True),
    "stories110m": ModelConfig(12, 12, 12, 64, 768, 2048, 32000, 1024, tie_embeddings=True),
}


def find_model(name: str) -> tuple[str, ModelConfig] | None:
    """The model that a name means, whoever wrote it: owner, "Meta", "-hf", "-chat", "-Instruct" and versions left aside.

    >>> find_model("meta-llama/Llama-2-7b-chat-hf")[0], find_model("Meta-Llama-3.1-8B-Instruct")[0], find_model("gpt2")
    ('llama-2-7b', 'llama-3.1-8b', None)
    """
    wanted = _bare(name.rsplit("/", 1)[-1])
    return next(((known, config) for known, config in KNOWN_MODELS.items() if _bare(known) == wanted), None)


_NOISE = re.compile(r"\bmeta\b|\b(hf|chat|instruct|python|base|it|easylm|step|v\d+(\.\d+)*)\b|[^a-z0-9.]")


def _bare(name: str) -> str:
    return _NOISE.sub("", name.lower().replace("_", "-").replace("llama2", "llama-2").replace("llama3", "llama-3"))


def known_checkpoint(text: str) -> Checkpoint | None:
    """A published model, of which only the sizes are known: "llama-2-7b", or with another type of weights, "llama-2-7b:q4_k_m".

    A size behind the colon belongs to the name: "llama3.1:8b". None for an unknown name; UsageError for a type that is none.
    """
    name, _, kind = _SIZE_BEHIND.sub(r"-\1", text).partition(":")
    found = find_model(name)
    if found is None:
        return None
    mixed = MIXES.get(kind.lower())
    base = mixed[0] if mixed else kind.upper() or PUBLISHED_AS
    if base not in BLOCK_TYPES:
        known = ", ".join([*(kind.lower() for kind in BLOCK_TYPES), *MIXES])
        raise UsageError(f"{text[:60]!r} names no type of weights that puna knows", hint=f"Known: {known}.")
    known_name, config = found
    return replace(checkpoint_of(config, base, mixed[1] if mixed else base), path=Path(known_name))


def near_models(text: str) -> list[str]:
    """Well-known names that are like a text.

    >>> near_models("lama-2-7b")[0]
    'llama-2-7b'
    """
    return difflib.get_close_matches(text.lower().rsplit("/", 1)[-1], KNOWN_MODELS, n=4, cutoff=0.5)


_SIZE_BEHIND = re.compile(r":(\d+(?:\.\d+)?[bm])\b", re.IGNORECASE)
PUBLISHED_AS = "BF16"  # two bytes a weight, as F16
# llama.cpp's mixes: the type of most matrices, and of v_proj and down_proj in half of the layers, and of the output.
MIXES = {
    "q3_k_m": ("Q3_K", "Q4_K"),
    "q4_k_s": ("Q4_K", "Q4_K"),
    "q4_k_m": ("Q4_K", "Q6_K"),
    "q5_k_s": ("Q5_K", "Q5_K"),
    "q5_k_m": ("Q5_K", "Q6_K"),
}


def checkpoint_of(config: ModelConfig, kind: str, better: str = "") -> Checkpoint:
    """A model of these sizes that has no numbers, for plans: vectors F32, matrices `kind`, some of them `better` (MIXES)."""
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        own = "F32" if len(shape) == 1 else better if better and _is_better(name) else kind
        tensors[name] = Tensor(name, shape, BLOCK_TYPES[own], _nothing(shape, own))
    return Checkpoint(Path(config.name or "model"), "sizes", config, tensors)


def _is_better(name: str) -> bool:
    layer, _, matrix = name.removeprefix("layers.").rpartition(".")
    return name == "lm_head" or (matrix in ("v_proj", "down_proj") and int(layer) % 2 == 0)


def _nothing(shape: tuple[int, ...], kind: str) -> ComputedRows:
    if len(shape) == 1:
        return ComputedRows((1, 4 * shape[0]), _has_none)
    return ComputedRows((shape[0], BLOCK_TYPES[kind].row_bytes(shape[1])), _has_none)


def _has_none(first: int, last: int) -> NoReturn:
    raise AssertionError("only the sizes of this model are known")
