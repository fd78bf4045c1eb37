"""Planes of blocks on a device: the same numbers, bit for bit, as the definition in formats/blocks.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna.backends.torch import weights
from puna.backends.torch.weights import KINDS, dequantize, load_matrix
from puna.formats.blocks import BLOCK_TYPES
from puna.plan import RESIDENT_BLOCKS
from tests.fakes import make_tensor

CPU = torch.device("cpu")


def values(rows: int, columns: int, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 7, 300])
def test_planes_hold_the_numbers_of_the_file(kind: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 100_000)  # several pieces
    tensor = make_tensor("w", values(rows, 512, rows), kind)
    matrix = load_matrix(tensor, kind, CPU)
    assert np.array_equal(dequantize(matrix).numpy(), tensor.dequantize())
    some = torch.tensor([rows - 1, 0, rows // 2])
    assert np.array_equal(matrix.dequantize_rows(some).numpy(), tensor.dequantize()[some])
    assert np.array_equal(dequantize(matrix.row_range(rows // 2, rows)).numpy(), tensor.dequantize()[rows // 2 :])


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_knows_the_bytes_of_planes(kind: str) -> None:
    num_weights, num_bytes = RESIDENT_BLOCKS[kind]
    assert load_matrix(make_tensor("w", values(3, 512, 1), kind), kind, CPU).num_bytes == 3 * 512 // num_weights * num_bytes


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16", "F32"])
@pytest.mark.parametrize(("source", "columns"), [("F32", 70), ("F16", 33), ("BF16", 96), ("Q6_K", 256)])
def test_another_type_is_made_of_the_files_numbers(kind: str, source: str, columns: int) -> None:
    tensor = make_tensor("w", values(5, columns, 2), source)
    found = dequantize(load_matrix(tensor, kind, CPU)).numpy()
    assert found.shape == (5, columns)
    step = {"Q8_0": 0.02, "Q4_1": 0.25, "F16": 0.002, "BF16": 0.015, "F32": 0.0}[kind]
    assert np.abs(found - tensor.dequantize()).max() <= step


def test_every_kind_is_a_readable_type() -> None:
    assert set(KINDS) <= set(BLOCK_TYPES)
