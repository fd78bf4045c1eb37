"""How a model is split over several processes: which matrices by rows, which by columns, which not at all (Shoeybi et al. 2019,
arXiv 1909.08053). One table serves the readers and writers of Meta's shards and tensor parallelism.

        parts = [cut(checkpoint, rank, 4) for rank in range(4)]      # each a dict of tensors, made on demand
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from puna.config import ModelConfig
from puna.errors import UsageError
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import ComputedRows, CutRows, JoinedRows, Rows, StackedRows

SMALL_BLOCK = 32  # columns of a block of Q8_0
Direction = Literal["rows", "columns", "whole"]


class Cut(NamedTuple):
    """A row of the table."""

    direction: Direction
    by_heads: bool = False  # K/V heads: repeated if there are more parts than heads


# Our name within a layer, or of a tensor outside -> how to split it. Biases that are added after a sum over parts stay whole:
# only the first part may add them.
CUTS: dict[str, Cut] = {
    "embed": Cut("columns"),
    "final_norm": Cut("whole"),
    "lm_head": Cut("rows"),
    "attn_norm": Cut("whole"),
    "q_proj": Cut("rows"),
    "k_proj": Cut("rows", by_heads=True),
    "v_proj": Cut("rows", by_heads=True),
    "o_proj": Cut("columns"),
    "ffn_norm": Cut("whole"),
    "gate_proj": Cut("rows"),
    "up_proj": Cut("rows"),
    "down_proj": Cut("columns"),
    "q_bias": Cut("columns"),  # a vector is one row
    "k_bias": Cut("columns", by_heads=True),
    "v_bias": Cut("columns", by_heads=True),
    "o_bias": Cut("whole"),
    "gate_bias": Cut("columns"),
    "up_bias": Cut("columns"),
    "down_bias": Cut("whole"),
    "q_norm": Cut("whole"),
    "k_norm": Cut("whole"),
}
BY_VOCABULARY = CUTS | {"embed": Cut("rows")}  # Llama 3's shards


def cut_of(name: str, cuts: dict[str, Cut] = CUTS) -> Cut:
    """How to split our tensor `name`.

    >>> cut_of("layers.3.o_proj").direction
    'columns'
    """
    return cuts[name.rpartition(".")[2]]


def part_of(checkpoint: Checkpoint, rank: int, num_parts: int) -> Checkpoint:
    """The part of process `rank` of `num_parts`: a model of fewer heads, a smaller feed-forward size, a part of the vocabulary.

    Raises UsageError if the model cannot be split into that many parts.
    """
    if num_parts == 1:
        return checkpoint
    config, tensors = checkpoint.config, cut(checkpoint, rank, num_parts, BY_VOCABULARY)
    part = replace(
        config,
        num_heads=config.num_heads // num_parts,
        num_kv_heads=max(1, config.num_kv_heads // num_parts),
        ffn_size=config.ffn_size // num_parts,
        vocab_size=tensors["embed"].shape[0],
    )
    return replace(checkpoint, config=part, tensors=tensors)


def check_parts(config: ModelConfig, num_parts: int) -> None:
    """Raise UsageError if a model cannot be split into that many equal parts; the error names the numbers that work."""
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


def cut(checkpoint: Checkpoint, rank: int, num_parts: int, cuts: dict[str, Cut] = CUTS) -> dict[str, Tensor]:
    """Part `rank` of each tensor; rows are made on demand.

    Raises UsageError if the model cannot be split into that many parts.
    """
    check_parts(checkpoint.config, num_parts)
    config = checkpoint.config
    return {name: _part(tensor, cut_of(name, cuts), rank, num_parts, config) for name, tensor in checkpoint.tensors.items()}


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
        return Tensor(tensor.name, (last - first, *tensor.shape[1:]), tensor.type, data, scales)
    return _columns(tensor, first, last)


def _columns(tensor: Tensor, first: int, last: int) -> Tensor:
    size = tensor.type.block_size if tensor.scales is None else tensor.shape[-1] // tensor.scales.shape[1]
    if first % size or last % size:
        return _columns_as_numbers(tensor, first, last)
    data = CutRows(tensor.data, (0, len(tensor.data)), (tensor.type.row_bytes(first), tensor.type.row_bytes(last)))
    scales = None if tensor.scales is None else np.ascontiguousarray(tensor.scales[:, first // size : last // size])
    return Tensor(tensor.name, (*tensor.shape[:-1], last - first), tensor.type, data, scales)


def _columns_as_numbers(tensor: Tensor, first: int, last: int) -> Tensor:
    """The numbers of a quantised matrix whose blocks the split would break: as Q8_0 if its blocks fit, else as F16."""
    kind = "F16" if first % SMALL_BLOCK or last % SMALL_BLOCK else "Q8_0"

    def numbers(first_row: int, last_row: int) -> npt.NDArray[np.uint8]:
        return ENCODERS[kind](np.ascontiguousarray(tensor.dequantize(first_row, last_row)[:, first:last]))

    rows = ComputedRows((tensor.shape[0], BLOCK_TYPES[kind].row_bytes(last - first)), numbers)
    return Tensor(tensor.name, (*tensor.shape[:-1], last - first), BLOCK_TYPES[kind], rows)


def joined(parts: Sequence[Rows], cut: Cut) -> Rows:
    """The rows of a tensor from its parts in order; if every part has the whole tensor, the first."""
    if cut.direction == "whole" or len(parts) == 1:
        return parts[0]
    return StackedRows(parts) if cut.direction == "rows" else JoinedRows(parts)
