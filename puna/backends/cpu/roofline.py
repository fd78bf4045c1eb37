"""The roofline of this machine (Williams et al. 2009): how fast the instructions of the kernels read and multiply at most."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from puna.backends.base import Roofline
from puna.backends.cpu.compiled import load_entry, prepare
from puna.backends.cpu.layout import aligned_zeros

READ_BYTES = 1 << 28  # far larger than any cache
LOOPS = 10_000  # some milliseconds
REPEATS = 5  # the best one counts: other work on the machine can only slow it


def measure(threads: int) -> Roofline:
    """Best of a few runs on `threads` threads at once: a second or two."""
    prepare(("read_memory", "multiply_bytes", "multiply_floats"))
    read_memory, multiply_bytes, multiply_floats = map(load_entry, ("read_memory", "multiply_bytes", "multiply_floats"))
    memory, share = aligned_zeros(READ_BYTES), READ_BYTES // threads // 128 * 128
    memory[::4096] = 1  # make every page exist: the zero page would be read from cache
    scratch = [aligned_zeros(1 << 15) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:

        def best(work: Callable[[int], object]) -> float:
            list(pool.map(work, range(threads)))  # compile and warm up
            return min(_timed(lambda: list(pool.map(work, range(threads)))) for _ in range(REPEATS))

        read = best(lambda i: read_memory(memory.ctypes.data + i * share, share))
        int8 = best(lambda i: multiply_bytes(scratch[i].ctypes.data, LOOPS))
        f32 = best(lambda i: multiply_floats(scratch[i].ctypes.data, LOOPS))
    products, float_products = (kernel(scratch[0].ctypes.data, LOOPS) for kernel in (multiply_bytes, multiply_floats))
    return Roofline(
        read_bytes_per_s=share * threads / read,
        int8_ops_per_s=2.0 * threads * products / int8,
        f32_ops_per_s=2.0 * threads * float_products / f32,
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
