"""`self_test.py` without a GPU: its checks run on the CPU, failures are texts, and the child reports no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from puna.backends.torch import self_test
from tests.forked import ForkServer

CPU = torch.device("cpu")


def test_a_machine_without_a_gpu_is_told_in_one_line(fork_server: ForkServer, tmp_path: Path) -> None:
    done = fork_server.run(1, ["-m", "puna.backends.torch.self_test"], tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["torch"] == str(torch.__version__)
    assert told["devices"] or told["problem"]
    if torch.version.cuda is None:
        assert "was built without CUDA" in told["problem"] and "--device cpu" in told["cure"]


def test_checks_are_right_where_the_device_is() -> None:
    assert self_test.check_product(CPU) == "ok"
    assert self_test.check_memory(CPU) == "ok"


def test_a_wrong_product_is_told_with_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "equal", lambda a, b: False)
    assert self_test.check_product(CPU) == "a matrix product is wrong by up to 0"


def test_a_check_that_fails_is_its_words() -> None:
    def fails() -> str:
        raise RuntimeError("CUDA error: unknown error\nCUDA kernel errors might be asynchronously reported")

    assert self_test.outcome(fails) == "RuntimeError: CUDA error: unknown error"


def test_rates_are_measured_and_a_failure_is_zero() -> None:
    def fails() -> float:
        raise RuntimeError("out of memory")

    assert (
        self_test.rate(lambda: self_test.memory_rate(CPU, 1 << 22)) > 0
        and self_test.rate(lambda: self_test.host_rate(CPU, 1 << 22)) > 0
    )
    assert self_test.rate(fails) == 0.0


def test_nothing_is_summed_over_fewer_than_two_gpus() -> None:
    if self_test._count() < 2:
        assert self_test.all_reduce() == f"there are {self_test._count()} GPUs"
