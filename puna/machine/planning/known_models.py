"""Published models as checkpoints without weights, to plan them and to recognise them in error texts without a file.

The table of models, with their sizes, is `hub/published.py`.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import NoReturn

from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.rows import ComputedRows
from puna.hub.published import PUBLISHED, find_published, matrix_types, require_types, split_type
from puna.model.spec import ModelConfig

KNOWN_MODELS: dict[str, ModelConfig] = {name: model.config for name, model in PUBLISHED.items()}


def find_model(name: str) -> tuple[str, ModelConfig] | None:
    """The name in the table and the sizes of the model that a name means.

    >>> find_model("meta-llama/Llama-2-7b-chat-hf")[0], find_model("Meta-Llama-3.1-8B-Instruct")[0], find_model("gpt2")
    ('llama-2-7b', 'llama-3.1-8b', None)
    """
    found = find_published(name)
    return None if found is None else (found.name, found.config)


def known_checkpoint(text: str) -> Checkpoint | None:
    """A published model of known sizes: "llama-2-7b", or with a type of weights, "llama-2-7b:q4_k_m".

    None for an unknown name; UsageError for a type that puna does not know.
    """
    name, kind = split_type(text)
    found = find_model(name)
    if found is None:
        return None
    known_name, config = found
    return replace(checkpoint_of(config, *require_types(kind, text)), path=Path(known_name))


def checkpoint_of(config: ModelConfig, kind: str, better: str = "") -> Checkpoint:
    """A checkpoint of these sizes without weights, for plans: vectors F32, matrices `kind`, some of them `better`."""
    tensors = {}
    for name, shape, own in matrix_types(config, kind, better or kind):
        tensors[name] = Tensor(name, shape, BLOCK_TYPES[own], _nothing(shape, own))
    return Checkpoint(Path(config.name or "model"), "sizes", config, tensors)


def _nothing(shape: tuple[int, ...], kind: str) -> ComputedRows:
    if len(shape) == 1:
        return ComputedRows((1, 4 * shape[0]), _has_none)
    return ComputedRows((prod(shape[:-1]), BLOCK_TYPES[kind].row_bytes(shape[-1])), _has_none)


def _has_none(first: int, last: int) -> NoReturn:
    raise AssertionError("only the sizes of this model are known")
