"""`matvec.py` and `dequantize.py` against plain torch: every kind, odd sizes, and the same bits alone and in a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from puna.backends.torch import plain
from puna.backends.torch.weights import KINDS
from tests.backends.torch import interpreter
from tests.backends.torch.interpreter import error, matrix, normal

interpreter.require()

from puna.backends.torch import kernels  # noqa: E402
from puna.backends.torch.kernels import gemm, matvec, norm  # noqa: E402
from puna.backends.torch.kernels.gpu_properties import GPUProperties  # noqa: E402

# The largest error of a row, in its standard deviations: x split in two bf16; weights rounded to bf16, too.
EXACT, ROUNDED = 3e-5, 0.012
kinds = pytest.mark.parametrize("kind", KINDS)


def tolerance(kind: str) -> float:
    return ROUNDED if kind.startswith("Q") else EXACT


def odd_columns(kind: str) -> int:
    """No multiple of any tile; for floats and K-quants as odd as their blocks allow."""
    return {"Q4_K": 256, "Q6_K": 256}.get(kind, 160) - (27 if kind in ("F32", "F16", "BF16") else 0)


@kinds
@pytest.mark.parametrize("tokens", [1, 3, 17, 70])
def test_norm_matvec(kind: str, tokens: int) -> None:
    w, columns = matrix(kind, 70, odd_columns(kind)), odd_columns(kind)
    x, norm, bias = normal(tokens, columns, seed=1), 1 + normal(columns, seed=2) / 8, normal(70, seed=3)
    found = kernels.norm_matvec(x, norm, 1e-5, (w,), (bias,))
    assert error(found, plain.norm_matvec(x, norm, 1e-5, (w,), (bias,))) < tolerance(kind)


@kinds
def test_several_matrices_stand_one_below_the_other(kind: str) -> None:
    columns = odd_columns(kind)
    matrices = matrix(kind, 33, columns), matrix("F16", 1, columns, seed=4), matrix(kind, 64, columns, seed=5)
    biases = (None, normal(1, seed=6), None)
    x, norm = normal(2, columns, seed=1), 1 + normal(columns, seed=2) / 8
    found = kernels.norm_matvec(x, norm, 1e-5, matrices, biases)
    assert error(found, plain.norm_matvec(x, norm, 1e-5, matrices, biases)) < tolerance(kind)


@kinds
@pytest.mark.parametrize("has_extras", [False, True])
def test_matvec_add(kind: str, has_extras: bool) -> None:
    w, x = matrix(kind, 65, odd_columns(kind)), normal(5, odd_columns(kind), seed=1)
    bias, residual = (normal(65, seed=2), normal(5, 65, seed=3)) if has_extras else (None, None)
    assert error(kernels.matvec_add(x, w, bias, residual), plain.matvec_add(x, w, bias, residual)) < tolerance(kind)


@kinds
def test_glu_matvec_add(kind: str) -> None:
    w, gate_up, residual = (
        matrix(kind, 65, odd_columns(kind)),
        3 * normal(2, 2 * odd_columns(kind), seed=1),
        normal(2, 65, seed=3),
    )
    found = kernels.glu_matvec_add(gate_up, w, None, residual)
    assert error(found, plain.glu_matvec_add(gate_up, w, None, residual)) < tolerance(kind)


@pytest.mark.parametrize("many", [False, True])
def test_gelu_and_products_without_a_norm(many: bool) -> None:
    w, x = matrix("F32", 33, 40), normal(3, 40, seed=1)
    gate_up = 3 * normal(3, 80, seed=2)
    expected = plain.glu_matvec_add(gate_up, w, None, None, activation="gelu")
    assert error(kernels.glu_matvec_add(gate_up, w, None, None, many, "gelu"), expected) < EXACT
    found = kernels.norm_matvec(x, None, 1e-5, (w,), (None,), many)
    assert error(found, plain.norm_matvec(x, None, 1e-5, (w,), (None,))) < EXACT


def test_norm_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(norm, "BLOCK", 32)
    x, weight, residual = normal(3, 70, seed=1), 1 + normal(70, seed=2) / 8, normal(3, 70, seed=3)
    found = kernels.norm_add(x, weight, 1e-5, residual)
    torch.testing.assert_close(found, plain.norm_add(x, weight, 1e-5, residual), rtol=1e-5, atol=1e-6)
    assert kernels.norm_add(x[:0], weight, 1e-5, residual[:0]).shape == (0, 70)


@kinds
def test_many_rows_go_through_the_gemm(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemm, "CHUNK_BYTES", 1 << 14)
    columns = odd_columns(kind)
    w, x, norm, bias = matrix(kind, 37, columns), normal(6, columns, seed=1), 1 + normal(columns, seed=2) / 8, normal(37, seed=3)
    close = EXACT if kind == "F32" else ROUNDED
    found = kernels.norm_matvec(x, norm, 1e-5, (w, w), (bias, None), many=True)
    assert error(found, plain.norm_matvec(x, norm, 1e-5, (w, w), (bias, None))) < close
    gate_up, residual = torch.cat([x, x], dim=1), found[:, :37]
    found = kernels.glu_matvec_add(gate_up, w, bias, residual, many=True)
    assert error(found, plain.glu_matvec_add(gate_up, w, bias, residual)) < close
    found = kernels.matvec_add(x, w, None, residual, many=True)
    assert error(found, plain.matvec_add(x, w, None, residual)) < close
    assert kernels.matvec_add(x[:0], w, None, None, many=True).shape == (0, 37)


@pytest.mark.parametrize("kind", ["BF16", "F32", "Q4_1"])
def test_a_rows_bits_in_the_gemm_do_not_depend_on_the_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and at other places of other tiles."""
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    monkeypatch.setattr(gemm, "HALF_TILE", gemm.GemmTile(16, 32, 32, 4, 2))
    monkeypatch.setattr(gemm, "FLOAT_TILE", gemm.GemmTile(16, 32, 32, 4, 2))
    w, x = matrix(kind, 40, 96), normal(37, 96, seed=1)
    whole = kernels.matvec_add(x, w, None, None, many=True)
    for first, last in ((0, 1), (20, 21), (36, 37), (5, 30)):
        assert torch.equal(kernels.matvec_add(x[first:last], w, None, None, many=True), whole[first:last])


