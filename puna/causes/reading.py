"""Prepares a text for matching: removes colours, frames, dates and prefixes; keeps the useful lines of a huge log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

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
      | (?:ERROR|INFO|WARNING|WARN|DEBUG)\ (?=\d\d-\d\d|\[)      # vLLM: level, date, place
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
    was_cut: bool = False  # too long to be searched whole

    @cached_property
    def unwrapped(self) -> str:
        """Break long lines anywhere, also inside words."""
        return self.lower.replace("\n", "")

    def line_at(self, position: int) -> str:
        start = self.shown.rfind("\n", 0, position) + 1
        end = self.shown.find("\n", position)
        return self.shown[start : len(self.shown) if end < 0 else end][:MAX_LINE]


def read(text: str) -> Reading:
    """
    >>> read("\\x1b[31m[rank0]: RuntimeError\\x1b[0m:   x\\r\\n\\r\\n│ y").shown
    'RuntimeError: x\\ny'
    """
    part = text if len(text) <= WHOLE else telling_part(text)
    bare = _COLOUR.sub("", part).translate(_FRAME)
    lines = (_PREFIX.sub("", line.strip()) for line in _SPACES.sub(" ", bare).split("\n"))
    shown = "\n".join(line.strip() for line in lines if line.strip())
    lower = shown.lower()
    return Reading(shown if len(shown) == len(lower) else lower, lower, len(part) < len(text))


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
        for at in (*_places(lower, word, first, last), *_places_backwards(lower, word, first, last)):
            line = max(at - BEFORE, lower.rfind("\n", max(0, at - BEFORE), at))
            likeness = _DIGITS.sub("0", lower[max(0, line) : min(_end_of_line(lower, at), at + 200)])
            seen[likeness] = seen.get(likeness, 0) + 1
            if seen[likeness] <= MAX_ALIKE:
                spans.add((max(first, at - BEFORE), min(last, at + AFTER)))
    return spans


def _places(lower: str, word: str, first: int, last: int) -> Iterator[int]:
    """One match per line, from the front."""
    at = first - 1
    for _ in range(MAX_HITS):
        at = lower.find(word, at + 1, last)
        if at < 0:
            return
        yield at
        at = _end_of_line(lower, at)


def _places_backwards(lower: str, word: str, first: int, last: int) -> Iterator[int]:
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
