"""The trial's kernel, in Triton's interpreter: what a GPU is asked to compute is right where it is computed right."""

from __future__ import annotations

import torch

from puna.backends.torch import trial
from tests.backends.torch import interpreter

interpreter.require()

from puna.backends.torch.kernels import probe  # noqa: E402


def test_the_trial_takes_a_right_kernel_for_right() -> None:
    assert trial.check_kernel(torch.device("cpu")) == "ok"


def test_the_smallest_kernel_gives_the_numbers_that_are_looked_for() -> None:
    assert probe.run(torch.zeros(probe.COUNT, dtype=torch.int32))
    assert not probe.run(torch.zeros(probe.COUNT + 1, dtype=torch.int32))
