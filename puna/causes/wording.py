"""Wordings: error texts as programs print them, in lower case, with places for what differs.

  out of memory            these words, with a space, the end of a line or nothing between them
  tried to allocate {wanted:size}   a value that is lifted; its kinds are in FIELDS
  gpu ... is free          at most MAX_GAP characters between
  ^killed$                 a line that begins or ends here

They become regular expressions without nested repetition, so that no text can make them slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_GAP = 160
FIELDS = {
    "int": r"\d{1,12}",
    "number": r"\d{1,12}(?:[.,]\d{1,6})?",
    "size": r"\d{1,12}(?:[.,]\d{1,6})?\s?(?:[kmgt]i?b|bytes)",
    "word": r"[^\s'\"`,;()<>\[\]{}]{1,120}",
    "path": r"[^\s'\"`,;()<>]{1,200}",
}
_PLACE = re.compile(r"\{(?P<name>[a-z_]+):(?P<kind>[a-z]+)\}|(?P<gap> ?\.\.\. ?)|(?P<space> )")
WORD = re.compile(r"[a-z0-9_']+")
SHINGLE = 3  # words that follow each other: fewer are in any text, more are cut too often


@dataclass(frozen=True, slots=True)
class Wording:
    """A wording, ready to be looked for."""

    text: str
    pattern: re.Pattern[str]
    anchor: str  # its longest word without a place: a text that lacks it is not looked at further
    shingles: frozenset[tuple[str, ...]]  # SHINGLE words in a row, by which a part of it is known again


def compile_wording(text: str) -> Wording:
    """
    >>> found = compile_wording("mp={shards:int} but world size is {world:word}").pattern.search("mp=2 but world\\nsize is none")
    >>> found.groupdict()
    {'shards': '2', 'world': 'none'}
    """
    inner = text.removeprefix("^").removesuffix("$")
    pattern = ("^" if text.startswith("^") else "") + _expression(inner) + ("$" if text.endswith("$") else "")
    literals = _PLACE.sub(" \0 ", inner.replace(" ", "\1")).replace("\1", " ")
    words = max(literals.replace("\0", " ").split(), key=len)
    return Wording(text, re.compile(pattern, re.MULTILINE), words, frozenset(_shingles(literals)))


def shingles(words: list[str]) -> list[tuple[str, ...]]:
    """Each run of SHINGLE words.

    >>> shingles("a b c d".split())
    [('a', 'b', 'c'), ('b', 'c', 'd')]
    """
    return [tuple(words[i : i + SHINGLE]) for i in range(len(words) - SHINGLE + 1)]


def _expression(text: str) -> str:
    parts, end = [], 0
    for place in _PLACE.finditer(text):
        parts += [re.escape(text[end : place.start()]), _place(place)]
        end = place.end()
    return "".join([*parts, re.escape(text[end:])])


def _place(place: re.Match[str]) -> str:
    if place["gap"]:
        return f"(?s:.{{0,{MAX_GAP}}}?)"
    return r"\s?" if place["space"] else f"(?P<{place['name']}>{FIELDS[place['kind']]})"


def _shingles(literals: str) -> list[tuple[str, ...]]:
    """Those of each part between two places: a value stands between words that do not follow each other."""
    return [run for part in literals.split("\0") for run in shingles(WORD.findall(part))]
