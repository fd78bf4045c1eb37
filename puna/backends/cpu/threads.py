"""A team of threads that runs step after step, and the policy that says how many of them run each step.

The threads meet at barriers, and park when no step comes.

A Python thread pool costs 120 us for each step, a `prange` region 2 us; a barrier of two spinning threads costs 0.2 to
0.8 us, and a step has about 200 of them (docs/LOG.md). A thread spins for a bounded time, then sleeps until the others come, so
that threads that share a core run slowly but do not collapse. Between steps it waits the same way for some milliseconds, then
sleeps until Python wakes it. A step may need only the first threads of a team; the others stay parked.

How many threads run a step: found by the times of past steps, because it depends on the model, the memory and other programs.

More threads compute faster until they fill the memory's bandwidth, share a core with another program or with each other, or use
up a quota; from there on all of them wait for the slowest at each of some 200 barriers of a step. The bits are the same either
way, so the choice is free.

A search runs at one of a few numbers of threads, and tries another for a short while. It moves there if that is faster than the
steps before the trial and the steps after it, so that a hiccup decides nothing. Trials go down and up in turn, each time twice as
far, until they have been at the end: the best number may lie behind worse ones (with all cores but one busy, one thread is far
better than any other number). What trials cost is bounded: the next waits until the cost of the last one in its direction is
EXPLORED of the time since.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from puna.backends.cpu.layout import CLOSED, POSTED

NAP_AT, NAP_NS = POSTED + 16, 10_000_000  # of a thread that has no step, before it parks: a C `timespec` in the control block
MAX_SHORT_ROWS = 8  # steps of up to so many tokens have a search for each number of tokens; longer ones one for each power of two
BLOCK_S, BLOCK_STEPS = 0.12, 2  # a block of steps that is judged by its mean: longer than a period of a quota (0.1 s)
EXPLORED = 1 / 32  # at most this part of the time is lost to trials
LEAST_PRICE_STEPS = 4  # after a trial at the end, the next one comes after 4 / EXPLORED steps at the earliest
FASTER = 0.97  # more threads must be faster by 3 %; fewer ones must only not be slower
HOPELESS, HOPELESS_AT_ONCE = 1.2, 4.0  # a trial ends after two steps, or after one, if it is so much slower
CLEAR = 1.5  # a comparison ends early if it is so clear; two steps that are so slow start a trial of fewer threads at once


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


@dataclass(slots=True)
class StepTimes:
    """Steps of one number of threads."""

    steps: int = 0
    rows: int = 0
    seconds: float = 0.0

    def add(self, rows: int, seconds: float) -> None:
        self.steps += 1
        self.rows += rows
        self.seconds += seconds

    @property
    def pace(self) -> float:
        """Seconds of a row."""
        return self.seconds / self.rows

    @property
    def is_full(self) -> bool:
        return self.steps >= BLOCK_STEPS and self.seconds >= BLOCK_S


class Search:
    """The number of threads for steps of one kind. Call `note` after each step, which ran on `threads` threads.

    >>> search = Search((1, 2), at=1)
    >>> seen = []
    >>> for _ in range(40):
    ...     seen.append(search.threads)
    ...     search.note(1, {1: 0.03, 2: 0.3}[search.threads])
    >>> seen[:6], set(seen[6:])
    ([2, 2, 1, 1, 2, 1], {1})
    """

    def __init__(self, counts: Sequence[int], at: int, watches: bool = True) -> None:
        """counts: ascending numbers of threads to choose from; at: the index of the first. watches: slow steps start a trial, and
        the first trial comes at once; without, it must be earned too, because a user would wait for it."""
        self._counts, self._at, self._watches = counts, at, watches
        self._step = 0  # from `at` to the number that is tried; 0: no trial runs
        self._last_step = 1
        self._reach = {-1: 1, 1: 1}  # of the next trial in a direction
        self._prices = {-1: 0.0, 1: 0.0}  # seconds that it may cost
        self._credit_s = 0.0
        self._block, self._trial = StepTimes(), StepTimes()  # of steps at `at`, and of those of a trial
        self._usual = 0.0  # seconds of a row at `at`; 0: not known yet
        self._num_slow = 0  # steps in a row
        self._is_waking = False  # the next step of the trial waits for threads that sleep: it says little
        self._is_checking = False  # the trial is over, and the number before it runs once more

    @property
    def at(self) -> int:
        """The index of the number that was found best so far."""
        return self._at

    @property
    def best(self) -> int:
        """The number that was found best so far."""
        return self._counts[self._at]

    @property
    def threads(self) -> int:
        """For the next step."""
        return self._counts[self._at + (0 if self._is_checking else self._step)]

    def note(self, rows: int, seconds: float) -> None:
        """Record a step of `rows` tokens."""
        if self._step == 0:
            self._note_usual(rows, seconds)
        elif self._is_checking:
            self._note_check(rows, seconds)
        else:
            self._note_trial(rows, seconds)

    def _note_usual(self, rows: int, seconds: float) -> None:
        self._credit_s = min(self._credit_s + EXPLORED * seconds, max(self._prices.values()))
        is_slow = self._watches and 0.0 < CLEAR * self._usual < seconds / rows
        self._num_slow = self._num_slow + 1 if is_slow else 0
        if self._num_slow == 1:
            self._block = StepTimes()  # so that it holds slow steps only, if a second one follows
        self._block.add(rows, seconds)
        if self._num_slow == BLOCK_STEPS or self._block.is_full:
            if self._usual == 0.0 and not self._watches:
                self._prices = dict.fromkeys(self._prices, LEAST_PRICE_STEPS * self._block.seconds / self._block.steps)
            self._usual, self._block = self._block.pace, StepTimes()
            self._begin(-1 if self._num_slow == BLOCK_STEPS else self._affordable())
            self._num_slow = 0

    def _affordable(self) -> int:
        """The direction of the next trial: not the last one's, if both are possible; 0: none is."""
        last = 1 if self._last_step > 0 else -1
        return next((way for way in (-last, last) if self._credit_s >= self._prices[way] and self._farthest(way)), 0)

    def _farthest(self, way: int) -> int:
        """How many numbers there are in a direction."""
        return self._at if way < 0 else len(self._counts) - 1 - self._at

    def _begin(self, way: int) -> None:
        if way == 0 or not self._farthest(way):
            return
        reach = min(self._reach[way], self._farthest(way))
        self._reach[way] = 2 * reach if reach < self._farthest(way) else 1
        self._step, self._is_checking, self._is_waking = way * reach, False, way > 0
        self._block, self._trial = StepTimes(), StepTimes()

    def _note_trial(self, rows: int, seconds: float) -> None:
        pace = seconds / rows
        if self._is_waking and pace <= HOPELESS_AT_ONCE * self._usual:
            self._is_waking = False
            self._credit_s -= max(0.0, seconds - rows * self._usual)
            return
        self._trial.add(rows, seconds)
        if pace > HOPELESS_AT_ONCE * self._usual:
            self._end(moves=False)
        elif self._trial.steps >= BLOCK_STEPS:
            self._judge_trial()

    def _judge_trial(self) -> None:
        pace = self._trial.pace
        if pace > HOPELESS * self._usual or (self._trial.is_full and not self._is_better(self._usual)):
            self._end(moves=False)
        elif self._trial.is_full or CLEAR * pace < self._usual:
            self._is_checking = True

    def _note_check(self, rows: int, seconds: float) -> None:
        self._block.add(rows, seconds)
        if self._block.is_full or self._block.pace > CLEAR * self._trial.pace:
            self._end(moves=self._is_better(self._block.pace))

    def _is_better(self, pace: float) -> bool:
        return self._trial.pace <= (FASTER if self._step > 0 else 1.0) * pace

    def _end(self, moves: bool) -> None:
        way, cost = 1 if self._step > 0 else -1, self._trial.seconds - self._trial.rows * self._usual
        least = LEAST_PRICE_STEPS * self._trial.seconds / self._trial.steps if self._reach[way] == 1 else 0.0
        self._credit_s -= max(0.0, cost)
        self._prices[way] = max(cost, least)
        if moves:
            self._prices[-way] = max(-cost, least)  # what it would cost to go back
            self._at, self._usual = self._at + self._step, self._trial.pace
        elif self._block.steps:
            self._usual = self._block.pace
        self._last_step, self._step, self._is_checking = self._step, 0, False
        self._block = StepTimes()
        if moves:
            self._begin(way)  # on in this direction


