"""One step of the whole model: what each thread does, from token ids to logits, in one call without Python.

Every thread runs the same lines over its share of rows, heads or tokens, and meets the others at a barrier where it needs what
they made. Buffers and sizes come as two named tuples of integers; a buffer is an address, a stride is in bytes.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np

from puna.backends.cpu.attention import fold, normalise
from puna.backends.cpu.barrier import barrier, wait_for_step
from puna.backends.cpu.jit import entry, kernel
from puna.backends.cpu.kernels import add_bias, head_norm, quantize_blocks, rms_norm, rope, swiglu
from puna.backends.cpu.layout import (
    ADD,
    ATTN_NORM,
    DOWN,
    EMBED,
    EVEN,
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
    TILE_ROWS,
    UP,
    K,
    Memory,
    O,
    Q,
    Sizes,
    V,
)
from puna.backends.cpu.simd import atomic_add, call, load_f32, load_i32, load_i64, store_f32, tuple_reader

read_memory, read_sizes = tuple_reader(Memory), tuple_reader(Sizes)


@kernel
def _share(n, thread, threads):
    """The part first..last-1 of n that is this thread's."""
    return n * thread // threads, n * (thread + 1) // threads


@kernel
def _matrix(memory, index):
    """(address, columns, whether it is quantised)"""
    at = memory.matrices + MATRIX_BYTES * index
    return load_i64(at), load_i64(at + 8), load_i64(at + 16) != 0


