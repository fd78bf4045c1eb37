"""puna explain: topics are listed, other names are known, and what is neither topic nor source is refused."""

from __future__ import annotations

import json

from puna.explain.topics import OTHER_NAMES, TOPICS, topic_of
from tests.cli.conftest import Puna


def test_alone_it_lists_the_topics(puna: Puna) -> None:
    done = puna("explain")
    assert done.code == 0 and all(topic in done.out for topic in TOPICS)
    assert list(json.loads(puna("explain", "--json").out)["topics"]) == list(TOPICS)


def test_an_unknown_topic_gets_the_nearest_names(puna: Puna) -> None:
    done = puna("explain", "atention")
    assert (done.code, done.err) == (2, "puna: there is no topic 'atention'\nDid you mean attention or quantisation?\n")
    assert puna("explain", "xyzzy").err.endswith(f"The topics are {', '.join(TOPICS)}.\n")


def test_other_names_are_no_topics_themselves() -> None:
    assert not OTHER_NAMES.keys() & set(TOPICS) and set(OTHER_NAMES.values()) <= set(TOPICS)
    assert topic_of("quantization") == "quantisation" and topic_of("no such thing") is None
