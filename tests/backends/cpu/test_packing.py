"""Packed bytes, against a definition in numpy that is written from the tables of `layout.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from puna.backends.cpu.layout import ALIGNMENT, GROUP, KINDS, PackedMatrix, padded
from puna.backends.cpu.packing import MatrixPart, _turns, pack, pack_all
from puna.errors import ModelFormatError
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES, SCALES
from puna.formats.rows import ComputedRows

Bytes = npt.NDArray[Any]  # uint8
Blocks = npt.NDArray[Any]  # (8, blocks) of a type's record: the rows of a group
QUANTISED = [name for name, kind in KINDS.items() if kind.is_quantised]
FLOATS = [name for name, kind in KINDS.items() if not kind.is_quantised]


# ---- the definition -------------------------------------------------------------------------------------------------


def by_quad(numbers: Bytes) -> Bytes:
    """(8, blocks, columns) -> (blocks, quads, 8, 4)"""
    quads: Bytes = numbers.reshape(*numbers.shape[:2], -1, 4).transpose(1, 2, 0, 3)
    return quads


def by_block(field: npt.NDArray[Any]) -> Bytes:
    """A field of each row's blocks: (8, blocks) or (8, blocks, values) -> bytes of (blocks, values, 8)"""
    values = field.reshape(*field.shape[:2], -1).transpose(1, 2, 0)
    return np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)


def planes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Numbers of a row's blocks. Each run of bytes holds its lowest bits first, one number per byte, then the next bits."""
    runs = packed.reshape(*packed.shape[:2], -1, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    numbers: Bytes = runs >> shifts & np.uint8((1 << bits) - 1)
    return numbers.reshape(*packed.shape[:2], -1)


def joined(parts: list[Bytes]) -> Bytes:
    """Parts of each block, side by side: (blocks, bytes)."""
    return np.concatenate([np.ascontiguousarray(part).reshape(len(part), -1) for part in parts], axis=1)


def six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    """(8, blocks, 12) -> eight scales, and eight minima."""
    first, second, rest = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 2 & 48], axis=2)
    return scales, np.concatenate([second & 63, rest >> 4 | second >> 2 & 48], axis=2)


def affine_scales(blocks: Blocks) -> list[Bytes]:
    scales, minima = six_bits(blocks["scales"])
    both = np.stack([scales, minima], axis=3)
    return [by_block(both), by_block(blocks["d"]), by_block(blocks["dmin"])]


def pairs(numbers: Bytes) -> Bytes:
    """Low halves of two neighbouring quads in one: (blocks, quads, 8, 4) -> (blocks, quads / 2, 8, 4)"""
    return numbers[:, 0::2] & 15 | (numbers[:, 1::2] & 15) << 4


def tops(numbers: Bytes, quads: int, width: int) -> Bytes:
    """What is above the low halves, `width` bits of each of so many quads: (blocks, quads, 8, 4) -> (blocks, runs, 8, 4)"""
    runs = (numbers >> 4).reshape(len(numbers), -1, quads, GROUP, 4)
    return np.bitwise_or.reduce([runs[:, :, j] << np.uint8(width * j) for j in range(quads)])


