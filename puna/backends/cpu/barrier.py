"""How threads meet: a barrier, and the wait for the next step. Both spin for a while, and then sleep.

A step is posted as one number, so that a thread reads at once which step it is and how many threads take part: its count, times
TEAMS, plus the threads.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from puna.backends.cpu.futex import CALL_NUMBER, sleep_for, sleep_while, wake_all
from puna.backends.cpu.jit import kernel
from puna.backends.cpu.layout import ARRIVED, GENERATION, POSTED
from puna.backends.cpu.simd import atomic_add, atomic_load, atomic_store, pause
from puna.backends.cpu.threads import NAP_AT

SPINS = 2048  # pauses before a thread at a barrier sleeps: about 40 us
IDLE_SPINS = 32 * SPINS  # pauses before a thread without a step sleeps: longer than sampling takes, 0.3 to 0.8 ms
NAPS = 1 if CALL_NUMBER else 4000  # sleeps, or yields, before an idle thread parks: some milliseconds
TEAMS = 1 << 16  # more than any number of threads
SLEEPING, NAPPING = GENERATION + 8, POSTED + 8  # numbers of threads that sleep, beside what they sleep for


@kernel
def barrier(control, threads):
    """Wait until all threads are here; afterwards each sees what the others wrote before."""
    if threads == 1:
        return
    generation = atomic_load(control + GENERATION)
    if atomic_add(control + ARRIVED, 1) == threads - 1:
        atomic_store(control + ARRIVED, 0)
        atomic_add(control + GENERATION, 1)
        if atomic_add(control + SLEEPING, 0) != 0:  # read by an addition: it cannot be moved before the one above
            wake_all(control + GENERATION)
        return
    for _ in range(SPINS):
        if atomic_load(control + GENERATION) != generation:
            return
        pause()
    atomic_add(control + SLEEPING, 1)
    while atomic_load(control + GENERATION) == generation:
        sleep_while(control + GENERATION, generation)
    atomic_add(control + SLEEPING, -1)


@kernel
def post_step(control, threads):
    """Post the next step, for threads 0..threads-1."""
    last = atomic_load(control + POSTED)
    atomic_add(control + POSTED, TEAMS + threads - last % TEAMS)
    if atomic_add(control + NAPPING, 0) != 0:
        wake_all(control + POSTED)


@kernel
def wait_for_step(control, last):
    """What was posted after `last`; `last` if nothing came in time."""
    for _ in range(IDLE_SPINS):
        posted = atomic_load(control + POSTED)
        if posted != last:
            return posted
        pause()
    atomic_add(control + NAPPING, 1)
    for _ in range(NAPS):
        if atomic_load(control + POSTED) == last:
            sleep_for(control + POSTED, last, control + NAP_AT)
    atomic_add(control + NAPPING, -1)
    return atomic_load(control + POSTED)
