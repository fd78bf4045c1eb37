"""Prepares a text for matching: removes colours, frames, dates and prefixes; keeps the useful lines of a huge log; tells what a
program says from what only stands around it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from puna.causes.lines import ASIDES, LineKind, kinds

WHOLE = 1 << 18  # characters: a text up to this length is searched whole
MAX_KEPT = 1 << 18  # characters kept of a longer text
MAX_LINE = 2000
BEFORE, AFTER = 300, 700  # characters of context around a useful line
MAX_HITS = 2000  # lines with one of the words below to check, from either end
HEAD, TAIL = 1 << 14, 1 << 16  # last characters of a long text, kept unchanged: errors are at the end
MAX_ALIKE = 2  # lines that differ in digits only
TELLING = (
    *("error", "exception", "fail", "cuda", "nccl", "nvidia", "nvrm", "memory", "killed", "sigkill", "assert", "cannot"),
    *("not found", "unable", "unsupported", "invalid", "mismatch", "warning", "illegal", "tensor", "truncat", "no space"),
)

_COLOUR = re.compile("\x1b(?:\\[[0-9;?]{0,24}[ -/]{0,2}[@-~]|[@-Z\\\\^_])")
_FRAME = str.maketrans(
    {**dict.fromkeys("│┃╭╮╰╯─━❱█▕▏", " "), "’": "'", "‘": "'", "“": '"', "”": '"', "\r": "\n", "\xa0": " ", "\0": ""}
)
_SPACES = re.compile(r"[ \t\f\v]+")
_DIGITS = re.compile(r"\d+")
_PREFIX = re.compile(
    r"""^(?:(?:
        >                                                        # a quotation
      | \([\w.-]{1,40}\ pid=\d{1,9}\)                            # vLLM: the process
      | \[rank\d{1,5}\]:                                         # torchrun: the rank
      | [\w.-]{1,40}\ \|                                         # docker compose: the service
      | \[?\d{4}-\d\d-\d\d[T\ ][\d:.,+Z-]{5,32}\]?               # dates
      | [A-Z][a-z]{2}\ \d{1,2}\ \d\d:\d\d:\d\d\ [\w.-]{1,64}\ [\w.@/-]{1,64}\[\d{1,9}\]:   # journald
      | \[\ ?\d{1,9}\.\d{1,9}\]                                  # the kernel's clock
      | (?:ERROR|INFO|WARNING|WARN|DEBUG)\ (?=\d\d-\d\d|\[)      # vLLM: level, date, source line
      | \d\d-\d\d\ \d\d:\d\d:\d\d
      | \[[\w./-]{1,40}\.py:\d{1,6}\]
      | NVRM:
    )\ ?){1,6}""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Reading:
    """A text in the form that wordings match."""

    shown: str  # in its original case
    lower: str  # the same in lower case
    kinds: tuple[LineKind, ...]  # of each line
    was_cut: bool = False  # too long to be searched whole

    @cached_property
    def unwrapped(self) -> str:
        """Break long lines anywhere, also inside words."""
        return self.lower.replace("\n", "")

    @cached_property
    def said(self) -> str:
        """`lower` with its asides blanked: commands, code and reports. All of it if there is nothing else."""
        lines = self.lower.split("\n")
        blanked = "\n".join(" " * len(line) if kind in ASIDES else line for line, kind in zip(lines, self.kinds, strict=True))
        return blanked if blanked.strip() else self.lower

    @property
    def error(self) -> str:
        """The line to quote if nothing is known: the last that names an error, else the last that says anything."""
        first, *more = self.shown[self.error_at :].split("\n", 2)
        return " ".join([first, *more[:1]] if first.endswith(":") else [first])[:MAX_LINE]  # the message may begin below its name

    @cached_property
    def error_at(self) -> int:
        named = [i for i, kind in enumerate(self.kinds) if kind == "error"]
        spoken = [i for i, kind in enumerate(self.kinds) if kind not in ASIDES]
        return self._starts[(named or spoken or range(len(self.kinds)))[-1]]

    @property
    def names_an_error(self) -> bool:
        return "error" in self.kinds

    def line_at(self, start: int, end: int = 0) -> str:
        """The line at a position; of a span of lines the last that names an error, else the first that is no aside."""
        lines = range(self._number(start), self._number(max(start, end - 1)) + 1)
        spoken = [i for i in lines if self.kinds[i] not in ASIDES]
        number = next((i for i in reversed(spoken) if self.kinds[i] == "error"), next(iter(spoken), lines[0]))
        return self.shown[self._starts[number] : self._starts[number + 1] - 1][:MAX_LINE]

    def is_aside(self, start: int, end: int) -> bool:
        """Whether a span lies in commands, code and reports alone."""
        return all(self.kinds[i] in ASIDES for i in range(self._number(start), self._number(max(start, end - 1)) + 1))

    @cached_property
    def _starts(self) -> list[int]:
        """Where each line begins, and one position more."""
        return list(accumulate((len(line) + 1 for line in self.shown.split("\n")), initial=0))

    def _number(self, position: int) -> int:
        return min(bisect_right(self._starts, position), len(self.kinds)) - 1


def read(text: str) -> Reading:
    """
    >>> read("\\x1b[31m[rank0]: RuntimeError\\x1b[0m:   x\\r\\n\\r\\n│ y").shown
    'RuntimeError: x\\ny'
    """
    part = text if len(text) <= WHOLE else telling_part(text)
    bare = _COLOUR.sub("", part).translate(_FRAME)
    rows = ((line.strip(), _PREFIX.sub("", line.strip()).strip()) for line in _SPACES.sub(" ", bare).split("\n"))
    kept = [(whole, line) for whole, line in rows if line] or [("", "")]
    shown = "\n".join(line for _, line in kept)
    lower = shown.lower()
    return Reading(shown if len(shown) == len(lower) else lower, lower, tuple(kinds(kept)), len(part) < len(text))


def telling_part(text: str) -> str:
    """The beginning and end of a long text, and in between, in order, the lines with error words and their context; each kind of
    line at most twice.
    """
    lower = text.lower()
    source = text if len(lower) == len(text) else lower
    first, last = HEAD, len(source) - TAIL
    kept, end, size = [source[:HEAD]], first, HEAD + TAIL
    for start, stop in sorted(_spans(lower, first, last)):
        start = max(start, end)
        if start < stop and size < MAX_KEPT:
            kept.append(source[start:stop])
            size += stop - start
            end = stop
    return "\n".join([*kept, source[max(end, last) :]])


def _spans(lower: str, first: int, last: int) -> set[tuple[int, int]]:
    """Spans of useful lines between two positions, with some context."""
    spans: set[tuple[int, int]] = set()
    seen: dict[str, int] = {}
    for word in TELLING:
        alike: dict[str, str] = {}  # many lines are the same: see each once
        for at in (*_hits(lower, word, first, last), *_hits_backwards(lower, word, first, last)):
            line = max(at - BEFORE, lower.rfind("\n", max(0, at - BEFORE), at))
            around = lower[max(0, line) : min(_end_of_line(lower, at), at + 200)]
            likeness = alike.get(around) or alike.setdefault(around, _DIGITS.sub("0", around))
            seen[likeness] = seen.get(likeness, 0) + 1
            if seen[likeness] <= MAX_ALIKE:
                spans.add((max(first, at - BEFORE), min(last, at + AFTER)))
    return spans


def _hits(lower: str, word: str, first: int, last: int) -> Iterator[int]:
    """One match per line, from the front."""
    at = first - 1
    for _ in range(MAX_HITS):
        at = lower.find(word, at + 1, last)
        if at < 0:
            return
        yield at
        at = _end_of_line(lower, at)


def _hits_backwards(lower: str, word: str, first: int, last: int) -> Iterator[int]:
    """One match per line, from the end."""
    for _ in range(MAX_HITS):
        at = lower.rfind(word, first, last)
        if at < 0:
            return
        yield at
        last = max(lower.rfind("\n", max(first, at - AFTER), at), at - AFTER, first)


def _end_of_line(lower: str, at: int) -> int:
    end = lower.find("\n", at, at + AFTER)
    return at + AFTER if end < 0 else end
