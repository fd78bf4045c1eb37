"""The contract of a writer: it turns a job into a file or a folder that does not exist yet.

What makes writing safe is not a writer's business: the free space, the temporary name, the rename, the reading back and the
progress bar's ends are `convert.py`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import Bytes, ComputedRows, Rows
from puna.report import SILENT, Reporter

CHUNK_WEIGHTS = 1 << 22  # converted at a time, so that a matrix never stands in memory whole


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be written: a checkpoint, each tensor in a type."""

    checkpoint: Checkpoint
    types: Mapping[str, str]  # our tensor name -> key of ENCODERS
    num_shards: int = 1
    report: Reporter = SILENT

    def rows(self, name: str) -> Rows:
        """The bytes of a tensor in the type it is to have, made when asked for."""
        return recoded(self.checkpoint.tensors[name], self.types[name])


class Writer(NamedTuple):
    """A line of the table of writers."""

    is_folder: bool
    types: tuple[str, ...]  # that a matrix may have in this format; the first is the default for a model of mixed types
    require: Callable[[Job], None]  # UnsupportedModelError for what the format cannot hold, before anything is written
    num_bytes: Callable[[Job], int]  # of the result, within 1 % or 1 MB
    write: Callable[[Job, Path], None]


def recoded(tensor: Tensor, type_name: str) -> Rows:
    """The tensor's bytes in another type; those of the same type are given as they are, bit for bit."""
    if tensor.type.name == type_name:
        return tensor.data
    rows, columns = tensor.data.shape[0], tensor.shape[-1]

    def compute(first: int, last: int) -> Bytes:
        return ENCODERS[type_name](tensor.dequantize(first, last).reshape(last - first, columns)).reshape(last - first, -1)

    return ComputedRows((rows, BLOCK_TYPES[type_name].row_bytes(columns)), compute)


def write_rows(file: BinaryIO, rows: Rows, wrote: Callable[[int], None]) -> None:
    """All rows, some at a time; `wrote` is told the bytes of each time."""
    step = max(1, CHUNK_WEIGHTS // max(1, rows.shape[1]))
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        file.write(part.tobytes())
        wrote(part.nbytes)
