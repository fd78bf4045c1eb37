"""The smallest kernel: tests whether Triton compiles and runs one here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

OFFSET = 7


@triton.jit
def probe_kernel(out, offset, COUNT: tl.constexpr):
    """One program.  # out (COUNT,) int32"""
    at = tl.arange(0, COUNT)
    tl.store(out + at, at + offset)


def run(out: torch.Tensor) -> bool:
    """Whether the numbers are right.  # out (n,) int32, n a power of two"""
    count = len(out)
    probe_kernel[(1,)](out, OFFSET, COUNT=count, num_warps=1, enable_fp_fusion=False)
    return out.tolist() == list(range(OFFSET, OFFSET + count))
