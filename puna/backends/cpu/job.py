"""What a thread of a step works on: memory and sizes, which every entry reads from their addresses, and its share."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.layout import Memory, Sizes
from puna.backends.cpu.simd import tuple_reader

read_memory, read_sizes = tuple_reader(Memory), tuple_reader(Sizes)


@kernel
def share(n, thread, threads):
    """The part first..last-1 of n that is this thread's."""
    return n * thread // threads, n * (thread + 1) // threads
