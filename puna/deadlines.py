"""When requests must have ended: the times in a heap, so that a step looks at the next one only."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable


class Deadlines:
    """Requests by the time at which they end.

    >>> now = 0.0
    >>> late = Deadlines(lambda: now)
    >>> late.add(1, 5.0), late.add(2, 2.0)
    (None, None)
    >>> now = 3.0
    >>> late.passed(), late.passed()
    ([2], [])
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int]] = []  # (time, request id)
        self.is_needed = False  # whether there is one to wait for; a plain field, which costs a step nothing

    def add(self, request_id: int, seconds: float | None) -> None:
        """End the request after so many seconds; None: never."""
        if seconds is not None:
            heapq.heappush(self._heap, (self._clock() + seconds, request_id))
            self.is_needed = True

    def passed(self) -> list[int]:
        """The requests whose time has come since the last call, also such as have ended before."""
        found: list[int] = []
        now = self._clock() if self._heap else 0.0
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[1])
        self.is_needed = bool(self._heap)
        return found
