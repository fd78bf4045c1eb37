"""Products of a matrix with a few rows of x: `norm_matvec`, `matvec_add`, `glu_matvec_add`.

A program computes `BLOCK_N` outputs of up to 16 rows of x (32 or 64 in larger batches) from a share of the columns, on tensor
cores, weights on the left and x on the right: all these rows share one read of the weights, and an element's bits do not depend
on the tile's other columns, so one row alone and a row in a batch agree. x is split into two bf16 numbers (16 bits of mantissa);
float weights are exact, quantised ones are scaled, then rounded to bf16. Sums are float32. If a matrix has few rows, several
programs share its columns (`SPLITS`, by shape alone); the last of them to arrive adds their partial sums in fixed order.

The norm's factor 1 / rms(x) is one number per row of x: the kernel computes it along the way and multiplies at the end.

`many` rows go through `gemm`, whose sums have another order. The caller chooses a row's way, which must not depend
on the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import torch
import triton
import triton.language as tl

from puna.backends.torch import exact
from puna.backends.torch.kernels import scratch
from puna.backends.torch.kernels.dot import high_part, low_part
from puna.backends.torch.kernels.gemm import gemm
from puna.backends.torch.kernels.gpu_properties import H100, GPUProperties, fitting_stages, gpu_properties
from puna.backends.torch.kernels.norm import rms_norm
from puna.backends.torch.kernels.planes import load_bytes, load_numbers, num_parts, part_columns, plane_arguments, width
from puna.backends.torch.weights import Bias, Matrix, Norm
from puna.model.spec import Activation

PLAIN, NORM, SILU, GELU = range(4)  # how a load transforms x; the last two are activations of a gate, times up
MODES: Mapping[Activation, int] = {"silu": SILU, "gelu": GELU}
NARROW = 16  # rows of x in a tile, the fewest that every version of tl.dot takes; batches use `GPUProperties.wide_rows`
WIDE_STAGES = 2  # tiles for batches: 64 rows of x take 32 KB of a stage, and more stages leave no room for a second program
ROW_BUCKETS = (1, 4, NARROW)  # rows of x to load and prepare; each is a compilation, the sums are the same
PROGRAMS = 528  # 4 waves of the 132 multiprocessors of an H100 or H200; a constant, so that bits do not depend on the GPU
PDL = False  # programmatic dependent launch: the next kernel starts while the last programs of this one end. Not tried yet
MAX_SPLITS = 16  # partial sums stay small beside the weights


@dataclass(frozen=True, slots=True)
class MatvecTile:
    """A kernel's tile sizes."""

    rows: int  # BLOCK_N, of the matrix
    columns: int  # BLOCK_K
    warps: int
    stages: int  # tiles in flight


# Bytes in flight hide the memory's latency: 132 multiprocessors need about 32 KB each. One warpgroup multiplies a tile of 64 rows
# at once; with 128 columns a program of every kind leaves room for two to four beside it (compiled for sm_90: 95
# registers for BF16, 128 for Q4_0, 168 for Q8_0 and the K-quants; 256 columns take all 255). NOT TIMED yet:
# benchmarks/gpu_kernels.py --sweep finds the best of `candidates`.
TILES: Mapping[str, MatvecTile] = {
    "F32": MatvecTile(64, 32, 4, 4),
    "F16": MatvecTile(64, 64, 4, 4),
    "BF16": MatvecTile(64, 128, 4, 4),
    "Q8_0": MatvecTile(64, 128, 4, 4),
    "Q4_0": MatvecTile(64, 128, 4, 4),
    "Q4_1": MatvecTile(64, 128, 4, 4),
    "Q4_K": MatvecTile(64, 128, 4, 4),
    "Q6_K": MatvecTile(64, 128, 4, 4),
}
BITS: Mapping[str, int] = {"F32": 32, "F16": 16, "BF16": 16, "Q8_0": 8, "Q6_K": 6}  # per weight, without scales; others: 4


