"""The contract of a writer: it turns a job into a file or a folder that does not exist yet.

What makes writing safe is not a writer's business: the free space, the temporary name, the rename, the reading back and the
progress bar's ends are `convert.py`'s.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np

from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import Bytes, ComputedRows, InterleavedHeads, Rows, interleaved_vector

TURNED = ("q_proj", "k_proj", "q_bias", "k_bias", "q_norm", "k_norm")  # by the rotary embedding
WORKERS = min(8, os.cpu_count() or 1)
CHUNK_BYTES = 1 << 19  # of the result, made at a time: a matrix never stands in memory whole, and all cores have work


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written: a checkpoint, each tensor in a type."""

    checkpoint: Checkpoint
    types: Mapping[str, str]  # our tensor name -> key of ENCODERS
    num_shards: int = 1
    wrote: Callable[[int], None] = lambda num_bytes: None  # told the bytes of each piece of a tensor

    def rows(self, name: str) -> Rows:
        """The bytes of a tensor in the type it is to have, made when asked for."""
        return recoded(self.checkpoint.tensors[name], self.types[name])

    def half_split_rows(self, name: str) -> Rows:
        """The same with heads in the half-split rotary order, where the tensor has heads that are turned."""
        rows, head_dim = self.rows(name), self.checkpoint.config.head_dim
        if name.rpartition(".")[2] not in TURNED:
            return rows
        if len(self.checkpoint.tensors[name].shape) == 2:
            return InterleavedHeads(rows, head_dim)
        return interleaved_vector(rows, head_dim, BLOCK_TYPES[self.types[name]].block_bytes)

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return sum(self.rows(name).nbytes for name in self.checkpoint.tensors)


class Writer(NamedTuple):
    """A line of the table of writers."""

    is_folder: Callable[[int], bool]  # told the number of shards
    types: tuple[str, ...]  # that a matrix may have in this format; the first holds the numbers of any other exactly
    vector_types: tuple[str, ...]  # that norms and biases may have; the first as above
    require: Callable[[Job], None]  # UnsupportedModelError for what the format cannot hold, before anything is written
    write: Callable[[Job, Path], None]  # into a file that does not exist yet, or an empty folder
    copied_bytes: Callable[[Job], int] = lambda job: 0  # of tensors that the format holds a second time
    notices: Callable[[Job], Iterable[str]] = lambda job: ()  # what a person should know of the result; one line each
    keeps_generation: bool = False  # what the model's makers suggest for sampling has a place


def recoded(tensor: Tensor, type_name: str) -> Rows:
    """The tensor's bytes in another type; those of the same type are given as they are, bit for bit."""
    if tensor.type.name == type_name:
        return tensor.data
    rows, columns = tensor.data.shape[0], tensor.shape[-1]

    def compute(first: int, last: int) -> Bytes:
        return ENCODERS[type_name](tensor.dequantize(first, last).reshape(last - first, columns)).reshape(last - first, -1)

    return ComputedRows((rows, BLOCK_TYPES[type_name].row_bytes(columns)), compute)


def write_rows(file: BinaryIO | IO[bytes], rows: Rows, wrote: Callable[[int], None]) -> None:
    """All rows, some at a time; `wrote` is told the bytes of each time."""
    for part in _pieces(rows):
        file.write(part.tobytes())
        wrote(part.nbytes)


def _pieces(rows: Rows) -> Iterator[Bytes]:
    """All rows in order, some at a time. Rows that must be computed are, by all cores, a few pieces before they are asked for."""
    step = max(1, CHUNK_BYTES // max(1, rows.shape[1]))
    starts = range(0, len(rows), step)
    if isinstance(rows, np.ndarray) or len(starts) < 2:
        yield from (rows[first : first + step] for first in starts)
        return
    with ThreadPoolExecutor(WORKERS) as pool:
        ahead: deque[Future[Bytes]] = deque()
        for first in starts:
            ahead.append(pool.submit(rows.__getitem__, slice(first, first + step)))
            if len(ahead) > WORKERS:
                yield ahead.popleft().result()
        yield from (piece.result() for piece in ahead)


def dealt_out(job: Job) -> list[list[str]]:
    """Our names of each shard's tensors, in order, of about equal bytes."""
    names, total = list(job.checkpoint.tensors), job.num_bytes
    shards: list[list[str]] = [[] for _ in range(job.num_shards)]
    done = 0
    for number, name in enumerate(names):
        left = len(names) - number
        shard = min(done * job.num_shards // max(total, 1), job.num_shards - 1)
        first_empty = next((i for i, held in enumerate(shards) if not held), job.num_shards)
        if left <= job.num_shards - first_empty or shard > first_empty:
            shard = first_empty  # each shard must get one
        shards[shard].append(name)
        done += job.rows(name).nbytes
    return shards
