"""Each operation of the CPU backend against the same one of the reference, at sizes that kernels often get wrong."""

from __future__ import annotations

from typing import Any, get_args

import numba
import numpy as np
import numpy.typing as npt
import pytest

from puna.backends import BACKENDS, reference
from puna.backends.cpu import kernels, simd
from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.jit import FLAGS
from puna.backends.cpu.layout import (
    ADD,
    BLOCK,
    KINDS,
    PANEL_BYTES,
    SET,
    PackedMatrix,
    aligned_zeros,
    float_bits,
    padded,
    record_bytes,
)
from puna.backends.cpu.packing import pack
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES
from puna.model.spec import Activation
from puna.plan import RESIDENT_BLOCKS
from tests.fakes import make_tensor

Floats = npt.NDArray[np.float32]
SIZES = [1, 7, 8, 9, 31, 32, 33, 100, 172, 576]


def packed(tensor: Tensor) -> PackedMatrix:
    """As the plan would have it."""
    return pack(tensor, KINDS.get(tensor.type.name, KINDS["Q8_0"]))


def compiled(function: Any) -> Any:
    return numba.njit(**FLAGS)(function)


@compiled
def run_rms_norm(x: int, weight: int, size: int, eps: float, out: int) -> None:
    kernels.rms_norm(x, weight, size, np.float32(eps), out)


@compiled
def run_rope(x: int, cos_sin: int, head_dim: int, first: int, last: int) -> None:
    kernels.rope(x, cos_sin, head_dim, first, last)


