"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): what a file or folder adds to a model's matrices, W + B A."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.base import Adapter, Checkpoint, LowRank, Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.formats.rows import ComputedRows
from puna.model.spec import ModelConfig
from puna.model.weights import LM_HEAD, Shape, adaptable

Floats = npt.NDArray[np.float32]
MAX_RANK = 1024


class Target:
    """Rows first..last-1 of a matrix in a file's names are our matrix `name`."""

    def __init__(self, name: str, shape: Shape, first: int = 0) -> None:
        self.name, self.shape, self.rows = name, shape, slice(first, first + shape[0])


def targets(model: ModelConfig, names: Mapping[str, str], fused: Mapping[str, tuple[str, ...]]) -> dict[str, list[Target]]:
    """Name in a file -> the matrices of ours that an adapter of it changes: several if the file stacks them."""
    shapes = adaptable(model)
    found = {_foreign(names, ours): [Target(ours, shape)] for ours, shape in shapes.items()}
    for layer in range(model.num_layers) if fused else ():
        for name, roles in fused.items():
            ours = [f"layers.{layer}.{role}" for role in roles]
            if all(one in shapes for one in ours):
                found[name.format(layer)] = _stacked(ours, shapes)
    return found


def _foreign(names: Mapping[str, str], ours: str) -> str:
    layer, _, part = ours.rpartition(".")
    return names[part].format(layer.removeprefix("layers."))


def _stacked(ours: Sequence[str], shapes: Mapping[str, Shape]) -> list[Target]:
    found, first = [], 0
    for name in ours:
        found.append(Target(name, shapes[name], first))
        first += shapes[name][0]
    return found


def for_requests(adapter: Adapter, name: str) -> Adapter:
    """The adapter that requests call `name`. UnsupportedModelError for one that changes the output matrix."""
    if LM_HEAD.name in adapter.parts:
        raise UnsupportedModelError(
            f"{adapter.path} changes the output matrix, which requests share", hint="Merge it into the weights: --lora PATH."
        )
    return replace(adapter, name=name)


# ---- merged into the weights ----------------------------------------------------------------------------------------


def merged(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> Checkpoint:
    """The model with W + B A in place of each matrix W that the adapters change, summed in their order.

    It has no `files`, because theirs hold other weights. Computed in float32 when the rows are read. F32, F16 and BF16 stay so; a
    quantised matrix becomes F16, which holds its numbers and what is added to them to 11 bits.
    """
    tensors = dict(checkpoint.tensors)
    for adapter in adapters:
        tensors |= {name: _sum(tensors[name], part) for name, part in adapter.parts.items()}
    return replace(checkpoint, tensors=tensors, files=(), notices=(*checkpoint.notices, *_told(checkpoint, adapters)))


def _sum(tensor: Tensor, part: LowRank) -> Tensor:
    kind = tensor.type if tensor.type.name in ("F32", "F16", "BF16") else BLOCK_TYPES["F16"]
    rows, columns = tensor.shape

    def compute(first: int, last: int) -> npt.NDArray[np.uint8]:
        return _encoded(tensor.dequantize(first, last) + part.b[first:last] @ part.a, kind.name)

    return Tensor(tensor.name, tensor.shape, kind, ComputedRows((rows, columns * (4 if kind.name == "F32" else 2)), compute))


def _encoded(values: Floats, kind: str) -> npt.NDArray[np.uint8]:
    if kind == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).view(np.uint8)  # to the nearest, ties to even
    return np.ascontiguousarray(values, np.float32 if kind == "F32" else np.float16).view(np.uint8)


def _told(checkpoint: Checkpoint, adapters: Sequence[Adapter]) -> list[str]:
    """One notice if quantised matrices become larger."""
    names = {name for adapter in adapters for name in adapter.parts}
    grown = [checkpoint.tensors[name] for name in names if checkpoint.tensors[name].type.name not in ("F32", "F16", "BF16")]
    if not grown:
        return []
    after = sum(2 * math.prod(tensor.shape) for tensor in grown)
    before = sum(tensor.num_bytes for tensor in grown)
    return [
        f"{len(grown)} quantised matrices that the adapter changes are kept as F16: {after >> 20} MiB instead of {before >> 20}; "
        "lora_modules adds the adapter to each request instead"
    ]
