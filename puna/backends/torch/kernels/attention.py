"""`attend`: softmax attention over pages, for grouped queries.

`decode_kernel` computes one row of q at a time: a program for each (row, K/V head, share of the positions); the last of a row's
programs to arrive merges their results in order. The number of a row's shares depends only on how many positions it sees, so
its bits do not depend on the batch. `prefill_kernel` computes several rows of one sequence at a time: prompt tokens. Its sums
have another order than decode's. A row's bits do not depend on the rows computed with it, except if V is not finite: a later
row's V reaches the earlier rows of its tile, times 0.

K and V are multiplied in their own type: bf16 and int8 are exact in bf16 (scales multiply the scores and the probabilities); f16
and f32 use three products of tf32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import triton
import triton.language as tl

from puna.backends.torch.kernels import scratch
from puna.backends.torch.kernels.dot import high_part, low_part
from puna.backends.torch.kernels.gpu_properties import KIB, gpu_properties
from puna.backends.torch.kv import Half, LayerKV
from puna.backends.torch.staging import upload
from puna.backends.torch.step import Step
from puna.model.spec import ModelConfig

MAX_SPLITS = 32  # shares of a row: with 8 K/V heads 256 programs, two for each of an H100's multiprocessors
LEAST_HEADS = 16  # the narrowest tile of tl.dot
PREFILL_STAGES, DECODE_STAGES = 2, 3
INT8, BF16, OTHER = 0, 1, 2


@dataclass(frozen=True, slots=True)
class AttentionTile:
    """The size of a program's tile."""

    positions: int
    prefill_rows: int  # counts each head of a group


def tile_of(kv_type: int, padded: int) -> AttentionTile:
    """A tile of K of head_dim 128 in bf16 is 16 KB; float32, as three tf32 products, runs out of registers from 64 on."""
    if kv_type != OTHER:
        return AttentionTile(64, 64)
    return AttentionTile(32, 32 if padded < 256 else 16)