def pairs_and_tops(numbers: Bytes, quads: int, width: int) -> Bytes:
    quarters = pairs(numbers).reshape(len(numbers), -1, quads // 2, GROUP, 4)
    return np.concatenate([quarters, tops(numbers, quads, width)[:, :, None]], axis=2)


def simple(blocks: Blocks) -> Bytes:
    return before_scales(by_quad(blocks["qs"].view(np.uint8)), blocks)


def five_bits(blocks: Blocks) -> Bytes:
    fifths = np.unpackbits(blocks["qh"], axis=2, bitorder="little")
    return before_scales(pairs_and_tops(by_quad(planes(blocks["qs"], 4, 16) | fifths << 4), 8, 1), blocks)


def before_scales(numbers: Bytes, blocks: Blocks) -> Bytes:
    """All numbers, then the scales of all blocks."""
    fields = [name for name in ("d", "m", "e") if name in (blocks.dtype.names or ())]
    scales = np.concatenate([by_block(blocks[name]) for name in fields], axis=1)
    return np.concatenate([numbers.reshape(-1), scales.reshape(-1)])


def q4_k(blocks: Blocks) -> Bytes:
    halves = planes(blocks["qs"], 4, 32).reshape(*blocks.shape, 8, 2, 16)
    numbers = halves[..., 0, :] | halves[..., 1, :] << 4
    return joined([by_quad(numbers.reshape(*blocks.shape, -1)), *affine_scales(blocks)])


def q5_k(blocks: Blocks) -> Bytes:
    numbers = by_quad(planes(blocks["qs"], 4, 32) | planes(blocks["qh"], 1, 32) << 4)
    return joined([pairs_and_tops(numbers, 8, 1), *affine_scales(blocks)])


def q6_k(blocks: Blocks) -> Bytes:
    numbers = by_quad(planes(blocks["ql"], 4, 64) | planes(blocks["qh"], 2, 32) << 4)
    return joined([pairs_and_tops(numbers, 4, 2), by_block(blocks["scales"]), by_block(blocks["d"])])


def four_quads(numbers: Bytes) -> Bytes:
    """Lower two bits of four quads in one: (blocks, quads, 8, 4) -> (blocks, quads / 4, 8, 4)"""
    return np.bitwise_or.reduce([(numbers[:, j::4] & 3) << np.uint8(2 * j) for j in range(4)])


def q3_k(blocks: Blocks) -> Bytes:
    thirds = by_quad(planes(blocks["hmask"], 1, 32))
    numbers = four_quads(by_quad(planes(blocks["qs"], 2, 32))).reshape(len(thirds), 8, 2, GROUP, 4)
    numbers = np.concatenate([numbers, tops(thirds << 4, 8, 1)[:, :, None]], axis=2)
    low, high = planes(blocks["scales"][..., :8], 4, 8), planes(blocks["scales"][..., 8:], 2, 4)
    return joined([numbers, by_block((low | high << 4) - np.uint8(32)), by_block(blocks["d"])])


def q2_k(blocks: Blocks) -> Bytes:
    numbers = four_quads(by_quad(planes(blocks["qs"], 2, 32)))
    return joined([numbers, *(by_block(blocks[name]) for name in ("scales", "d", "dmin"))])


def iq4_xs(blocks: Blocks) -> Bytes:
    high = np.ascontiguousarray(blocks["scales_h"]).view(np.uint8).reshape(*blocks.shape, 2)
    scales = planes(blocks["scales_l"], 4, 1) | planes(high, 2, 1) << 4
    return joined([by_quad(blocks["qs"]), by_block(scales - np.uint8(32)), by_block(blocks["d"])])


DEFINITIONS: dict[str, Callable[[Blocks], Bytes]] = {
    **dict.fromkeys(("Q8_0", "Q4_0", "Q4_1", "IQ4_NL", "MXFP4"), simple),
    **dict.fromkeys(("Q5_0", "Q5_1"), five_bits),
    "Q4_K": q4_k,
    "Q5_K": q5_k,
    "Q6_K": q6_k,
    "Q3_K": q3_k,
    "Q2_K": q2_k,
    "IQ4_XS": iq4_xs,
    **dict.fromkeys(FLOATS, by_block),
}


def defined(tensor: Tensor) -> Bytes:
    """The packed bytes of one expert's matrix, or of several, in their order."""
    experts, rows, _ = (1, *tensor.shape)[-3:]
    data = np.pad(tensor.data[:].reshape(experts, rows, -1), ((0, 0), (0, -rows % GROUP), (0, 0)))
    groups = data.reshape(-1, GROUP, data.shape[2]).view(tensor.type.layout)
    return np.concatenate([DEFINITIONS[tensor.type.name](group).reshape(-1) for group in groups])


# ---- the tests ------------------------------------------------------------------------------------------------------


def random_tensor(name: str, *shape: int) -> Tensor:
    """Any bits, but finite scales."""
    kind = BLOCK_TYPES[name]
    rows = int(np.prod(shape[:-1]))
    data = np.random.default_rng(shape).integers(0, 256, (rows, kind.row_bytes(shape[-1])), np.uint8)
    blocks = data.view(kind.layout)
    for field in SCALES & set(kind.layout.names or ()):
        blocks[field] = np.random.default_rng(shape).standard_normal(blocks.shape)
    return Tensor("blk.0.some.weight", shape, kind, data, file="some.gguf")


def content(matrix: PackedMatrix) -> bytes:
    assert matrix.address % ALIGNMENT == 0 and matrix.address == matrix.array.ctypes.data
    return matrix.array.tobytes()


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 33, 64])
@pytest.mark.parametrize("name", QUANTISED)
def test_blocks_lie_in_memory_as_the_layout_says(name: str, rows: int) -> None:
    tensor = random_tensor(name, rows, 768)
    assert content(pack(tensor, KINDS[name])) == defined(tensor).tobytes()


@pytest.mark.parametrize("columns", [1, 3, 4, 7, 8, 31, 172])
@pytest.mark.parametrize("rows", [1, 8, 13])
@pytest.mark.parametrize("name", FLOATS)
def test_floats_lie_in_memory_as_the_layout_says(name: str, rows: int, columns: int) -> None:
    tensor = random_tensor(name, rows, columns)
    assert content(pack(tensor, KINDS[name])) == defined(tensor).tobytes()


