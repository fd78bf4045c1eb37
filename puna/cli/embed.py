"""puna embed: the embeddings of texts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
from puna.cli.options import (
    MODEL,
    OUTPUT,
    HeadedCommand,
    Whole,
    engine_options,
    json_option,
    load_model,
    lora_name_option,
    option,
    split_model,
    tokenizer_option,
    under,
)
from puna.cli.terminal import TerminalReporter, given_text, print_json, shown_path, tell
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.llm import LLM


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@under(
    "Embeddings",
    option("--lines", is_flag=True, help="Each line of TEXT is a text; skips empty ones."),
    option("--pooling", metavar="WAY", help="mean, last or cls [the model's own, else last]."),
    option("--dimensions", type=Whole(), metavar="N", help="Keep only the first N numbers [all]."),
    option("--raw-length", is_flag=True, help="Do not scale the embedding to length 1."),
)
@engine_options
@under(MODEL, tokenizer_option, lora_name_option)
@under(OUTPUT, json_option)
def command(
    words: tuple[str, ...],
    lines: bool,
    pooling: str | None,
    dimensions: int | None,
    raw_length: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Print the embedding of TEXT (- reads standard input): a line of numbers for each text."""
    model, text = split_model(words, "text to embed")
    texts = _texts(given_text(text, "TEXT"), lines)
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=False)
    with ending_soon(), llm:
        started = time.perf_counter()
        prompts = [llm.encode(one) for one in texts]
        own = {"pooling": pooling, "normalize": not raw_length, "dimensions": dimensions, "lora_name": flags["lora_name"]}
        found = llm.embed(prompts, **own)
        seconds = time.perf_counter() - started
        rows = [[float(f"{number:.9g}") for number in row.tolist()] for row in found]  # nine digits are a whole float32
        counts = [len(prompt) for prompt in prompts]
        if as_json:
            print_json(_facts(llm, pooling or llm.pooling, rows, counts))
        else:
            print("\n".join(" ".join(f"{number:.9g}" for number in row) for row in rows))
        tell(f"{counted(len(rows), 'text')}, {counted(sum(counts), 'token')}, {len(rows[0])} dimensions, {seconds:.2f} s")


def _texts(text: str, lines: bool) -> list[str]:
    found = [line for line in text.splitlines() if line.strip()] if lines else [text]
    if not any(one.strip() for one in found):
        raise UsageError("there is no text to embed", hint='For example: puna embed "What is a llama?"')
    return found


def _facts(llm: LLM, pooling: str, rows: list[list[float]], counts: list[int]) -> dict[str, Any]:
    embeddings = [{"num_tokens": count, "embedding": row} for count, row in zip(counts, rows, strict=True)]
    return {"model": shown_path(llm.path), "pooling": pooling, "dimensions": len(rows[0]), "embeddings": embeddings}
