"""Clues: the words by which a cause is known that somebody tells in words of his own.

A clue is one or more beginnings of words, any of which will do: "built|compil". One that begins with "+" must be there. They must
stand near each other, for a long log holds every word somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

NEAR = 320  # characters
MAX_PLACES = 200  # pieces of a text that are looked at


def score(clues: tuple[str, ...], piece: str) -> float:
    """The share of the clues that are in the text; those that must be there count twice. 0 where one of these is not.

    >>> clues = ("+nccl", "built|compil", "windows")
    >>> score(clues, "pytorch was compiled without nccl"), score(clues, "built on windows")
    (0.75, 0.0)
    """
    found = total = 0.0
    for clue in clues:
        weight = 2 if clue.startswith("+") else 1
        there = _pattern(clue.removeprefix("+")).search(piece) is not None
        if weight == 2 and not there:
            return 0.0
        total += weight
        found += weight * there
    return found / total if total else 0.0


def pieces(lower: str) -> Iterator[tuple[int, str]]:
    """Overlapping pieces of a text with their places: the whole of a short one, the first and the last of a long one."""
    step = NEAR // 2
    starts = range(0, max(1, len(lower) - step), step)
    chosen = starts if len(starts) <= MAX_PLACES else [*starts[: MAX_PLACES // 2], *starts[-MAX_PLACES // 2 :]]
    yield from ((start, lower[start : start + NEAR]) for start in chosen)


@cache
def _pattern(clue: str) -> re.Pattern[str]:
    beginnings = "|".join(re.escape(word).replace(r"\ ", r"\s") for word in clue.split("|"))
    return re.compile(rf"(?<![a-z0-9])(?:{beginnings})")
