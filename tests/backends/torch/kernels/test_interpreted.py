"""The interpreter's bf16 is that of torch, so that of a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.backends.torch import interpreter

interpreter.require()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

import puna.backends.torch.kernels.dot  # noqa: E402, F401  (corrects the interpreter)

NUMBERS = [
    0.0,
    -0.0,
    1.0,
    1.00390625,
    1.01171875,
    -1.00390626,
    3.3961775e38,
    1e-40,
    float("inf"),
    -float("inf"),
    float("nan"),
    7.0,
]


@triton.jit  # type: ignore[untyped-decorator]
def convert_kernel(out: Any, numbers: Any, COUNT: tl.constexpr) -> None:
    at = tl.arange(0, COUNT)
    tl.store(out + at, tl.load(numbers + at).to(out.dtype.element_ty))


@triton.jit  # type: ignore[untyped-decorator]
def product_kernel(out: Any, numbers: Any, SIZE: tl.constexpr) -> None:
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    tile = tl.load(numbers + at)
    tl.store(out + at, tl.dot(tile, tile, tl.full((SIZE, SIZE), 1.0, tl.float32)))


def converted(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(len(numbers), dtype=dtype)
    convert_kernel[(1,)](out, numbers, COUNT=len(numbers))
    return out


@pytest.mark.parametrize("source", [torch.float32, torch.int8])
def test_numbers_become_the_nearest_bf16(source: torch.dtype) -> None:
    numbers = torch.tensor(NUMBERS + [5.0] * 4) if source == torch.float32 else torch.arange(-128, 128).to(torch.int8)
    expected = numbers.to(torch.bfloat16)
    found = converted(numbers, torch.bfloat16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(converted(found, torch.float32), expected.float(), rtol=0, atol=0, equal_nan=True)


def test_a_product_of_bf16_is_summed_in_float32() -> None:
    numbers = torch.from_numpy(np.random.default_rng(0).standard_normal((16, 16))).to(torch.bfloat16)
    out = torch.empty(16, 16)
    product_kernel[(1,)](out, numbers, SIZE=16)
    torch.testing.assert_close(out, numbers.float() @ numbers.float() + 1)
