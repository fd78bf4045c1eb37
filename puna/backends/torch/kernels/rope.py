"""`rope_write`: norm heads, apply RoPE, and write K and V to their pages, in one launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from puna.backends.torch.kernels.norm import rms_norm
from puna.backends.torch.kv import Half, LayerKV
from puna.backends.torch.step import Step

ROUNDER = tl.constexpr(12582912.0)  # 1.5 * 2**23: adding and subtracting it rounds to the nearest integer, ties to even
TINY = tl.constexpr(1.1754943508222875e-38)


@triton.jit
def load_pair(source, pairs, HALF: tl.constexpr):
    """Numbers 2i and 2i + 1 of a head as float32.  # (n,) twice"""
    inside = pairs < HALF
    return tl.load(source + 2 * pairs, mask=inside, other=0.0), tl.load(source + 2 * pairs + 1, mask=inside, other=0.0)


@triton.jit
def rotate(even, odd, cos_sin, token, pairs, TABLE: tl.constexpr, HALF: tl.constexpr):
    """RoPE by the table that is `TABLE` tables after the first of `cos_sin`.  # cos_sin (tables, tokens, 2, HALF)"""
    if TABLE != 0:
        token += TABLE * tl.num_programs(0)
    at = cos_sin + token.to(tl.int64) * (2 * HALF) + pairs
    cos = tl.load(at, mask=pairs < HALF, other=0.0)
    sin = tl.load(at + HALF, mask=pairs < HALF, other=0.0)
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def norm_pair(even, odd, weight, pairs, eps, HALF: tl.constexpr):
    """RMS norm of a head."""
    factor = tl.rsqrt(tl.sum(even * even + odd * odd, axis=0) / (2 * HALF) + eps)
    of_even, of_odd = load_pair(weight, pairs, HALF)
    return even * factor * of_even, odd * factor * of_odd


@triton.jit
def write_pair(numbers, scales, slot, even, odd, pairs, HALF: tl.constexpr, IS_INT8: tl.constexpr):
    """Write a head of K or V to its slot; int8 uses the scale of `kv.Half.write`, which becomes NaN with the numbers."""
    inside = pairs < HALF
    if IS_INT8:
        broken = tl.sum(even * 0.0 + odd * 0.0, axis=0)  # 0, or NaN: a maximum may pass over NaN
        largest = tl.max(tl.maximum(tl.abs(even), tl.abs(odd)), axis=0) + broken
        scale = tl.math.div_rn(largest, 127.0)
        tl.store(scales + slot, scale)
        divisor = tl.maximum(scale, TINY)
        even = tl.math.div_rn(even, divisor) + ROUNDER - ROUNDER
        odd = tl.math.div_rn(odd, divisor) + ROUNDER - ROUNDER
    at = numbers + slot * (2 * HALF) + 2 * pairs
    tl.store(at, even.to(numbers.dtype.element_ty), mask=inside)
    tl.store(at + 1, odd.to(numbers.dtype.element_ty), mask=inside)


@triton.jit
def rope_write_kernel(
    q, qkv, q_norm, k_norm, cos_sin, pages, offsets, keys, key_scales, values, value_scales, qkv_stride, eps,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK: tl.constexpr,
    PAGE_SIZE: tl.constexpr, HAS_NORMS: tl.constexpr, K_TABLE: tl.constexpr, IS_INT8: tl.constexpr,
):  # fmt: skip
    """Program (token, head of q, k or v); HALF = head_dim / 2.

    qkv (tokens, (NUM_HEADS + 2 NUM_KV_HEADS) * head_dim), q (tokens, NUM_HEADS, head_dim), pages and offsets (tokens,);
    cos_sin: the rotary table of q; k's is K_TABLE tables after it
    """
    token, head = tl.program_id(0), tl.program_id(1)
    pairs = tl.arange(0, BLOCK)
    even, odd = load_pair(qkv + token.to(tl.int64) * qkv_stride + head * (2 * HALF), pairs, HALF)
    if head < NUM_HEADS:
        if HAS_NORMS:
            even, odd = norm_pair(even, odd, q_norm, pairs, eps, HALF)
        even, odd = rotate(even, odd, cos_sin, token, pairs, 0, HALF)
        at = q + (token.to(tl.int64) * NUM_HEADS + head) * (2 * HALF) + 2 * pairs
        tl.store(at, even, mask=pairs < HALF)
        tl.store(at + 1, odd, mask=pairs < HALF)
    else:
        kv_head = (head - NUM_HEADS) % NUM_KV_HEADS
        slot = (tl.load(pages + token) * NUM_KV_HEADS + kv_head) * PAGE_SIZE + tl.load(offsets + token)
        if head < NUM_HEADS + NUM_KV_HEADS:
            if HAS_NORMS:
                even, odd = norm_pair(even, odd, k_norm, pairs, eps, HALF)
            even, odd = rotate(even, odd, cos_sin, token, pairs, K_TABLE, HALF)
            write_pair(keys, key_scales, slot, even, odd, pairs, HALF, IS_INT8)
        else:
            write_pair(values, value_scales, slot, even, odd, pairs, HALF, IS_INT8)


def _scales(half: Half) -> torch.Tensor:
    return half.numbers if half.scales is None else half.scales


def _norm_all(qkv: torch.Tensor, norms: tuple[torch.Tensor, torch.Tensor], eps: float) -> None:
    """RMS norm of all heads of q together, and of all of k, in place."""
    sizes = len(norms[0]), len(norms[1]), qkv.shape[1] - len(norms[0]) - len(norms[1])
    for part, weight in zip(qkv.split(sizes, dim=1), norms):
        rms_norm(part, weight, eps, part)


def rope_write(
    qkv: torch.Tensor,
    num_heads: int,
    head_norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    kv: LayerKV,
    step: Step,
    tables: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """Norm (where the model does) and rotate q and k, write K and V to their pages; returns q.

    qkv (tokens, (heads + 2 kv_heads) * head_dim), which a norm of all heads overwrites -> (tokens, heads, head_dim)
    """
    _, num_kv_heads, page_size, head_dim = kv.keys.numbers.shape
    q = torch.empty((len(qkv), num_heads, head_dim), dtype=torch.float32, device=qkv.device)
    if head_norms is not None and len(head_norms[0]) > head_dim:
        _norm_all(qkv, head_norms, eps)
        head_norms = None
    if len(qkv):
        q_norm, k_norm = head_norms or (qkv, qkv)
        rope_write_kernel[(len(qkv), num_heads + 2 * num_kv_heads)](
            q, qkv, q_norm, k_norm, step.cos_sin[tables[0]], step.slots.pages, step.slots.offsets, kv.keys.numbers,
            _scales(kv.keys), kv.values.numbers, _scales(kv.values), qkv.stride(0), eps,
            NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, HALF=head_dim // 2, BLOCK=triton.next_power_of_2(head_dim // 2),
            PAGE_SIZE=page_size, HAS_NORMS=head_norms is not None, K_TABLE=tables[1] - tables[0],
            IS_INT8=kv.keys.scales is not None, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return q
