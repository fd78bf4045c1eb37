"""puna explain: a guided tour of a topic, or a source file taken apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from puna.cli.options import MODEL, OUTPUT, PROMPT, HeadedCommand, Utf8, json_option, option, tokenizer_option, under
from puna.cli.terminal import argument_text, print_json
from puna.cli.width import pad, report_width
from puna.cli.word_wrap import wrapped
from puna.errors import UsageError
from puna.explain.topics import TOPICS, similar_topics, topic_of
from puna.explain.words import FRAME, Words, language_of


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[TOPIC [TEXT] | FILE[:SYMBOL]]")
@under(PROMPT, option("--lang", metavar="LANGUAGE", help="Of a tour: en, de or zh [as the system's LANG]."))
@under(
    MODEL,
    option("--model", type=Utf8(), metavar="MODEL", help="Show it on this model [the small default model]."),
    tokenizer_option,
)
@under(
    OUTPUT,
    option("--all", "whole", is_flag=True, help="Do not stop after each part; of a long FILE, explain every function."),
    option("--ask", metavar="MODEL|URL", help="Of a FILE: add a chat model's words, by its name or a server's address."),
    json_option,
)
def command(words: tuple[str, ...], lang: str | None, whole: bool, ask: str | None, as_json: bool, **flags: Any) -> None:
    """Explain how a language model works, on a live model with its real numbers.

    TOPIC: a guided tour of a few minutes, with an example or with your TEXT; without a topic, puna lists them. FILE: a Python
    source (- is standard input), or one of its functions, explained block by block. Nothing of it is executed.
    """
    language = language_of(lang)
    if not words:
        print_topics(language, as_json)
    elif (topic := topic_of(words[0])) is not None:
        from puna.cli.explain_tour import show_tour

        if ask is not None:
            raise UsageError("--ask adds prose to a FILE; a tour has its own", hint="Leave --ask out.")
        show_tour(topic, _text_of(words[1:]), language, flags, whole=whole, as_json=as_json)
    elif len(words) == 1 and is_place(words[0]):
        from puna.cli.explain_source import explain_source

        explain_source(words[0], flags, language, ask, whole=whole, as_json=as_json)
    else:
        near = similar_topics(words[0])
        raise UsageError(f"there is no topic {words[0]!r}", hint=near or f"The topics are {', '.join(TOPICS)}.")


def is_place(word: str) -> bool:
    """Whether a word names a source, and no topic: a path, with or without a symbol.

    >>> is_place("generate.py"), is_place("llama/generation.py:Llama.generate"), is_place("-"), is_place("generrate")
    (True, True, True, False)
    """
    return word == "-" or any(sign in word for sign in "./\\:") or Path(word).is_file()


def _text_of(words: tuple[str, ...]) -> str | None:
    """The person's own text for a tour, in quotes or not."""
    return argument_text(" ".join(words), "TEXT") if words else None


def print_topics(language: str, as_json: bool) -> None:
    """List the topics, with a line about each."""
    about = {topic: Words(language, topic)("about") for topic in TOPICS}
    if as_json:
        print_json({"topics": about})
        return
    frame, width = Words(language, FRAME), report_width(sys.stdout)
    first = max(map(len, TOPICS)) + 2
    lines = wrapped(frame("topics"), width)
    for topic, line in about.items():
        lines += wrapped(line, width, pad(f"  {topic}", first + 2), " " * (first + 2))
    print("\n".join([*lines, *wrapped(frame("how"), width)]))
