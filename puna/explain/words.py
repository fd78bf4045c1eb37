"""The texts of the tours, in the language of a person: files of `tours/texts/`, one for each language and topic.

Numbers stand in a text as named places with Python's formats, "{share:.1%}", and are written as the language writes them.
"""

from __future__ import annotations

import os
import re
import string
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from puna.errors import UsageError, did_you_mean
from puna.explain.parts import Prose

FOLDER = Path(__file__).parent / "tours" / "texts"
FRAME = "frame"  # the texts around the tours


class Language(NamedTuple):
    """How a language writes numbers."""

    name: str
    decimal: str  # between a whole number and its fraction
    percent: str


LANGUAGES = {
    "en": Language("English", ".", "%"),
    "de": Language("Deutsch", ",", " %"),
    "zh": Language("中文", ".", "%"),
}
ENGLISH = "en"


def language_of(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The language that `--lang` names, else that of the locale, else English. UsageError for one that puna lacks.

    >>> language_of(None, {"LANG": "de_AT.UTF-8"}), language_of("zh-CN", {}), language_of(None, {"LANG": "fr_FR"})
    ('de', 'zh', 'en')
    """
    if given is not None:
        if (code := given[:2].lower()) in LANGUAGES and (len(given) == 2 or given[2] in "-_"):
            return code
        known = ", ".join(f"{code} ({one.name})" for code, one in LANGUAGES.items())
        raise UsageError(f"--lang is {given!r}; puna has {known}", hint=did_you_mean(given, LANGUAGES))
    locale = next((found for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (found := environment.get(name))), "")
    return locale[:2].lower() if locale[:2].lower() in LANGUAGES else ENGLISH


@cache
def texts_of(language: str, topic: str) -> Mapping[str, str]:
    """Name -> text: those of a table are "table.name"."""
    with (FOLDER / language / f"{topic}.toml").open("rb") as file:
        return dict(_flat(tomllib.load(file)))


def _flat(table: Mapping[str, Any], beginning: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{beginning}{name}.")
        else:
            yield f"{beginning}{name}", str(value)


def places_in(text: str) -> list[tuple[str, str]]:
    """The places of a text, sorted: (name, format).

    >>> places_in("{count} of {share:.1%}")
    [('count', ''), ('share', '.1%')]
    """
    return sorted((name, form or "") for _, name, form, _ in string.Formatter().parse(text) if name is not None)


class Words(string.Formatter):
    """The texts of one topic in one language."""

    def __init__(self, language: str, topic: str) -> None:
        self.language, self.topic = language, topic
        self._texts, self._numbers = texts_of(language, topic), LANGUAGES[language]

    def __call__(self, key: str, /, **places: Any) -> str:
        """A text, its places filled."""
        return self.vformat(self._texts[key], (), places)

    def prose(self, key: str, /, **places: Any) -> Iterator[Prose]:
        """The paragraphs of a text."""
        for paragraph in self(key, **places).split("\n\n"):
            yield Prose(self._joined(paragraph))

    def _joined(self, paragraph: str) -> str:
        """Its lines as one: Chinese puts no space where a line of the file ends."""
        return ("" if self.language == "zh" else " ").join(line.strip() for line in paragraph.strip().split("\n"))

    def head(self, key: str, /) -> tuple[str, ...]:
        """The head of a table, whose columns stand between bars."""
        return tuple(cell.strip() for cell in self(key).split("|"))

    def number(self, value: float, form: str = ".2f") -> str:
        """A number as the language writes it.

        >>> Words("de", "frame").number(0.279, ".1%"), Words("en", "frame").number(-1.5)
        ('27,9 %', '-1.50')
        """
        return format(value, form).replace(".", self._numbers.decimal).replace("%", self._numbers.percent)

    def measured(self, text: str) -> str:
        """A number with a unit, from `units.py`, as the language writes it.

        >>> Words("de", "frame").measured("22.5 KiB")
        '22,5 KiB'
        """
        return re.sub(r"(?<=\d)\.(?=\d)", self._numbers.decimal, text)

    def format_field(self, value: Any, format_spec: str) -> str:
        return self.number(value, format_spec) if isinstance(value, float) else format(value, format_spec)

    def numbers(self, values: Iterable[float], form: str = ".2f") -> str:
        """Numbers in a row."""
        return "  ".join(self.number(float(value), form) for value in values)
