"""Who computes the operations, and how matrices are put together for them."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from puna.backends.torch import ops, plain
from puna.backends.torch.weights import KINDS, dequantize, stacked
from puna.report import SilentReporter
from tests.backends.torch.interpreter import matrix, normal


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def notice(self, text: str) -> None:
        self.texts.append(text)


def test_the_cpu_computes_in_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    chosen: Any = ops.choose(torch.device("cpu"))
    assert chosen is plain


def test_without_triton_the_gpu_computes_in_plain_torch_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    notices = Notices()
    chosen: Any = ops.choose(torch.device("cuda"), notices)
    assert chosen is plain
    assert len(notices.texts) == 1 and "pip install triton" in notices.texts[0]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_gpu_computes_in_kernels() -> None:
    chosen: Any = ops.choose(torch.device("cuda"))
    assert chosen.__name__ == "puna.backends.torch.kernels"
    for name in ("embed", "norm_matvec", "rope_write", "attend", "matvec_add", "swiglu_matvec_add"):
        assert callable(getattr(chosen, name)) and callable(getattr(plain, name))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_of_one_kind_become_one_matrix(kind: str) -> None:
    parts = [matrix(kind, rows, 256, seed=rows) for rows in (3, 1, 2)]
    (whole,), (bias,) = stacked(parts, [normal(3), normal(1), normal(2)])
    assert (whole.rows, whole.columns) == (6, 256)
    assert torch.equal(dequantize(whole), torch.cat([dequantize(part) for part in parts]))
    assert bias is not None and torch.equal(bias, torch.cat([normal(3), normal(1), normal(2)]))


def test_other_kinds_and_missing_biases_stay_apart() -> None:
    parts = [matrix("Q8_0", 2, 64), matrix("Q4_0", 2, 64), matrix("Q4_0", 3, 64), matrix("Q4_0", 1, 64)]
    whole, biases = stacked(parts, [None, None, None, normal(1)])
    assert [(m.kind, m.rows) for m in whole] == [("Q8_0", 2), ("Q4_0", 5), ("Q4_0", 1)]
    assert biases[:2] == (None, None) and biases[2] is not None
