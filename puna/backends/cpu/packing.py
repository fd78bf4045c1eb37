"""Pack a checkpoint's weights for the kernels (`layout.py` shows how): in their own type, or as Q8_0.

All matrices lie in one piece of memory, which the system can give in huge pages. Rows that lie in a mapped file are interleaved
from there, many matrices in one compiled call, so that Python's lock is free for other work; then the file's pages leave this
process's memory. Rows that are made on demand are few at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.layout import (
    ALIGNMENT,
    BLOCK,
    GROUP,
    KINDS,
    InterleaveRow,
    PackedMatrix,
    PackedType,
    aligned_zeros,
    bytes_of,
    padded,
)
from puna.formats.base import Tensor
from puna.formats.blocks import quantize_q8_0
from puna.formats.mapped import release

Bytes = npt.NDArray[np.uint8]

MADE_WEIGHTS = 1 << 22  # of a part whose rows are made on demand: they are in memory twice
LEAST_BYTES, MOST_BYTES = 1 << 20, 8 << 20  # of a thread's turn: so much of the file is in memory beside its copy
TURNS = 8  # of each thread, at least, so that all end at about the same time


@dataclass(frozen=True, slots=True)
class MatrixPart:
    """Rows first..last-1 of a tensor, over all experts, which begin the group at `target`."""

    tensor: Tensor
    kind: PackedType
    first: int
    last: int
    target: int  # address

    @property
    def is_mapped(self) -> bool:
        """Whether the rows are bytes of a file, or of memory, in their own type."""
        return isinstance(self.tensor.data, np.ndarray) and self.kind is KINDS.get(self.tensor.type.name)

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return self.tensor.num_bytes * (self.last - self.first) // len(self.tensor.data)

    def rows(self) -> Bytes:
        """The rows in blocks of the packed type."""
        if self.kind is KINDS.get(self.tensor.type.name):
            return np.ascontiguousarray(self.tensor.data[self.first : self.last])
        values = self.tensor.dequantize(self.first, self.last)
        return quantize_q8_0(np.pad(values, ((0, 0), (0, -self.tensor.shape[-1] % BLOCK))))


def pack(tensor: Tensor, kind: PackedType) -> PackedMatrix:
    """Pack a matrix, or one of each expert, as `kind`: its own type, or Q8_0."""
    return pack_all({tensor.name: tensor}, {tensor.name: kind}, 1)[tensor.name]


def pack_all(
    tensors: Mapping[str, Tensor], kinds: Mapping[str, PackedType], threads: int, packed: Callable[[int], None] = lambda _: None
) -> dict[str, PackedMatrix]:
    """Pack the matrices that `kinds` names. `packed` is told of the bytes of the files that were packed since the last time."""
    matrices = _empty({name: tensors[name] for name in kinds}, kinds)
    parts = [part for name, matrix in matrices.items() for part in _parts(tensors[name], matrix)]
    limit = min(MOST_BYTES, max(LEAST_BYTES, sum(part.num_bytes for part in parts) // (TURNS * threads)))
    with ThreadPoolExecutor(threads) as pool:
        for num_bytes in pool.map(_pack, _turns(parts, limit)):
            packed(num_bytes)
    return matrices


def _empty(tensors: Mapping[str, Tensor], kinds: Mapping[str, PackedType]) -> dict[str, PackedMatrix]:
    """Matrices of zeros: all in one array, each on a cache line of its own."""
    shapes = {name: (1, *tensor.shape)[-3:] for name, tensor in tensors.items()}
    sizes = [
        experts * padded(rows, GROUP) // GROUP * kinds[name].group_bytes(padded(columns, kinds[name].block))
        for name, (experts, rows, columns) in shapes.items()
    ]
    begins = list(accumulate((padded(size, ALIGNMENT) for size in sizes), initial=0))
    whole = aligned_zeros(begins[-1])
    matrices = {}
    for (name, (_, rows, columns)), begin, size in zip(shapes.items(), begins, sizes, strict=False):
        array = whole[begin : begin + size]
        matrices[name] = PackedMatrix(kinds[name], rows, padded(columns, kinds[name].block), array.ctypes.data, array)
    return matrices


def _parts(tensor: Tensor, matrix: PackedMatrix) -> Iterator[MatrixPart]:
    """Whole groups of rows, few enough at a time."""
    experts, rows, columns = (1, *tensor.shape)[-3:]
    step = max(GROUP, MADE_WEIGHTS // columns // GROUP * GROUP)
    for expert in range(experts):
        for first in range(0, rows, step):
            group = (expert * padded(rows, GROUP) + first) // GROUP
            target = matrix.address + group * matrix.kind.group_bytes(matrix.columns)
            begin = expert * rows
            yield MatrixPart(tensor, matrix.kind, begin + first, begin + min(first + step, rows), target)


def _turns(parts: Sequence[MatrixPart], limit: int) -> Iterator[list[MatrixPart]]:
    """Parts that a thread packs in one call: mapped ones of `limit` bytes together, or one that is made."""
    turn: list[MatrixPart] = []
    for part in parts:
        if turn and not (part.is_mapped and turn[-1].is_mapped and sum(one.num_bytes for one in turn) < limit):
            yield turn
            turn = []
        turn.append(part)
    if turn:
        yield turn


def _pack(parts: Sequence[MatrixPart]) -> int:
    """Interleave parts. Returns their bytes in the file."""
    calls = [call for part in parts for call in _calls(part)]
    table = np.frombuffer(b"".join(bytes_of(row) for _, row, _ in calls), np.uint8)
    bad = load_entry("interleave_all")(table.ctypes.data, len(calls))
    if bad:
        part = calls[bad - 1][0]
        part.tensor.blocks(part.first, part.last)  # it finds the scale, and raises
    for part in parts:
        if part.is_mapped:
            release(part.tensor.data[part.first : part.last])
    return sum(part.num_bytes for part in parts)


def _calls(part: MatrixPart) -> Iterator[tuple[MatrixPart, InterleaveRow, Bytes]]:
    """What to interleave: whole groups, then a padded last one. With each row of the table the bytes that it points to."""
    data = part.rows()
    whole, kind = len(data) // GROUP * GROUP, part.kind
    group_bytes = data.shape[1] // kind.source_block * GROUP * kind.packed_block
    for rows, target in ((data[:whole], part.target), (data[whole:], part.target + whole // GROUP * group_bytes)):
        if len(rows):
            groups = np.pad(rows, ((0, -len(rows) % GROUP), (0, 0))) if len(rows) % GROUP else rows
            address = load_entry(f"interleave_{kind.name}").address
            blocks = rows.shape[1] // kind.source_block
            yield part, InterleaveRow(address, groups.ctypes.data, rows.shape[1], blocks, len(groups) // GROUP, target), groups
