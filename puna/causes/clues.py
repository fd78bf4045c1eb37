"""Clues: the words by which a cause is known that somebody tells in words of his own.

A clue is one or more words, any of which will do: "built|compil"; of a word of five letters or more the beginning is enough. One
that begins with "+" must be there. They must stand near each other, for a long log holds every word somewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

NEAR = 320  # characters
WHOLE = 5  # letters: a shorter word must stand there whole, for "inf" begins "information"
TROUBLE = (
    "error|fail|crash|complain|refus|reject|cannot|can't|could not|couldn't|does not|doesn't|do not|don't|is "
    "not|isn't|no|without|missing|killed|hangs|stuck|warning|wrong|only|too|instead|ignored|slow|out "
    "of|needs|requires|already|lost|dropp|truncat|two|twice"
)


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


def tells_of_trouble(lower: str) -> bool:
    """Whether a text speaks of something that goes wrong at all."""
    return _pattern(TROUBLE).search(lower) is not None


def pieces(lower: str) -> Iterator[tuple[int, str]]:
    """Overlapping pieces of a text, with their places."""
    step = NEAR // 2
    yield from ((start, lower[start : start + NEAR]) for start in range(0, max(1, len(lower) - step), step))


@cache
def _pattern(clue: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(_word, clue.split('|')))})")


def _word(word: str) -> str:
    end = r"(?![a-z0-9])" if len(word) < WHOLE and word[-1].isalnum() else ""
    return re.escape(word).replace(r"\ ", r"\s") + end
