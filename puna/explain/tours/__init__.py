"""Guided tours: one file for each topic of `topics.py`. They compute on a live model; the command line draws what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Protocol

from puna.errors import UsageError
from puna.explain.live import LiveModel
from puna.explain.parts import TourPart
from puna.explain.topics import TOPICS
from puna.explain.words import Words

MODULES: Mapping[str, str] = {topic: f"puna.explain.tours.{topic.replace('-', '_')}" for topic in TOPICS}


class TourModule(Protocol):
    """A file of this folder."""

    EXAMPLE: str  # the text that the tour takes if a person gives none; "": it needs none

    @staticmethod
    def tour(live: LiveModel, say: Words, text: str) -> Iterator[TourPart]:
        """The parts of the tour, each computed when it is asked for."""


def parts_of(topic: str, live: LiveModel, language: str, text: str | None = None) -> Iterator[TourPart]:
    """The parts of a tour on a live model, in a language; `text`: the person's own, in place of the example. UsageError for an
    empty one, and for one that the tour cannot show."""
    if text is not None and not text.strip():
        raise UsageError("TEXT is empty", hint='Give some words, for example "My cat is", or leave TEXT out.')
    module: TourModule = import_module(MODULES[topic])  # type: ignore[assignment]
    return module.tour(live, Words(language, topic), module.EXAMPLE if text is None else text)
