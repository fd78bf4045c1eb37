"""One step of the whole model: each thread's work from token ids to logits, in one call without Python.

Every thread runs the same lines over its share of rows, heads or tokens, and waits at a barrier before it needs the others'
results. Buffers and sizes come as two named tuples of integers; a buffer is an address, a stride is in bytes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.barrier import TEAMS, barrier, post_step, wait_for_step
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.job import read_layer, read_matrix, read_memory, read_sizes, share
from puna.backends.cpu.kernels import add_row, copy_row, head_norm, multiply_numbers, quantize_blocks, rms_norm, rope, scale_row
from puna.backends.cpu.layout import (
    DOWN,
    EMBED,
    GATE,
    LM_HEAD,
    ROUTER,
    SET,
    SLOTS,
    UP,
    UP_EXPERTS,
    K,
    O,
    Q,
    StepSizes,
    V,
)
from puna.backends.cpu.products import output, product, quantize
from puna.backends.cpu.simd import call, load_i32, load_i64

SIZES_BYTES = 8 * len(StepSizes._fields)


@kernel
def _norm(memory, sizes, weight, first_matrix, last_matrix, tokens, thread):
    """normed = rms_norm(x), or x without a weight, with records if one of matrices first..last-1 is quantised; threads share the
    tokens."""
    wants_records = False
    for index in range(first_matrix, last_matrix):
        wants_records = wants_records or read_matrix(memory, index).is_quantised != 0
    columns = sizes.row_stride // 4  # hidden_size, padded to whole blocks
    first, last = share(tokens, thread, sizes.threads)
    for t in range(first, last):
        x, out = memory.x + t * sizes.row_stride, memory.normed + t * sizes.row_stride
        if weight != 0:
            rms_norm(x, weight, sizes.hidden_size, np.float32(sizes.norm_eps), out)
        else:
            copy_row(x, columns, out)
        if wants_records:
            quantize_blocks(out, columns, memory.records + t * sizes.record_stride, 0, columns // 32)


@kernel
def _end_output(memory, sizes, post_norm, tokens, thread):
    """After a product that wrote to `output`: x += rms_norm(added), if the layer norms what it adds."""
    barrier(memory.control, sizes.threads)
    if post_norm != 0:
        first, last = share(tokens, thread, sizes.threads)
        for t in range(first, last):
            added = memory.added + t * sizes.row_stride
            rms_norm(added, post_norm, sizes.hidden_size, np.float32(sizes.norm_eps), added)
            add_row(added, sizes.row_stride // 4, memory.x + t * sizes.row_stride)
        barrier(memory.control, sizes.threads)


@kernel
def _rows(first_group, last_group, rows):
    return min(8 * first_group, rows), min(8 * last_group, rows)


@kernel
def _project_qkv(memory, sizes, layer, number, tokens, thread):
    """q, k and v of all tokens, normed where the layer does so, rotated; writes k and v to their pages."""
    base = number * SLOTS
    q_size, kv_size = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    q, k, v = memory.qkv, memory.qkv + sizes.k_offset, memory.qkv + sizes.v_offset
    x, stride = memory.normed, sizes.row_stride
    first, last = share((q_size + 7) // 8, thread, sizes.threads)
    product(memory, sizes, base + Q, x, stride, tokens, q, sizes.qkv_stride, first, last, SET, thread)
    q_begin, q_end = _rows(first, last, q_size)
    first, last = share((kv_size + 7) // 8, thread, sizes.threads)
    product(memory, sizes, base + K, x, stride, tokens, k, sizes.qkv_stride, first, last, SET, thread)
    product(memory, sizes, base + V, x, stride, tokens, v, sizes.qkv_stride, first, last, SET, thread)
    k_begin, k_end = _rows(first, last, kv_size)
    if layer.q_parts > 0:
        barrier(memory.control, sizes.threads)
        _norm_parts(memory, sizes, layer.q_norm, q, q_size, layer.q_parts, tokens, thread)
        _norm_parts(memory, sizes, layer.k_norm, k, kv_size, layer.k_parts, tokens, thread)
        barrier(memory.control, sizes.threads)
    for t in range(tokens):
        row, cos_sin = t * sizes.qkv_stride, memory.cos_sin + t * sizes.cos_sin_stride
        rope(q + row, cos_sin + layer.q_table, sizes.head_dim, q_begin, q_end)
        rope(k + row, cos_sin + layer.k_table, sizes.head_dim, k_begin, k_end)
        if layer.k_smoothing != 0:
            multiply_numbers(q + row, layer.q_smoothing, q_begin, q_end)
            multiply_numbers(k + row, layer.k_smoothing, k_begin, k_end)
    if sizes.whole_heads:
        barrier(memory.control, sizes.threads)
        first, last = share(sizes.num_kv_heads, thread, sizes.threads)
        k_begin, k_end = first * sizes.head_dim, last * sizes.head_dim
    _write_kv(memory, sizes, number, k, v, k_begin, k_end)


@kernel
def _norm_parts(memory, sizes, weight, x, size, parts, tokens, thread):
    """Norm each of the equal parts of each row, in place; threads share the parts."""
    first, last = share(tokens * parts, thread, sizes.threads)
    for i in range(first, last):
        at = x + i // parts * sizes.qkv_stride + 4 * (i % parts) * (size // parts)
        head_norm(at, weight, size // parts, np.float32(sizes.norm_eps))


@kernel
def _page(memory, sizes, number, sequence, position, kv_head):
    page = np.int64(load_i32(memory.tables + sequence * sizes.table_stride + 4 * (position // sizes.page_size)))
    return memory.kv + page * sizes.page_bytes + number * sizes.layer_bytes + kv_head * sizes.head_bytes


@kernel
def _write_kv(memory, sizes, number, k, v, begin, end):
    """Write numbers begin..end-1 of each token's k and v rows to the pages of their heads."""
    for sequence in range(load_i64(memory.job + 8)):
        for t in range(load_i32(memory.starts + 4 * sequence), load_i32(memory.starts + 4 * sequence + 4)):
            position = np.int64(load_i32(memory.positions + 4 * t))
            slot = position % sizes.page_size
            i = begin
            while i < end:
                head = i // sizes.head_dim
                until = min(end, (head + 1) * sizes.head_dim)
                page = _page(memory, sizes, number, sequence, position, head)
                at = t * sizes.qkv_stride + 4 * head * sizes.head_dim
                first, last = i - head * sizes.head_dim, until - head * sizes.head_dim
                call(memory.write_kv, k + at, v + at, page, sizes.page_size, sizes.head_dim, slot, first, last)
                i = until


