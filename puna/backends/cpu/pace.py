"""Whether a step is shared by the team or done by its caller alone, judged by how long steps take.

On a machine whose cores have other work, threads wait for each other's turn at each of some 200 barriers: measured here with two
busy programs on two cores, 6 tokens/s shared and 130 alone. The bits are the same either way, so the choice is free.
"""

from __future__ import annotations

MAX_ROWS = 8  # a step of more tokens has long stretches between barriers: it is always shared
SLOW = 2.5  # a step that takes this many times the best one was held up
STRIKES = 2  # held-up steps in a row before the caller goes on alone
FIRST_ALONE, MAX_ALONE = 16, 512  # steps alone before the team is tried again; doubled each time that it is still slower
FORGET = 1.002  # the best time grows by this each step: a longer context makes steps slower for good


class Pace:
    """`shares(rows)` before a step, `note(seconds)` after it.

    >>> pace = Pace(2)
    >>> for seconds in (0.005, 0.005, 0.3, 0.3):
    ...     pace.note(1, pace.shares(1), seconds)
    >>> pace.shares(1), pace.shares(256)
    (False, True)
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._best: dict[int, float] = {}  # rows -> seconds of a shared step
        self._alone_s = 0.0  # of the last step alone
        self._strikes = 0
        self._num_alone = 0  # steps still to be done alone
        self._next_alone = FIRST_ALONE

    def shares(self, rows: int) -> bool:
        """Whether the next step, of `rows` tokens, is the team's."""
        return self._threads > 1 and (rows > MAX_ROWS or self._num_alone == 0)

    def note(self, rows: int, was_shared: bool, seconds: float) -> None:
        """Learn from a step."""
        if rows > MAX_ROWS or self._threads == 1:
            return
        if was_shared:
            self._note_shared(rows, seconds)
        else:
            self._num_alone -= 1
            self._alone_s = seconds

    def _note_shared(self, rows: int, seconds: float) -> None:
        best = min(self._best.get(rows, seconds) * FORGET, seconds)
        self._best[rows] = best
        self._strikes = self._strikes + 1 if seconds > SLOW * best else 0
        is_retry = self._alone_s > 0
        if self._strikes >= STRIKES or (is_retry and self._strikes and seconds > self._alone_s):
            self._num_alone = self._next_alone
            self._next_alone = min(2 * self._next_alone, MAX_ALONE)
        elif not self._strikes:
            self._next_alone, self._alone_s = FIRST_ALONE, 0.0
