"""puna explain: a guided tour of a topic, or a source file taken apart."""

from __future__ import annotations

import click

from puna.cli.options import MODEL, OUTPUT, HeadedCommand, Utf8, json_option, option, under
from puna.cli.terminal import print_json
from puna.errors import UsageError
from puna.explain.topics import TOPICS, similar_topics, topic_of


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, type=Utf8(), metavar="[TOPIC [TEXT] | FILE[:SYMBOL]]")
@under(MODEL, option("--model", type=Utf8(), metavar="MODEL", help="Show it on this model [the small default model]."))
@under(OUTPUT, json_option)
def command(words: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """Explain how a language model works, on a live model with its real numbers.

    TOPIC: a guided tour of a few minutes; without one, the topics are listed. FILE: a Python source, explained block by block
    """
    if not words:
        print_topics(as_json)
    elif (topic := topic_of(words[0])) is not None:
        raise UsageError(f"the tour of {topic} is not here yet")
    elif len(words) == 1 and is_place(words[0]):
        from puna.cli.explain_source import explain_source

        explain_source(words[0], model, as_json)
    else:
        near = similar_topics(words[0])
        raise UsageError(f"there is no topic {words[0]!r}", hint=near or f"The topics are {', '.join(TOPICS)}.")


def is_place(word: str) -> bool:
    """Whether a word names a source, and no topic: a path, with or without a symbol.

    >>> is_place("generate.py"), is_place("llama/generation.py:Llama.generate"), is_place("generrate")
    (True, True, False)
    """
    return any(sign in word for sign in "./\\:")


def print_topics(as_json: bool) -> None:
    if as_json:
        print_json({"topics": list(TOPICS)})
    else:
        print("\n".join(TOPICS))
