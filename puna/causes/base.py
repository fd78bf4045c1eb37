"""The contract of a cause: what an error text looks like, and what it means.

A cause is known by its wordings (as programs print them, see `wording.py`) and by its clues (words that people use who tell
of it). What it means is told by `explain`, from the numbers and names that were lifted from the text. Texts come from strangers:
nothing of them is obeyed, and whoever shows them escapes them.
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
# symptom  a warning: something goes on, but not as it was meant
# effect   another error came before it, and this one only reports that
Role = Literal["cause", "symptom", "effect"]
Numbers = Mapping[str, str]  # name -> as it stands in the text: {"wanted": "86.00 MiB", "gpu": "0"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """What an error means, and the way out."""

    cause: str
    cure: tuple[str, ...]  # steps, the likeliest first; a step may hold a command
    remedy: str = ""  # the name of a recipe in puna/machine/remedies.py
    instead: str = ""  # what puna does about the same model
    numbers: Numbers = field(default_factory=dict)
    kind: str = ""  # which of several causes that share a wording, where the numbers tell


Explain = Callable[[Numbers], Explanation]


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that goes wrong. Of two causes whose wordings are found in one place, the earlier in the table is meant."""

    name: str
    topic: Topic
    patterns: tuple[str, ...]  # wordings
    explain: Explain
    clues: tuple[str, ...] = ()  # see `clues.py`; none: known by its wordings alone
    role: Role = "cause"
    unless: tuple[str, ...] = ()  # in lower case: where one of these stands in the text, it tells of something else


@dataclass(frozen=True, slots=True)
class Match:
    """A cause that was found in a text."""

    cause: Cause
    confidence: float  # 0..1; see `SURE`
    start: int  # where in the text as it was read
    line: str  # the line of the text that tells it, not escaped
    numbers: Numbers
    times: int = 1

    def explain(self) -> Explanation:
        return self.cause.explain(self.numbers)


def says(cause: str | Sequence[str], *cure: str, remedy: str = "", instead: str = "") -> Explain:
    """An explanation in fixed words with {names} for what was lifted from the text.

    Of several wordings of the cause that is told whose names are all known; a step of the cure whose names are not is left out.

    >>> explain = says(("{shards} shards, {world} processes", "another number of shards"), "Start {shards}.", "Use puna.")
    >>> explain({"shards": "2"}).cause, explain({"shards": "2"}).cure, explain({}).cure
    ('another number of shards', ('Start 2.', 'Use puna.'), ('Use puna.',))
    """
    wordings = (cause,) if isinstance(cause, str) else tuple(cause)

    def explain(numbers: Numbers) -> Explanation:
        told = next((text for text in (filled(w, numbers) for w in wordings) if text is not None), wordings[-1])
        steps = tuple(step for step in (filled(c, numbers) for c in cure) if step is not None)
        return Explanation(told, steps, remedy, filled(instead, numbers) or "", numbers)

    return explain


def filled(template: str, numbers: Numbers) -> str | None:
    """The template with its {names} replaced; None where one is not known."""
    names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    return template.format_map(numbers) if names <= numbers.keys() else None
