"""One step of the whole model: each thread's work from token ids to logits, in one call without Python.

Every thread runs the same lines over its share of rows, heads or tokens, and waits at a barrier before it needs the others'
results. Buffers and sizes come as two named tuples of integers; a buffer is an address, a stride is in bytes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.barrier import barrier, wait_for_step
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.job import read_memory, read_sizes, share
from puna.backends.cpu.kernels import add_bias, head_norm, quantize_blocks, rms_norm, rope, swiglu
from puna.backends.cpu.layout import (
    ADD,
    ATTN_NORM,
    DOWN,
    EMBED,
    FFN_NORM,
    GATE,
    K_NORM,
    LM_HEAD,
    MATRIX_BYTES,
    NORMS,
    POSTED,
    Q_NORM,
    SET,
    SLOTS,
    UP,
    K,
    O,
    Q,
    V,
)
from puna.backends.cpu.simd import atomic_add, call, load_f32, load_i32, load_i64, store_f32


@kernel
def _matrix(memory, index):
    """(address, columns, whether it is quantised)"""
    at = memory.matrices + MATRIX_BYTES * index
    return load_i64(at), load_i64(at + 8), load_i64(at + 16) != 0


@kernel
def _norm(memory, sizes, index, first_matrix, last_matrix, tokens, thread):
    """normed = rms_norm(x), with records if one of matrices first..last-1 is quantised; threads share the tokens."""
    wants_records = False
    for matrix in range(first_matrix, last_matrix):
        _, _, is_quantised = _matrix(memory, matrix)
        wants_records = wants_records or is_quantised
    columns = sizes.row_stride // 4  # hidden_size, padded to whole blocks
    weight = load_i64(memory.norms + 8 * index)
    first, last = share(tokens, thread, sizes.threads)
    for t in range(first, last):
        out = memory.normed + t * sizes.row_stride
        rms_norm(memory.x + t * sizes.row_stride, weight, sizes.hidden_size, np.float32(sizes.norm_eps), out)
        if wants_records:
            quantize_blocks(out, columns, memory.records + t * sizes.record_stride, 0, columns // 32)


@kernel
def _product(memory, sizes, index, x, x_stride, tokens, y, y_stride, first, last, mode):
    """Row groups first..last-1 of a product and its bias. Float matrices read `x`, quantised ones the records."""
    w, columns, is_quantised = _matrix(memory, index)
    if is_quantised:
        x, x_stride = memory.records, sizes.record_stride
    multiply, bias = _product_and_bias(memory, index)
    call(multiply, w, columns, x, x_stride, tokens, y, y_stride, first, last, mode)
    if bias != 0:
        add_bias(bias, tokens, y, y_stride, first, last)


@kernel
def _product_and_bias(memory, index):
    """The addresses of a matrix's product and of its bias; 0 for no bias."""
    at = memory.matrices + MATRIX_BYTES * index
    return load_i64(at + 24), load_i64(at + 32)


@kernel
def _rows(first_group, last_group, rows):
    return min(8 * first_group, rows), min(8 * last_group, rows)


