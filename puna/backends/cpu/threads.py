"""A team of threads that runs step after step: they meet at spin barriers, and park when no step comes.

A Python thread pool costs 120 us for each step, a `prange` region 2 us; a barrier of two spinning threads costs 0.2 to
0.8 us, and a step has about 200 of them (docs/LOG.md). A thread spins for a bounded time, then yields its core, so that more
threads than cores run slowly but do not collapse. Between steps it waits the same way for some milliseconds, then sleeps until
Python wakes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.layout import CLOSED, POSTED


class Team:
    """`threads - 1` workers beside the caller. `serve(thread, last)` runs posted steps until none comes; returns the last number.

    The caller posts inside its own compiled call, so that no interrupt can come between posting and taking part.
    """

    def __init__(self, threads: int, control: npt.NDArray[np.uint8], serve: Callable[[int, int], int]) -> None:
        self._posted = control[POSTED : POSTED + 8].view(np.int64)
        self._closed = control[CLOSED : CLOSED + 8].view(np.int64)
        self._serve = serve
        self._wake = threading.Condition()
        self._process = os.getpid()
        self._num_parked = 0
        self._is_needed = False
        self._threads = [threading.Thread(target=self._run, args=(i,), name=f"puna-{i}", daemon=True) for i in range(1, threads)]
        for thread in self._threads:
            thread.start()

    @property
    def is_here(self) -> bool:
        """Whether the threads belong to this process: a forked child has none."""
        return self._process == os.getpid()

    def __enter__(self) -> None:
        """Wake the workers: the caller posts a step next. Sets this before it reads the number of parked workers; a worker
        counts itself before it reads this. So one of the two always sees the other."""
        self._is_needed = True
        if self._num_parked:
            with self._wake:
                self._wake.notify_all()

    def __exit__(self, *_: object) -> None:
        self._is_needed = False

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
            self._park(last)

    def _park(self, last: int) -> None:
        with self._wake:
            self._num_parked += 1
            self._wake.wait_for(lambda: self._is_needed or self._posted[0] != last or self._closed[0])
            self._num_parked -= 1
