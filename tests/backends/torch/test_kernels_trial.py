"""The trial's kernel, in Triton's interpreter: what a GPU is asked to compute is right where it is computed right."""

from __future__ import annotations

import torch

from puna.backends.torch import trial
from tests.backends.torch import interpreter

interpreter.require()


def test_the_trial_takes_a_right_kernel_for_right() -> None:
    assert trial.check_kernel(torch.device("cpu")) == "ok"