@kinds
def test_a_rows_bits_do_not_depend_on_the_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, as one of three, of seventeen and of seventy; at the first place and at the last."""
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    columns = odd_columns(kind)
    w, x, norm = matrix(kind, 7, columns), normal(70, columns, seed=1), 1 + normal(columns, seed=2) / 8

    def product(x: torch.Tensor) -> torch.Tensor:
        return kernels.norm_matvec(x, norm, 1e-5, (w,), (None,))

    whole = product(x)
    for first, last in ((0, 1), (69, 70), (4, 7), (20, 37)):
        assert torch.equal(product(x[first:last]), whole[first:last])


@pytest.mark.parametrize("kind", ["BF16", "Q6_K"])
def test_a_card_with_less_memory_computes_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tiles of 32 rows, where an H100 takes 64."""
    monkeypatch.setattr(np, "matmul", interpreter.product_in_order)
    columns = odd_columns(kind)
    w, x, norm = matrix(kind, 7, columns), normal(37, columns, seed=1), 1 + normal(columns, seed=2) / 8
    expected = kernels.norm_matvec(x, norm, 1e-5, (w,), (None,))
    monkeypatch.setattr(matvec, "gpu_properties", lambda device: GPUProperties(99 << 10, 32))
    assert torch.equal(kernels.norm_matvec(x, norm, 1e-5, (w,), (None,)), expected)


@pytest.mark.parametrize("kind", ["BF16", "Q4_0"])
def test_columns_are_shared_out_and_summed_in_order(kind: str) -> None:
    w, x = matrix(kind, 20, 512), normal(3, 512, seed=1)
    tile = matvec.MatvecTile(16, 64, 4, 2)
    assert matvec.split_k(20, 512, tile).splits == 8
    y = torch.empty(3, 20)
    for _ in range(2):  # the counters must stand at zero again
        matvec.matvec(x, w, None, None, y, tile=tile)
        assert error(y, plain.matvec(w, x)) < tolerance(kind)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
def test_a_row_that_is_not_finite_harms_no_other() -> None:
    w, x, norm = matrix("Q8_0", 40, 96), normal(4, 96, seed=1), torch.ones(96)
    expected = kernels.norm_matvec(x, norm, 1e-5, (w,), (None,))
    x[1, 5], x[2, 7] = torch.nan, torch.inf
    found = kernels.norm_matvec(x, norm, 1e-5, (w,), (None,))
    assert torch.equal(found[[0, 3]], expected[[0, 3]]) and torch.isnan(found[[1, 2]]).all()


def test_no_tokens() -> None:
    w = matrix("Q8_0", 40, 96)
    assert kernels.norm_matvec(torch.empty(0, 96), torch.ones(96), 1e-5, (w,), (None,)).shape == (0, 40)
    assert kernels.glu_matvec_add(torch.empty(0, 192), w, None, None).shape == (0, 40)


@kinds
def test_every_candidate_is_a_tile_that_fits(kind: str) -> None:
    tiles = list(matvec.candidates(kind))
    assert tiles[0] == matvec.TILES[kind] and len(set(tiles)) == len(tiles) > 5
    of_small_card = list(matvec.candidates(kind, GPUProperties(99 << 10, 32)))
    assert len(tiles) > len(of_small_card) >= 4 and set(of_small_card[1:]) < set(tiles)
    assert of_small_card[0].stages <= tiles[0].stages


@kinds
@pytest.mark.parametrize("columns", [256, 768])
def test_embed_gives_the_rows_bit_for_bit(kind: str, columns: int) -> None:
    w, ids = matrix(kind, 19, columns), torch.tensor([18, 0, 7, 7])
    assert torch.equal(kernels.embed(w, ids), w.dequantize_rows(ids))
    assert kernels.embed(w, ids[:0]).shape == (0, columns)
