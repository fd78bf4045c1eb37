"""What a thread of a step reads: memory and sizes, at their addresses, and the thread's share of the work."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.layout import Memory, Sizes
from puna.backends.cpu.simd import tuple_reader

read_memory, read_sizes = tuple_reader(Memory), tuple_reader(Sizes)


@kernel
def share(n, thread, threads):
    """This thread's part first..last-1 of n."""
    return n * thread // threads, n * (thread + 1) // threads
