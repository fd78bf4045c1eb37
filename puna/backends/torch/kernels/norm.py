"""RMS norm of many rows, one program and one order per row: torch's mean sums differently for other numbers of rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096  # columns at a time: a row of most models; 8 warps hold it in registers


@triton.jit
def inverse_rms(x, row, x_stride, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """1 / rms(a row of x)."""
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in tl.range(0, COLUMNS, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        numbers = tl.load(x + row * x_stride + columns, mask=columns < COLUMNS, other=0.0)
        squares += numbers * numbers
    return 1.0 / tl.sqrt(tl.sum(squares, axis=0) / COLUMNS + eps)


@triton.jit
def rms_norm_kernel(y, x, weight, x_stride, eps, COLUMNS: tl.constexpr, Y_STRIDE: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row); x and y may be the same.  # x, y (rows, COLUMNS) float32"""
    row = tl.program_id(0).to(tl.int64)
    factor = inverse_rms(x, row, x_stride, eps, COLUMNS, BLOCK)
    for first in tl.range(0, COLUMNS, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        used = columns < COLUMNS
        numbers = tl.load(x + row * x_stride + columns, mask=used, other=0.0)
        tl.store(y + row * Y_STRIDE + columns, numbers * factor * tl.load(weight + columns, mask=used, other=0.0), mask=used)


@triton.jit
def norm_add_kernel(y, x, weight, residual, eps, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Program (row): residual + the normed x.  # y, x, residual (rows, COLUMNS) float32"""
    row = tl.program_id(0).to(tl.int64)
    factor = inverse_rms(x, row, COLUMNS, eps, COLUMNS, BLOCK)
    for first in tl.range(0, COLUMNS, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        used, at = columns < COLUMNS, row * COLUMNS + columns
        normed = tl.load(x + at, mask=used, other=0.0) * factor * tl.load(weight + columns, mask=used, other=0.0)
        tl.store(y + at, tl.load(residual + at, mask=used, other=0.0) + normed, mask=used)


def _block(columns: int) -> int:
    return min(BLOCK, triton.next_power_of_2(columns))


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float, y: torch.Tensor | None = None) -> torch.Tensor:
    """x / rms(x) * weight along the last axis, written to y if it is given.  # (rows, columns), (columns,) -> (rows, columns)"""
    y = torch.empty_like(x, memory_format=torch.contiguous_format) if y is None else y
    if len(x):
        rms_norm_kernel[(len(x),)](
            y, x, weight, x.stride(0), eps, COLUMNS=x.shape[1], Y_STRIDE=y.stride(0), BLOCK=_block(x.shape[1]), num_warps=8,
            enable_fp_fusion=True,
        )  # fmt: skip
    return y


def norm_add(x: torch.Tensor, norm: torch.Tensor, eps: float, residual: torch.Tensor) -> torch.Tensor:
    """residual + the normed x.  # (rows, columns), contiguous"""
    y = torch.empty_like(x)
    if len(x):
        norm_add_kernel[(len(x),)](
            y, x, norm, residual, eps, COLUMNS=x.shape[1], BLOCK=_block(x.shape[1]), num_warps=8, enable_fp_fusion=True
        )
    return y
