"""`experts_add`: mixtures of experts. `route` chooses each token's experts, `expert_matvec` multiplies, `combine` sums.

The host reads nothing: a program reads its expert's number on the device, and takes that expert's rows of the stacked matrices.
Each pair of a token and an expert is computed by itself, in float32, so its bits do not depend on the pairs beside it. Prompts
go the same way: right, but slower than a gemm of each expert's tokens would be.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from puna.backends.torch.kernels.matvec import MODES, PLAIN, glu, matvec_add
from puna.backends.torch.kernels.norm import rms_norm
from puna.backends.torch.kernels.planes import load_bytes, load_numbers, num_parts, part_columns, plane_arguments, width
from puna.backends.torch.layer import ExpertWeights
from puna.backends.torch.weights import Matrix, Norm
from puna.model.spec import Experts

# Few rows, so that one token's experts make enough programs: 4 of 1024 rows are 256. NOT TIMED yet
BLOCK_N, BLOCK_K, STAGES = 16, 256, 3
BLOCK = 1024  # columns of a program's sum


@triton.jit
def route_kernel(
    chosen, shares, logits, COUNT: tl.constexpr, TOP_K: tl.constexpr, NORMALISES: tl.constexpr, BLOCK: tl.constexpr,
    SLOTS: tl.constexpr,
):  # fmt: skip
    """Program (token).  # logits (tokens, COUNT) -> chosen int32, shares float32 (tokens, TOP_K)"""
    token = tl.program_id(0).to(tl.int64)
    experts, slots = tl.arange(0, BLOCK), tl.arange(0, SLOTS)
    left = tl.load(logits + token * COUNT + experts, mask=experts < COUNT, other=float("-inf"))
    powers = tl.exp(left - tl.max(left, axis=0))
    whole = tl.sum(powers, axis=0)
    numbers = tl.zeros((SLOTS,), tl.int32)
    masses = tl.zeros((SLOTS,), tl.float32)
    for slot in tl.range(0, TOP_K):
        first = tl.min(tl.where(left == tl.max(left, axis=0), experts, COUNT - 1), axis=0)  # NaN equals nothing
        numbers = tl.where(slots == slot, first, numbers)
        masses = tl.where(slots == slot, tl.sum(tl.where(experts == first, powers, 0.0), axis=0), masses)
        left = tl.where(experts == first, float("-inf"), left)
    if NORMALISES:
        whole = tl.sum(masses, axis=0)
    tl.store(chosen + token * TOP_K + slots, numbers, mask=slots < TOP_K)
    tl.store(shares + token * TOP_K + slots, masses / whole, mask=slots < TOP_K)


@triton.jit
def load_vector(x, columns, MODE: tl.constexpr, COLUMNS: tl.constexpr):
    """Numbers of a row of x, or of glu where x holds gate and up.  # columns (n,) -> (n,) float32"""
    inside = columns < COLUMNS
    numbers = tl.load(x + columns, mask=inside, other=0.0)
    if MODE != 0:  # PLAIN
        numbers = glu(numbers, tl.load(x + COLUMNS + columns, mask=inside, other=0.0), MODE)
    return numbers


