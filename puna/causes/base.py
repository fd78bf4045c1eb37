"""The contract of a cause: what an error text looks like, and what it means.

A cause has wordings (as programs print them, see `wording.py`) and clues (words of people who describe it). `explain` says what
it means, with the numbers and names extracted from the text. Texts are untrusted: puna runs nothing in them, and escapes them
before printing.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

# fmt: off
Topic = Literal[
    "memory", "cuda", "driver", "distributed", "devices", "files", "tokenizer", "install", "server",
    "compile", "versions", "hub", "accelerators",
]
# fmt: on
# cause    it is what went wrong
# symptom  a warning: the program continues, but not as intended
# effect   only reports an earlier error
MatchRole = Literal["cause", "symptom", "effect"]
Captures = Mapping[str, str]  # name -> as it stands in the text: {"wanted": "86.00 MiB", "gpu": "0"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an error means, and how to fix it."""

    cause: str
    cure: tuple[str, ...]  # steps, likeliest first; a step may contain a command
    remedy: str = ""  # the name of a recipe in puna/machine/remedies.py
    instead: str = ""  # what puna does about the same model
    numbers: Captures = field(default_factory=dict)
    kind: str = ""  # which of several causes with one wording, if the numbers show it


Explain = Callable[[Captures], Explanation]


@dataclass(frozen=True, slots=True)
class Cause:
    """One known fault. If the wordings of two causes match at one position, the earlier cause in the table wins."""

    name: str
    topic: Topic
    patterns: tuple[str, ...]  # wordings
    explain: Explain
    clues: tuple[str, ...] = ()  # see `clues.py`; empty: only wordings identify it
    role: MatchRole = "cause"
    unless: tuple[str, ...] = ()  # in lower case: where one of these stands in the text, it tells of something else
    concept: str = ""  # the topic of `puna explain` that tells how what failed works; "" if none does


@dataclass(frozen=True, slots=True)
class Match:
    """A cause found in a text."""

    cause: Cause
    confidence: float  # 0..1; see `SURE`
    start: int  # position in the text after `reading`
    line: str  # the matching line of the text, not escaped
    numbers: Captures
    times: int = 1
    is_aside: bool = False  # in a command, in code or in a report alone: see `lines.py`

    def explain(self) -> Explanation:
        return self.cause.explain(self.numbers)


def says(cause: str | Sequence[str], *cure: str, remedy: str = "", instead: str = "") -> Explain:
    """An explanation in fixed words, with {names} for values from the text.

    If there are several wordings of the cause, the first one whose names are all known is used; steps with unknown names are
    omitted.

    >>> explain = says(("{shards} shards, {world} processes", "another number of shards"), "Start {shards}.", "Use puna.")
    >>> explain({"shards": "2"}).cause, explain({"shards": "2"}).cure, explain({}).cure
    ('another number of shards', ('Start 2.', 'Use puna.'), ('Use puna.',))
    """
    wordings = (cause,) if isinstance(cause, str) else tuple(cause)

    def explain(numbers: Captures) -> Explanation:
        told = next((text for text in (filled(w, numbers) for w in wordings) if text is not None), wordings[-1])
        steps = tuple(step for step in (filled(c, numbers) for c in cure) if step is not None)
        return Explanation(told, steps, remedy, filled(instead, numbers) or "", numbers)

    return explain


def filled(template: str, numbers: Captures) -> str | None:
    """The template with its {names} replaced; None if a name is unknown."""
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    return template.format_map(numbers) if names <= numbers.keys() else None
