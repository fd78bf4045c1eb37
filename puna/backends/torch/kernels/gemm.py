"""`gemm`: products of a matrix with many rows of x. It dequantises some rows of the matrix at a time to bf16, and multiplies
in tiles, without splitting the columns: an output's sum has one order, whatever the number of rows.

torch's own product (cuBLAS) would work too, but chooses another kernel, with another order of sums, for another number of
rows, so that a prompt's bits would depend on the prompts beside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from puna.backends.torch.kernels.dequantize import dequantize_rows
from puna.backends.torch.kernels.gpu_properties import fitting_stages, gpu_properties
from puna.backends.torch.weights import Bias, Matrix

CHUNK_BYTES = 1 << 26  # of bf16 at a time: more than any L2 holds, and small beside the weights


@dataclass(frozen=True, slots=True)
class GemmTile:
    """A tile of outputs: rows of x, rows of the matrix; and columns at a time."""

    rows: int
    outputs: int
    columns: int
    warps: int
    stages: int


HALF_TILE = GemmTile(128, 128, 64, 8, 4)  # 128 KB in flight on an H100. NOT TIMED yet
FLOAT_TILE = GemmTile(64, 64, 32, 4, 3)
GROUP = 8  # tiles of rows of x that read the same rows of weights before the next ones, so that L2 serves them


@triton.jit(do_not_specialize=["num_rows"])
def gemm_kernel(
    y, x, weight, bias, residual, num_rows, num_outputs, x_stride, y_stride, residual_stride,
    COLUMNS: tl.constexpr, EXACT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (tile).  # x (num_rows, COLUMNS), weight (num_outputs, COLUMNS), both bf16, or float32 where EXACT"""
    program = tl.program_id(0)
    tiles = tl.cdiv(num_outputs, BLOCK_N)
    first = program // (GROUP * tiles) * GROUP
    height = tl.minimum(tl.cdiv(num_rows, BLOCK_M) - first, GROUP)
    inner = program % (GROUP * tiles)
    rows = (first + inner % height) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = inner // height * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = (rows < num_rows)[:, None] & (outputs < num_outputs)[None, :]
    x_rows = x + rows.to(tl.int64)[:, None] * x_stride
    weight_rows = weight + outputs.to(tl.int64)[None, :] * COLUMNS
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for begin in tl.range(0, COLUMNS, BLOCK_K, num_stages=STAGES):
        columns = begin + tl.arange(0, BLOCK_K)
        used = columns < COLUMNS
        a = tl.load(x_rows + columns[None, :], mask=(rows < num_rows)[:, None] & used[None, :], other=0.0)
        b = tl.load(weight_rows + columns[:, None], mask=(outputs < num_outputs)[None, :] & used[:, None], other=0.0)
        if EXACT:
            sums = tl.dot(a, b, sums, input_precision="tf32x3")
        else:
            sums = tl.dot(a, b, sums)
    if HAS_BIAS:
        sums += tl.load(bias + outputs, mask=outputs < num_outputs, other=0.0)[None, :]
    if HAS_RESIDUAL:
        at = residual + rows.to(tl.int64)[:, None] * residual_stride + outputs[None, :]
        sums += tl.load(at, mask=inside, other=0.0)
    tl.store(y + rows.to(tl.int64)[:, None] * y_stride + outputs[None, :], sums, mask=inside)


def gemm(x: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, y: torch.Tensor) -> None:
    """y = W x (+ bias) (+ residual) for each row of x.  # (tokens, columns) -> (tokens, rows), float32"""
    if len(x) == 0:
        return
    exact = matrix.kind == "F32"
    tile, x = (FLOAT_TILE, x.contiguous()) if exact else (HALF_TILE, x.to(torch.bfloat16).contiguous())
    tile_bytes = (tile.rows + tile.outputs) * tile.columns * x.element_size()
    stages = fitting_stages(tile.stages, tile_bytes, gpu_properties(x.device).shared_bytes)
    step = max(1, CHUNK_BYTES // (2 * matrix.columns))
    for first in range(0, matrix.rows, step):
        part = matrix.row_range(first, min(first + step, matrix.rows))
        weight, last = part.planes["w"] if exact else _as_bf16(part), first + part.rows
        out, added = y[:, first:last], None if residual is None else residual[:, first:last]
        gemm_kernel[(triton.cdiv(len(x), tile.rows) * triton.cdiv(part.rows, tile.outputs),)](
            out, x, weight, x if bias is None else bias[first:last], x if added is None else added,
            len(x), part.rows, x.stride(0), out.stride(0), 0 if added is None else added.stride(0),
            COLUMNS=matrix.columns, EXACT=exact, HAS_BIAS=bias is not None, HAS_RESIDUAL=added is not None,
            BLOCK_M=tile.rows, BLOCK_N=tile.outputs, BLOCK_K=tile.columns, GROUP=GROUP, STAGES=stages,
            num_warps=tile.warps, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip


def _as_bf16(matrix: Matrix) -> torch.Tensor:
    """(rows, columns) bf16"""
    return matrix.planes["w"] if matrix.kind == "BF16" else dequantize_rows(matrix, None, torch.bfloat16)