@triton.jit(do_not_specialize=["num_outputs"])
def expert_kernel(
    y, x, chosen, qs, d, m, scales, extra, num_outputs, x_stride, y_stride,
    KIND: tl.constexpr, MODE: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    SHARED_BY: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (pair, tile of outputs): y = f(x) W^T, where W are the `num_outputs` rows of the pair's expert.

    chosen (pairs,) int32; y (pairs, num_outputs); x (pairs / SHARED_BY, COLUMNS), or twice as many for gate and up
    """
    pair = tl.program_id(0)
    COUNT: tl.constexpr = BLOCK_K // PARTS
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    weight_rows = tl.load(chosen + pair).to(tl.int64) * num_outputs + tl.minimum(outputs, num_outputs - 1)
    row = x + (pair // SHARED_BY).to(tl.int64) * x_stride
    total = tl.zeros((BLOCK_N, COUNT), tl.float32)
    for first in tl.range(0, WIDTH, BLOCK_K, num_stages=STAGES):
        loaded = load_bytes(qs, weight_rows, first // PARTS, WIDTH // PARTS, COUNT, EVEN)
        for part in tl.static_range(PARTS):
            columns = first + part_columns(part, PARTS, BLOCK_K)
            w = load_numbers(loaded, d, m, scales, extra, weight_rows, first, part, KIND, WIDTH, BLOCK_N, BLOCK_K, EVEN)
            total += w * load_vector(row, columns, MODE, COLUMNS)[None, :]
    tl.store(y + pair.to(tl.int64) * y_stride + outputs, tl.sum(total, axis=1), mask=outputs < num_outputs)


@triton.jit
def combine_kernel(
    out, y, shares, residual, COLUMNS: tl.constexpr, TOP_K: tl.constexpr, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Program (token, block of columns).  # y (tokens, TOP_K, COLUMNS), shares (tokens, TOP_K) -> out (tokens, COLUMNS)"""
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < COLUMNS
    total = tl.zeros((BLOCK,), tl.float32)
    for slot in tl.range(0, TOP_K):
        pair = token * TOP_K + slot
        total += tl.load(shares + pair) * tl.load(y + pair * COLUMNS + columns, mask=inside, other=0.0)
    if HAS_RESIDUAL:
        total = tl.load(residual + token * COLUMNS + columns, mask=inside, other=0.0) + total
    tl.store(out + token * COLUMNS + columns, total, mask=inside)


# ---- launching ------------------------------------------------------------------------------------------------------


def route(logits: torch.Tensor, experts: Experts) -> tuple[torch.Tensor, torch.Tensor]:
    """Each token's experts, the most probable first, and the weight of each; on a tie the lower expert comes first.

    (tokens, experts) -> numbers (tokens, top_k) int32, weights (tokens, top_k). A row with NaN chooses any.
    """
    shape = len(logits), experts.top_k
    chosen = torch.empty(shape, dtype=torch.int32, device=logits.device)
    shares = torch.empty(shape, dtype=torch.float32, device=logits.device)
    if len(logits):
        route_kernel[(len(logits),)](
            chosen, shares, logits, COUNT=experts.count, TOP_K=experts.top_k, NORMALISES=experts.normalises,
            BLOCK=triton.next_power_of_2(experts.count), SLOTS=triton.next_power_of_2(experts.top_k), num_warps=1,
            enable_fp_fusion=True,
        )  # fmt: skip
    return chosen, shares


def expert_matvec(x: torch.Tensor, matrix: Matrix, chosen: torch.Tensor, y: torch.Tensor, mode: int = PLAIN) -> None:
    """y = f(x) W^T with the rows of each pair's expert.

    chosen (pairs,); y (pairs, rows of an expert); x (pairs or tokens, columns), or twice as many for gate and up
    """
    if not len(y):
        return
    whole = width(matrix)
    expert_kernel[(len(y), triton.cdiv(y.shape[1], BLOCK_N))](
        y, x, chosen, **plane_arguments(matrix), num_outputs=y.shape[1], x_stride=x.stride(0), y_stride=y.stride(0),
        KIND=matrix.kind, MODE=mode, COLUMNS=matrix.columns, WIDTH=whole, PARTS=num_parts(matrix.kind),
        SHARED_BY=len(y) // len(x), BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K,
        EVEN=whole % BLOCK_K == 0 and whole == matrix.columns, STAGES=STAGES, num_warps=4, enable_fp_fusion=True,
    )  # fmt: skip


def combine(y: torch.Tensor, shares: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
    """Sum the outputs of each token's experts, each times its weight, in order (+ residual).

    y (pairs, columns), shares (tokens, top_k) -> (tokens, columns)
    """
    out = torch.empty((len(shares), y.shape[1]), dtype=torch.float32, device=y.device)
    if len(shares):
        combine_kernel[(len(shares), triton.cdiv(y.shape[1], BLOCK))](
            out, y, shares, out if residual is None else residual, COLUMNS=y.shape[1], TOP_K=shares.shape[1],
            HAS_RESIDUAL=residual is not None, BLOCK=BLOCK, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def experts_add(
    x: torch.Tensor, norm: Norm, eps: float, experts: ExpertWeights, residual: torch.Tensor | None, many: bool = False
) -> torch.Tensor:
    """The outputs of each token's experts, each times its weight, summed in the router's order (+ residual).

    x and residual (tokens, hidden_size), contiguous -> (tokens, hidden_size)
    """
    h, spec = x if norm is None else rms_norm(x, norm, eps), experts.spec
    chosen, shares = route(matvec_add(h, experts.router, None, None), spec)
    gate_up = torch.empty((chosen.numel(), 2 * spec.size), dtype=torch.float32, device=x.device)
    for matrix, part in zip((experts.gate, experts.up), gate_up.chunk(2, dim=1), strict=True):
        expert_matvec(h, matrix, chosen, part)
    y = torch.empty((chosen.numel(), h.shape[1]), dtype=torch.float32, device=x.device)
    expert_matvec(gate_up, experts.down, chosen, y, MODES[spec.activation])
    return combine(y, shares, residual)
