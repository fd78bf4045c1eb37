"""Dequantise rows: the embedding's for token ids (float32, the bits of `Matrix.dequantize_rows`), or all of a matrix as bf16."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from puna.backends.torch.kernels.planes import load_bytes, load_numbers, num_parts, part_columns, plane_arguments, width
from puna.backends.torch.weights import Matrix

BLOCK_N, BLOCK_K = 16, 256  # a warp reads whole lines of 128 bytes; bandwidth is the limit here


@triton.jit(do_not_specialize=["num_rows"])
def dequantize_kernel(
    out, ids, qs, d, m, scales, extra, num_rows,
    KIND: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, EVEN: tl.constexpr, HAS_IDS: tl.constexpr,
):  # fmt: skip
    """Program (tile of rows, tile of columns).  # ids (num_rows,) int64 -> out (num_rows, COLUMNS)"""
    rows = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    first = tl.program_id(1) * BLOCK_K
    held = tl.minimum(rows, num_rows - 1).to(tl.int64)
    if HAS_IDS:
        held = tl.load(ids + held)
    loaded = load_bytes(qs, held, first // PARTS, WIDTH // PARTS, BLOCK_K // PARTS, EVEN)
    for part in tl.static_range(PARTS):
        columns = first + part_columns(part, PARTS, BLOCK_K)
        numbers = load_numbers(loaded, d, m, scales, extra, held, first, part, KIND, WIDTH, BLOCK_N, BLOCK_K, EVEN)
        pointers = out + rows.to(tl.int64)[:, None] * COLUMNS + columns[None, :]
        inside = (rows < num_rows)[:, None] & (columns < COLUMNS)[None, :]
        tl.store(pointers, numbers.to(out.dtype.element_ty), mask=inside)


def dequantize_rows(matrix: Matrix, ids: torch.Tensor | None, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Dequantise some rows, or all.  # (n,) -> (n, columns)"""
    count = matrix.rows if ids is None else len(ids)
    out = torch.empty((count, matrix.columns), dtype=dtype, device=matrix.planes[next(iter(matrix.planes))].device)
    if count:
        whole = width(matrix)
        dequantize_kernel[(-(-count // BLOCK_N), -(-whole // BLOCK_K))](
            out, out if ids is None else ids, **plane_arguments(matrix), num_rows=count,
            KIND=matrix.kind, COLUMNS=matrix.columns, WIDTH=whole, PARTS=num_parts(matrix.kind), BLOCK_N=BLOCK_N,
            BLOCK_K=BLOCK_K, EVEN=whole % BLOCK_K == 0, HAS_IDS=ids is not None,
            num_warps=4, enable_fp_fusion=False,  # d * q + m in two roundings, as in torch
        )  # fmt: skip
    return out


def embed(matrix: Matrix, ids: torch.Tensor) -> torch.Tensor:
    """The rows of token ids.  # (tokens,) -> (tokens, columns), float32"""
    return dequantize_rows(matrix, ids)
