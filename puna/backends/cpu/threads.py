"""A team of threads that runs step after step. The threads meet at barriers, and park when no step comes.

A Python thread pool costs 120 us for each step, a `prange` region 2 us; a barrier of two spinning threads costs 0.2 to
0.8 us, and a step has about 200 of them (docs/LOG.md). A thread spins for a bounded time, then sleeps until the others come, so
that threads that share a core run slowly but do not collapse. Between steps it waits the same way for some milliseconds, then
sleeps until Python wakes it. A step may need only the first threads of a team (`thread_policy.py`); the others stay parked.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.layout import CLOSED, POSTED

NAP_AT, NAP_NS = POSTED + 16, 10_000_000  # of a thread that has no step, before it parks: a C `timespec` in the control block


class Team:
    """`threads - 1` workers beside the caller. `serve(thread, last)` runs posted steps until none comes; returns what was posted
    last.

    The caller posts inside its own compiled call, so that no interrupt can come between posting and taking part.
    """

    def __init__(self, threads: int, control: npt.NDArray[np.uint8], serve: Callable[[int, int], int]) -> None:
        self._closed = control[CLOSED : CLOSED + 8].view(np.int64)
        control[NAP_AT : NAP_AT + 16].view(np.int64)[:] = 0, NAP_NS
        self._serve = serve
        self._wake = threading.Condition()
        self._process = os.getpid()
        self.parked = bytearray(threads)  # thread -> 1 while it is parked
        self._num_needed = 0  # threads of the step that runs, the caller included
        self._threads = [threading.Thread(target=self._run, args=(i,), name=f"puna-{i}", daemon=True) for i in range(1, threads)]
        for thread in self._threads:
            thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the threads belong to this process: a forked child has none."""
        return self._process == os.getpid()

    def step(self, threads: int, run: Callable[[], object]) -> None:
        """Run a step that `run` posts for the first `threads` threads, the caller included.

        Wakes those that are parked. Sets their number before it reads who is parked; a worker counts itself as parked before it
        reads the number. So one of the two always sees the other.
        """
        self._num_needed = threads
        try:
            if any(self.parked[1:threads]):
                with self._wake:
                    self._wake.notify_all()
            run()
        finally:
            self._num_needed = 0

    def close(self) -> None:
        """End the workers. Idempotent."""
        self._closed[0] = 1
        if not self.is_here:
            return
        with self._wake:
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()
        self._threads = []

    def _run(self, thread: int) -> None:
        last = 0
        while not self._closed[0]:
            last = self._serve(thread, last)
            self._park(thread)

    def _park(self, thread: int) -> None:
        with self._wake:
            self.parked[thread] = 1
            self._wake.wait_for(lambda: thread < self._num_needed or self._closed[0])
            self.parked[thread] = 0
