"""The thread policy: whether the team or the caller alone runs a step, judged by the times of past steps.

On a machine with other work, threads wait for each other at each of some 200 barriers. Measured here with two busy programs on
two cores: 6 tokens/s shared and 130 alone. The bits are the same either way, so the choice is free.
"""

from __future__ import annotations

MAX_ROWS = 8  # a step of more tokens works long between barriers: it is always shared
STRIKES = 2  # slow shared steps in a row before the caller goes on alone
FIRST_ALONE, MAX_ALONE = 2, 256  # steps alone before sharing is tried again; doubled each time that it is still slower


class ThreadPolicy:
    """Call `shares(rows)` before a step and `note(rows, shared, seconds)` after it. The second step runs alone, as a baseline.

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
        self._num_alone = 0  # steps still to run alone
        self._next_alone = FIRST_ALONE
        self._strikes = 0

    def shares(self, rows: int) -> bool:
        """Whether the team runs the next step, of `rows` tokens."""
        return self._threads > 1 and (rows > MAX_ROWS or self._num_alone == 0)

    def note(self, rows: int, was_shared: bool, seconds: float) -> None:
        """Record the time of a step."""
        if rows > MAX_ROWS or self._threads == 1:
            return
        if not was_shared:
            self._num_alone -= 1
            self._alone_s[rows] = seconds
        elif rows not in self._alone_s:
            self._num_alone = 1
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
