"""Which code computes the operations, and how matrices are combined for them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import sysconfig
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from puna.backends.torch import ops, plain, triton_support
from puna.backends.torch.weights import KINDS, dequantize, stacked
from puna.progress import SilentReporter
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


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As if there were an RTX 3060, on which the smallest kernel runs."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA GeForce RTX 3060")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch, "zeros", lambda *shape, **how: torch.full(shape, 0, dtype=how["dtype"]))
    runs_with(monkeypatch, lambda out: True)
    return monkeypatch


def runs_with(monkeypatch: pytest.MonkeyPatch, run: Callable[[torch.Tensor], bool]) -> None:
    """Put something in the place of the kernel that is tried."""
    probe = types.ModuleType("probe")
    probe.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "puna.backends.torch.kernels.probe", probe)


def fails_with(error: Exception) -> Callable[[torch.Tensor], bool]:
    def run(out: torch.Tensor) -> bool:
        raise error

    return run


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_gpu_computes_in_kernels(card: pytest.MonkeyPatch) -> None:
    chosen: Any = ops.choose(torch.device("cuda"))
    assert chosen.__name__ == "puna.backends.torch.kernels"
    for name in ("embed", "norm_matvec", "rope_write", "attend", "matvec_add", "glu_matvec_add", "experts_add", "norm_add"):
        assert callable(getattr(chosen, name)) and callable(getattr(plain, name))


def test_a_card_before_ampere_computes_in_plain_torch_and_says_so(card: pytest.MonkeyPatch) -> None:
    card.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    card.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    notices = Notices()
    chosen: Any = ops.choose(torch.device("cuda"), notices)
    assert chosen is plain
    assert "Tesla T4 has compute capability 7.5" in notices.texts[0] and "slower" in notices.texts[0]
    assert "--device cpu" in notices.texts[1]


@pytest.mark.parametrize(
    ("error", "why", "cure"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
            "no C compiler",
            "apt install gcc",
        ),
        (PermissionError(13, "Permission denied", "/home/me/.triton/cache/ab"), "cannot write", "TRITON_CACHE_DIR"),
        (OSError(30, "Read-only file system", "/home/me/.triton/cache"), "cannot write", "TRITON_CACHE_DIR"),
        (OSError(28, "No space left on device"), "disk is full", "df -h"),
        (RuntimeError("Triton Error [CUDA]: device kernel image is invalid"), "driver cannot load it", "newer driver"),
        (ValueError("something\nnew"), "ValueError: something", "puna doctor"),
        (ValueError(), "slower. ValueError", "puna doctor"),
    ],
)
def test_where_triton_compiles_nothing_the_gpu_computes_in_plain_torch_and_says_why(
    error: Exception, why: str, cure: str, card: pytest.MonkeyPatch
) -> None:
    runs_with(card, fails_with(error))
    notices = Notices()
    chosen: Any = ops.choose(torch.device("cuda"), notices)
    assert chosen is plain and len(notices.texts) == 2
    assert "plain PyTorch, many times slower" in notices.texts[0] and why in notices.texts[0]
    assert cure in notices.texts[1]
    assert not any("\n" in text for text in notices.texts)


@pytest.mark.parametrize(("has_header", "why"), [(False, "Python.h"), (True, "returned non-zero exit status 1")])
def test_a_c_compiler_that_fails_for_want_of_a_header_is_told(
    has_header: bool, why: str, card: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What the compiler wrote on standard error is not in the exception."""
    if has_header:
        (tmp_path / "Python.h").touch()
    card.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    runs_with(card, fails_with(subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/tmp/x/main.c"])))
    assert why in triton_support.problems(torch.device("cuda"))[0]


def test_a_kernel_with_wrong_numbers_is_told(card: pytest.MonkeyPatch) -> None:
    runs_with(card, lambda out: False)
    assert "wrong numbers" in triton_support.problems(torch.device("cuda"))[0]


def test_memory_that_runs_out_is_not_blamed_on_triton(card: pytest.MonkeyPatch) -> None:
    def full(*shape: int, **how: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    card.setattr(torch, "zeros", full)
    with pytest.raises(torch.OutOfMemoryError):
        ops.choose(torch.device("cuda"))


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
