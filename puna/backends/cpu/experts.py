"""The feed-forward part of a layer with experts: route, sort, multiply, add up.

Each token goes to `top_k` experts. Its pairs (token, expert) are sorted by expert, so that an expert's weights are read once for
all its tokens; nothing of an expert that no token chose is read. A pair's numbers do not depend on the others, and a token's
pairs are added up in the router's order: its bits are the same whoever shares the step.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.attention import LOWEST, exp_f32
from puna.backends.cpu.barrier import barrier
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.job import read_layer, read_matrix, read_memory, read_routing, read_sizes, share
from puna.backends.cpu.kernels import copy_row
from puna.backends.cpu.layout import DOWN_EXPERTS, GATE_EXPERTS, RECORD_BLOCK, ROUTER, SET, SLOTS, UP_EXPERTS
from puna.backends.cpu.products import output, product, quantize
from puna.backends.cpu.simd import (
    add,
    call,
    exp,
    fma,
    keep_lanes,
    load_f32,
    load_f32x8,
    load_i32,
    load_i64,
    max_lanes,
    maximum,
    splat_f32,
    store_f32,
    store_f32x8,
    store_i32,
    sub,
    sum_lanes,
)


@kernel
def choose_experts(logits, count, top_k, normalises, chosen, shares):
    """A token's experts, the most probable first, on a tie the lower one, and the weight of each. `logits` (count) is used up."""
    largest = splat_f32(LOWEST)
    for i in range(0, count, 8):
        largest = maximum(largest, keep_lanes(load_f32x8(logits + 4 * i), count - i, LOWEST))
    top = max_lanes(largest)
    powers = splat_f32(0.0)
    for i in range(0, count, 8):
        v = exp(sub(load_f32x8(logits + 4 * i), splat_f32(top)))
        powers = add(powers, keep_lanes(v, count - i, np.float32(0.0)))
    total, kept = sum_lanes(powers), np.float32(0.0)
    for rank in range(top_k):
        expert, logit = _take_largest(logits, count)
        probability = exp_f32(logit - top) / total
        kept += probability
        store_i32(chosen + 4 * rank, expert)
        store_f32(shares + 4 * rank, probability)
    if normalises:
        for rank in range(top_k):
            store_f32(shares + 4 * rank, load_f32(shares + 4 * rank) / kept)


@kernel
def _take_largest(logits, count):
    """The first of the largest logits, which is then marked as taken: number and value. If all are nan: the first one."""
    expert, largest = 0, LOWEST
    for i in range(count):
        if load_f32(logits + 4 * i) > largest:
            expert, largest = i, load_f32(logits + 4 * i)
    logit = load_f32(logits + 4 * expert)
    store_f32(logits + 4 * expert, LOWEST)
    return expert, logit


