"""Block types against the `gguf` package, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from puna.errors import ModelFormatError
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES, GGML_TYPE_NAMES, GGUF_READABLE, QUANTIZERS, SCALES, BlockType


def random_rows(block: BlockType, rows: int, blocks: int, seed: int) -> npt.NDArray[np.uint8]:
    """Random bytes whose every scale is finite."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, blocks * block.block_bytes), np.uint8)
    records = data.reshape(-1).view(block.layout)
    names = records.dtype.names or ()
    for field in [name for name in ("d", "m", "dmin") if name in names]:
        halves = rng.integers(0, 1 << 16, len(records), np.uint16)
        halves[(halves & 0x7C00) == 0x7C00] &= 0x83FF
        records[field] = halves.view(np.float16)
    return data


@pytest.mark.parametrize("name", GGUF_READABLE)
@pytest.mark.parametrize("seed", range(3))
def test_dequantised_values_equal_those_of_the_gguf_package(name: str, seed: int) -> None:
    block = BLOCK_TYPES[name]
    data = random_rows(block, rows=7, blocks=300, seed=seed)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    got = block.dequantize(data)
    assert got.dtype == np.float32 and got.shape == (7, 300 * block.block_size)
    assert np.array_equal(got.view(np.uint32), expected.view(np.uint32)), f"{name}, seed {seed}"


@pytest.mark.parametrize("name", GGUF_READABLE)
def test_every_finite_half_precision_scale_is_decoded_as_the_gguf_package_does(name: str) -> None:
    block = BLOCK_TYPES[name]
    halves = np.arange(1 << 16, dtype=np.uint16)
    halves = halves[(halves & 0x7C00) != 0x7C00]
    records = random_rows(block, 1, len(halves), seed=9).reshape(-1).view(block.layout).copy()
    for field in [name for name in SCALES if name in (records.dtype.names or ())]:
        records[field] = halves.view(np.float16)
    data = records.view(np.uint8).reshape(1, -1)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    assert np.array_equal(block.dequantize(data).view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", GGUF_READABLE)
def test_sizes_equal_those_of_the_gguf_package(name: str) -> None:
    block = BLOCK_TYPES[name]
    assert (block.block_size, block.block_bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]


def test_every_type_that_ggml_has_is_known_by_name() -> None:
    assert {int(kind): kind.name for kind in gguf.GGMLQuantizationType}.items() <= GGML_TYPE_NAMES.items()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1"])  # the package has no encoder of K-quants
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 1.0, 100.0])
def test_quantised_bytes_equal_those_of_the_gguf_package(name: str, spread: float) -> None:
    values = (np.random.default_rng(5).standard_normal((40, 256)) * spread).astype(np.float32)
    values[3] = 0
    values[4, :64] = np.arange(-32, 32) * spread  # many ties between two numbers
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType[name])
    assert np.array_equal(QUANTIZERS[name](values), expected)


def test_weights_too_small_for_a_half_precision_scale_become_zero_without_a_warning() -> None:
    values = np.full((1, 32), 1e-44, np.float32)
    assert not BLOCK_TYPES["Q8_0"].dequantize(QUANTIZERS["Q8_0"](values)).any()


def test_a_weight_that_is_not_a_number_spoils_its_block_and_no_other() -> None:
    values = np.ones((1, 64), np.float32)
    values[0, 3] = np.nan
    back = BLOCK_TYPES["Q8_0"].dequantize(QUANTIZERS["Q8_0"](values))[0]
    assert np.isnan(back[:32]).all() and np.allclose(back[32:], 1, atol=1e-3)


# RMSE relative to the weights', normal weights; measured 0.0712, 0.0357, 0.0172 (Q4_0 0.0860, Q4_1 0.0782, Q8_0 0.0054).
K_QUANT_ERRORS = {"Q4_K": 0.0715, "Q5_K": 0.0359, "Q6_K": 0.0173}


def relative_rmse(name: str, values: npt.NDArray[np.float32]) -> float:
    error = BLOCK_TYPES[name].dequantize(QUANTIZERS[name](values)).astype(np.float64) - values
    return float(np.sqrt((error**2).sum() / (values.astype(np.float64) ** 2).sum()))


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
@pytest.mark.parametrize("spread", [1e-2, 1.0, 1e5])
def test_k_quants_of_normal_weights_lose_no_more_than_measured(name: str, spread: float) -> None:
    values = (np.random.default_rng(11).standard_normal((60, 1024)) * spread).astype(np.float32)
    assert relative_rmse(name, values) < K_QUANT_ERRORS[name]


