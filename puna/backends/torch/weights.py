"""Weights on a torch device: a file's blocks split into planes, so that neighbouring threads read neighbouring bytes.

A matrix has one plane for each field of its block type; every plane has a row for each row of the matrix. Numbers of four bits
lie in blocks of 32 for every type: byte j of a block holds weight j in its low and weight j + 16 in its high half.
  Q8_0  qs int8 (rows, columns)          d f16 (rows, blocks of 32)
  Q4_0  qs u8 (rows, columns / 2)        d f16 (rows, blocks of 32)
  Q4_1  as Q4_0, and                     m f16 (rows, blocks of 32)
  Q4_K  qs u8 (rows, columns / 2)        d, dmin f16 (rows, blocks of 256), scales, mins u8 (rows, blocks of 32)
  Q6_K  qs u8 (rows, columns / 2)        qh u8 (rows, columns / 4): byte j of a block of 32 holds the upper two bits of
                                         weights j, j + 8, j + 16, j + 24; d f16 (rows, blocks of 256),
                                         scales int8 (rows, blocks of 16)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np
import torch

from puna.backends.torch.staging import num_bytes
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES, QUANTIZERS

Planes = dict[str, torch.Tensor]

BLOCK = 32
CHUNK_BYTES = 1 << 26  # of a matrix in main memory at a time
FLOATS: Mapping[str, torch.dtype] = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NUMBERS: Mapping[str, torch.dtype] = {"f2": torch.float16, "i1": torch.int8, "u1": torch.uint8}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix (rows, columns) of one type; a quantised one's rows may be padded to whole blocks with zeros."""

    kind: str
    rows: int
    columns: int
    planes: Planes

    def part(self, number: int, count: int) -> Matrix:
        """Part `number` of `count` equal ones, in the same memory: an expert's rows."""
        size = self.rows // count
        return self.row_range(number * size, (number + 1) * size)

    def row_range(self, first: int, last: int) -> Matrix:
        """Rows first..last-1, in the same memory."""
        return Matrix(self.kind, last - first, self.columns, {name: plane[first:last] for name, plane in self.planes.items()})

    def dequantize_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Dequantise some rows to float32.  # (n,) -> (n, columns)"""
        return dequantize(Matrix(self.kind, len(rows), self.columns, {name: p[rows] for name, p in self.planes.items()}))

    @property
    def num_bytes(self) -> int:
        return sum(map(num_bytes, self.planes.values()))