@kernel
def _project_qkv(memory, sizes, layer, tokens, thread):
    """q, k and v of all tokens, normed by heads where the model does so, rotated; writes k and v to their pages."""
    base = layer * SLOTS
    q_size, kv_size = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    q, k, v = memory.qkv, memory.qkv + sizes.k_offset, memory.qkv + sizes.v_offset
    x, stride = memory.normed, sizes.row_stride
    first, last = share((q_size + 7) // 8, thread, sizes.threads)
    _product(memory, sizes, base + Q, x, stride, tokens, q, sizes.qkv_stride, first, last, SET)
    q_begin, q_end = _rows(first, last, q_size)
    first, last = share((kv_size + 7) // 8, thread, sizes.threads)
    _product(memory, sizes, base + K, x, stride, tokens, k, sizes.qkv_stride, first, last, SET)
    _product(memory, sizes, base + V, x, stride, tokens, v, sizes.qkv_stride, first, last, SET)
    k_begin, k_end = _rows(first, last, kv_size)
    if sizes.head_norms:  # from here on the shares are whole heads
        barrier(memory.control, sizes.threads)
        q_begin, q_end = _norm_heads(memory, sizes, NORMS * layer + Q_NORM, q, sizes.num_heads, tokens, thread)
        k_begin, k_end = _norm_heads(memory, sizes, NORMS * layer + K_NORM, k, sizes.num_kv_heads, tokens, thread)
    for t in range(tokens):
        row, turns = t * sizes.qkv_stride, memory.turns + t * sizes.turns_stride
        rope(q + row, turns, sizes.head_dim, q_begin, q_end)
        rope(k + row, turns, sizes.head_dim, k_begin, k_end)
    _write_kv(memory, sizes, layer, k, v, k_begin, k_end)


@kernel
def _norm_heads(memory, sizes, index, x, heads, tokens, thread):
    """Norm this thread's heads of each row; returns their numbers in a row: begin, end."""
    first, last = share(heads, thread, sizes.threads)
    weight = load_i64(memory.norms + 8 * index)
    for t in range(tokens):
        for head in range(first, last):
            at = x + t * sizes.qkv_stride + 4 * head * sizes.head_dim
            head_norm(at, weight, sizes.head_dim, np.float32(sizes.norm_eps))
    return first * sizes.head_dim, last * sizes.head_dim


@kernel
def _page(memory, sizes, layer, sequence, position, kv_head):
    page = np.int64(load_i32(memory.tables + sequence * sizes.table_stride + 4 * (position // sizes.page_size)))
    return memory.kv + page * sizes.page_bytes + layer * sizes.layer_bytes + kv_head * sizes.head_bytes


@kernel
def _write_kv(memory, sizes, layer, k, v, begin, end):
    """Write numbers begin..end-1 of each token's k and v rows to the pages of their heads."""
    for sequence in range(load_i64(memory.job + 8)):
        for t in range(load_i32(memory.starts + 4 * sequence), load_i32(memory.starts + 4 * sequence + 4)):
            position = np.int64(load_i32(memory.positions + 4 * t))
            slot = position % sizes.page_size
            i = begin
            while i < end:
                head = i // sizes.head_dim
                until = min(end, (head + 1) * sizes.head_dim)
                page = _page(memory, sizes, layer, sequence, position, head)
                at = t * sizes.qkv_stride + 4 * head * sizes.head_dim
                first, last = i - head * sizes.head_dim, until - head * sizes.head_dim
                call(memory.write_kv, k + at, v + at, page, sizes.page_size, sizes.head_dim, slot, first, last)
                i = until


@kernel
def _quantize(memory, sizes, index, x, x_stride, tokens, thread):
    """Make records of rows `x` if the product `index` needs them; threads share the blocks."""
    _, columns, is_quantised = _matrix(memory, index)
    if is_quantised:
        first, last = share(columns // 32, thread, sizes.threads)
        for t in range(tokens):
            quantize_blocks(x + t * x_stride, columns, memory.records + t * sizes.record_stride, first, last)
        barrier(memory.control, sizes.threads)


@kernel
def _feed_forward(memory, sizes, layer, tokens, thread):
    """gate = swiglu(W_gate normed, W_up normed)"""
    base = layer * SLOTS
    first, last = share((sizes.ffn_size + 7) // 8, thread, sizes.threads)
    stride = sizes.ffn_stride
    _product(memory, sizes, base + GATE, memory.normed, sizes.row_stride, tokens, memory.gate, stride, first, last, SET)
    _product(memory, sizes, base + UP, memory.normed, sizes.row_stride, tokens, memory.up, stride, first, last, SET)
    for t in range(tokens):
        at = t * stride + 32 * first
        swiglu(memory.gate + at, memory.up + at, 8 * (last - first), memory.gate + at)


@kernel
def _layer(addresses, memory, sizes, layer, tokens, thread):
    """One layer. `addresses`: of memory and sizes."""
    base, threads = layer * SLOTS, sizes.threads
    groups = (sizes.hidden_size + 7) // 8
    first, last = share(groups, thread, threads)

    _norm(memory, sizes, NORMS * layer + ATTN_NORM, base + Q, base + V + 1, tokens, thread)
    barrier(memory.control, threads)
    _project_qkv(memory, sizes, layer, tokens, thread)
    barrier(memory.control, threads)
    call(memory.attend, addresses[0], addresses[1], layer, thread)
    barrier(memory.control, threads)
    _quantize(memory, sizes, base + O, memory.attended, sizes.attended_stride, tokens, thread)
    _product(
        memory, sizes, base + O, memory.attended, sizes.attended_stride, tokens, memory.x, sizes.row_stride, first, last, ADD
    )
    barrier(memory.control, threads)

    _norm(memory, sizes, NORMS * layer + FFN_NORM, base + GATE, base + UP + 1, tokens, thread)
    barrier(memory.control, threads)
    _feed_forward(memory, sizes, layer, tokens, thread)
    barrier(memory.control, threads)
    _quantize(memory, sizes, base + DOWN, memory.gate, sizes.ffn_stride, tokens, thread)
    _product(memory, sizes, base + DOWN, memory.gate, sizes.ffn_stride, tokens, memory.x, sizes.row_stride, first, last, ADD)
    barrier(memory.control, threads)


@kernel
def _embed(memory, sizes, tokens, thread):
    first, last = share(tokens, thread, sizes.threads)
    w, columns, _ = _matrix(memory, sizes.num_layers * SLOTS + EMBED)
    for t in range(first, last):
        row = np.int64(load_i32(memory.token_ids + 4 * t))
        call(memory.embed, w, columns, row, sizes.hidden_size, memory.x + t * sizes.row_stride)


@kernel
def _logits(memory, sizes, thread):
    """Move the rows that need logits to the front of x; then norm and the last product."""
    count = load_i64(memory.job + 16)
    if thread == 0:
        for i in range(count):
            row = np.int64(load_i32(memory.logit_rows + 4 * i))
            for j in range(sizes.hidden_size):
                store_f32(memory.x + i * sizes.row_stride + 4 * j, load_f32(memory.x + row * sizes.row_stride + 4 * j))
    barrier(memory.control, sizes.threads)
    index = sizes.num_layers * SLOTS + LM_HEAD
    _norm(memory, sizes, NORMS * sizes.num_layers, index, index + 1, count, thread)
    barrier(memory.control, sizes.threads)
    first, last = share((sizes.vocab_size + 7) // 8, thread, sizes.threads)
    _product(memory, sizes, index, memory.normed, sizes.row_stride, count, memory.logits, sizes.logits_stride, first, last, SET)
    barrier(memory.control, sizes.threads)


@kernel
def _forward(addresses, memory, sizes, thread):
    tokens = load_i64(memory.job)
    _embed(memory, sizes, tokens, thread)
    for layer in range(sizes.num_layers):
        _layer(addresses, memory, sizes, layer, tokens, thread)
    _logits(memory, sizes, thread)


@entry
def run(memory_address, sizes_address, thread, last):
    """Thread 0: post a step, if there are other threads, and take part in it. Others: take part in all steps after number
    `last`; return once none comes.

    Returns the number of the last step. One function serves both, so that the model is compiled once.
    """
    memory, sizes = read_memory(memory_address), read_sizes(sizes_address)
    while True:
        if thread == 0:
            if sizes.threads > 1:
                last = atomic_add(memory.control + POSTED, 1) + 1
        else:
            posted = wait_for_step(memory.control, last)
            if posted == last:
                return last
            last = posted
        _forward((memory_address, sizes_address), memory, sizes, thread)
        if thread == 0:
            return last
