"""Clues: words that identify a cause which a person describes in their own words.

A clue is one or more alternatives: "built|compil". Words of four letters or more match as prefixes. A clue with "+" must match.
All must be near each other, because a long log contains every word somewhere. If a word has several forms, the clue uses the
right one in `FORMS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

NEAR = 320  # characters
WHOLE = 4  # letters: a shorter word must match whole, because "inf" begins "information"
# How people report their own trouble: about themselves, or about what a program says and does. Documents and news do not.
TELLER = (
    r"\b(?:i|i'm|i've|i'd|my|mine|me|we (?:have|get|got)|anyone|why|help|suddenly|apparently|tells me|told me)\b",
    r"\b(?:asserts|bails|breaks|complain(?:s|ed|ing)?|crash(?:es|ed)|died|dies|fails|failed|gave|gives (?:me|an|only))\b",
    r"\b(?:gets|getting|got|hangs|moans|prints|refuses|returns|says|shows|stopped|throws|whines|warning that)\b",
    r"\b(?:was|is) (?:rejected|refused|killed)\b|\bcannot (?!be\b)\w|\b(?:is|are) not \w+ing\b|\bnot found\b|error:",
)
FORMS = (
    (r"\bcan't\b", "cannot"),
    (r"\bwon't\b", "will not"),
    (r"n't\b", " not"),
    (r"\b(?:cannot|could not|does not|did not|unable to|not able to) find\b", "not found"),
    (r"\bpytorch\b", "torch"),
    (r"\bwsl ?2\b", "wsl"),
    (r"\b(?:graphics|video) card\b", "gpu"),
    (r"\b(?:video|graphics) (?:memory|ram)\b", "vram"),
    (r"\bhugging face\b", "huggingface"),
)


def score(clues: tuple[str, ...], piece: str) -> float:
    """The share of the clues in the text; required clues count twice. 0 if a required clue is missing.

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
    """Whether a person reports their own trouble in the text; the clues then identify the cause."""
    return _told().search(in_one_form(lower)) is not None


def pieces(lower: str) -> Iterator[tuple[int, str]]:
    """Overlapping pieces of a text, with words in the forms of `FORMS`, and their positions."""
    step = NEAR // 2
    yield from ((start, in_one_form(lower[start : start + NEAR])) for start in range(0, max(1, len(lower) - step), step))


def in_one_form(piece: str) -> str:
    """
    >>> in_one_form("pytorch isn't able to, and can't use my graphics card")
    'torch is not able to, and cannot use my gpu'
    """
    for form, one in _forms():
        piece = form.sub(one, piece)
    return piece


@cache
def _told() -> re.Pattern[str]:
    return re.compile("|".join(TELLER))


@cache
def _forms() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(form), one) for form, one in FORMS)


@cache
def _pattern(clue: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(_word, clue.split('|')))})")


def _word(word: str) -> str:
    end = r"(?![a-z0-9])" if len(word) < WHOLE and word[-1].isalnum() else ""
    return re.escape(word).replace(r"\ ", r"\s") + end
