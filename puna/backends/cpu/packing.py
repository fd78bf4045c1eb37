"""Pack a checkpoint's weights for the kernels (`layout.py` shows how): in their own type, or as Q8_0."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.layout import BLOCK, GROUP, KINDS, PackedMatrix, PackedType, aligned_zeros, padded
from puna.formats.base import Tensor
from puna.formats.blocks import quantize_q8_0


def pack(tensor: Tensor, kind: PackedType) -> PackedMatrix:
    """Pack a matrix, or one of each expert, as `kind`: its own type, or Q8_0."""
    is_kept = kind is KINDS.get(tensor.type.name)
    assert is_kept or kind is KINDS["Q8_0"], f"{tensor.name} cannot be packed as {kind.name}"
    experts, rows, columns = (1, *tensor.shape)[-3:]
    matrix, read = _empty(kind, experts, rows, columns), _stored if is_kept else _made_q8_0
    step = max(GROUP, (1 << 22) // columns // GROUP * GROUP)  # rows at a time: those made on demand are never all in memory
    for expert in range(experts):
        for first in range(0, rows, step):
            begin, end = expert * rows + first, expert * rows + min(first + step, rows)
            if not _interleave(read(tensor, begin, end), matrix, expert * padded(rows, GROUP) + first):
                tensor.blocks(begin, end)  # it finds the scale, and raises
    return matrix


def _stored(tensor: Tensor, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Rows as they are in the file."""
    return tensor.data[first:last]


def _made_q8_0(tensor: Tensor, first: int, last: int) -> npt.NDArray[np.uint8]:
    """Rows dequantised, padded and requantised."""
    return quantize_q8_0(np.pad(tensor.dequantize(first, last), ((0, 0), (0, -tensor.shape[-1] % BLOCK))))


def _empty(kind: PackedType, experts: int, rows: int, columns: int) -> PackedMatrix:
    columns = padded(columns, kind.block)
    array = aligned_zeros(experts * padded(rows, GROUP) // GROUP * kind.group_bytes(columns))
    return PackedMatrix(kind, rows, columns, array.ctypes.data, array)


def _interleave(data: npt.NDArray[np.uint8], matrix: PackedMatrix, first_row: int) -> bool:
    """Write rows of a file's blocks to their groups; the first one begins a group. Returns whether all scales are finite."""
    kind, whole = matrix.kind, len(data) // GROUP * GROUP
    entry, blocks = load_entry(f"interleave_{kind.name}"), matrix.columns // kind.block
    target = matrix.address + first_row // GROUP * kind.group_bytes(matrix.columns)
    last = matrix.address + (first_row + whole) // GROUP * kind.group_bytes(matrix.columns)

    def put(rows: npt.NDArray[np.uint8], to: int) -> bool:
        rows = np.ascontiguousarray(rows)
        return not entry(rows.ctypes.data, rows.shape[1], blocks, len(rows) // GROUP, to)

    is_finite = put(data[:whole], target)
    return is_finite if whole == len(data) else put(np.pad(data[whole:], ((0, -len(data) % GROUP), (0, 0))), last) and is_finite
