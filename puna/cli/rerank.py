"""puna rerank: documents, the best answer to a query first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
from puna.cli.options import (
    MODEL,
    OUTPUT,
    HeadedCommand,
    Utf8,
    Whole,
    engine_options,
    json_option,
    load_model,
    option,
    split_model,
    tokenizer_option,
    under,
)
from puna.cli.standard_input import read_all
from puna.cli.terminal import TerminalReporter, given_text, print_json, printable, shown_path, tell
from puna.errors import UsageError, first_line
from puna.units import counted

if TYPE_CHECKING:
    from puna.rerank import Ranked


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] QUERY")
@under(
    "Documents",
    option("--document", "given", multiple=True, type=Utf8(), metavar="TEXT", help="A document; repeatable."),
    option("--documents", "file", metavar="FILE", help="Each line of FILE is one (-: of standard input)."),
    option("--top-n", type=Whole(low=1), metavar="N", help="Print only the best N [all]."),
    option("--instruction", type=Utf8(), metavar="TEXT", help="What makes a document good [web search]."),
)
@engine_options
@under(MODEL, tokenizer_option)
@under(OUTPUT, json_option)
def command(
    words: tuple[str, ...],
    given: tuple[str, ...],
    file: str | None,
    top_n: int | None,
    instruction: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print documents with their scores, the best answer to QUERY first.

    The score is the model's own, if it was trained to rank; any other model is asked, and its score is the probability of "yes".
    """
    model, query = split_model(words, "QUERY")
    query, documents = given_text(query, "QUERY"), _documents(given, file)
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=False)
    with ending_soon(), llm:
        started = time.perf_counter()
        ranked = llm.rerank(query, documents, instruction=instruction, top_n=top_n)
        seconds = time.perf_counter() - started
        if as_json:
            print_json({"model": shown_path(llm.path), "ranked": [_facts(one, documents) for one in ranked]})
        else:
            print("\n".join(f"{one.score:9.4f}  {printable(documents[one.index])}" for one in ranked))
        tell(f"{counted(len(documents), 'document')}, {seconds:.2f} s")


def _documents(given: tuple[str, ...], file: str | None) -> list[str]:
    """The documents of the flags, then those of the file. UsageError if there are none."""
    text = "" if file is None else read_all() if file == "-" else _read(file)
    documents = [*given, *(line for line in text.splitlines() if line.strip())]
    if not documents:
        raise UsageError("there are no documents", hint='Give --document "..." once or more, or --documents FILE.')
    return documents


def _read(file: str) -> str:
    try:
        return Path(file).expanduser().read_text("utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"--documents {file} cannot be read: {first_line(error)}", hint="Give a text file in UTF-8.") from None


def _facts(one: Ranked, documents: list[str]) -> dict[str, Any]:
    return {"index": one.index, "score": one.score, "document": documents[one.index]}
