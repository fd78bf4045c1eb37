"""A dense array in a file of named arrays: what safetensors and PyTorch files are made of, before it is known what it means."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError
from puna.formats.rows import Rows

# Name (safetensors' spelling) -> how numpy holds it; BF16 and the eight-bit floats as bits.
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(code)
    for name, code in {
        "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "F8_E4M3": "u1", "F8_E5M2": "u1",
        "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
    }.items()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An array as it lies in a file: C order, checked to lie inside it."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of DTYPES
    data: npt.NDArray[np.uint8]  # (bytes,), a read-only view of the mapped file
    file: Path
    offset: int  # bytes from the file's start

    def array(self) -> npt.NDArray[Any]:
        """The numbers, a view.  # shape"""
        return self.data.view(DTYPES[self.dtype]).reshape(self.shape)

    def rows(self) -> npt.NDArray[np.uint8]:
        """The bytes by rows, as `Tensor.data` wants them.  # (rows, bytes of a row)"""
        rows = prod(self.shape[:-1])
        return self.data.reshape(rows, -1) if rows else np.empty((0, 0), np.uint8)

    def fail(self, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, f"tensor '{self.name}'", self.offset, problem)


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A matrix whose rows are put together as blocks: what a quantised matrix of a foreign layout becomes."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # a key of BLOCK_TYPES
    data: Rows
    file: Path
    offset: int  # of its numbers, bytes from the file's start

    def rows(self) -> Rows:
        return self.data

    def fail(self, problem: str) -> NoReturn:
        raise ModelFormatError(self.file, f"tensor '{self.name}'", self.offset, problem)
