"""`rms_norm` of many rows, one program and one order per row: torch's mean sums differently for other numbers of rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096  # columns at a time: a row of most models; 8 warps hold it in registers


@triton.jit
def rms_norm_kernel(y, x, weight, x_stride, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row).  # x, y (rows, COLUMNS) float32"""
    row = tl.program_id(0).to(tl.int64)
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in tl.range(0, COLUMNS, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        numbers = tl.load(x + row * x_stride + columns, mask=columns < COLUMNS, other=0.0)
        squares += numbers * numbers
    factor = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / COLUMNS + eps)
    for first in tl.range(0, COLUMNS, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        used = columns < COLUMNS
        numbers = tl.load(x + row * x_stride + columns, mask=used, other=0.0)
        tl.store(y + row * COLUMNS + columns, numbers * factor * tl.load(weight + columns, mask=used, other=0.0), mask=used)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x / rms(x) * weight along the last axis.  # (rows, columns), (columns,) -> (rows, columns)"""
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if len(x):
        block = min(BLOCK, triton.next_power_of_2(x.shape[1]))
        rms_norm_kernel[(len(x),)](
            y, x, weight, x.stride(0), eps, COLUMNS=x.shape[1], BLOCK=block, num_warps=8, enable_fp_fusion=True
        )
    return y
