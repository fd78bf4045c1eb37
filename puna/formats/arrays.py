"""A dense array in a file of named arrays (safetensors, PyTorch), before its meaning is known."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError
from puna.formats.mapped import shown
from puna.formats.rows import Bytes, ComputedRows, Rows

# Name (safetensors' spelling) -> numpy's type; BF16 and the eight-bit floats as bits.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip


LARGEST_ARRAY = 1 << 63  # bytes; numpy counts in 64 bits, also the other sizes of an empty array


def is_possible(shape: tuple[int, ...], dtype: str) -> bool:
    return prod(size or 1 for size in shape) * DTYPES[dtype].itemsize < LARGEST_ARRAY


@dataclass(frozen=True, slots=True)
class FileArray:
    """An array in a file, checked to be inside it: in C order, or with steps between its numbers (a transpose)."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of DTYPES
    data: npt.NDArray[np.uint8]  # (bytes,), a read-only view of the mapped file, from the first number to the last
    file: Path
    offset: int  # bytes from the file's start
    strides: tuple[int, ...] | None = None  # steps of each dimension, in numbers; None: C order

    def array(self) -> npt.NDArray[Any]:
        """The numbers, a view.  # shape"""
        numbers = self.data.view(DTYPES[self.dtype])
        if self.strides is None:
            return numbers.reshape(self.shape)
        steps = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers, self.shape, steps, writeable=False)

    def rows(self) -> Rows:
        """The bytes by rows, in the form of `Tensor.data`; another layout is assembled on demand."""
        if not prod(self.shape):
            return np.empty((0, 0), np.uint8)
        rows = prod(self.shape[:-1])
        return self.data.reshape(rows, -1) if self.strides is None else self._gathered(rows)

    def _gathered(self, rows: int) -> Rows:
        array = self.array() if len(self.shape) > 1 else self.array()[None]

        def compute(first: int, last: int) -> Bytes:
            indices = np.unravel_index(np.arange(first, last), array.shape[:-1])
            return np.ascontiguousarray(array[indices]).view(np.uint8)

        return ComputedRows((rows, array.shape[-1] * array.itemsize), compute)

    def fail(self, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, f"tensor {shown(self.name)}", self.offset, problem)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A matrix whose rows are assembled as blocks: a quantised matrix of a foreign layout."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of BLOCK_TYPES
    data: Rows
    file: Path
    offset: int  # of its numbers, bytes from the file's start

    def rows(self) -> Rows:
        return self.data

    def fail(self, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, f"tensor {shown(self.name)}", self.offset, problem)