@cache
def fitting_tile(kind: str, mode: int, rows: int, wide: int, gpu: GPUProperties) -> MatvecTile:
    """The table's tile for a kind, with as many of its stages as leave room for a second program.

    >>> [fitting_tile("BF16", NORM, 1, NARROW, gpu).stages for gpu in (H100, GPUProperties(99 << 10, 32))]
    [4, 2]
    """
    tile = TILES[kind]
    wanted = tile.stages if wide == NARROW else WIDE_STAGES
    return replace(tile, stages=fitting_stages(wanted, _staged_bytes(kind, tile, mode, rows, wide), gpu.half_bytes))


def candidates(kind: str, gpu: GPUProperties = H100) -> Iterator[MatvecTile]:
    """Tiles to benchmark for a kind on a GPU, for one row of x; the default tile comes first."""
    own = fitting_tile(kind, NORM, 1, NARROW, gpu)
    yield own
    cuts = product((32, 64, 128), (64, 128, 256), ((4, 3), (4, 5), (8, 4)))
    for tile in (TILES[kind], *(MatvecTile(rows, columns, *others) for rows, columns, others in cuts)):
        staged, half_precision = _staged_bytes(kind, tile, NORM, 1, NARROW), 2 * tile.rows * tile.columns
        fits = fitting_stages(tile.stages, staged, gpu.shared_bytes - half_precision) == tile.stages
        if tile != own and (tile.warps == 4 or tile.rows >= 64) and fits:
            yield tile


def _staged_bytes(kind: str, tile: MatvecTile, mode: int, rows: int, wide: int) -> int:
    """Bytes of shared memory per stage: weights, x, and for the norm its weights and x again, for the squares."""
    weights = tile.rows * tile.columns * BITS.get(kind, 4) // 8
    columns_of_x = {PLAIN: rows, NORM: rows + wide + 1, SILU: 2 * rows, GELU: 2 * rows}
    return weights + 4 * tile.columns * columns_of_x[mode]


# ---- the kernel -----------------------------------------------------------------------------------------------------


@triton.jit
def glu(gate, up, MODE: tl.constexpr):
    """activation(gate) * up."""
    if MODE == 3:  # GELU in its tanh form: x (1 + tanh(u)) / 2 = x / (1 + e**-2u)
        exponent = 1.5957691216057308 * (gate + 0.044715 * (gate * gate * gate))
    else:  # SILU
        exponent = gate
    return gate / (1.0 + tl.exp(-exponent)) * up


@triton.jit
def load_x(x, norm, rows, columns, num_rows, x_stride, MODE: tl.constexpr, COLUMNS: tl.constexpr, EVEN: tl.constexpr):
    """x as the product reads it, without the norm's factor.  # rows (ROWS,), columns (n,) -> (n, ROWS) float32"""
    inside = (rows < num_rows)[None, :]
    if not EVEN:
        inside = inside & (columns < COLUMNS)[:, None]
    pointers = x + rows.to(tl.int64)[None, :] * x_stride + columns[:, None]
    numbers = tl.load(pointers, mask=inside, other=0.0)
    if MODE == 1:  # NORM
        if EVEN:
            weights = tl.load(norm + columns)
        else:
            weights = tl.load(norm + columns, mask=columns < COLUMNS, other=0.0)
        numbers = numbers * weights[:, None]
    elif MODE != 0:  # SILU or GELU
        numbers = glu(numbers, tl.load(pointers + COLUMNS, mask=inside, other=0.0), MODE)
    return numbers