@kernel
def _feed_forward(memory, sizes, layer, base, tokens, thread):
    """gate = glu(W_gate normed, W_up normed)"""
    first, last = share((layer.ffn_size + 7) // 8, thread, sizes.threads)
    stride = layer.ffn_stride
    product(memory, sizes, base + GATE, memory.normed, sizes.row_stride, tokens, memory.gate, stride, first, last, SET, thread)
    product(memory, sizes, base + UP, memory.normed, sizes.row_stride, tokens, memory.up, stride, first, last, SET, thread)
    for t in range(tokens):
        at = t * stride + 32 * first
        call(layer.glu, memory.gate + at, memory.up + at, 8 * (last - first), memory.gate + at)


@kernel
def _output(memory, sizes, index, x, x_stride, post_norm, tokens, thread):
    """Add the product of rows `x` to the residual stream."""
    quantize(memory, sizes, index, x, x_stride, tokens, sizes.record_stride, thread)
    y, mode = output(memory, post_norm)
    first, last = share((sizes.hidden_size + 7) // 8, thread, sizes.threads)
    product(memory, sizes, index, x, x_stride, tokens, y, sizes.row_stride, first, last, mode, thread)


@kernel
def _layer(addresses, memory, sizes, number, tokens, thread):
    """One layer. `addresses`: of memory and sizes."""
    base, threads, layer = number * SLOTS, sizes.threads, read_layer(memory, number)

    _norm(memory, sizes, layer.attn_norm, base + Q, base + V + 1, tokens, thread)
    barrier(memory.control, threads)
    _project_qkv(memory, sizes, layer, number, tokens, thread)
    barrier(memory.control, threads)
    call(memory.attend, addresses[0], addresses[1], number, thread)
    barrier(memory.control, threads)
    _output(memory, sizes, base + O, memory.attended, sizes.attended_stride, layer.attn_post_norm, tokens, thread)
    _end_output(memory, sizes, layer.attn_post_norm, tokens, thread)

    first, last = (base + GATE, base + UP) if layer.num_experts == 0 else (base + ROUTER, base + UP_EXPERTS)
    _norm(memory, sizes, layer.ffn_norm, first, last + 1, tokens, thread)
    barrier(memory.control, threads)
    if layer.num_experts == 0:
        _feed_forward(memory, sizes, layer, base, tokens, thread)
        barrier(memory.control, threads)
        _output(memory, sizes, base + DOWN, memory.gate, layer.ffn_stride, layer.ffn_post_norm, tokens, thread)
    else:
        call(memory.experts, addresses[0], addresses[1], number, thread)
    _end_output(memory, sizes, layer.ffn_post_norm, tokens, thread)


@kernel
def _embed(memory, sizes, tokens, thread):
    first, last = share(tokens, thread, sizes.threads)
    embedding = read_matrix(memory, sizes.num_layers * SLOTS + EMBED)
    for t in range(first, last):
        row, out = np.int64(load_i32(memory.token_ids + 4 * t)), memory.x + t * sizes.row_stride
        call(memory.dequantize_row, embedding.address, embedding.columns, row, sizes.hidden_size, out)
        scale_row(out, sizes.hidden_size, sizes.row_stride // 4, np.float32(sizes.embedding_scale))


@kernel
def _hidden(memory, sizes, thread):
    """added = rms_norm of the rows whose hidden states are needed; threads share the rows. `_logits` then moves rows of x."""
    count = load_i64(memory.job + 24)
    if count == 0:
        return
    first, last = share(count, thread, sizes.threads)
    for i in range(first, last):
        x = memory.x + np.int64(load_i32(memory.hidden_rows + 4 * i)) * sizes.row_stride
        rms_norm(x, memory.final_norm, sizes.hidden_size, np.float32(sizes.norm_eps), memory.added + i * sizes.row_stride)
    barrier(memory.control, sizes.threads)


@kernel
def _logits(memory, sizes, thread):
    """Move the rows that need logits to the front of x; then norm and the last product."""
    count = load_i64(memory.job + 16)
    if thread == 0:
        for i in range(count):
            row = np.int64(load_i32(memory.logit_rows + 4 * i))
            copy_row(memory.x + row * sizes.row_stride, sizes.row_stride // 4, memory.x + i * sizes.row_stride)
    barrier(memory.control, sizes.threads)
    index = sizes.num_layers * SLOTS + LM_HEAD
    _norm(memory, sizes, memory.final_norm, index, index + 1, count, thread)
    barrier(memory.control, sizes.threads)
    first, last = share((sizes.vocab_size + 7) // 8, thread, sizes.threads)
    product(
        memory, sizes, index, memory.normed, sizes.row_stride, count, memory.logits, sizes.logits_stride, first, last, SET, thread
    )
    if sizes.logit_softcap != 0:
        for i in range(count):
            call(memory.softcap, memory.logits + i * sizes.logits_stride + 32 * first, 8 * (last - first), sizes.logit_softcap)
    barrier(memory.control, sizes.threads)


@kernel
def _forward(addresses, memory, sizes, thread):
    tokens = load_i64(memory.job)
    _embed(memory, sizes, tokens, thread)
    for number in range(sizes.num_layers):
        _layer(addresses, memory, sizes, number, tokens, thread)
    _hidden(memory, sizes, thread)
    _logits(memory, sizes, thread)


@entry
def run(memory_address, sizes_address, thread, last):
    """Thread 0: post a step for as many threads as the sizes say, and take part in it. Others: take part in all steps after what
    was posted as `last`; return once none comes, or one in which they have no part. They get the sizes for one thread, which
    those for two threads follow, and so on.

    Returns what was posted last. One function serves both, so that the model is compiled once.
    """
    memory, at = read_memory(memory_address), sizes_address
    while True:
        if thread == 0:
            if read_sizes(at).threads > 1:
                post_step(memory.control, read_sizes(at).threads)
        else:
            posted = wait_for_step(memory.control, last)
            if posted == last or thread >= posted % TEAMS:
                return posted
            last, at = posted, sizes_address + (posted % TEAMS - 1) * SIZES_BYTES
        _forward((memory_address, at), memory, read_sizes(at), thread)
        if thread == 0:
            return last
