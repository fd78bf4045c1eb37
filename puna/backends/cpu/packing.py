"""Pack a checkpoint's weights for the kernels (`layout.py` shows how): in their own type, or as Q8_0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.layout import BLOCK, GROUP, KINDS, SOURCE_QUADS, Kind, Matrix, aligned_zeros, padded
from puna.formats.base import Tensor
from puna.formats.blocks import quantize_q8_0


def pack(tensor: Tensor) -> Matrix:
    """Pack a matrix, or one of each expert, of any readable type: types of `KINDS` stay, every other becomes Q8_0."""
    rows, columns = tensor.shape[-2:]
    kind = packed_kind(tensor)
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    matrix = _empty(kind, experts, rows, columns)
    stored = _stored if kind is KINDS.get(tensor.type.name) else _made_q8_0
    step = max(GROUP, (1 << 22) // columns // GROUP * GROUP)  # rows at a time: those made on demand are never all in memory
    for expert in range(experts):
        for first in range(0, rows, step):
            begin, end = expert * rows + first, expert * rows + min(first + step, rows)
            _interleave(stored(tensor, begin, end), matrix, expert * padded(rows, GROUP) + first)
    return matrix


def packed_kind(tensor: Tensor) -> Kind:
    """The type that `pack` gives a matrix."""
    kind = KINDS.get(tensor.type.name)
    return KINDS["Q8_0"] if kind is None or tensor.shape[-1] % kind.block else kind


def _stored(tensor: Tensor, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Rows as they are in the file."""
    return tensor.data[first:last]


def _made_q8_0(tensor: Tensor, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Rows dequantised, padded and requantised."""
    return quantize_q8_0(np.pad(tensor.dequantize(first, last), ((0, 0), (0, -tensor.shape[-1] % BLOCK))))


def _empty(kind: Kind, experts: int, rows: int, columns: int) -> Matrix:
    columns = padded(columns, kind.block)
    array = aligned_zeros(experts * padded(rows, GROUP) // GROUP * kind.group_bytes(columns))
    return Matrix(kind, rows, columns, array.ctypes.data, array)


def _interleave(data: npt.NDArray[np.uint8], matrix: Matrix, first_row: int) -> None:
    """Write rows of a file's blocks to their groups; the first one begins a group."""
    data, kind = np.ascontiguousarray(data), matrix.kind
    stride = kind.group_bytes(matrix.columns)
    target = matrix.address + first_row // GROUP * stride
    rows, row_bytes = data.shape
    blocks = matrix.columns // kind.block
    entry = load_entry(kind.interleave)
    if not kind.is_quantised:
        entry(data.ctypes.data, row_bytes, kind.source_block, matrix.columns, rows, target, stride)
    elif kind.block == BLOCK:
        quads = SOURCE_QUADS[kind.code]
        quants = kind.source_block - 4 * quads
        entry(data.ctypes.data, row_bytes, kind.source_block, quants, quads, blocks, rows, target, stride)
    else:
        entry(kind.code, data.ctypes.data, row_bytes, blocks, rows, target, stride)
