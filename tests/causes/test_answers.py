"""What an answer says about a real text: the number, the flag and the version that help, and nothing that does not."""

from __future__ import annotations

from typing import Any

import pytest

from puna.causes import SURE, find
from tests.causes.corpus import texts
from tests.causes.test_causes import NAMES

ANSWERS = texts("answers")


@pytest.mark.parametrize("entry", ANSWERS, ids=lambda entry: entry["source"])
def test_every_text_gets_its_cause_and_what_the_answer_must_say(entry: dict[str, Any]) -> None:
    matches = find(entry["text"])
    assert matches and matches[0].cause.name == entry["cause"] and matches[0].confidence >= SURE, matches
    told = matches[0].explain()
    answer = "\n".join((told.cause, *told.cure))
    missing = [words for words in entry.get("says", ()) if words.lower() not in answer.lower()]
    assert missing == [] and [words for words in entry.get("never", ()) if words in answer] == [], answer


def test_the_texts_say_where_they_are_from_and_what_was_said_first() -> None:
    assert all(entry["source"] and entry["cause"] in NAMES and "was" in entry for entry in ANSWERS)
    assert len({entry["source"] for entry in ANSWERS}) == len(ANSWERS) >= 60
