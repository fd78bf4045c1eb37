"""How threads meet: a barrier that spins, and the wait for the next step."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.jit import kernel
from puna.backends.cpu.layout import ARRIVED, GENERATION, POSTED
from puna.backends.cpu.simd import atomic_add, atomic_load, atomic_store, pause, yield_core

SPINS = 2048  # pauses before a waiting thread yields its core: about 40 us
YIELDS = 4000  # yields before an idle thread parks: some milliseconds


@kernel
def barrier(control, threads):
    """Wait until all threads are here; afterwards each sees what the others wrote before."""
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
