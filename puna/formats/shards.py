"""How a model is split over several processes: which matrices by rows, which by columns, which not at all (Shoeybi et al. 2019,
arXiv 1909.08053). One table serves the readers and writers of Meta's shards and tensor parallelism.

        parts = [cut(checkpoint, rank, 4) for rank in range(4)]      # each a dict of tensors, made on demand
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from puna.errors import UsageError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import ComputedRows, CutRows, JoinedRows, Rows, StackedRows
from puna.model.spec import ModelConfig
from puna.model.weights import COLUMNS, EMBED, Cut, role_of

SMALL_BLOCK = 32  # columns of a block of Q8_0
# Llama 2's shards have some columns of the embedding each; Llama 3's, and tensor parallelism, some of its rows.
BY_COLUMNS: Mapping[str, Cut] = {EMBED.name: COLUMNS}
BY_VOCABULARY: Mapping[str, Cut] = {}


UNCUT = ("full qk_norm", "experts")  # these need sums over all parts that are not computed yet


def cut_of(name: str, others: Mapping[str, Cut] = BY_VOCABULARY) -> Cut:
    """How to split the weight `name`: as its role says, or as `others` say."""
    return others.get(name, role_of(name).cut)


def part_of(checkpoint: Checkpoint, rank: int, num_parts: int) -> Checkpoint:
    """The part of process `rank` of `num_parts`: a model of fewer heads, a smaller feed-forward size, a part of the vocabulary.

    Raises UsageError if the model cannot be split into that many parts.
    """
    if num_parts == 1:
        return checkpoint
    if checkpoint.adapters:
        raise UsageError(
            "lora_modules cannot be split over several processes", hint="Merge the adapter into the weights: --lora PATH."
        )
    config, tensors = checkpoint.config, cut(checkpoint, rank, num_parts)
    part = replace(
        config,
        layers=tuple(replace(layer, ffn=replace(layer.ffn, size=layer.ffn.size // num_parts)) for layer in config.layers),
        num_heads=config.num_heads // num_parts,
        num_kv_heads=max(1, config.num_kv_heads // num_parts),
        vocab_size=tensors["embed"].shape[0],
    )
    return replace(checkpoint, config=part, tensors=tensors)


def check_parts(config: ModelConfig, num_parts: int) -> None:
    """Raise UsageError if a model cannot be split into that many equal parts; the error names the numbers that work."""
    if num_parts > 1 and (uncut := [name for name in config.extras if name in UNCUT]):
        raise UsageError(
            f"the model cannot be split in parts: it has {', '.join(uncut)}", hint="Run it in one process, on one device."
        )
    if not _divides(config, num_parts):
        works = [str(n) for n in range(1, config.num_heads + 1) if _divides(config, n)]
        raise UsageError(
            f"the model cannot be split in {num_parts} parts: it has {config.num_heads} heads, {config.num_kv_heads} K/V heads, "
            f"feed-forward size {config.ffn_size}",
            hint=f"These numbers of parts work: {', '.join(works)}.",
        )


def _divides(config: ModelConfig, num_parts: int) -> bool:
    if num_parts < 1 or any(size % num_parts for size in (config.num_heads, config.ffn_size, config.hidden_size)):
        return False
    return config.num_kv_heads % num_parts == 0 or num_parts % config.num_kv_heads == 0


def cut(checkpoint: Checkpoint, rank: int, num_parts: int, others: Mapping[str, Cut] = BY_VOCABULARY) -> dict[str, Tensor]:
    """Part `rank` of each tensor; rows are made on demand.

    Raises UsageError if the model cannot be split into that many parts.
    """
    check_parts(checkpoint.config, num_parts)
    config = checkpoint.config
    return {name: _part(tensor, cut_of(name, others), rank, num_parts, config) for name, tensor in checkpoint.tensors.items()}


def _part(tensor: Tensor, cut: Cut, rank: int, num_parts: int, config: ModelConfig) -> Tensor:
    if cut.direction == "whole":
        return tensor
    if cut.by_heads and num_parts > config.num_kv_heads:
        rank, num_parts = rank * config.num_kv_heads // num_parts, config.num_kv_heads
    size = tensor.shape[0] if cut.direction == "rows" else tensor.shape[-1]
    first, last = size * rank // num_parts, size * (rank + 1) // num_parts
    if cut.direction == "rows":
        data: Rows = CutRows(tensor.data, (first, last), (0, tensor.data.shape[1]))
        scales = None if tensor.scales is None else tensor.scales[first:last]
        return Tensor(tensor.name, (last - first, *tensor.shape[1:]), tensor.type, data, scales, tensor.file)
    return _columns(tensor, first, last)


def _columns(tensor: Tensor, first: int, last: int) -> Tensor:
    size = tensor.type.block_size if tensor.scales is None else tensor.shape[-1] // tensor.scales.shape[1]
    if first % size or last % size:
        return _columns_as_numbers(tensor, first, last)
    data = CutRows(tensor.data, (0, len(tensor.data)), (tensor.type.row_bytes(first), tensor.type.row_bytes(last)))
    scales = None if tensor.scales is None else np.ascontiguousarray(tensor.scales[:, first // size : last // size])
    return Tensor(tensor.name, (*tensor.shape[:-1], last - first), tensor.type, data, scales, tensor.file)


def _columns_as_numbers(tensor: Tensor, first: int, last: int) -> Tensor:
    """The numbers of a quantised matrix whose blocks the split would break: as Q8_0 if its blocks fit, else as F16."""
    kind = "F16" if first % SMALL_BLOCK or last % SMALL_BLOCK else "Q8_0"

    def numbers(first_row: int, last_row: int) -> npt.NDArray[np.uint8]:
        return ENCODERS[kind](np.ascontiguousarray(tensor.dequantize(first_row, last_row)[:, first:last]))

    rows = ComputedRows((tensor.shape[0], BLOCK_TYPES[kind].row_bytes(last - first)), numbers)
    return Tensor(tensor.name, (*tensor.shape[:-1], last - first), BLOCK_TYPES[kind], rows, file=tensor.file)


def joined(parts: Sequence[Rows], cut: Cut) -> Rows:
    """The rows of a tensor from its parts in order; if every part has the whole tensor, the first."""
    if cut.direction == "whole" or len(parts) == 1:
        return parts[0]
    return StackedRows(parts) if cut.direction == "rows" else JoinedRows(parts)
