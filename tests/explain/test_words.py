"""The texts of the tours: the three languages have the same keys and places, and numbers are written as each writes them."""

from __future__ import annotations

import re

import pytest

from puna.cli.main import COMMANDS
from puna.cli.width import display_width
from puna.errors import UsageError
from puna.explain.topics import TOPICS
from puna.explain.words import ENGLISH, FOLDER, FRAME, LANGUAGES, Words, language_of, places_in, texts_of

OTHERS = [language for language in LANGUAGES if language != ENGLISH]
FILES = (FRAME, *TOPICS)


def commands_in(text: str) -> list[str]:
    """The flags and commands of puna that a text names."""
    return sorted(re.findall(rf"puna (?:{'|'.join(COMMANDS)})\b|--[a-z-]+", text))


@pytest.mark.parametrize("topic", FILES)
@pytest.mark.parametrize("language", OTHERS)
def test_all_languages_have_the_same_keys_and_places(language: str, topic: str) -> None:
    ours, english = texts_of(language, topic), texts_of(ENGLISH, topic)
    assert list(ours) == list(english)
    for key, text in english.items():
        assert set(places_in(ours[key])) == set(places_in(text)), key


@pytest.mark.parametrize("language", OTHERS)
def test_sentences_are_translated_and_commands_are_the_same(language: str) -> None:
    for topic in TOPICS:
        ours, english = texts_of(language, topic), texts_of(ENGLISH, topic)
        for key, text in english.items():
            assert len(text.split()) < 7 or ours[key] != text, f"{topic}.{key}"
            assert commands_in(ours[key]) == commands_in(text), f"{topic}.{key}"


def test_there_is_a_file_for_each_topic_and_no_other() -> None:
    for language in LANGUAGES:
        assert {path.stem for path in (FOLDER / language).iterdir()} == set(FILES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_list_of_topics_has_a_line_for_each(language: str) -> None:
    assert max(display_width(Words(language, topic)("about")) for topic in TOPICS) <= 64


def test_a_number_is_written_as_the_language_writes_it() -> None:
    assert [Words(language, FRAME).number(1234.5, ".1f") for language in LANGUAGES] == ["1234.5", "1234,5", "1234.5"]


def test_the_language_is_the_flag_s_then_the_locale_s() -> None:
    assert language_of("DE", {"LANG": "zh_CN.UTF-8"}) == "de"
    assert language_of(None, {"LC_ALL": "zh_CN.UTF-8", "LANG": "de_DE.UTF-8"}) == "zh"
    assert language_of(None, {"LC_ALL": "", "LANG": "C.UTF-8"}) == "en" and language_of(None, {}) == "en"
    with pytest.raises(UsageError, match="--lang is 'fr'; puna has en"):
        language_of("fr", {})


def test_the_tone_is_calm() -> None:
    for language in LANGUAGES:
        for topic in FILES:
            assert not [text for text in texts_of(language, topic).values() if "!" in text or "！" in text]
