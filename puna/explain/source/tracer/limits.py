"""What a trace may cost. The source is a stranger's: each limit is checked before the work is done."""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from math import prod

MAX_STEPS = 200_000  # nodes of the syntax tree that are evaluated
MAX_SECONDS = 20.0
MAX_ELEMENTS = 1 << 23  # of one tensor
MAX_LIST = 1 << 18  # items of one list, characters of one text
MAX_TOTAL = 1 << 27  # elements that all operations together may make: half a gigabyte of float32, if all stay alive
ELEMENTS_OF_ITEM = 24  # a number in a set, with its place there, takes 100 bytes
MAX_DEPTH = 24  # calls of the source's own functions inside each other
MAX_DRAWS = 1 << 14  # numbers that are drawn
MAX_BITS = 256  # of a whole number
MAX_MULTIPLICATIONS = 1 << 31  # of one product of matrices


class BeyondError(Exception):
    """The source does what puna does not carry out: from here on it can only be read. `line` 0: not known yet."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


class LimitError(BeyondError):
    """The run would cost more than it may."""


class RunBudget:
    """Counts what a trace has cost."""

    def __init__(self, seconds: float = MAX_SECONDS) -> None:
        self._steps = self._elements = 0
        self._ends = time.monotonic() + seconds

    def step(self, node: ast.AST | None = None) -> None:
        """Count one node, or a part of what one does. BeyondError if it is one too many."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise LimitError(f"the run takes more than {MAX_STEPS:,} steps", getattr(node, "lineno", 0))
        if time.monotonic() > self._ends:  # at each step, because one product of matrices may take a second
            raise LimitError("the run takes too long", getattr(node, "lineno", 0))

    def make(self, shape: Sequence[int]) -> None:
        """Count the elements of a result. BeyondError if they are too many."""
        count = prod(shape)
        self._elements += count
        if any(size < 0 for size in shape):
            raise BeyondError(f"a shape of {tuple(shape)} is impossible")
        if count > MAX_ELEMENTS:
            raise LimitError(f"a result of shape {tuple(shape)} is larger than puna computes here")
        if self._elements > MAX_TOTAL:
            raise LimitError(f"the run makes more than {MAX_TOTAL:,} numbers")

    def make_list(self, count: int) -> None:
        """Count the items of a list. BeyondError if they are too many."""
        if count > MAX_LIST:
            raise LimitError(f"a list of {count:,} items is longer than puna makes here")
        self.make((ELEMENTS_OF_ITEM * count,))
