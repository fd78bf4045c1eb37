"""Published sizes by name: what can be planned, and known again in an error text, without the model's files.

Sources: the `params.json` and `config.json` of each model. Names are lower case; `find_model` takes them as people write them.
"""

from __future__ import annotations

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
    """A published model, of which only the sizes are known: "llama-2-7b", or with another type of weights, "llama-2-7b:q4_0".

    None for a name that is not known; UsageError for a type that is none.
    """
    name, _, kind = text.partition(":")
    found = find_model(name)
    if found is None:
        return None
    if kind and kind.upper() not in BLOCK_TYPES:
        raise UsageError(f"{text[:60]!r} names no type of weights that puna knows", hint=f"Known: {', '.join(BLOCK_TYPES)}.")
    known, config = found
    return replace(checkpoint_of(config, kind.upper() or PUBLISHED_AS), path=Path(known))


PUBLISHED_AS = "BF16"  # two bytes a weight, as F16


def checkpoint_of(config: ModelConfig, kind: str) -> Checkpoint:
    """A model of these sizes, its matrices of type `kind`, its vectors F32, that has no numbers: for plans."""
    tensors = {
        name: Tensor(name, shape, BLOCK_TYPES["F32" if len(shape) == 1 else kind], _nothing(shape, kind))
        for name, shape in config.tensor_shapes().items()
    }
    return Checkpoint(Path(config.name or "model"), "sizes", config, tensors)


def _nothing(shape: tuple[int, ...], kind: str) -> ComputedRows:
    if len(shape) == 1:
        return ComputedRows((1, 4 * shape[0]), _has_none)
    return ComputedRows((shape[0], BLOCK_TYPES[kind].row_bytes(shape[1])), _has_none)


def _has_none(first: int, last: int) -> NoReturn:
    raise AssertionError("only the sizes of this model are known")