@cache
def fitting(rows: int, stages: int, positions: int, padded: int, dtype: torch.dtype, shared_bytes: int) -> tuple[int, int]:
    """(rows of q, stages): as many of the wanted ones as shared memory allows. First rows are reduced, each of which is summed
    by itself, then read-ahead. Positions stay: their number sets the order of sums.

    >>> [fitting(64, 2, 64, 256, torch.bfloat16, size * KIB) for size in (227, 99)]
    [(64, 2), (16, 2)]
    >>> fitting(16, 2, 32, 256, torch.float32, 99 * KIB)
    (16, 1)
    """
    fewer = [(rows >> i, n) for n in (stages, 1) for i in range((rows // LEAST_HEADS).bit_length())]
    return next((one for one in fewer if most_bytes(*one, positions, padded, dtype) <= shared_bytes), fewer[-1])


def most_bytes(rows: int, stages: int, positions: int, padded: int, dtype: torch.dtype) -> int:
    """Bytes of shared memory that a program uses at most (Triton 3.6 and 3.9, sm_80 to sm_120): q and the probabilities, each as
    two numbers of the product's type, and a tile of K and one of V, or only one of them without read-ahead."""
    both = 2 * (4 if _type(dtype) == OTHER else 2)
    of_kv = positions * padded * dtype.itemsize
    return rows * (padded + positions) * both + (2 if stages > 1 else 1) * of_kv + KIB


@triton.jit
def split_size(visible, BLOCK: tl.constexpr, MAX_SPLITS: tl.constexpr):
    """Positions of a share: whole blocks, and at most MAX_SPLITS shares."""
    return tl.maximum(tl.cdiv(tl.cdiv(visible, MAX_SPLITS), BLOCK), 1) * BLOCK


@triton.jit
def times(a, b, total, TYPE: tl.constexpr):
    """total + a b, where a is float32 and b a tile of K or V.  # (M, K), (K, N), (M, N)"""
    if TYPE == 2:  # OTHER
        total = tl.dot(a, b.to(tl.float32), total, input_precision="tf32x3")
    else:
        high, numbers = high_part(a), b.to(tl.bfloat16)
        total = tl.dot(high, numbers, total)
        total = tl.dot(low_part(a, high), numbers, total)
    return total


@triton.jit
def attend_block(
    q, top, mass, total, keys, key_scales, values, value_scales, table, positions, last_page, seen, sees, kv_head,
    CAP: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, PAGE_SIZE: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """Add one block of positions; returns the online softmax's new (maximum, mass, weighted sum of V).

    q (M, PADDED) scaled as `in_powers_of_two` says; top, mass (M,); total (M, PADDED); positions (BLOCK,);
    sees (M, BLOCK): which row sees which; seen (BLOCK,): whether any row does; only seen positions are read
    """
    dims = tl.arange(0, PADDED)
    # Read the table up to the last page that any row sees: beyond it is -1, or nothing.
    page = tl.load(table + tl.minimum(positions // PAGE_SIZE, last_page))
    slot = (page * NUM_KV_HEADS + kv_head) * PAGE_SIZE + positions % PAGE_SIZE
    inside = seen[:, None] & (dims < HEAD_DIM)[None, :]
    at = slot[:, None] * HEAD_DIM + dims[None, :]
    scores = times(q, tl.trans(tl.load(keys + at, mask=inside, other=0)), tl.zeros(sees.shape, tl.float32), TYPE)
    if TYPE == 0:  # INT8
        scores = scores * tl.load(key_scales + slot, mask=seen, other=0.0)[None, :]
    if CAP > 0:
        scores = CAP - 2 * CAP / (tl.exp2(scores) + 1.0)  # CAP * tanh(x) = CAP - 2 CAP / (e**2x + 1)
    scores = tl.where(sees, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    floor = tl.where(new_top == float("-inf"), 0.0, new_top)  # for a row that has seen nothing yet
    powers = tl.exp2(scores - floor[:, None])
    shrink = tl.exp2(top - floor)
    mass = mass * shrink + tl.sum(powers, axis=1)
    if TYPE == 0:  # INT8
        powers = powers * tl.load(value_scales + slot, mask=seen, other=0.0)[None, :]
    total = times(powers, tl.load(values + at, mask=inside, other=0), total * shrink[:, None], TYPE)
    return new_top, mass, total


@triton.jit(do_not_specialize=["max_pages"])
def decode_kernel(
    out, q, positions, sequences, tables, keys, key_scales, values, value_scales, partials, counters,
    max_pages, scale, window: tl.constexpr, CAP: tl.constexpr,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, GROUP: tl.constexpr,
    PAGE_SIZE: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr, MAX_SPLITS: tl.constexpr,
):  # fmt: skip
    """Program (row, K/V head and GROUP of its heads of q, share).  # q and out (tokens, NUM_HEADS, HEAD_DIM)"""
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    RATIO: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    GROUPS: tl.constexpr = (RATIO + GROUP - 1) // GROUP
    kv_head, first_head = group // GROUPS, group % GROUPS * GROUP
    position = tl.load(positions + row).to(tl.int32)
    first = 0
    if window > 0:
        first = tl.maximum(position + 1 - window, 0)
    size = split_size(position + 1 - first, BLOCK, MAX_SPLITS)
    num_splits = tl.cdiv(position + 1 - first, size)
    if split < num_splits:
        members, dims = first_head + tl.arange(0, GROUP), tl.arange(0, PADDED)
        inside = (members < RATIO)[:, None] & (dims < HEAD_DIM)[None, :]
        heads = row.to(tl.int64) * NUM_HEADS + kv_head * RATIO + members
        at = heads[:, None] * HEAD_DIM + dims[None, :]
        own_q = tl.load(q + at, mask=inside, other=0.0) * scale
        table = tables + tl.load(sequences + row) * max_pages
        top = tl.full((GROUP,), float("-inf"), tl.float32)
        mass = tl.zeros((GROUP,), tl.float32)
        total = tl.zeros((GROUP, PADDED), tl.float32)
        begin = first + split * size
        end = tl.minimum(begin + size, position + 1)
        for start in tl.range(begin, end, BLOCK):
            kv_positions = start + tl.arange(0, BLOCK)
            seen = kv_positions < end
            sees = tl.broadcast_to(seen[None, :], (GROUP, BLOCK))
            top, mass, total = attend_block(
                own_q, top, mass, total, keys, key_scales, values, value_scales, table, kv_positions, position // PAGE_SIZE, seen,
                sees, kv_head, CAP, NUM_KV_HEADS, HEAD_DIM, PADDED, PAGE_SIZE, TYPE,
            )  # fmt: skip
        if num_splits == 1:
            tl.store(out + at, total / mass[:, None], mask=inside)
        else:
            merge(
                out, at, inside, members < RATIO, top, mass, total, partials, counters, row * tl.num_programs(1) + group, split,
                num_splits, GROUP, PADDED, RATIO if GROUPS == 1 else GROUP,
            )  # fmt: skip


@triton.jit
def merge(
    out, at, inside, real, top, mass, total, partials, counters, index, split, num_splits,
    GROUP: tl.constexpr, PADDED: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Store a share's result, HEADS * (PADDED + 2) numbers; the last program to arrive merges all shares in order."""
    part_size: tl.constexpr = HEADS * (PADDED + 2)
    base = partials + index.to(tl.int64) * (tl.num_programs(2) * part_size)
    members, dims = tl.arange(0, GROUP), tl.arange(0, PADDED)
    in_total = members[:, None] * PADDED + dims[None, :]
    in_top, in_mass = HEADS * PADDED + members, HEADS * PADDED + HEADS + members
    tl.store(base + split * part_size + in_total, total, mask=inside)
    tl.store(base + split * part_size + in_top, top, mask=real)
    tl.store(base + split * part_size + in_mass, mass, mask=real)
    tl.debug_barrier()  # all threads of the program have stored before one counts it
    arrived = tl.atomic_add(counters + index, 1, sem="acq_rel", scope="gpu")
    if arrived == num_splits - 1:
        tl.debug_barrier()
        whole_top = tl.full((GROUP,), float("-inf"), tl.float32)
        whole_mass = tl.zeros((GROUP,), tl.float32)
        whole = tl.zeros((GROUP, PADDED), tl.float32)
        for other in tl.range(0, num_splits, loop_unroll_factor=4):  # bypass L1: it may hold old values
            part = base + other * part_size
            other_top = tl.load(part + in_top, mask=real, other=0.0, cache_modifier=".cg")
            new_top = tl.maximum(whole_top, other_top)
            shrink, other_shrink = tl.exp2(whole_top - new_top), tl.exp2(other_top - new_top)
            other_mass = tl.load(part + in_mass, mask=real, other=0.0, cache_modifier=".cg")
            whole_mass = whole_mass * shrink + other_mass * other_shrink
            numbers = tl.load(part + in_total, mask=inside, other=0.0, cache_modifier=".cg")
            whole = whole * shrink[:, None] + numbers * other_shrink[:, None]
            whole_top = new_top
        tl.store(out + at, whole / whole_mass[:, None], mask=inside)
        tl.store(counters + index, 0)


@triton.jit(do_not_specialize=["max_pages"])
def prefill_kernel(
    out, q, tiles, positions, sequences, tables, keys, key_scales, values, value_scales, max_pages, scale,
    window: tl.constexpr, CAP: tl.constexpr,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, GROUP: tl.constexpr,
    TILE_ROWS: tl.constexpr, PAGE_SIZE: tl.constexpr, TYPE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (tile, K/V head and GROUP of its heads of q).

    tiles (n, 2): the first row, and how many (at most TILE_ROWS / GROUP, of one sequence)
    """
    tile, group = tl.program_id(0), tl.program_id(1)
    RATIO: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    GROUPS: tl.constexpr = (RATIO + GROUP - 1) // GROUP
    kv_head, first_head = group // GROUPS, group % GROUPS * GROUP
    first_row, num_rows = tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)
    index, dims = tl.arange(0, TILE_ROWS), tl.arange(0, PADDED)
    number, member = index // GROUP, first_head + index % GROUP
    inside = ((number < num_rows) & (member < RATIO))[:, None] & (dims < HEAD_DIM)[None, :]
    heads = (first_row + number).to(tl.int64) * NUM_HEADS + kv_head * RATIO + member
    at = heads[:, None] * HEAD_DIM + dims[None, :]
    own_q = tl.load(q + at, mask=inside, other=0.0) * scale
    table = tables + tl.load(sequences + first_row) * max_pages
    begin = tl.load(positions + first_row).to(tl.int32)
    own = begin + number  # rows of a sequence are in the order of their positions
    last = begin + num_rows - 1
    start_at = 0
    if window > 0:
        start_at = tl.maximum(begin + 1 - window, 0) // BLOCK * BLOCK  # blocks start at the same positions for every row
    top = tl.full((TILE_ROWS,), float("-inf"), tl.float32)
    mass = tl.zeros((TILE_ROWS,), tl.float32)
    total = tl.zeros((TILE_ROWS, PADDED), tl.float32)
    for start in tl.range(start_at, last + 1, BLOCK):
        kv_positions = start + tl.arange(0, BLOCK)
        seen = kv_positions <= last
        sees = (kv_positions[None, :] <= own[:, None]) & seen[None, :]
        if window > 0:
            seen = seen & (kv_positions > begin - window)
            sees = sees & (kv_positions[None, :] > own[:, None] - window)
        top, mass, total = attend_block(
            own_q, top, mass, total, keys, key_scales, values, value_scales, table, kv_positions, last // PAGE_SIZE, seen, sees,
            kv_head, CAP, NUM_KV_HEADS, HEAD_DIM, PADDED, PAGE_SIZE, TYPE,
        )  # fmt: skip
    tl.store(out + at, total / mass[:, None], mask=inside)


# ---- launching ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """How to compute a step's rows: each alone, or in tiles of one sequence."""

    longest: int  # positions that the longest row sees, before the window
    tiles: torch.Tensor | None  # (n, 2) first row and number of rows; None: each alone


def plan_work(step: Step, rows_per_tile: int) -> Work:
    """Tile prompt tokens; compute generated tokens alone."""
    longest = max(step.host_positions, default=-1) + 1
    if not step.of_prompts:
        return Work(longest, None)
    sequences = np.array(step.host_sequences)
    starts = np.flatnonzero(np.diff(sequences, prepend=-1))
    ends = np.append(starts[1:], len(sequences))
    tiles = [
        (first, min(rows_per_tile, end - first))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        for first in range(start, end, rows_per_tile)
    ]
    return Work(longest, upload({"tiles": np.array(tiles, np.int32)}, step.positions.device)["tiles"])


_LAST: dict[int, tuple[Step, Work]] = {}  # all layers of a step share its work: one upload


def _work(step: Step, rows_per_tile: int) -> Work:
    held = _LAST.get(rows_per_tile)
    if held is None or held[0] is not step:
        held = _LAST[rows_per_tile] = step, plan_work(step, rows_per_tile)
    return held[1]


def _scales(half: Half) -> torch.Tensor:
    return half.numbers if half.scales is None else half.scales


def _type(dtype: torch.dtype) -> int:
    return {torch.int8: INT8, torch.bfloat16: BF16}.get(dtype, OTHER)


def reserve(model: ModelConfig, max_rows: int, device: torch.device) -> None:
    """Allocate the memory of all partial results at once: growing it later would fragment memory."""
    padded = max(16, triton.next_power_of_2(model.head_dim))
    scratch.floats(max_rows * model.num_heads * MAX_SPLITS * (padded + 2), device)


def in_powers_of_two(head_dim: int, scale: float, cap: float) -> dict[str, float]:
    """The factor of q, and the cap, with which the softmax has powers of two in place of e; with a cap, its tanh has them too.

    >>> in_powers_of_two(64, 0.0, 0.0) == {"scale": float(64**-0.5 * np.log2(np.e)), "CAP": 0.0}
    True
    """
    scale = scale or head_dim**-0.5
    factor = scale * np.log2(np.e)
    return {"scale": float(2 * factor / cap if cap else factor), "CAP": float(cap * np.log2(np.e))}


def attend(q: torch.Tensor, kv: LayerKV, window: int, step: Step, scale: float = 0.0, cap: float = 0.0) -> torch.Tensor:
    """Softmax attention of each row to its sequence's positions up to its own.  # (tokens, heads, head_dim) -> the same, flat

    `step.host_positions` sets the number of programs: in a CUDA graph they must be the largest of any replay. The positions on
    the device set what is computed.
    """
    out = torch.empty_like(q)
    if not len(q):
        return out.flatten(1)
    _, num_kv_heads, page_size, head_dim = kv.keys.numbers.shape
    ratio = q.shape[1] // num_kv_heads
    dtype, padded = kv.keys.numbers.dtype, max(16, triton.next_power_of_2(head_dim))
    tile, shared_bytes = tile_of(_type(dtype), padded), gpu_properties(q.device).shared_bytes
    tile_rows, stages = fitting(tile.prefill_rows, PREFILL_STAGES, tile.positions, padded, dtype, shared_bytes)
    group = min(triton.next_power_of_2(ratio), tile_rows)
    work = _work(step, tile_rows // group)
    tensors = (
        step.positions, step.sequences, step.page_tables, kv.keys.numbers, _scales(kv.keys), kv.values.numbers, _scales(kv.values)
    )  # fmt: skip
    numbers = {
        "max_pages": step.page_tables.shape[1], "window": window, **in_powers_of_two(head_dim, scale, cap),
        "NUM_HEADS": q.shape[1], "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": head_dim,
        "PADDED": padded, "PAGE_SIZE": page_size, "TYPE": _type(dtype), "BLOCK": tile.positions,
    }  # fmt: skip
    if work.tiles is not None:
        prefill_kernel[(len(work.tiles), num_kv_heads * triton.cdiv(ratio, group))](
            out, q, work.tiles, *tensors, **numbers, GROUP=group, TILE_ROWS=tile_rows,
            num_warps=4, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
    else:
        wanted = max(LEAST_HEADS, min(triton.next_power_of_2(ratio), tile.prefill_rows))
        group, stages = fitting(wanted, DECODE_STAGES, tile.positions, padded, dtype, shared_bytes)
        groups = num_kv_heads * triton.cdiv(ratio, group)
        merges, part_size = len(q) * groups, min(ratio, group) * (padded + 2)
        seen = min(work.longest, window) if window else work.longest
        splits = min(-(-seen // tile.positions), MAX_SPLITS)
        decode_kernel[(len(q), groups, splits)](
            out, q, *tensors,
            scratch.floats(merges * splits * part_size if splits > 1 else 0, q.device), scratch.counters(merges, q.device),
            **numbers, GROUP=group, MAX_SPLITS=MAX_SPLITS, num_warps=4, num_stages=stages, enable_fp_fusion=True,
        )  # fmt: skip
    return out.flatten(1)
