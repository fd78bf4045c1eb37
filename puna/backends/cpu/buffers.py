"""The buffers of a step: their sizes and strides, which the kernels read, and their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from puna.backends.cpu.layout import (
    ALIGNMENT,
    BLOCK,
    CONTROL_BYTES,
    EVEN,
    GROUP,
    MAX_PARTIALS,
    PANEL_BYTES,
    PARTIAL_ROWS,
    StepSizes,
    TileBuffers,
    float_bits,
    padded,
    padded_head_dim,
    record_bytes,
    span_of,
    sum_bytes,
    tile_bytes,
)
from puna.model.spec import Experts, LayerSpec, ModelConfig
from puna.plan import KV_BYTES, KV_SCALE_BYTES, Plan


def sizes_of(config: ModelConfig, plan: Plan, threads: int) -> StepSizes:
    """Sizes and strides: rows of activations are padded to a whole block, so that they can be quantised."""
    row, q, kv, ffn = (padded(n, BLOCK) for n in (config.hidden_size, config.q_size, config.kv_size, config.ffn_size))
    numbers, scales = KV_BYTES[plan.kv_type], 2 * KV_SCALE_BYTES.get(plan.kv_type, 0)
    head_bytes = plan.page_size * ((config.head_dim + padded_head_dim(config.head_dim)) * numbers + scales)
    return StepSizes(
        norm_eps=config.norm_eps,
        embedding_scale=config.embedding_scale,
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        page_size=plan.page_size,
        logit_softcap=float_bits(config.logit_softcap),
        threads=threads,
        row_stride=4 * row,
        qkv_stride=4 * (q + 2 * kv),
        k_offset=4 * q,
        v_offset=4 * (q + kv),
        attended_stride=4 * q,
        record_stride=padded(record_bytes(max(row, q, ffn)), ALIGNMENT),
        router_stride=4 * padded(most_experts(config)[0], GROUP),
        pair_stride=4 * row + padded(record_bytes(row), ALIGNMENT),
        logits_stride=4 * padded(config.vocab_size, GROUP),
        cos_sin_stride=4 * config.head_dim,
        table_stride=4 * -(-plan.max_context // plan.page_size),
        scratch_stride=padded(max(PANEL_BYTES, sum(tile_bytes(config.head_dim, span_of(plan.page_size)))), 128),
        span=span_of(plan.page_size),
        sum_bytes=sum_bytes(config.head_dim),
        num_partials=min(MAX_PARTIALS, PARTIAL_ROWS * EVEN * threads * -(-plan.max_context // span_of(plan.page_size))),
        head_bytes=head_bytes,
        whole_heads=int(scales > 0),
        layer_bytes=head_bytes * config.num_kv_heads,
        page_bytes=head_bytes * config.num_kv_heads * config.num_layers,
    )


def ffn_stride(layer: LayerSpec) -> int:
    """Bytes of a row of the feed-forward part."""
    return 4 * padded(layer.ffn.size, BLOCK)


def pairs_of_token(layer: LayerSpec) -> int:
    """Rows of the feed-forward part for a token: one for each of its experts."""
    return layer.ffn.top_k if isinstance(layer.ffn, Experts) else 1


def buffer_bytes(config: ModelConfig, plan: Plan, sizes: StepSizes, num_tables: int) -> dict[str, int]:
    """Name -> bytes of each buffer in `BufferAddresses`. `num_tables`: rotary tables"""
    tokens, row = plan.max_tokens, sizes.row_stride
    ffn = max(pairs_of_token(layer) * ffn_stride(layer) for layer in config.layers)
    return {
        "control": CONTROL_BYTES,
        "job": 64,
        "token_ids": 4 * tokens,
        "positions": 4 * tokens,
        "starts": 4 * (plan.max_sequences + 1),
        "tables": sizes.table_stride * plan.max_sequences,
        "logit_rows": 4 * tokens,
        "hidden_rows": 4 * tokens,
        "row_adapters": 4 * tokens,
        "cos_sin": sizes.cos_sin_stride * tokens * num_tables,
        "x": row * tokens,
        "normed": row * tokens,
        "added": row * tokens,
        "records": max(sizes.record_stride, record_bytes(ffn // 4)) * tokens,
        "qkv": sizes.qkv_stride * tokens + 4 * GROUP,  # whole vectors are read, also of the last head
        "attended": sizes.attended_stride * tokens,
        "gate": ffn * tokens,
        "up": ffn * tokens,
        "logits": sizes.logits_stride * tokens,  # rarely more than one row per sequence is touched
        "kv": sizes.page_bytes * plan.num_pages,
        "scratch": sizes.scratch_stride * sizes.threads,
        "partials": sizes.sum_bytes * sizes.num_partials,
    }


def tile_buffers(scratch: int, sizes: StepSizes) -> Iterator[TileBuffers]:
    """Of each thread, in its part of `scratch`."""
    for thread in range(sizes.threads):
        start = scratch + thread * sizes.scratch_stride
        *starts, _ = accumulate(tile_bytes(sizes.head_dim, sizes.span), initial=start)
        yield TileBuffers(*starts)


def routing_bytes(config: ModelConfig, plan: Plan, sizes: StepSizes) -> dict[str, int]:
    """Name -> bytes of each buffer in `Routing`; a model without experts needs none."""
    count, top_k = most_experts(config)
    pairs = 4 * plan.max_tokens * top_k
    return {
        "logits": sizes.router_stride * plan.max_tokens,
        "chosen": pairs,
        "shares": pairs,
        "pair_rows": pairs,
        "tokens": pairs,
        "ends": 4 * count,
        "rows": sizes.pair_stride * plan.max_tokens * top_k,
    }


def most_experts(config: ModelConfig) -> tuple[int, int]:
    """The most experts of a layer, and of a token in a layer; 0 if none has any."""
    parts = [layer.ffn for layer in config.layers if isinstance(layer.ffn, Experts)]
    return max((part.count for part in parts), default=0), max((part.top_k for part in parts), default=0)
