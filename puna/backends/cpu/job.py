"""What a thread of a step reads: memory, sizes, layers and matrices, at their addresses, and the thread's share of the work."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.layout import (
    ADAPTER_BYTES,
    LAYER_BYTES,
    MATRIX_BYTES,
    SLOTS,
    TILE_BYTES,
    AdapterRow,
    BufferAddresses,
    LayerRow,
    MatrixRow,
    Routing,
    StepSizes,
    TileBuffers,
)
from puna.backends.cpu.simd import tuple_reader

read_memory, read_sizes, read_routing = tuple_reader(BufferAddresses), tuple_reader(StepSizes), tuple_reader(Routing)
_read_layer, _read_matrix, _read_adapter = tuple_reader(LayerRow), tuple_reader(MatrixRow), tuple_reader(AdapterRow)
_read_tile = tuple_reader(TileBuffers)


@kernel
def read_layer(memory, number):
    return _read_layer(memory.layers + LAYER_BYTES * number)


@kernel
def read_matrix(memory, index):
    return _read_matrix(memory.matrices + MATRIX_BYTES * index)


@kernel
def read_adapter(memory, sizes, adapter, index):
    return _read_adapter(memory.adapters + ADAPTER_BYTES * (adapter * (sizes.num_layers * SLOTS + 2) + index))


@kernel
def read_tile(memory, thread):
    return _read_tile(memory.tiles + TILE_BYTES * thread)


@kernel
def share(n, thread, threads):
    """This thread's part first..last-1 of n."""
    return n * thread // threads, n * (thread + 1) // threads
