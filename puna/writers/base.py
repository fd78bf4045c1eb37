"""The contract of a writer: it turns a job into a file or a folder that does not exist yet.

`convert.py`, not a writer, makes writing safe: it checks the free space, uses a temporary name, renames, reads back, and begins
and ends the progress bar.
"""

from __future__ import annotations

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
from puna.model.weights import role_of
from puna.resources import usable_cores

MAX_WORKERS = 8
CHUNK_BYTES = 1 << 19  # of the result at a time: a whole matrix is never in memory, and all cores have work


@dataclass(frozen=True, slots=True)
class WriteJob:
    """What to write: a checkpoint, and a type for each tensor."""

    checkpoint: Checkpoint
    types: Mapping[str, str]  # our tensor name -> key of ENCODERS
    num_shards: int = 1
    wrote: Callable[[int], None] = lambda num_bytes: None  # called with the bytes of each piece of a tensor

    def rows(self, name: str) -> Rows:
        """The bytes of a tensor in its new type, made on demand."""
        return recoded(self.checkpoint.tensors[name], self.types[name])

    def half_split_rows(self, name: str) -> Rows:
        """The same, with heads in the half-split rotary order if the rotary embedding affects the tensor."""
        rows, config = self.rows(name), self.checkpoint.config
        if not role_of(name).is_rotary:
            return rows
        if len(self.checkpoint.tensors[name].shape) == 2:
            return InterleavedHeads(rows, config.head_dim, config.rope.dim)
        return interleaved_vector(rows, config.head_dim, BLOCK_TYPES[self.types[name]].block_bytes, config.rope.dim)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each tensor."""
        return {name: self.rows(name).nbytes for name in self.checkpoint.tensors}


class Writer(NamedTuple):
    """A row of the table of writers."""

    is_folder: Callable[[int], bool]  # (number of shards)
    types: tuple[str, ...]  # that a matrix may have in this format; the first holds the numbers of any other exactly
    vector_types: tuple[str, ...]  # that norms and biases may have; the first as above
    require: Callable[[WriteJob], None]  # before the writing: UnsupportedModelError for what the format cannot hold
    write: Callable[[WriteJob, Path], None]  # into a file that does not exist yet, or an empty folder
    copied_bytes: Callable[[WriteJob], int] = lambda job: 0  # of tensors that the format holds a second time
    notices: Callable[[WriteJob], Iterable[str]] = lambda job: ()  # about the result, for the user; one line each
    keeps_generation: bool = False  # whether the format holds the makers' sampling defaults


def recoded(tensor: Tensor, type_name: str) -> Rows:
    """The tensor's bytes in another type; in the same type, bit for bit as they are."""
    if tensor.type.name == type_name:
        return tensor.data
    rows, columns = tensor.data.shape[0], tensor.shape[-1]

    def compute(first: int, last: int) -> Bytes:
        return ENCODERS[type_name](tensor.dequantize(first, last).reshape(last - first, columns)).reshape(last - first, -1)

    return ComputedRows((rows, BLOCK_TYPES[type_name].row_bytes(columns)), compute)


def write_rows(file: BinaryIO | IO[bytes], rows: Rows, wrote: Callable[[int], None]) -> None:
    """Write all rows, some at a time; calls `wrote` with the bytes of each piece."""
    for part in _pieces(rows):
        file.write(part.tobytes())
        wrote(part.nbytes)


def _pieces(rows: Rows) -> Iterator[Bytes]:
    """All rows in order, some at a time. All cores compute the rows, a few pieces ahead."""
    step = max(1, CHUNK_BYTES // max(1, rows.shape[1]))
    starts = range(0, len(rows), step)
    if isinstance(rows, np.ndarray) or len(starts) < 2:
        yield from (rows[first : first + step] for first in starts)
        return
    workers = min(MAX_WORKERS, usable_cores())
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Bytes]] = deque()
        for first in starts:
            ahead.append(pool.submit(rows.__getitem__, slice(first, first + step)))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        yield from (piece.result() for piece in ahead)


def dealt_out(sizes: Mapping[str, int], num_shards: int) -> list[list[str]]:
    """The names of each shard's tensors, in order, of about equal bytes. `sizes`: name -> bytes."""
    count, total = min(num_shards, len(sizes)), sum(sizes.values())
    shards: list[list[str]] = [[] for _ in range(count)]
    done = 0
    for number, (name, size) in enumerate(sizes.items()):
        left = len(sizes) - number
        shard = min(done * count // max(total, 1), count - 1)
        first_empty = next((i for i, held in enumerate(shards) if not held), count)
        if left <= count - first_empty or shard > first_empty:
            shard = first_empty  # each shard must get a tensor
        shards[shard].append(name)
        done += size
    return shards