def test_k_quants_lose_less_than_the_older_types_of_the_same_size() -> None:
    for values in np.random.default_rng(12).laplace(size=(3, 40, 512)).astype(np.float32):
        assert relative_rmse("Q4_K", values) < 0.95 * relative_rmse("Q4_1", values) < relative_rmse("Q4_0", values)


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
@pytest.mark.parametrize("seed", range(3))
def test_no_weight_of_a_k_quant_is_off_by_more_than_two_steps_of_its_run(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((30, 512)) * rng.lognormal(0, 1.5, (30, 512))).astype(np.float32)
    bits, run = {"Q4_K": (4, 32), "Q5_K": (5, 32), "Q6_K": (6, 16)}[name]
    error = np.abs(BLOCK_TYPES[name].dequantize(QUANTIZERS[name](values)) - values).reshape(-1, run)
    largest = np.abs(values).reshape(-1, run).max(axis=1)
    of_block = np.abs(values).reshape(-1, 256).max(axis=1).repeat(256 // run)  # the steps of scales and mins are the block's
    assert (error.max(axis=1) <= 2 * (2 * largest / (2**bits - 1)) + of_block / 63).all()


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
@pytest.mark.parametrize("value", [0.0, 1e-44, 1e-30, -1e-8, 1e-3, 1.0, -1e4, 1e6])
def test_k_quants_of_equal_weights_are_close_whatever_their_size(name: str, value: float) -> None:
    values = np.full((2, 512), value, np.float32)
    back = BLOCK_TYPES[name].dequantize(QUANTIZERS[name](values))
    assert np.allclose(back, values, rtol=2e-3, atol=1.3e-4)  # d of half precision has no steps below 2**-24


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e20, -3e38])
def test_a_weight_that_a_k_quant_cannot_hold_spoils_its_block_and_no_other(name: str, value: float) -> None:
    values = np.random.default_rng(4).standard_normal((1, 512)).astype(np.float32)
    values[0, 7] = value
    back = BLOCK_TYPES[name].dequantize(QUANTIZERS[name](values))[0]
    assert not np.isfinite(back[7]) and np.isfinite(back[256:]).all()


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
def test_k_quants_of_decoded_k_quants_change_little(name: str) -> None:
    values = np.random.default_rng(2).standard_normal((16, 512)).astype(np.float32)
    once = BLOCK_TYPES[name].dequantize(QUANTIZERS[name](values))
    assert relative_rmse(name, once) < K_QUANT_ERRORS[name] / 2


@pytest.mark.parametrize("name", K_QUANT_ERRORS)
def test_rows_of_a_k_quant_do_not_depend_on_each_other(name: str) -> None:
    values = np.random.default_rng(6).standard_normal((1100, 256)).astype(np.float32)  # more than are encoded at a time
    whole = QUANTIZERS[name](values)
    assert np.array_equal(np.concatenate([QUANTIZERS[name](values[i : i + 77]) for i in range(0, 1100, 77)]), whole)
    assert QUANTIZERS[name](values[:0]).shape == (0, BLOCK_TYPES[name].block_bytes)


def test_scales_that_lie_apart_multiply_their_groups() -> None:
    rows = np.array([[1, 2, 255, 4]], np.uint8)
    values = BLOCK_TYPES["Q8_GROUP"].dequantize(rows, np.array([[0.5, 2.0]], np.float32))
    assert values.tolist() == [[0.5, 1.0, -2.0, 8.0]]


@pytest.mark.parametrize("name", BLOCK_TYPES)
def test_no_rows_give_no_rows(name: str) -> None:
    block = BLOCK_TYPES[name]
    assert block.dequantize(np.empty((0, block.block_bytes * 2), np.uint8)).shape == (0, block.block_size * 2)


SCALED = [(name, field) for name, block in BLOCK_TYPES.items() for field in block.layout.names or () if field in SCALES]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan], ids=str)
@pytest.mark.parametrize(("name", "field"), SCALED)
def test_a_scale_that_is_not_finite_is_found_wherever_it_stands(name: str, field: str, value: float) -> None:
    block = BLOCK_TYPES[name]
    blocks = np.zeros((7, 3), block.layout)
    rows = blocks.view(np.uint8)
    tensor = Tensor("layers.0.up_proj", (7, 3 * block.block_size), block, rows, file="m.gguf")
    blocks[field] = 65504
    assert np.array_equal(tensor.blocks(), rows) and tensor.dequantize().shape == tensor.shape
    for row, column in ((0, 0), (4, 1), (6, 2)):
        blocks[field][row, column] = value
        for read in (tensor.blocks, tensor.dequantize):
            for first in (0, row):
                with pytest.raises(
                    ModelFormatError, match=rf"m.gguf: tensor 'layers.0.up_proj': {field} of .* row {row} is infin"
                ):
                    read(first)
            read(row + 1)
            read(0, row)
        blocks[field][row, column] = 1


def test_every_block_type_of_numbers_with_a_scale_has_one_that_is_looked_at() -> None:
    plain = {name for name, block in BLOCK_TYPES.items() if block.layout.names is None}
    assert plain == {"F32", "F16", "BF16", "Q8_GROUP"}
    assert {name for name, _ in SCALED} == BLOCK_TYPES.keys() - plain - {"MXFP4"}  # whose scale is any power of two
    for name, block in BLOCK_TYPES.items():  # in half precision there is nothing else
        halves = {field for field in block.layout.names or () if block.layout[field] == np.dtype("<f2")}
        assert halves == {field for other, field in SCALED if other == name}


def test_separate_scales_that_are_not_finite_are_found() -> None:
    scales = np.ones((4, 2), np.float32)
    tensor = Tensor("embed", (4, 8), BLOCK_TYPES["Q8_GROUP"], np.zeros((4, 8), np.uint8), scales, "m.bin")
    assert not tensor.dequantize().any()
    scales[2, 1] = np.nan
    with pytest.raises(ModelFormatError, match=r"m.bin: tensor 'embed': a scale of row 2"):
        tensor.dequantize(1)