@kernel
def sort_pairs(chosen, tokens, top_k, count, pair_rows, row_tokens, ends):
    """Give each pair its row: a counting sort by expert, which keeps the order of the tokens.

    chosen (tokens, top_k) -> pair_rows (tokens, top_k), row_tokens (pairs), ends (experts), int32
    """
    for expert in range(count):
        store_i32(ends + 4 * expert, 0)
    for pair in range(tokens * top_k):
        _count_up(ends + 4 * load_i32(chosen + 4 * pair))
    begin = 0
    for expert in range(count):  # each expert's first row, which then moves to its end
        number = load_i32(ends + 4 * expert)
        store_i32(ends + 4 * expert, begin)
        begin += number
    for pair in range(tokens * top_k):
        row = _count_up(ends + 4 * load_i32(chosen + 4 * pair))
        store_i32(pair_rows + 4 * pair, row)
        store_i32(row_tokens + 4 * row, pair // top_k)


@kernel
def _count_up(address):
    """Add 1; returns the number before."""
    number = np.int64(load_i32(address))
    store_i32(address, number + 1)
    return number


@kernel
def _rows_of(routing, expert):
    """The expert's rows: first, end."""
    begin = np.int64(load_i32(routing.ends + 4 * expert - 4)) if expert > 0 else 0
    return begin, np.int64(load_i32(routing.ends + 4 * expert))


@kernel
def _route(sizes, routing, layer, tokens):
    """Choose the experts of all tokens, and sort the pairs."""
    for t in range(tokens):
        at = 4 * t * layer.top_k
        logits = routing.logits + t * sizes.router_stride
        choose_experts(logits, layer.num_experts, layer.top_k, layer.normalises, routing.chosen + at, routing.shares + at)
    sort_pairs(routing.chosen, tokens, layer.top_k, layer.num_experts, routing.pair_rows, routing.tokens, routing.ends)


@kernel
def _gather(memory, sizes, routing, pairs, thread):
    """Copy each pair's input to its row: the token's normed numbers, then their record; threads share the pairs."""
    first, last = share(pairs, thread, sizes.threads)
    stride = sizes.row_stride
    for row in range(first, last):
        token = np.int64(load_i32(routing.tokens + 4 * row))
        to = routing.rows + row * sizes.pair_stride
        copy_row(memory.normed + token * stride, stride // 4, to)
        copy_row(memory.records + token * sizes.record_stride, stride // 128 * RECORD_BLOCK // 4, to + stride)


@kernel
def _multiply(routing, matrix, expert, x, x_stride, y, y_stride, first, last, scratch):
    """Row groups first..last-1 of the product of an expert's matrix with its rows of `x`, to its rows of `y`."""
    begin, end = _rows_of(routing, expert)
    if begin < end:
        w, x, y = matrix.address + expert * matrix.expert_bytes, x + begin * x_stride, y + begin * y_stride
        call(matrix.multiply, w, matrix.columns, x, x_stride, end - begin, y, y_stride, first, last, SET, scratch)


@kernel
def _gate_and_up(memory, sizes, routing, layer, base, pairs, thread):
    """gate = glu(W_gate x, W_up x) for all rows; threads share the row groups of each expert's matrices."""
    gate, up = read_matrix(memory, base + GATE_EXPERTS), read_matrix(memory, base + UP_EXPERTS)
    gate_x = routing.rows + (sizes.row_stride if gate.is_quantised else 0)
    up_x = routing.rows + (sizes.row_stride if up.is_quantised else 0)
    first, last = share((layer.ffn_size + 7) // 8, thread, sizes.threads)
    scratch = memory.scratch + thread * sizes.scratch_stride
    for expert in range(layer.num_experts):
        _multiply(routing, gate, expert, gate_x, sizes.pair_stride, memory.gate, layer.ffn_stride, first, last, scratch)
        _multiply(routing, up, expert, up_x, sizes.pair_stride, memory.up, layer.ffn_stride, first, last, scratch)
    for row in range(pairs):
        at = row * layer.ffn_stride + 32 * first
        call(layer.glu, memory.gate + at, memory.up + at, 8 * (last - first), memory.gate + at)


@kernel
def _down(memory, sizes, routing, layer, index, record_stride, first, last, scratch):
    """Row groups first..last-1 of W_down gate, for all rows, which replace what was gathered."""
    down, x, x_stride = read_matrix(memory, index), memory.gate, layer.ffn_stride
    if down.is_quantised:
        x, x_stride = memory.records, record_stride
    for expert in range(layer.num_experts):
        _multiply(routing, down, expert, x, x_stride, routing.rows, sizes.pair_stride, first, last, scratch)


@kernel
def _add_up(memory, sizes, routing, layer, tokens, first, last):
    """Each token's sum over its experts, each times its weight, in the router's order: row groups first..last-1."""
    y, adds = output(memory, layer.ffn_post_norm)
    for t in range(tokens):
        pairs = 4 * t * layer.top_k
        for at in range(32 * first, 32 * last, 32):
            total = splat_f32(0.0)
            for pair in range(pairs, pairs + 4 * layer.top_k, 4):
                row = routing.rows + np.int64(load_i32(routing.pair_rows + pair)) * sizes.pair_stride
                total = fma(load_f32x8(row + at), splat_f32(load_f32(routing.shares + pair)), total)
            to = y + t * sizes.row_stride + at
            store_f32x8(to, add(load_f32x8(to), total) if adds else total)


@entry
def experts(memory_address, sizes_address, number, thread):
    """Add the outputs of each token's experts to x, or write them to `added` if they are normed. Reads normed and its records."""
    memory, sizes = read_memory(memory_address), read_sizes(sizes_address)
    layer, routing = read_layer(memory, number), read_routing(memory.routing)
    base, tokens = number * SLOTS, load_i64(memory.job)
    pairs = tokens * layer.top_k

    first, last = share((layer.num_experts + 7) // 8, thread, sizes.threads)
    x, stride = memory.normed, sizes.row_stride
    product(memory, sizes, base + ROUTER, x, stride, tokens, routing.logits, sizes.router_stride, first, last, SET, thread)
    barrier(memory.control, sizes.threads)
    if thread == 0:
        _route(sizes, routing, layer, tokens)
    barrier(memory.control, sizes.threads)
    _gather(memory, sizes, routing, pairs, thread)
    barrier(memory.control, sizes.threads)
    _gate_and_up(memory, sizes, routing, layer, base, pairs, thread)
    barrier(memory.control, sizes.threads)
    record_stride = layer.ffn_stride // 128 * RECORD_BLOCK
    quantize(memory, sizes, base + DOWN_EXPERTS, memory.gate, layer.ffn_stride, pairs, record_stride, thread)
    first, last = share((sizes.hidden_size + 7) // 8, thread, sizes.threads)
    _down(
        memory,
        sizes,
        routing,
        layer,
        base + DOWN_EXPERTS,
        record_stride,
        first,
        last,
        memory.scratch + thread * sizes.scratch_stride,
    )
    _add_up(memory, sizes, routing, layer, tokens, first, last)
    return 0