@kernel
def _norm(memory, sizes, index, first_matrix, last_matrix, tokens, thread):
    """normed = rms_norm(x), with records if one of matrices first..last-1 is quantised; tokens are shared out."""
    wants_records = False
    for matrix in range(first_matrix, last_matrix):
        _, _, is_quantised = _matrix(memory, matrix)
        wants_records = wants_records or is_quantised
    columns = sizes.row_stride // 4  # hidden_size, padded to whole blocks
    weight = load_i64(memory.norms + 8 * index)
    first, last = _share(tokens, thread, sizes.threads)
    for t in range(first, last):
        out = memory.normed + t * sizes.row_stride
        rms_norm(memory.x + t * sizes.row_stride, weight, sizes.hidden_size, np.float32(sizes.norm_eps), out)
        if wants_records:
            quantize_blocks(out, columns, memory.records + t * sizes.record_stride, 0, columns // 32)


@kernel
def _product(memory, sizes, index, x, x_stride, tokens, y, y_stride, first, last, mode):
    """Row groups first..last-1 of a product and its bias; `x` is read where the matrix is not quantised, else the records."""
    w, columns, is_quantised = _matrix(memory, index)
    if is_quantised:
        x, x_stride = memory.records, sizes.record_stride
    multiply, bias = _product_and_bias(memory, index)
    call(multiply, w, columns, x, x_stride, tokens, y, y_stride, first, last, mode)
    if bias != 0:
        add_bias(bias, tokens, y, y_stride, first, last)


@kernel
def _product_and_bias(memory, index):
    """The addresses of a matrix's product and of its bias, which is 0 where it has none."""
    at = memory.matrices + MATRIX_BYTES * index
    return load_i64(at + 24), load_i64(at + 32)


@kernel
def _rows(first_group, last_group, rows):
    return min(8 * first_group, rows), min(8 * last_group, rows)


@kernel
def _project_qkv(memory, sizes, layer, tokens, thread):
    """q, k and v of all tokens, normed by heads where the model does so, turned; k and v go into their pages."""
    base = layer * SLOTS
    q_size, kv_size = sizes.num_heads * sizes.head_dim, sizes.num_kv_heads * sizes.head_dim
    q, k, v = memory.qkv, memory.qkv + sizes.k_offset, memory.qkv + sizes.v_offset
    x, stride = memory.normed, sizes.row_stride
    first, last = _share((q_size + 7) // 8, thread, sizes.threads)
    _product(memory, sizes, base + Q, x, stride, tokens, q, sizes.qkv_stride, first, last, SET)
    q_begin, q_end = _rows(first, last, q_size)
    first, last = _share((kv_size + 7) // 8, thread, sizes.threads)
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
    """Norm this thread's heads of each row; returns the numbers of a row that they are: begin, end."""
    first, last = _share(heads, thread, sizes.threads)
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
    """Numbers begin..end-1 of each token's k and v rows into the pages of their heads."""
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
def _attend(memory, sizes, layer, thread):
    """All tiles of four rows (token, head of a group), dealt out to the threads in turn: whole, or span by span where there are
    few. The sums are the same; spans that are dealt out leave theirs in `partials`, to be added up once all are there."""
    per_kv, threads = sizes.num_heads // sizes.num_kv_heads, sizes.threads
    num_spans = _spans_to_deal(memory, sizes, layer, per_kv)
    dealt = num_spans > 0
    first_span, last_span = _share(num_spans, thread, threads)
    scores = memory.scratch + thread * sizes.scratch_stride
    own = scores + 4 * TILE_ROWS * sizes.span
    tile, span = 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start = np.int64(load_i32(memory.starts + 4 * sequence))
        rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
        for kv_head in range(sizes.num_kv_heads):
            for row in range(0, rows, TILE_ROWS):
                begin, end = _seen_by_tile(memory, sizes, layer, start, per_kv, row, rows)
                sums = own
                for first in range(begin // sizes.span * sizes.span, end, sizes.span):
                    if dealt:
                        sums = memory.partials + span * sizes.tile_bytes
                    if first_span <= span < last_span if dealt else tile % threads == thread:
                        _attend_span(
                            memory, sizes, layer, sequence, start, kv_head, per_kv, row, rows,
                            max(first, begin), min(first + sizes.span, end), scores, sums,
                        )  # fmt: skip
                        if sums != own and not dealt:
                            fold(own, sums, (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row))
                        sums = own + sizes.tile_bytes
                    span += 1
                if not dealt and tile % threads == thread:
                    _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, own)
                tile += 1
    if dealt:
        barrier(memory.control, threads)
        _add_up(memory, sizes, layer, per_kv, thread)


@kernel
def _spans_to_deal(memory, sizes, layer, per_kv):
    """How many spans there are, if tiles are too few to be shared evenly and the sums of all have room; else 0."""
    if sizes.threads == 1:
        return 0
    tiles, spans = 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start = np.int64(load_i32(memory.starts + 4 * sequence))
        rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
        tiles += (rows + TILE_ROWS - 1) // TILE_ROWS * sizes.num_kv_heads
        if tiles >= EVEN * sizes.threads:
            return 0
        for row in range(0, rows, TILE_ROWS):
            begin, end = _seen_by_tile(memory, sizes, layer, start, per_kv, row, rows)
            spans += ((end - 1) // sizes.span - begin // sizes.span + 1) * sizes.num_kv_heads
    return spans if tiles < spans <= sizes.num_partials else 0


@kernel
def _seen_by_tile(memory, sizes, layer, start, per_kv, row, rows):
    """The positions that rows row..row+3 of a sequence see: first, end. Rows stand in the order of their positions."""
    nearest = np.int64(load_i32(memory.positions + 4 * (start + row // per_kv)))
    furthest = np.int64(load_i32(memory.positions + 4 * (start + (min(row + TILE_ROWS, rows) - 1) // per_kv)))
    window = load_i64(memory.windows + 8 * layer)
    return max(0, nearest + 1 - window) if window > 0 else 0, furthest + 1


@kernel
def _add_up(memory, sizes, layer, per_kv, thread):
    """The spans of each tile, in their order; tiles are dealt out."""
    tile, span = 0, 0
    for sequence in range(load_i64(memory.job + 8)):
        start = np.int64(load_i32(memory.starts + 4 * sequence))
        rows = (np.int64(load_i32(memory.starts + 4 * sequence + 4)) - start) * per_kv
        for kv_head in range(sizes.num_kv_heads):
            for row in range(0, rows, TILE_ROWS):
                begin, end = _seen_by_tile(memory, sizes, layer, start, per_kv, row, rows)
                count = (end - 1) // sizes.span - begin // sizes.span + 1
                if tile % sizes.threads == thread:
                    sums = memory.partials + span * sizes.tile_bytes
                    for i in range(1, count):
                        fold(sums, sums + i * sizes.tile_bytes, (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row))
                    _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, sums)
                span += count
                tile += 1


@kernel
def _attend_span(memory, sizes, layer, sequence, start, kv_head, per_kv, row, rows, first, end, scores, sums):
    """Rows row..row+3 of a sequence and KV head over positions first..end-1; past the last row it is repeated."""
    last = rows - 1
    t0, h0 = _token_and_head(row, start, kv_head, per_kv)
    t1, h1 = _token_and_head(min(row + 1, last), start, kv_head, per_kv)
    t2, h2 = _token_and_head(min(row + 2, last), start, kv_head, per_kv)
    t3, h3 = _token_and_head(min(row + 3, last), start, kv_head, per_kv)
    q, stride, row_bytes = memory.qkv, sizes.qkv_stride, 4 * sizes.head_dim
    q0, q1 = q + t0 * stride + h0 * row_bytes, q + t1 * stride + h1 * row_bytes
    q2, q3 = q + t2 * stride + h2 * row_bytes, q + t3 * stride + h3 * row_bytes
    p0, p1 = np.int64(load_i32(memory.positions + 4 * t0)), np.int64(load_i32(memory.positions + 4 * t1))
    p2, p3 = np.int64(load_i32(memory.positions + 4 * t2)), np.int64(load_i32(memory.positions + 4 * t3))
    table = memory.tables + sequence * sizes.table_stride
    base = memory.kv + layer * sizes.layer_bytes + kv_head * sizes.head_bytes
    window = load_i64(memory.windows + 8 * layer)
    reach = window if window > 0 else p3 + 1  # positions before p + 1 - reach are not seen
    alone, ps, hd = row == last, sizes.page_size, sizes.head_dim
    call(
        memory.attend, q0, q1, q2, q3, p0, p1, p2, p3, alone, reach, first, end, p3, table, base, sizes.page_bytes, ps,
        sizes.span, hd, scores, sums,
    )  # fmt: skip


@kernel
def _store_tile(memory, sizes, start, kv_head, per_kv, row, rows, sums):
    """What the rows of a tile attended to; rows that only filled it up are not kept."""
    width, kept = (sizes.head_dim + 15) // 16 * 16, min(TILE_ROWS, rows - row)
    normalise(sums, width, kept)
    for i in range(kept):
        token, head = _token_and_head(row + i, start, kv_head, per_kv)
        to = memory.attended + token * sizes.attended_stride + 4 * head * sizes.head_dim
        for j in range(sizes.head_dim):
            store_f32(to + 4 * j, load_f32(sums + 4 * (i * width + j)))


@kernel
def _token_and_head(row, start, kv_head, per_kv):
    return start + row // per_kv, kv_head * per_kv + row % per_kv


@kernel
def _quantize(memory, sizes, index, x, x_stride, tokens, thread):
    """Records of rows `x` where the product `index` wants them; the blocks are shared out."""
    _, columns, is_quantised = _matrix(memory, index)
    if is_quantised:
        first, last = _share(columns // 32, thread, sizes.threads)
        for t in range(tokens):
            quantize_blocks(x + t * x_stride, columns, memory.records + t * sizes.record_stride, first, last)
        barrier(memory.control, sizes.threads)


@kernel
def _feed_forward(memory, sizes, layer, tokens, thread):
    """gate = swiglu(W_gate normed, W_up normed)"""
    base = layer * SLOTS
    first, last = _share((sizes.ffn_size + 7) // 8, thread, sizes.threads)
    stride = sizes.ffn_stride
    _product(memory, sizes, base + GATE, memory.normed, sizes.row_stride, tokens, memory.gate, stride, first, last, SET)
    _product(memory, sizes, base + UP, memory.normed, sizes.row_stride, tokens, memory.up, stride, first, last, SET)
    for t in range(tokens):
        at = t * stride + 32 * first
        swiglu(memory.gate + at, memory.up + at, 8 * (last - first), memory.gate + at)


@kernel
def _layer(memory, sizes, layer, tokens, thread):
    base, threads = layer * SLOTS, sizes.threads
    groups = (sizes.hidden_size + 7) // 8
    first, last = _share(groups, thread, threads)

    _norm(memory, sizes, NORMS * layer + ATTN_NORM, base + Q, base + V + 1, tokens, thread)
    barrier(memory.control, threads)
    _project_qkv(memory, sizes, layer, tokens, thread)
    barrier(memory.control, threads)
    _attend(memory, sizes, layer, thread)
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
    first, last = _share(tokens, thread, sizes.threads)
    w, columns, _ = _matrix(memory, sizes.num_layers * SLOTS + EMBED)
    for t in range(first, last):
        row = np.int64(load_i32(memory.token_ids + 4 * t))
        call(memory.embed, w, columns, row, sizes.hidden_size, memory.x + t * sizes.row_stride)


@kernel
def _logits(memory, sizes, thread):
    """The rows whose logits are wanted move to the front of x; then norm and the last product."""
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
    first, last = _share((sizes.vocab_size + 7) // 8, thread, sizes.threads)
    _product(memory, sizes, index, memory.normed, sizes.row_stride, count, memory.logits, sizes.logits_stride, first, last, SET)
    barrier(memory.control, sizes.threads)


@kernel
def _forward(memory, sizes, thread):
    tokens = load_i64(memory.job)
    _embed(memory, sizes, tokens, thread)
    for layer in range(sizes.num_layers):
        _layer(memory, sizes, layer, tokens, thread)
    _logits(memory, sizes, thread)


@entry
def run(memory_address, sizes_address, thread, last):
    """Thread 0: post a step, if there are others, and take part in it. Others: take part in all after number `last`; return once
    none comes.

    Returns the number of the last step. One function for both, so that the model is compiled once.
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
        _forward(memory, sizes, thread)
        if thread == 0:
            return last
