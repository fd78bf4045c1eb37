"""Rows of a tensor whose layout in the file is not puna's: they are assembled on demand, never before.

A plain array of bytes is such rows too. These need work: heads in the half-split rotary order (Hugging Face, GGUF's "neox"),
parts of several shards (Meta), numbers that must be unpacked first (GPTQ).

    rows[first:last]     (last - first, bytes of a row)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


COMPARED_ROWS, COMPARED_BYTES = 64, 1 << 18  # by `are_equal`, at a time


class Rows(Protocol):
    """A tensor's `data`: an array of bytes, or something that makes parts of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # (rows, bytes of a row)
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Bytes: ...


def are_equal(rows: Rows, others: Rows) -> bool:
    """Whether two matrices hold the same bytes. Compares rows spread over all of them first: most differing ones differ there."""
    if rows.shape != others.shape:
        return False
    some = np.linspace(0, len(rows) - 1, min(COMPARED_ROWS, len(rows))).astype(int).tolist()
    step = max(1, COMPARED_BYTES // max(1, rows.shape[1]))
    parts = [slice(row, row + 1) for row in some] + [slice(first, first + step) for first in range(0, len(rows), step)]
    return all(np.array_equal(rows[part], others[part]) for part in parts)


class _Made:
    """Rows with a shape; the subclass implements `_rows(first, last)`."""

    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice, /) -> Bytes:
        first, last, step = part.indices(len(self))
        rows = self._rows(first, max(first, last))
        return rows if step == 1 else rows[::step]

    def _rows(self, first: int, last: int) -> Bytes:
        raise NotImplementedError


class _ReorderedHeads(_Made):
    """Row j of each head is row order[j] of that head in `source`."""

    def __init__(self, source: Rows, order: npt.NDArray[np.intp]) -> None:
        self._source, self._order = source, order
        self.shape = (source.shape[0], source.shape[1])

    def _rows(self, first: int, last: int) -> Bytes:
        size = len(self._order)
        begin, end = first // size * size, -(-last // size) * size  # whole heads: a pair's rows are half a head apart
        heads: Bytes = self._source[begin:end]
        ours = np.arange(first - begin, last - begin)
        turned: Bytes = heads[ours // size * size + self._order[ours % size]]
        return turned


class HalfSplitHeads(_ReorderedHeads):
    """Heads whose rotary pairs are (x[i], x[i + dim / 2]) in `source`, returned as (x[2i], x[2i + 1]).

    `dim`: rotated numbers of a head, its first ones; 0: all.
    """

    def __init__(self, source: Rows, head_dim: int, dim: int = 0) -> None:
        super().__init__(source, interleaved_order(head_dim, dim))


class InterleavedHeads(_ReorderedHeads):
    """The inverse: for the writers of formats whose heads are half-split."""

    def __init__(self, source: Rows, head_dim: int, dim: int = 0) -> None:
        super().__init__(source, np.argsort(interleaved_order(head_dim, dim)))


def half_split_vector(source: Rows, head_dim: int, number_bytes: int, dim: int = 0) -> Rows:
    """`HalfSplitHeads` for a vector, which is one row of numbers of `number_bytes` each."""
    return _vector(source, number_bytes, lambda numbers: HalfSplitHeads(numbers, head_dim, dim))


def interleaved_vector(source: Rows, head_dim: int, number_bytes: int, dim: int = 0) -> Rows:
    """`InterleavedHeads` for a vector."""
    return _vector(source, number_bytes, lambda numbers: InterleavedHeads(numbers, head_dim, dim))


def _vector(source: Rows, number_bytes: int, turn: Callable[[Rows], Rows]) -> Rows:
    def compute(first: int, last: int) -> Bytes:
        numbers = np.ascontiguousarray(source[first:last]).reshape(-1, number_bytes)
        return turn(numbers)[:].reshape(last - first, -1)

    return ComputedRows((source.shape[0], source.shape[1]), compute)


def interleaved_order(head_dim: int, dim: int = 0) -> npt.NDArray[np.intp]:
    """The index of number j of an interleaved head in a half-split one, of which the first `dim` numbers are rotated; 0: all.

    >>> interleaved_order(6).tolist(), interleaved_order(6, 4).tolist()
    ([0, 3, 1, 4, 2, 5], [0, 2, 1, 3, 4, 5])
    """
    order = np.arange(head_dim, dtype=np.intp)
    rotated = dim or head_dim
    order[:rotated] = order[:rotated].reshape(2, -1).T.reshape(-1)
    return order


class StackedRows(_Made):
    """Parts one below the other: shards of a matrix that was split by rows."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = tuple(parts)
        self.shape = (sum(len(part) for part in parts), parts[0].shape[1])

    def _rows(self, first: int, last: int) -> Bytes:
        found, begin = [], 0
        for part in self._parts:
            end = begin + len(part)
            if first < end and begin < last:
                found.append(part[max(first, begin) - begin : min(last, end) - begin])
            begin = end
        return found[0] if len(found) == 1 else np.concatenate(found or [np.empty((0, self.shape[1]), np.uint8)])


class JoinedRows(_Made):
    """Parts side by side: shards of a matrix that was split by columns."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = tuple(parts)
        self.shape = (parts[0].shape[0], sum(part.shape[1] for part in parts))

    def _rows(self, first: int, last: int) -> Bytes:
        return np.concatenate([part[first:last] for part in self._parts], axis=1)


class CutRows(_Made):
    """Rows first_row..last_row-1 with their bytes first_byte..last_byte-1: one part of a sharded matrix."""

    def __init__(self, source: Rows, rows: tuple[int, int], row_bytes: tuple[int, int]) -> None:
        self._source, self._first, self._bytes = source, rows[0], row_bytes
        self.shape = (rows[1] - rows[0], row_bytes[1] - row_bytes[0])

    def _rows(self, first: int, last: int) -> Bytes:
        return self._source[self._first + first : self._first + last][:, slice(*self._bytes)]


@dataclass(frozen=True)
class ComputedRows(_Made):
    """Rows that a function computes: numbers whose packing in the file is different."""

    shape: tuple[int, int]
    compute: Callable[[int, int], Bytes]  # (first, last) -> (last - first, bytes of a row)

    def _rows(self, first: int, last: int) -> Bytes:
        return self.compute(first, last)
