"""Matches a text against the causes: whole wordings first, then parts of wordings, then clues.

Whole wordings are searched everywhere; parts and clues only in what a program or a person says, because a command or a traceback
holds words of many causes. The length that `reading` keeps bounds the time for any text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import islice, pairwise
from typing import NamedTuple

from puna.causes import clues
from puna.causes.base import Captures, Cause, Match
from puna.causes.reading import Reading, read
from puna.causes.table import CAUSES
from puna.causes.wording import TRADE, WORD, Wording, compile_wording, shingles

SURE = 0.6  # below this, no cause is known
EXACT = 0.95  # a whole wording
MAX_PART, MAX_TOLD = 0.9, 0.8  # the most that parts and clues can reach
MAX_ASIDE = 0.7  # a wording in a command, in code or in a report, beside an error that no cause explains
MIN_SHARE = 0.5  # share of a wording's shingles
MIN_SHARE_CUT = 0.2  # the same at the start or end of the text, where the rest may be cut off
MIN_SHINGLES = 2
MIN_CLUES = 0.75  # share of their weight
MAX_TALE = 2000  # characters: people describe errors in fewer, and a log contains every word somewhere
NEAR_WORDS = 40  # characters between shingles of one wording, at most
NEAR = 900  # characters around a match that are searched for its numbers
MAX_ANCHORS = 40  # occurrences of a wording's longest word to check one by one
MAX_HITS = 20  # occurrences of one wording to check
ORDER = {"cause": 0, "symptom": 1, "effect": 2}


class Hit(NamedTuple):
    """A position at which a wording matches."""

    start: int
    end: int
    wording: str
    numbers: Captures


def find(text: str) -> tuple[Match, ...]:
    """The causes in a text, root first: causes before symptoms before effects; among equals, asides last, then the first in the
    text. Empty if no cause is known.

    >>> [match.cause.name for match in find("RuntimeError: Distributed package doesn't have NCCL built in")]
    ['nccl-not-built-in']
    >>> find("Roses are red, violets are blue.")
    ()
    """
    reading = read(text)
    exact = _meant(reading, _whole(reading, reading.lower) or _whole(reading, reading.unwrapped))
    if any(match.cause.role == "cause" and not match.is_aside for match in exact):
        return _sorted(exact)
    known = {match.cause.name for match in exact}
    others = [match for match in _meant(reading, _in_part(reading)) if match.cause.name not in known]
    if not exact and not others:
        others = _meant(reading, _told(reading))
    return _doubted(reading, _sorted([*exact, *others]))


def _meant(reading: Reading, matches: Iterable[Match]) -> list[Match]:
    """Those whose position in the text nothing speaks against: an exit code beside the words of another runtime is that one's."""
    return [match for match in matches if not any(word in reading.lower for word in match.cause.unless)]


def _sorted(matches: Iterable[Match]) -> tuple[Match, ...]:
    return tuple(sorted(matches, key=lambda match: (ORDER[match.cause.role], match.is_aside, match.start)))


def _doubted(reading: Reading, matches: tuple[Match, ...]) -> tuple[Match, ...]:
    """Asides alone do not explain an error that the text names."""
    if not reading.names_an_error or not all(match.is_aside for match in matches):
        return matches
    return tuple(replace(match, confidence=min(match.confidence, MAX_ASIDE)) for match in matches)


@cache
def _wordings() -> tuple[tuple[Cause, tuple[Wording, ...]], ...]:
    return tuple((cause, tuple(map(compile_wording, cause.patterns))) for cause in CAUSES)


@cache
def _anchors() -> frozenset[str]:
    """Many wordings share one."""
    return frozenset(wording.anchor for _, wordings in _wordings() for wording in wordings)


# ---- whole wordings


def _whole(reading: Reading, lower: str) -> list[Match]:
    """The causes with a matching wording. Each position belongs to the first matching cause in the table."""
    claimed = bytearray(len(lower))
    anchors = {anchor: _positions(anchor, lower) for anchor in _anchors() if anchor in lower}
    source = reading.shown if len(reading.shown) == len(lower) else lower
    matches = []
    for cause, wordings in _wordings():
        hits = [
            hit
            for wording in wordings
            if wording.anchor in anchors
            for hit in _hits(wording, lower, source, anchors[wording.anchor])
            if 1 not in claimed[hit.start : hit.end]
        ]
        for hit in hits:
            claimed[hit.start : hit.end] = b"\1" * (hit.end - hit.start)
        if hits:
            matches.append(_match(cause, hits, reading, source))
    return matches


def _hits(wording: Wording, lower: str, source: str, positions: list[int]) -> Iterator[Hit]:
    for found in islice(_matches(wording, lower, positions), MAX_HITS):
        spans = {name: found.span(name) for name in found.groupdict()}
        yield Hit(*found.span(), wording.text, {name: " ".join(source[a:b].split()) for name, (a, b) in spans.items()})


