"""Pack a checkpoint's weights for the kernels (`layout.py` shows how): in their own type, or as Q8_0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.layout import BLOCK, GROUP, KINDS, SOURCE_QUADS, Kind, Matrix, aligned_zeros, padded
from puna.formats.base import Tensor
from puna.formats.blocks import quantize_q8_0


def pack(tensor: Tensor, kind: Kind) -> Matrix:
    """Pack a matrix as `kind`: its own type, or Q8_0."""
    rows, columns = tensor.shape
    if kind is not KINDS.get(tensor.type.name):
        assert kind is KINDS["Q8_0"], f"{tensor.name} cannot be packed as {kind.name}"
        return _pack_as_q8_0(tensor)
    matrix = _empty(kind, rows, columns)
    step = _row_step(columns)
    for first in range(0, rows, step):
        _interleave(kind, tensor.data[first : first + step], columns, matrix, first)
    return matrix


def _row_step(columns: int) -> int:
    """Rows to pack at a time, so that rows made on demand are never all in memory."""
    return max(GROUP, (1 << 22) // columns // GROUP * GROUP)


def _pack_as_q8_0(tensor: Tensor) -> Matrix:
    """Dequantise and requantise a few rows at a time, so that the whole float32 form is never in memory."""
    rows, columns = tensor.shape
    matrix = _empty(KINDS["Q8_0"], rows, columns)
    step = _row_step(columns)
    for first in range(0, rows, step):
        values = tensor.dequantize(first, min(first + step, rows))
        values = np.pad(values, ((0, 0), (0, matrix.columns - columns)))
        _interleave(matrix.kind, quantize_q8_0(values), matrix.columns, matrix, first)
    return matrix


def _empty(kind: Kind, rows: int, columns: int) -> Matrix:
    columns = padded(columns, kind.block)
    array = aligned_zeros(padded(rows, GROUP) // GROUP * kind.group_bytes(columns))
    return Matrix(kind, rows, columns, array.ctypes.data, array)


def _interleave(kind: Kind, data: npt.NDArray[np.uint8], columns: int, matrix: Matrix, first_row: int) -> None:
    data = np.ascontiguousarray(data)
    stride = kind.group_bytes(columns)
    target = matrix.address + first_row // GROUP * stride
    rows, row_bytes = data.shape
    blocks = columns // kind.block
    entry = load_entry(kind.interleave)
    if not kind.is_quantised:
        entry(data.ctypes.data, row_bytes, kind.source_block, columns, rows, target, stride)
    elif kind.block == BLOCK:
        quads = SOURCE_QUADS[kind.code]
        quants = kind.source_block - 4 * quads
        entry(data.ctypes.data, row_bytes, kind.source_block, quants, quads, blocks, rows, target, stride)
    else:
        entry(kind.code, data.ctypes.data, row_bytes, blocks, rows, target, stride)
