"""The self test's kernel in Triton's interpreter: its expected result is correct."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from puna.backends.torch import self_test
from puna.backends.torch.triton_support import NUMBERS
from tests.backends.torch import interpreter

interpreter.require()

from puna.backends.torch.kernels import probe  # noqa: E402
from puna.backends.torch.kernels.gpu_properties import H100, GPUProperties, gpu_properties  # noqa: E402


def test_the_self_test_takes_a_right_kernel_for_right() -> None:
    assert self_test.check_kernel(torch.device("cpu")) == "ok"


def test_the_smallest_kernel_gives_the_numbers_that_are_looked_for() -> None:
    assert probe.run(torch.zeros(NUMBERS, dtype=torch.int32))


@pytest.mark.parametrize(("major", "wide_rows"), [(8, 32), (9, 64), (13, 32)])
def test_a_card_says_what_it_has(major: int, wide_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(major=major, shared_memory_per_block_optin=99 << 10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert gpu_properties.__wrapped__(torch.device("cuda")) == GPUProperties(99 << 10, wide_rows)
    assert gpu_properties(torch.device("cpu")) == H100
