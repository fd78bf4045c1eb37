"""A team of threads that runs step after step, and the policy that says which steps it runs. The threads meet at spin barriers,
and park when no step comes.

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

MAX_ROWS = 8  # a step of more tokens works long between barriers: it is always shared
STRIKES = 2  # slow shared steps in a row before the caller goes on alone
FIRST_ALONE, MAX_ALONE = 2, 256  # steps alone before sharing is tried again; doubled each time that it is still slower


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


class ThreadPolicy:
    """Whether the team or the caller alone runs a step, judged by the times of past steps: call `shares(rows)` before a step and
    `note(rows, shared, seconds)` after it. The second step of each number of rows runs alone, as a baseline.

    On a machine with other work, threads wait for each other at each of some 200 barriers. Measured here with two busy programs
    on two cores: 6 tokens/s shared and 130 alone. The bits are the same either way, so the choice is free.

    >>> policy = ThreadPolicy(2)
    >>> shared = []
    >>> for _ in range(9):
    ...     shared.append(policy.shares(1))
    ...     policy.note(1, shared[-1], 0.3 if shared[-1] else 0.008)
    >>> shared
    [True, False, True, True, False, False, True, False, False]
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._alone_s: dict[int, float] = {}  # rows -> seconds of the last step alone
        self._unknown: set[int] = set()  # rows of shared steps that have no baseline yet
        self._num_alone = 0  # steps still to run alone
        self._next_alone = FIRST_ALONE
        self._strikes = 0

    def shares(self, rows: int) -> bool:
        """Whether the team runs the next step, of `rows` tokens."""
        return self._threads > 1 and (rows > MAX_ROWS or (self._num_alone == 0 and rows not in self._unknown))

    def note(self, rows: int, was_shared: bool, seconds: float) -> None:
        """Record the time of a step."""
        if rows > MAX_ROWS or self._threads == 1:
            return
        if not was_shared:
            self._num_alone = max(0, self._num_alone - 1)
            self._unknown.discard(rows)
            self._alone_s[rows] = seconds
        elif rows not in self._alone_s:
            self._unknown.add(rows)
        elif seconds <= self._alone_s[rows]:
            self._strikes, self._next_alone = 0, FIRST_ALONE
        else:
            self._strike()

    def _strike(self) -> None:
        self._strikes += 1
        if self._strikes >= STRIKES:
            self._num_alone = self._next_alone
            self._next_alone = min(2 * self._next_alone, MAX_ALONE)
            self._strikes = STRIKES - 1  # one step judges the next attempt
