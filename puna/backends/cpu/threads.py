"""A team of threads for one step after another: they meet at spin barriers, and park when no step comes.

A Python thread pool costs 120 us for each step, a `prange` region 2 us; a barrier of two spinning threads costs 0.2 to
0.8 us, and a step has about 200 of them (docs/LOG.md). A thread spins a bounded time, then lends its core, so that more
threads than cores run slowly but do not collapse. Between steps it waits like that for some milliseconds, then sleeps until
Python wakes it.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.packing import aligned_zeros
from puna.backends.cpu.simd import atomic_add, atomic_load, atomic_store, pause, yield_core

# Byte offsets in the control block, each on a cache line of its own.
ARRIVED, GENERATION, POSTED, CLOSED = 0, 64, 128, 192
CONTROL_BYTES = 256

SPINS = 2048  # pauses before a waiting thread lends its core: about 40 us
YIELDS = 4000  # loans of the core before a thread without work parks: some milliseconds


@kernel
def barrier(control, threads):
    """Wait until all threads are here; what each wrote before, all see after."""
    if threads == 1:
        return
    generation = atomic_load(control + GENERATION)
    if atomic_add(control + ARRIVED, 1) == threads - 1:
        atomic_store(control + ARRIVED, 0)
        atomic_store(control + GENERATION, generation + 1)
        return
    spins = 0
    while atomic_load(control + GENERATION) == generation:
        if spins < SPINS:
            spins += 1
            pause()
        else:
            yield_core()


@kernel
def wait_for_step(control, last):
    """The number of the step after `last` once it is posted; `last` if none came in time."""
    for _ in range(SPINS):
        posted = atomic_load(control + POSTED)
        if posted != last:
            return posted
        pause()
    for _ in range(YIELDS):
        posted = atomic_load(control + POSTED)
        if posted != last:
            return posted
        yield_core()
    return last


class Team:
    """`threads - 1` workers beside the caller. `serve(thread, last)` runs posted steps until none comes; returns the last number.

    The caller posts inside its own compiled call, so that no interrupt can come between posting and taking part.
    """

    def __init__(self, threads: int, control: npt.NDArray[np.uint8], serve: Callable[[int, int], int]) -> None:
        self._control = control
        self._posted = control[POSTED : POSTED + 8].view(np.int64)
        self._closed = control[CLOSED : CLOSED + 8].view(np.int64)
        self._serve = serve
        self._wake = threading.Condition()
        self._num_parked = 0
        self._is_needed = False
        self._threads = [threading.Thread(target=self._run, args=(i,), name=f"puna-{i}", daemon=True) for i in range(1, threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> None:
        """Have the workers awake: a step is posted next. Set before asking who is parked, as a worker that parks counts itself
        before it asks for this: one of the two always sees the other."""
        self._is_needed = True
        if self._num_parked:
            with self._wake:
                self._wake.notify_all()

    def __exit__(self, *_: object) -> None:
        self._is_needed = False

    def close(self) -> None:
        """End the workers. Idempotent."""
        self._closed[0] = 1
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self, thread: int) -> None:
        last = 0
        while not self._closed[0]:
            last = self._serve(thread, last)
            self._park(last)

    def _park(self, last: int) -> None:
        with self._wake:
            self._num_parked += 1
            self._wake.wait_for(lambda: self._is_needed or self._posted[0] != last or self._closed[0])
            self._num_parked -= 1


def new_control() -> npt.NDArray[np.uint8]:
    return aligned_zeros(CONTROL_BYTES)
