"""A layer's products: a row of the table of matrices, times the activations that its type reads."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.barrier import barrier
from puna.backends.cpu.jit import kernel
from puna.backends.cpu.job import read_matrix, share
from puna.backends.cpu.kernels import add_bias, quantize_blocks
from puna.backends.cpu.layout import ADD, SET
from puna.backends.cpu.lora import add_adapters
from puna.backends.cpu.simd import call, load_i64


@kernel
def product(memory, sizes, index, x, x_stride, tokens, y, y_stride, first, last, mode, thread):
    """Row groups first..last-1 of a product, with bias and adapters. Float matrices read `x`, quantised ones the records."""
    matrix = read_matrix(memory, index)
    source, source_stride = x, x_stride
    if matrix.is_quantised:
        source, source_stride = memory.records, sizes.record_stride
    scratch = memory.scratch + thread * sizes.scratch_stride
    call(matrix.multiply, matrix.address, matrix.columns, source, source_stride, tokens, y, y_stride, first, last, mode, scratch)
    if matrix.bias != 0:
        add_bias(matrix.bias, tokens, y, y_stride, first, last)
    if load_i64(memory.job + 32) != 0:
        add_adapters(memory, sizes, index, matrix.columns, x, x_stride, tokens, y, y_stride, first, last)


@kernel
def quantize(memory, sizes, index, x, x_stride, rows, record_stride, thread):
    """Make records of rows `x` if the product `index` needs them; threads share the blocks."""
    matrix = read_matrix(memory, index)
    if matrix.is_quantised:
        first, last = share(matrix.columns // 32, thread, sizes.threads)
        for row in range(rows):
            quantize_blocks(x + row * x_stride, matrix.columns, memory.records + row * record_stride, first, last)
        barrier(memory.control, sizes.threads)


@kernel
def output(memory, post_norm):
    """Where a layer's last product writes: to x, or, if the sum is normed before it is added, to a buffer.  # (address, mode)"""
    return (memory.x, ADD) if post_norm == 0 else (memory.added, SET)