class ThreadPolicy:
    """The number of threads of each step: call `threads_for(rows)` before a step of `rows` tokens and `note(rows, seconds)` after
    it.

    >>> policy = ThreadPolicy((1, 2, 4), start=4)
    >>> policy.threads_for(1), policy.threads_for(512)
    (4, 4)
    """

    def __init__(self, counts: Sequence[int], start: int) -> None:
        """counts: ascending numbers of threads to choose from; start: the one to begin with."""
        self._counts = tuple(counts)
        self._start = self._counts.index(start)
        self._searches: dict[int, Search] = {}

    def threads_for(self, rows: int) -> int:
        return self._search(rows).threads

    def note(self, rows: int, seconds: float) -> None:
        self._search(rows).note(rows, seconds)

    def best(self) -> dict[int, int]:
        """Number of tokens of a step, at least -> the number of threads found best for it so far."""
        return {kind: search.best for kind, search in sorted(self._searches.items())}

    def _search(self, rows: int) -> Search:
        kind = kind_of(rows)
        found = self._searches.get(kind)
        if found is None:
            found = self._searches[kind] = Search(self._counts, self._index_near(kind), watches=kind <= MAX_SHORT_ROWS)
        return found

    def _index_near(self, kind: int) -> int:
        """Where the search of the nearest kind is, short or long as this one."""
        near = [other for other in self._searches if (other <= MAX_SHORT_ROWS) == (kind <= MAX_SHORT_ROWS)]
        return self._searches[min(near, key=lambda other: abs(other - kind))].at if near else self._start


def kind_of(rows: int) -> int:
    """Steps of one kind are compared with each other.

    >>> [kind_of(rows) for rows in (1, 3, 8, 9, 16, 300, 512)]
    [1, 3, 8, 9, 16, 256, 512]
    """
    return rows if rows <= MAX_SHORT_ROWS else max(MAX_SHORT_ROWS + 1, 1 << (rows.bit_length() - 1))