@compiled
def run_quantize(x: int, columns: int, record: int) -> None:
    kernels.quantize_blocks(x, columns, record, 0, columns // 32)


def run_dequantize_row(matrix: PackedMatrix, row: int, size: int, out: int) -> None:
    load_entry(f"dequantize_row_{matrix.kind.name}")(matrix.address, matrix.columns, row, size, out)


def run_multiply(matrix: PackedMatrix, x: int, stride: int, tokens: int, y: int, y_stride: int, groups: int) -> None:
    """The product, then added a second time."""
    scratch = aligned_zeros(PANEL_BYTES)
    for mode in (SET, ADD):
        load_entry(f"multiply_{matrix.kind.name}")(
            matrix.address, matrix.columns, x, stride, tokens, y, y_stride, 0, groups, mode, scratch.ctypes.data
        )


@compiled
def run_exp(x: int, count: int) -> None:
    for i in range(0, count, 8):
        simd.store_f32x8(x + 4 * i, simd.exp(simd.load_f32x8(x + 4 * i)))


def room(values: Floats) -> Floats:
    """The values with zeros behind them, as the backend's buffers have."""
    space = aligned_zeros(4 * padded(values.size, BLOCK)).view(np.float32)
    space[: values.size] = values
    return space


def numbers(size: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", SIZES)
def test_rms_norm(size: int) -> None:
    x, weight, out = room(numbers(size)), room(numbers(size, 1)), room(np.zeros(size, np.float32))
    run_rms_norm(x.ctypes.data, weight.ctypes.data, size, 1e-5, out.ctypes.data)
    np.testing.assert_allclose(out[:size], reference.rms_norm(x[:size], weight[:size], 1e-5), rtol=2e-6)


each_activation = pytest.mark.parametrize("activation", get_args(Activation))


@each_activation
@pytest.mark.parametrize("size", SIZES)
def test_glu(size: int, activation: Activation) -> None:
    gate, up, out = room(8 * numbers(size)), room(numbers(size, 1)), room(np.zeros(size, np.float32))
    load_entry(f"glu_{activation}")(gate.ctypes.data, up.ctypes.data, padded(size, 8), out.ctypes.data)
    expected = reference.glu(gate[:size].astype(np.float64), up[:size], activation)  # in float32, gelu's 1 + tanh(u) cancels
    np.testing.assert_allclose(out[:size], expected, rtol=2e-6, atol=1e-12 if activation == "silu" else 1e-9)


@each_activation
def test_glu_of_extreme_numbers_is_finite(activation: Activation) -> None:
    gate, up = room(np.array([-1e30, -100, -88, 0, 88, 100, 1e30, -0.0], np.float32)), room(np.ones(8, np.float32))
    load_entry(f"glu_{activation}")(gate.ctypes.data, up.ctypes.data, 8, gate.ctypes.data)
    assert np.isfinite(gate).all()
    assert gate[6] == np.float32(1e30) and gate[3] == 0


@pytest.mark.parametrize("cap", [0.5, 5.0, 50.0])
@pytest.mark.parametrize("size", SIZES)
def test_softcap(size: int, cap: float) -> None:
    x = room(40 * numbers(size))
    expected = reference.softcap(x[:size].copy(), cap)
    load_entry("softcap")(x.ctypes.data, padded(size, 8), float_bits(cap))
    np.testing.assert_allclose(x[:size], expected, rtol=1e-6, atol=2e-7 * cap)


def test_softcap_of_extreme_numbers_is_the_cap_and_nan_stays() -> None:
    x = room(np.array([-np.inf, -1e30, -1e3, 0, -0.0, 1e3, np.inf, np.nan], np.float32))
    load_entry("softcap")(x.ctypes.data, 8, float_bits(30.0))
    assert x[:7].tolist() == [-30, -30, -30, 0, 0, 30, 30] and np.isnan(x[7])


@pytest.mark.parametrize("head_dim", [2, 8, 20, 64, 100])
def test_rope_of_parts_of_a_row(head_dim: int) -> None:
    heads = 3
    x = numbers(heads * head_dim)
    angles = np.random.default_rng(2).uniform(-50, 50, head_dim // 2)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    expected = reference.rope(x.reshape(heads, head_dim), cos, sin).ravel()
    cos_sin = np.concatenate([cos, sin])
    for first, last in ((0, 6), (6, 8), (8, x.size)) if x.size > 8 else ((0, x.size),):
        run_rope(x.ctypes.data, cos_sin.ctypes.data, head_dim, first, min(last, x.size))
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.parametrize("blocks", [1, 2, 5])
def test_quantize_rounds_to_the_nearest_of_255_levels(blocks: int) -> None:
    x = numbers(32 * blocks)
    x[:32] = 0  # a block of zeros has scale 0
    record = aligned_zeros(record_bytes(32 * blocks))
    run_quantize(x.ctypes.data, 32 * blocks, record.ctypes.data)
    q = record[: 32 * blocks].view(np.int8).reshape(blocks, 32).astype(np.float32)
    scales, sums = record[32 * blocks : 40 * blocks].view(np.float32).reshape(2, blocks)
    assert np.abs(q * scales[:, None] - x.reshape(blocks, 32)).max() <= scales.max() / 2 * 1.0001
    np.testing.assert_allclose(sums, scales * q.sum(axis=1), rtol=1e-6)
    runs = record[40 * blocks : 48 * blocks].view(np.int16).reshape(blocks, 2, 2)  # halves of blocks, halves of quads
    np.testing.assert_array_equal(runs, -32 * q.reshape(blocks, 2, 4, 2, 2).sum(axis=(2, 4)))
    np.testing.assert_array_equal(record[48 * blocks : 52 * blocks].view(np.int32), -128 * q.sum(axis=1))
    centres = record[52 * blocks :].view(np.int16).reshape(blocks, 2)
    np.testing.assert_array_equal(centres, -8 * q.reshape(blocks, 8, 2, 2).sum(axis=(1, 3)))
    assert scales[0] == 0 and (blocks == 1 or np.abs(q[1:]).max(axis=1).min() == 127)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_quantize_keeps_what_is_not_finite(bad: float) -> None:
    """A nan must reach the logits and must not become a plausible number."""
    x = numbers(32)
    x[13] = bad
    record = aligned_zeros(record_bytes(32))
    run_quantize(x.ctypes.data, 32, record.ctypes.data)
    assert not np.isfinite(record[32:36].view(np.float32)[0])


def matrices(*shapes: tuple[int, int]) -> Any:
    """Every kind in these shapes; eight times as wide for those that come in superblocks."""
    cases = [(kind, rows, columns * max(1, KINDS[kind].block // BLOCK)) for kind in KINDS for rows, columns in shapes]
    return pytest.mark.parametrize(("quant", "rows", "columns"), cases)


@matrices((8, 32), (9, 64), (13, 96), (61, 32))
def test_dequantize_row_gives_the_row_of_the_file(quant: str, rows: int, columns: int) -> None:
    tensor = make_tensor("embed", numbers(rows * columns).reshape(rows, columns), quant)
    matrix, out = packed(tensor), aligned_zeros(4 * columns).view(np.float32)
    for row in (0, rows // 2, rows - 1):
        run_dequantize_row(matrix, row, columns, out.ctypes.data)
        np.testing.assert_array_equal(out, tensor.dequantize(row, row + 1)[0])


@matrices((8, 32), (9, 64), (45, 96), (61, 160))
def test_products_are_those_of_the_numbers_that_the_kernel_sees(quant: str, rows: int, columns: int) -> None:
    """For 1 to 9 tokens, whole tiles and rests: W x of the dequantised weights and activations; then added a second time."""
    tensor = make_tensor("w", numbers(rows * columns).reshape(rows, columns), quant)
    matrix, weights = packed(tensor), tensor.dequantize().astype(np.float64)
    for tokens in range(1, 10):
        x = numbers(tokens * columns, seed=tokens)
        stride, memory, seen = activations(x, tokens, columns, matrix.kind.is_quantised)
        y = aligned_zeros(4 * tokens * padded(rows, 8)).view(np.float32).reshape(tokens, -1)
        args = matrix, memory.ctypes.data, stride, tokens
        run_multiply(*args, y.ctypes.data, y.strides[0], padded(rows, 8) // 8)
        expected = 2 * (seen.astype(np.float64) @ weights.T)
        np.testing.assert_allclose(y[:, :rows], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
        assert not y[:, rows:].any(), "rows of the padding are not 0"


# Scales of blocks whose numbers all have one end of their range.
ENDS: dict[str, float] = {"d": 1, "m": -0.5, "dmin": 0.5}
ENDS_OF: dict[str, dict[str, float]] = {"Q8_0": {"qs": -128}, "Q6_K": {"scales": -128}, "MXFP4": {"e": 128}}


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("x", [-1.0, 1.0])
@pytest.mark.parametrize("quant", [name for name, kind in KINDS.items() if kind.is_quantised])
def test_the_largest_sums_do_not_overflow(quant: str, x: float, fill: int) -> None:
    """All numbers and scales at one end of their range, all activations at one of theirs: the product is a sum of equal terms."""
    block, rows, columns = BLOCK_TYPES[quant], 9, 512
    data = np.full((rows, block.row_bytes(columns)), fill, np.uint8)
    blocks = data.reshape(-1).view(block.layout)
    for field, scale in (ENDS | ENDS_OF.get(quant, {})).items():
        if field in (block.layout.names or ()):
            blocks[field] = scale
    tensor = Tensor("w", (rows, columns), block, data)
    weights, matrix = tensor.dequantize().astype(np.float64), packed(tensor)
    stride, memory, seen = activations(np.full(4 * columns, x, np.float32), 4, columns, are_quantised=True)
    for tokens in (1, 4):
        y = aligned_zeros(4 * tokens * 16).view(np.float32).reshape(tokens, 16)
        args = matrix, memory.ctypes.data, stride, tokens
        run_multiply(*args, y.ctypes.data, y.strides[0], 2)
        np.testing.assert_allclose(y[:, :rows], 2 * (seen[:tokens] @ weights.T), rtol=1e-6)


def activations(x: Floats, tokens: int, columns: int, are_quantised: bool) -> tuple[int, npt.NDArray[np.uint8], Floats]:
    """(stride, memory for the kernel, the numbers in it): float32 rows, or records."""
    if not are_quantised:
        return 4 * columns, x.view(np.uint8), x.reshape(tokens, columns)
    stride = record_bytes(columns)
    memory = aligned_zeros(tokens * stride)
    for token in range(tokens):
        run_quantize(x.ctypes.data + 4 * token * columns, columns, memory.ctypes.data + token * stride)
    records = memory.reshape(tokens, stride)
    q = records[:, :columns].copy().view(np.int8).reshape(tokens, -1, 32).astype(np.float32)
    scales = records[:, columns : columns + columns // 8].copy().view(np.float32)
    return stride, memory, (q * scales[:, :, None]).reshape(tokens, columns)


def test_the_plan_keeps_what_the_kernels_know_in_as_many_bytes() -> None:
    (layout,) = BACKENDS["cpu"].layouts.values()
    assert layout.resident_types == {name: name for name in KINDS}
    for name, kind in KINDS.items():
        assert RESIDENT_BLOCKS[name] == (kind.block, kind.packed_block)
        assert (BLOCK_TYPES[name].block_size, BLOCK_TYPES[name].block_bytes) == (kind.block, kind.source_block)


def test_exp_is_exact_to_the_last_bits() -> None:
    x = np.linspace(-86.9, 88, 80_000, dtype=np.float32)
    found = x.copy()
    run_exp(found.ctypes.data, found.size)
    np.testing.assert_allclose(found, np.exp(x.astype(np.float64)), rtol=3e-7)
    ends = np.array([-1000, -88, -87.5, -87.01, 0, 88.5, 1000, np.nan], np.float32)
    run_exp(ends.ctypes.data, 8)
    assert (ends[:4] == 0).all() and ends[4] == 1 and np.isfinite(ends[5:7]).all() and np.isnan(ends[7])
