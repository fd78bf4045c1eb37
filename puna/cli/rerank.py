"""puna rerank: documents, the best answer to a query first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import HeadedCommand, Utf8, Whole, option, reason_of, split_model, under
from puna.cli.single_call import Result, call_model, call_options
from puna.cli.standard_input import read_all
from puna.cli.terminal import given_text, printable
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.llm import LLM
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
@call_options
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

    def call(llm: LLM) -> Result:
        ranked = llm.rerank(query, documents, instruction=instruction, top_n=top_n)
        return Result(
            facts=lambda: {"ranked": [_facts(one, documents) for one in ranked]},
            lines=(f"{one.score:9.4f}  {printable(documents[one.index])}" for one in ranked),
            counts=counted(len(documents), "document"),
        )

    call_model(model, flags, as_json, call)


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
        raise UsageError(f"--documents {file} cannot be read: {reason_of(error)}", hint="Give a text file in UTF-8.") from None


def _facts(one: Ranked, documents: list[str]) -> dict[str, Any]:
    return {"index": one.index, "score": one.score, "document": documents[one.index]}
