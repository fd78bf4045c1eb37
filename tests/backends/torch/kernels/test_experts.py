"""`experts.py` against plain torch: routes with ties, every kind's rows of an expert, and the same bits in any batch."""

from __future__ import annotations

import pytest
import torch

from puna.backends.torch import plain
from puna.backends.torch.layer import ExpertWeights
from puna.backends.torch.weights import KINDS
from puna.model.spec import Activation, Experts
from tests.backends.torch import interpreter
from tests.backends.torch.interpreter import error, matrix, normal

interpreter.require()

from puna.backends.torch.kernels import experts  # noqa: E402

EXACT = 3e-5  # only the order of sums differs: the numbers of a row are float32
HIDDEN, SIZE, COUNT = 70, 33, 5


def weights(top_k: int, activation: Activation = "silu") -> ExpertWeights:
    router = matrix("F32", COUNT, HIDDEN, seed=1)
    gate, up = (matrix("F16", COUNT * SIZE, HIDDEN, seed=seed) for seed in (2, 3))
    return ExpertWeights(Experts(SIZE, COUNT, top_k, activation), router, gate, up, matrix("F32", COUNT * HIDDEN, SIZE, seed=4))


@pytest.mark.parametrize("normalises", [False, True])
@pytest.mark.parametrize(("count", "top_k"), [(1, 1), (5, 3), (8, 8)])
def test_routes_and_ties_are_those_of_plain_torch(count: int, top_k: int, normalises: bool) -> None:
    spec = Experts(SIZE, count, top_k, normalises=normalises)
    logits = torch.cat([4 * normal(3, count), torch.zeros(1, count), (torch.arange(count) % 2).float().view(1, -1)])
    (found, shares), (expected, its_shares) = experts.route(logits, spec), plain.route(logits, spec)
    assert torch.equal(found.long(), expected)
    torch.testing.assert_close(shares, its_shares, rtol=1e-6, atol=0)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, of the interpreter
def test_a_row_of_wrong_numbers_chooses_an_expert_that_there_is() -> None:
    spec = Experts(SIZE, count=5, top_k=2)
    found, _ = experts.route(torch.tensor([[torch.nan] * 5, [0.0, torch.nan, 1.0, 0.0, 0.0], [-torch.inf] * 5]), spec)
    assert ((found >= 0) & (found < 5)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_pair_has_the_product_of_its_expert(kind: str) -> None:
    columns = {"Q4_K": 512, "Q6_K": 256}.get(kind, 320)
    w, x, chosen = matrix(kind, 3 * 17, columns), normal(2, columns, seed=1), torch.tensor([2, 0, 1, 2], dtype=torch.int32)
    y = torch.empty(4, 17)
    experts.expert_matvec(x, w, chosen, y)
    expected = torch.cat([plain.matvec(w.part(int(e), 3), x[i // 2 : i // 2 + 1]) for i, e in enumerate(chosen)])
    assert error(y, expected) < EXACT


@pytest.mark.parametrize(("activation", "top_k", "has_norm"), [("silu", 2, True), ("gelu", 3, False)])
def test_experts_add(activation: Activation, top_k: int, has_norm: bool) -> None:
    w, x, residual = weights(top_k, activation), normal(3, HIDDEN, seed=5), normal(3, HIDDEN, seed=6)
    norm = 1 + normal(HIDDEN, seed=7) / 8 if has_norm else None
    given = residual if has_norm else None
    found = experts.experts_add(x, norm, 1e-5, w, given)
    assert error(found, plain.experts_add(x, norm, 1e-5, w, given)) < EXACT
    assert experts.experts_add(x[:0], norm, 1e-5, w, None).shape == (0, HIDDEN)


def test_a_tokens_bits_do_not_depend_on_the_batch() -> None:
    w, x = weights(2), normal(4, HIDDEN, seed=5)
    whole = experts.experts_add(x, None, 1e-5, w, x)
    for first, last in ((0, 1), (3, 4), (1, 3)):
        assert torch.equal(experts.experts_add(x[first:last], None, 1e-5, w, x[first:last], many=True), whole[first:last])