def _matches(wording: Wording, lower: str, positions: list[int] | None = None) -> Iterator[re.Match[str]]:
    """Where a wording matches. If its anchor is rare, only the text around the anchor's `positions` is tried."""
    positions = _positions(wording.anchor, lower) if positions is None else positions
    if wording.text.endswith("$") or len(positions) > MAX_ANCHORS:
        yield from wording.pattern.finditer(lower)
        return
    done = 0
    for at in positions:
        if at < done:
            continue
        found = wording.pattern.search(lower, max(done, at - wording.reach), at + wording.reach)
        if (
            found is not None and found.start() <= at and found.end() > done
        ):  # otherwise the match belongs to another anchor and may be cut here
            yield found
            done = found.end()


def _positions(word: str, lower: str) -> list[int]:
    """Where a word stands, at most MAX_ANCHORS + 1 times."""
    positions: list[int] = []
    at = lower.find(word)
    while at >= 0 and len(positions) <= MAX_ANCHORS:
        positions.append(at)
        at = lower.find(word, at + 1)
    return positions


def _match(cause: Cause, hits: list[Hit], reading: Reading, source: str) -> Match:
    """One match for all positions: the first position that is no aside, with the numbers near it."""
    in_lines = source is reading.shown
    hits = sorted(hits)
    first = min(hits, key=lambda hit: (in_lines and reading.is_aside(hit.start, hit.end), hit.start))
    numbers: dict[str, str] = {}
    for hit in (first, *hits):
        if abs(hit.start - first.start) <= NEAR:
            numbers = {**hit.numbers, **numbers}
    line = reading.line_at(first.start, first.end) if in_lines else source[first.start : first.start + 200]
    times = sum(hit.wording == first.wording for hit in hits)
    return Match(cause, EXACT, first.start, line, numbers, times, in_lines and reading.is_aside(first.start, first.end))


# ---- parts of wordings


@cache
def _by_shingle() -> dict[tuple[str, ...], list[tuple[int, Wording]]]:
    """Shingle -> the indices of the causes, and the wordings, that contain it."""
    found: dict[tuple[str, ...], list[tuple[int, Wording]]] = defaultdict(list)
    for number, (_, wordings) in enumerate(_wordings()):
        for wording in wordings:
            for shingle in wording.shingles:
                found[shingle].append((number, wording))
    return found


def _in_part(reading: Reading) -> list[Match]:
    """The causes with enough of a wording in the text; for several near one position, only the likeliest."""
    words = [(found[0], found.start()) for found in WORD.finditer(reading.said)]
    found_shingles: dict[tuple[int, Wording], list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for at, shingle in enumerate(shingles([word for word, _ in words])):
        for key in _by_shingle().get(shingle, ()):
            found_shingles[key].append((at, shingle))
    best: dict[int, Match] = {}
    for (number, wording), found in found_shingles.items():
        confidence, at = _share(wording, found[:MAX_HITS], len(words))
        if confidence > max(SURE - 1e-9, best[number].confidence if number in best else 0):
            start = words[at][1]
            best[number] = Match(CAUSES[number], confidence, start, reading.line_at(start), {})
    likeliest = sorted(best.values(), key=lambda match: -match.confidence)
    return [match for i, match in enumerate(likeliest) if all(abs(match.start - other.start) > NEAR for other in likeliest[:i])]


def _share(wording: Wording, found: list[tuple[int, tuple[str, ...]]], num_words: int) -> tuple[float, int]:
    """The certainty of a wording and the index of its word; 0 if too little of it matches."""
    best, index = 0.0, 0
    for start, _ in found:
        near = [(at, shingle) for at, shingle in found if start <= at <= start + NEAR_WORDS]
        distinct = len({shingle for _, shingle in near})
        share = distinct / len(wording.shingles)
        in_a_row = any(after - at == 1 for (at, _), (after, _) in pairwise(near))
        is_cut = in_a_row and (near[0][0] <= 1 or near[-1][0] >= num_words - 5)
        is_of_the_trade = any(TRADE.intersection(shingle) for _, shingle in near)
        enough = share >= (MIN_SHARE_CUT if is_cut else MIN_SHARE) and distinct >= MIN_SHINGLES and is_of_the_trade
        confidence = SURE + (MAX_PART - SURE) * share if enough else 0.0
        if confidence > best:
            best, index = confidence, start
    return best, index


# ---- clues


def _told(reading: Reading) -> Iterator[Match]:
    """The cause that fits a person's words best."""
    if reading.was_cut or len(reading.lower) > MAX_TALE or not clues.tells_of_trouble(reading.said):
        return
    scored = [
        Match(cause, clues.score(cause.clues, piece) * MAX_TOLD, start, reading.line_at(start), {})
        for start, piece in clues.pieces(reading.said)
        for cause in CAUSES
    ]
    best = max(scored, key=lambda match: (match.confidence, len(match.cause.clues)))
    if best.confidence >= MIN_CLUES * MAX_TOLD - 1e-9:
        yield best