def load_matrix(tensor: Tensor, kind: str, device: torch.device) -> Matrix:
    """A matrix of any readable type as one of `KINDS`, made a few rows at a time. Those of experts lie one below the other."""
    rows, columns = prod(tensor.shape[:-1]), tensor.shape[-1]
    step = max(1, CHUNK_BYTES // max(tensor.data.shape[1], 4 * columns))
    planes: Planes = {}
    for first in range(0, rows, step):
        last = min(first + step, rows)
        for name, part in _split(kind, torch.from_numpy(_raw(tensor, kind, first, last)).to(device)).items():
            whole = planes.setdefault(name, torch.empty((rows, part.shape[1]), dtype=part.dtype, device=device))
            whole[first:last] = part
    return Matrix(kind, rows, columns, planes)


Bias: TypeAlias = torch.Tensor | None
Norm: TypeAlias = torch.Tensor | None  # a norm's weight; None: nothing is normed here


def stacked(matrices: Sequence[Matrix], biases: Sequence[Bias]) -> tuple[tuple[Matrix, ...], tuple[Bias, ...]]:
    """Stack neighbours of one kind into one matrix, the rows of each below the last: one product instead of several."""
    whole: list[Matrix] = []
    sums: list[Bias] = []
    for matrix, bias in zip(matrices, biases, strict=True):
        if whole and (whole[-1].kind, sums[-1] is None) == (matrix.kind, bias is None):
            whole[-1] = _below(whole[-1], matrix)
            sums[-1] = None if bias is None else torch.cat([sums[-1], bias])
        else:
            whole.append(matrix)
            sums.append(bias)
    return tuple(whole), tuple(sums)


def _below(upper: Matrix, lower: Matrix) -> Matrix:
    planes = {name: torch.cat([plane, lower.planes[name]]) for name, plane in upper.planes.items()}
    return Matrix(upper.kind, upper.rows + lower.rows, upper.columns, planes)


def load_vector(tensor: Tensor, device: torch.device) -> torch.Tensor:
    """A norm's weight or a bias, as float32.  # (columns,)"""
    return torch.from_numpy(np.array(tensor.dequantize(), np.float32)).to(device)


def dequantize(matrix: Matrix) -> torch.Tensor:
    """The numbers as float32, bit for bit those of `BlockType.dequantize`.  # (rows, columns)"""
    return KINDS[matrix.kind].numbers(matrix.planes)[:, : matrix.columns]


def _raw(tensor: Tensor, kind: str, first: int, last: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Rows in the bytes of `kind`, requantised if the file has another type."""
    if tensor.type.name == kind:
        return np.array(tensor.blocks(first, last))
    values = tensor.dequantize(first, last)
    if kind in QUANTIZERS:
        values = np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK_TYPES[kind].block_size)))
        return QUANTIZERS[kind](values)
    return np.array(torch.from_numpy(np.array(values)).to(FLOATS[kind]).view(torch.uint8).numpy())


def _split(kind: str, raw: torch.Tensor) -> Planes:
    """Split the bytes of rows into planes.  # (rows, bytes of a row)"""
    if kind in FLOATS:
        return {"w": raw.view(FLOATS[kind])}
    layout = BLOCK_TYPES[kind].layout
    blocks = raw.view(len(raw), -1, layout.itemsize)
    planes = {}
    for name, (dtype, offset, *_) in (layout.fields or {}).items():
        part = blocks[:, :, offset : offset + dtype.itemsize].contiguous()
        planes[name] = part.view(NUMBERS[dtype.base.str[1:]])
    return {name: plane.reshape(len(raw), -1) for name, plane in KINDS[kind].arrange(planes).items()}


# ---- arranging: fields of blocks (rows, blocks, numbers) -> planes of the same shape ------------------------------------


def _as_they_are(fields: Planes) -> Planes:
    return fields


def _arrange_q4_k(fields: Planes) -> Planes:
    """Unpack six-bit scales and mins from their twelve bytes (`formats.blocks._scales_and_mins`); split halves of 64 weights."""
    first, second, nibbles = fields["scales"].split(4, dim=2)
    return {
        "qs": _halves_of_32(torch.stack(_nibbles(fields["qs"].unflatten(2, (4, 32))), dim=3)),
        "d": fields["d"],
        "dmin": fields["dmin"],
        "scales": torch.cat([first & 63, nibbles & 15 | first >> 2 & 48], dim=2),
        "mins": torch.cat([second & 63, nibbles >> 4 | second >> 2 & 48], dim=2),
    }


def _arrange_q6_k(fields: Planes) -> Planes:
    low = torch.stack(_nibbles(fields["ql"].unflatten(2, (2, 64))), dim=3)  # (rows, blocks, 2, 2, 64)
    pairs = torch.stack([fields["qh"].unflatten(2, (2, 32)) >> shift & 3 for shift in (0, 2, 4, 6)], dim=3)
    quarters = pairs.unflatten(4, (4, 8))  # (rows, blocks, 2, 4, 4, 8): runs of 32 weights in quarters
    return {
        "qs": _halves_of_32(low),
        "qh": quarters[..., 0, :] | quarters[..., 1, :] << 2 | quarters[..., 2, :] << 4 | quarters[..., 3, :] << 6,
        "scales": fields["scales"],
        "d": fields["d"],
    }


def _nibbles(packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return packed & 15, packed >> 4


def _halves_of_32(numbers: torch.Tensor) -> torch.Tensor:
    """Pack four-bit numbers, given in order, into bytes.  # (rows, blocks, ...) -> (rows, blocks, weights / 2)"""
    runs = numbers.reshape(*numbers.shape[:2], -1, 2, BLOCK // 2)
    return (runs[..., 0, :] | runs[..., 1, :] << 4).flatten(2)


# ---- numbers: planes -> float32 (rows, columns) ---------------------------------------------------------------------


def _floats(planes: Planes) -> torch.Tensor:
    return planes["w"].float()


def _in_blocks(plane: torch.Tensor, size: int = BLOCK) -> torch.Tensor:
    return plane.unflatten(1, (-1, size))


def _four_bits(planes: Planes) -> torch.Tensor:
    """(rows, blocks of 32, 32)"""
    return torch.cat(_nibbles(_in_blocks(planes["qs"], BLOCK // 2)), dim=2)


def _each(scale: torch.Tensor, per: int = 1) -> torch.Tensor:
    """A scale for each block or, for scales of larger blocks, for each of `per` parts.  # (rows, n) -> (rows, n * per, 1)"""
    return scale.float().repeat_interleave(per, dim=1).unsqueeze(2)


def _q8_0(planes: Planes) -> torch.Tensor:
    return (_each(planes["d"]) * _in_blocks(planes["qs"]).float()).flatten(1)


def _q4_0(planes: Planes) -> torch.Tensor:
    return (_each(planes["d"]) * (_four_bits(planes).float() - 8)).flatten(1)


def _q4_1(planes: Planes) -> torch.Tensor:
    return (_each(planes["d"]) * _four_bits(planes).float() + _each(planes["m"])).flatten(1)


def _q4_k(planes: Planes) -> torch.Tensor:
    scales = _each(planes["d"], 8) * _each(planes["scales"])
    mins = _each(planes["dmin"], 8) * _each(planes["mins"])
    return (scales * _four_bits(planes).float() - mins).flatten(1)


def _q6_k(planes: Planes) -> torch.Tensor:
    high = torch.cat([_in_blocks(planes["qh"], 8) >> shift & 3 for shift in (0, 2, 4, 6)], dim=2)
    numbers = ((_four_bits(planes) | high << 4).float() - 32).unflatten(2, (2, 16)).flatten(1, 2)  # (rows, blocks of 16, 16)
    return (_each(planes["d"], 16) * _each(planes["scales"]) * numbers).flatten(1)


@dataclass(frozen=True, slots=True)
class MatrixType:
    """A type that a matrix may have on a torch device."""

    numbers: Callable[[Planes], torch.Tensor]
    arrange: Callable[[Planes], Planes] = _as_they_are


KINDS: Mapping[str, MatrixType] = {
    **{name: MatrixType(_floats) for name in FLOATS},
    "Q8_0": MatrixType(_q8_0),
    "Q4_0": MatrixType(_q4_0),
    "Q4_1": MatrixType(_q4_1),
    "Q4_K": MatrixType(_q4_k, _arrange_q4_k),
    "Q6_K": MatrixType(_q6_k, _arrange_q6_k),
}
