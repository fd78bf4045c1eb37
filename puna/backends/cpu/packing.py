"""How weights lie in memory for the kernels: groups of eight rows, interleaved, so that a vector's eight lanes are eight rows.

A group of a quantised matrix holds its numbers, then its scales. A block is 32 columns; a quad is 4 neighbouring columns.
  Q8_0  [block][quad 0..7][row 0..7][4 x int8]              then [block][8 x f16 scale]
  Q4_0  [block][quad 0..3][row 0..7][4 x byte]              then [block][8 x f16 scale]
        a byte holds column c of quad j in its low half, and c of quad j + 4 (16 columns on) in its high half
  Q4_1  as Q4_0, then [block][8 x f16 scale, 8 x f16 minimum]
  F32, F16, BF16  [column][row 0..7]
Rows are padded to 8 and columns to 32 with zeros. GGUF's block layouts: `formats/blocks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.jit import entry
from puna.backends.cpu.simd import load_i32, load_u16, store_i32, store_u16
from puna.formats.base import Tensor
from puna.formats.blocks import quantize_q8_0

GROUP = 8  # rows
BLOCK = 32  # columns
ALIGNMENT = 64  # bytes: a cache line


@dataclass(frozen=True, slots=True)
class Kind:
    """A packed type: `code` is what the kernels switch on."""

    code: int
    quads: int  # 32-byte runs of numbers per block; 0: not quantised
    source_block: int  # bytes of a block (of an element, where not quantised) in the file
    source_quants: int  # offset of the numbers in it

    @property
    def scales(self) -> int:
        """16-bit scales per row and block."""
        return self.source_quants // 2

    def group_bytes(self, columns: int) -> int:
        if not self.quads:
            return columns * GROUP * self.source_block
        return columns // BLOCK * GROUP * self.source_block


F32, F16, BF16, Q8_0, Q4_0, Q4_1 = range(6)
KINDS = {
    "F32": Kind(F32, 0, 4, 0),
    "F16": Kind(F16, 0, 2, 0),
    "BF16": Kind(BF16, 0, 2, 0),
    "Q8_0": Kind(Q8_0, 8, 34, 2),
    "Q4_0": Kind(Q4_0, 4, 18, 2),
    "Q4_1": Kind(Q4_1, 4, 20, 4),
}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix. `array` keeps the memory that `address` points to."""

    kind: Kind
    rows: int
    columns: int  # padded
    address: int
    array: npt.NDArray[np.uint8]


def padded(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


@entry
def interleave_quants(source, row_bytes, block_bytes, quants, quads, blocks, rows, target, target_stride):  # type: ignore[no-untyped-def]
    """Rows of blocks at address `source` to groups at `target`; of the last group only rows that exist are written."""
    for row in range(rows):
        group = target + row // GROUP * target_stride
        lane = row % GROUP
        scales = group + blocks * quads * 32
        num_scales = quants // 2
        for block in range(blocks):
            at = source + row * row_bytes + block * block_bytes
            for i in range(num_scales):
                store_u16(scales + ((block * num_scales + i) * GROUP + lane) * 2, load_u16(at + 2 * i))
            for quad in range(quads):
                store_i32(group + ((block * quads + quad) * GROUP + lane) * 4, load_i32(at + quants + 4 * quad))


@entry
def interleave_floats(source, row_bytes, size, columns, rows, target, target_stride):  # type: ignore[no-untyped-def]
    """Rows of floats of `size` bytes at address `source` to groups at `target`."""
    for row in range(rows):
        group = target + row // GROUP * target_stride
        lane = row % GROUP
        for column in range(columns):
            at = source + row * row_bytes + column * size
            to = group + (column * GROUP + lane) * size
            if size == 4:
                store_i32(to, load_i32(at))
            else:
                store_u16(to, load_u16(at))


def aligned_zeros(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that begin on a cache line. Pages that are never touched cost no memory."""
    array = np.zeros(num_bytes + ALIGNMENT, np.uint8)
    return array[-array.ctypes.data % ALIGNMENT :][:num_bytes]


def pack(tensor: Tensor) -> Matrix:
    """A matrix of any readable type as the kernels want it: those of `KINDS` as they are, every other as Q8_0."""
    rows, columns = tensor.shape
    kind = KINDS.get(tensor.type.name)
    if kind is None or (kind.quads and columns % BLOCK):
        return _pack_as_q8_0(tensor)
    matrix = _empty(kind, rows, columns)
    _interleave(kind, tensor.data, columns, matrix, 0)
    return matrix


def _pack_as_q8_0(tensor: Tensor) -> Matrix:
    """Dequantise and requantise, a few rows at a time, so that the float32 form never stands in memory whole."""
    rows, columns = tensor.shape
    matrix = _empty(KINDS["Q8_0"], rows, columns)
    step = max(GROUP, (1 << 22) // columns // GROUP * GROUP)
    for first in range(0, rows, step):
        values = tensor.dequantize(first, min(first + step, rows))
        values = np.pad(values, ((0, 0), (0, matrix.columns - columns)))
        _interleave(matrix.kind, quantize_q8_0(values), matrix.columns, matrix, first)
    return matrix


def _empty(kind: Kind, rows: int, columns: int) -> Matrix:
    columns = padded(columns, BLOCK) if kind.quads else columns
    array = aligned_zeros(padded(rows, GROUP) // GROUP * kind.group_bytes(columns))
    return Matrix(kind, rows, columns, array.ctypes.data, array)


def _interleave(kind: Kind, data: npt.NDArray[np.uint8], columns: int, matrix: Matrix, first_row: int) -> None:
    data = np.ascontiguousarray(data)
    stride = kind.group_bytes(columns)
    target = matrix.address + first_row // GROUP * stride
    rows, row_bytes = data.shape
    if kind.quads:
        blocks = columns // BLOCK
        interleave_quants(
            data.ctypes.data, row_bytes, kind.source_block, kind.source_quants, kind.quads, blocks, rows, target, stride
        )
    else:
        interleave_floats(data.ctypes.data, row_bytes, kind.source_block, columns, rows, target, stride)