@pytest.mark.parametrize("rows", [8, 11])
@pytest.mark.parametrize("name", KINDS)
def test_the_matrices_of_experts_follow_each_other_each_padded(name: str, rows: int) -> None:
    tensor = random_tensor(name, 3, rows, 256)
    matrix = pack(tensor, KINDS[name])
    assert content(matrix) == defined(tensor).tobytes()
    assert 3 * matrix.bytes == matrix.array.nbytes == 3 * padded(rows, GROUP) * KINDS[name].group_bytes(256) // GROUP


@pytest.mark.parametrize("name", KINDS)
def test_rows_that_are_made_on_demand_are_packed_in_parts(name: str) -> None:
    whole = random_tensor(name, 40, 1 << 17)  # of a matrix this wide few rows are read at a time
    parts: list[tuple[int, int]] = []

    def made(first: int, last: int) -> Bytes:
        parts.append((first, last))
        return whole.data[first:last]

    tensor = Tensor(whole.name, whole.shape, whole.type, ComputedRows((40, whole.data.shape[1]), made))
    assert content(pack(tensor, KINDS[name])) == content(pack(whole, KINDS[name]))
    assert parts == [(0, 32), (32, 40)]


@pytest.mark.parametrize("row", [0, 6, 7, 9])  # whole groups, and the last two rows
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name in QUANTISED for field in BLOCK_TYPES[name].layout.names or () if field in SCALES]
)
def test_a_scale_that_is_not_finite_is_found_wherever_it_is(name: str, field: str, bad: float, row: int) -> None:
    tensor = random_tensor(name, 10, 512)
    blocks = tensor.data[:].view(tensor.type.layout)
    blocks[field][row, -1] = bad
    with pytest.raises(ModelFormatError, match=f"{field} of the block at byte .* of row {row} is infinite or not a number"):
        pack(tensor, KINDS[name])


@pytest.mark.parametrize("name", QUANTISED)
def test_the_largest_finite_scales_are_no_error(name: str) -> None:
    tensor = random_tensor(name, 10, 512)
    blocks = tensor.data[:].view(tensor.type.layout)
    for field in SCALES & set(tensor.type.layout.names or ()):
        blocks[field] = np.where(blocks[field] < 0, np.finfo(np.float16).min, np.finfo(np.float16).max)
    assert content(pack(tensor, KINDS[name])) == defined(tensor).tobytes()


def test_many_matrices_are_packed_as_each_alone_and_every_byte_is_told() -> None:
    names = [name for name in KINDS for _ in range(3)]
    tensors = {f"{i}": random_tensor(name, 11 + 5 * i, 512) for i, name in enumerate(names)}
    tensors["made"] = dataclasses.replace(tensors["9"], data=ComputedRows((56, 544), lambda a, b: tensors["9"].data[a:b]))
    tensors["of another type"] = random_tensor("Q5_1", 19, 64)
    kinds = {name: KINDS[tensor.type.name] for name, tensor in tensors.items()} | {"of another type": KINDS["Q8_0"]}
    told: list[int] = []
    matrices = pack_all(tensors, kinds, 2, told.append)
    assert list(matrices) == list(tensors) and sum(told) == sum(tensor.num_bytes for tensor in tensors.values())
    for name, matrix in matrices.items():
        assert content(matrix) == content(pack(tensors[name], kinds[name]))


def test_a_bad_scale_among_many_matrices_is_told_of_its_own() -> None:
    tensors = {f"{i}": dataclasses.replace(random_tensor("Q4_0", 24, 512), name=f"blk.{i}.weight") for i in range(9)}
    tensors["7"].data[:].view(tensors["7"].type.layout)["d"][13, 2] = np.nan
    with pytest.raises(ModelFormatError, match=r"'blk\.7\.weight': d of the block at byte 36 of row 13"):
        pack_all(tensors, dict.fromkeys(tensors, KINDS["Q4_0"]), 2)


def test_rows_that_are_made_are_packed_one_part_at_a_time_and_others_together() -> None:
    mapped = random_tensor("Q8_0", 8, 32)
    made = dataclasses.replace(mapped, data=ComputedRows((8, 34), lambda first, last: mapped.data[first:last]))
    parts = [MatrixPart(tensor, KINDS["Q8_0"], 0, 8, 0) for tensor in (mapped, mapped, mapped, made, made, mapped)]
    assert [len(turn) for turn in _turns(parts, 2 * mapped.num_bytes)] == [2, 1, 1, 1, 1]
    assert [part for turn in _turns(parts, 1) for part in turn] == parts