@triton.jit
def spread(x, COUNT: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr):
    """Repeat each row WIDE / ROWS times; only the first copy counts.  # (COUNT, ROWS) -> (COUNT, WIDE)"""
    if ROWS == WIDE:
        wide = x
    elif ROWS == 1:  # in two dimensions the compiler prepares x once; through three each thread prepares eight times as much
        wide = tl.broadcast_to(x, (COUNT, WIDE))
    else:
        wide = tl.reshape(tl.broadcast_to(x[:, :, None], (COUNT, ROWS, WIDE // ROWS)), (COUNT, WIDE))
    return wide


@triton.jit
def add_product(
    total, w, x, KIND: tl.constexpr, COUNT: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """total + w x.  # (BLOCK_N, WIDE), (BLOCK_N, COUNT), (COUNT, ROWS)"""
    if KIND == "F32" or KIND == "F16":  # these lose bits in bf16: three products of tf32 keep 22
        total = tl.dot(w, spread(x, COUNT, ROWS, WIDE), total, input_precision="tf32x3")
    else:
        high = high_part(x)
        weights = high_part(w)
        total = tl.dot(weights, spread(high, COUNT, ROWS, WIDE), total)
        total = tl.dot(weights, spread(low_part(x, high), COUNT, ROWS, WIDE), total)
    return total


@triton.jit
def square_tile(
    x, first, row, num_rows, x_stride, COLUMNS: tl.constexpr, COUNT: tl.constexpr, WIDE: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """Squares of x, always in tiles of one shape: their sum must not depend on the number of rows.  # (WIDE, COUNT)"""
    rows, columns = row + tl.arange(0, WIDE), first + tl.arange(0, COUNT)
    inside = (rows < num_rows)[:, None]
    if not EVEN:
        inside = inside & (columns < COLUMNS)[None, :]
    numbers = tl.load(x + rows.to(tl.int64)[:, None] * x_stride + columns[None, :], mask=inside, other=0.0)
    return numbers * numbers


@triton.jit
def sum_of_rows(x, ROWS: tl.constexpr, COUNT: tl.constexpr):
    """Add halves to halves. The order of `tl.sum` follows from a tile's layout in threads, so from its number of rows; only for
    two numbers there is one order.  # (ROWS, COUNT) -> (ROWS,)"""
    for half in tl.static_range(COUNT.bit_length() - 1):
        x = tl.sum(tl.reshape(x, (ROWS, 2, COUNT >> (half + 1))), axis=1)
    return tl.reshape(x, (ROWS,))


@triton.jit
def store_outputs(
    y, bias, residual, total, squares, first_output, first_row, num_outputs, num_rows, y_stride, residual_stride, eps,
    MODE: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Apply the norm's factor, bias and residual; store.  # total (BLOCK_N, WIDE), squares (WIDE,) by rows of x"""
    outputs = first_output + tl.arange(0, BLOCK_N)
    copies: tl.constexpr = WIDE // ROWS
    columns = tl.arange(0, WIDE)
    rows = first_row + columns // copies
    inside = (outputs < num_outputs)[:, None] & ((rows < num_rows) & (columns % copies == 0))[None, :]
    if MODE == 1:  # NORM
        factors = tl.rsqrt(squares / COLUMNS + eps)
        total = total * tl.gather(factors, columns // copies, 0)[None, :]
    if HAS_BIAS:
        total = total + tl.load(bias + outputs, mask=outputs < num_outputs, other=0.0)[:, None]
    if HAS_RESIDUAL:
        pointers = residual + rows.to(tl.int64)[None, :] * residual_stride + outputs[:, None]
        total = tl.load(pointers, mask=inside, other=0.0) + total
    tl.store(y + rows.to(tl.int64)[None, :] * y_stride + outputs[:, None], total, mask=inside)


@triton.jit(do_not_specialize=["num_rows", "num_outputs"])
def matvec_kernel(
    y, x, norm, bias, residual, qs, d, m, scales, extra, partials, counters,
    num_rows, num_outputs, x_stride, y_stride, residual_stride, eps,
    KIND: tl.constexpr, MODE: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STEPS: tl.constexpr,
    SPLITS: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Program (WIDE rows of x, tile of outputs, share of the columns): y = f(x) W^T (+ bias) (+ residual).

    Rows of x come first: programs that read the same weights run at the same time, and find them in L2.
    """
    group, tile, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    if PDL:
        tl.extra.cuda.gdc_wait()
    COUNT: tl.constexpr = BLOCK_K // PARTS
    first_output, first_row = tile * BLOCK_N, group * WIDE
    weight_rows = tl.minimum(first_output + tl.arange(0, BLOCK_N), num_outputs - 1).to(tl.int64)
    x_rows = first_row + tl.arange(0, ROWS)
    total = tl.zeros((BLOCK_N, WIDE), tl.float32)
    all_squares = tl.zeros((WIDE, BLOCK_K), tl.float32)
    for step in tl.range(0, STEPS, num_stages=STAGES):
        first = (split * STEPS + step) * BLOCK_K
        loaded = load_bytes(qs, weight_rows, first // PARTS, WIDTH // PARTS, COUNT, EVEN)
        for part in tl.static_range(PARTS):
            columns = first + part_columns(part, PARTS, BLOCK_K)
            prepared = load_x(x, norm, x_rows, columns, num_rows, x_stride, MODE, COLUMNS, EVEN)
            w = load_numbers(loaded, d, m, scales, extra, weight_rows, first, part, KIND, WIDTH, BLOCK_N, BLOCK_K, EVEN)
            total = add_product(total, w, prepared, KIND, COUNT, ROWS, WIDE)
        if MODE == 1:  # NORM
            all_squares += square_tile(x, first, first_row, num_rows, x_stride, COLUMNS, BLOCK_K, WIDE, EVEN)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    squares = tl.zeros((WIDE,), tl.float32)
    if MODE == 1:  # NORM
        squares = sum_of_rows(all_squares, WIDE, BLOCK_K)
    if SPLITS == 1:
        store_outputs(
            y, bias, residual, total, squares, first_output, first_row, num_outputs, num_rows, y_stride, residual_stride, eps,
            MODE, COLUMNS, ROWS, WIDE, BLOCK_N, HAS_BIAS, HAS_RESIDUAL,
        )  # fmt: skip
    else:
        own = group * tl.num_programs(1) + tile
        part_size: tl.constexpr = BLOCK_N * WIDE + WIDE
        base = partials + own.to(tl.int64) * (SPLITS * part_size)
        wide = tl.arange(0, WIDE)
        copies: tl.constexpr = WIDE // ROWS
        used = ((first_row + wide // copies < num_rows) & (wide % copies == 0))[None, :]
        in_tile = wide[None, :] * BLOCK_N + tl.arange(0, BLOCK_N)[:, None]  # row by row of x: one row alone is contiguous
        in_squares = BLOCK_N * WIDE + wide
        tl.store(base + split * part_size + in_tile, total, mask=used)
        tl.store(base + split * part_size + in_squares, squares)
        tl.debug_barrier()  # all threads of the program have stored before one counts it
        arrived = tl.atomic_add(counters + own, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            tl.debug_barrier()
            sums = tl.zeros((BLOCK_N, WIDE), tl.float32)
            square_sums = tl.zeros((WIDE,), tl.float32)
            for other in tl.static_range(SPLITS):  # bypass L1: it may hold old values
                sums += tl.load(base + other * part_size + in_tile, mask=used, other=0.0, cache_modifier=".cg")
                square_sums += tl.load(base + other * part_size + in_squares, cache_modifier=".cg")
            store_outputs(
                y, bias, residual, sums, square_sums, first_output, first_row, num_outputs, num_rows, y_stride,
                residual_stride, eps, MODE, COLUMNS, ROWS, WIDE, BLOCK_N, HAS_BIAS, HAS_RESIDUAL,
            )  # fmt: skip
            tl.store(counters + own, 0)


# ---- launching ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SplitK:
    """A matrix split for the kernel: a function of kind and shape alone."""

    tiles: int
    steps: int  # per program
    splits: int
    is_even: bool  # no program reads beyond the last column


@cache
def split_k(rows: int, columns: int, tile: MatvecTile) -> SplitK:
    """Split the columns so that there are about `PROGRAMS` programs.

    >>> split_k(4096, 4096, MatvecTile(64, 128, 4, 4))
    SplitK(tiles=64, steps=4, splits=8, is_even=True)
    """
    tiles, all_steps = -(-rows // tile.rows), -(-columns // tile.columns)
    splits = max(1, min(PROGRAMS // tiles, MAX_SPLITS, all_steps))
    steps = -(-all_steps // splits)
    splits = -(-all_steps // steps)
    return SplitK(tiles, steps, splits, steps * splits * tile.columns == columns)


def matvec(
    x: torch.Tensor,
    matrix: Matrix,
    bias: Bias,
    residual: torch.Tensor | None,
    y: torch.Tensor,
    mode: int = PLAIN,
    norm: torch.Tensor | None = None,
    eps: float = 0.0,
    tile: MatvecTile | None = None,
) -> None:
    """y = f(x) W^T (+ bias) (+ residual).  # x (tokens, columns), or twice as many for gate and up; y (tokens, rows)"""
    if len(x) == 0:
        return
    whole, gpu = width(matrix), gpu_properties(x.device)
    wide = NARROW if len(x) <= NARROW else gpu.wide_rows
    loaded_rows = next((n for n in ROW_BUCKETS if n >= len(x)), wide)
    tile = tile or fitting_tile(matrix.kind, mode, loaded_rows, wide, gpu)
    shape = split_k(matrix.rows, whole, tile)
    groups = -(-len(x) // wide)
    part_size = (tile.rows + 1) * wide
    merges = shape.tiles * groups if shape.splits > 1 else 0
    matvec_kernel[(groups, shape.tiles, shape.splits)](
        y, x, x if norm is None else norm, x if bias is None else bias, x if residual is None else residual,
        **plane_arguments(matrix),
        partials=scratch.floats(merges * shape.splits * part_size, x.device), counters=scratch.counters(merges, x.device),
        num_rows=len(x), num_outputs=matrix.rows, x_stride=x.stride(0), y_stride=y.stride(0),
        residual_stride=0 if residual is None else residual.stride(0), eps=eps,
        KIND=matrix.kind, MODE=mode, COLUMNS=matrix.columns, WIDTH=whole, PARTS=num_parts(matrix.kind),
        ROWS=loaded_rows, WIDE=wide, BLOCK_N=tile.rows, BLOCK_K=tile.columns,
        STEPS=shape.steps, SPLITS=shape.splits, EVEN=shape.is_even and whole == matrix.columns, STAGES=tile.stages,
        HAS_BIAS=bias is not None, HAS_RESIDUAL=residual is not None, num_warps=tile.warps,
        enable_fp_fusion=False,  # the compiler chooses which products and sums to fuse, perhaps differently for more rows
        PDL=PDL, **({"launch_pdl": True} if PDL else {}),
    )  # fmt: skip


# ---- the operations -------------------------------------------------------------------------------------------------


def _new(x: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.empty((len(x), rows), dtype=torch.float32, device=x.device)


def norm_matvec(
    x: torch.Tensor,
    norm: Norm,
    eps: float,
    matrices: tuple[Matrix, ...],
    biases: tuple[Bias, ...],
    many: bool = False,
) -> torch.Tensor:
    """Multiply x, normed where `norm` is given, by stacked matrices.  # (tokens, columns) -> (tokens, all rows)"""
    y = _new(x, sum(matrix.rows for matrix in matrices))
    normed = rms_norm(x, norm, eps) if many and norm is not None else x
    first = 0
    for matrix, bias in zip(matrices, biases, strict=True):
        part = y[:, first : first + matrix.rows]
        if many:
            gemm(normed, matrix, bias, None, part)
        else:
            matvec(x, matrix, bias, None, part, PLAIN if norm is None else NORM, norm, eps)
        first += matrix.rows
    return y


def matvec_add(x: torch.Tensor, matrix: Matrix, bias: Bias, residual: torch.Tensor | None, many: bool = False) -> torch.Tensor:
    """W x (+ bias) (+ residual).  # (tokens, columns) -> (tokens, rows)"""
    y = _new(x, matrix.rows)
    (gemm if many else matvec)(x, matrix, bias, residual, y)
    return y


def glu_matvec_add(
    gate_up: torch.Tensor,
    matrix: Matrix,
    bias: Bias,
    residual: torch.Tensor | None,
    many: bool = False,
    activation: Activation = "silu",
) -> torch.Tensor:
    """W (activation(gate) * up) (+ bias) (+ residual).  # (tokens, 2 ffn_size) -> (tokens, rows)"""
    y = _new(gate_up, matrix.rows)
    if many:
        gemm(exact.glu(gate_up, activation), matrix, bias, residual, y)
    else:
        matvec(gate_up, matrix, bias, residual, y, MODES[activation])
    return y
