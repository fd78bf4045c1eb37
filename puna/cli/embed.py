"""puna embed: the embeddings of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import MODEL, HeadedCommand, Whole, lora_name_option, option, split_model, under
from puna.cli.single_call import Result, call_model, call_options
from puna.cli.terminal import given_text
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.llm import LLM
    from puna.pooling import Floats


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] TEXT")
@under(
    "Embeddings",
    option("--lines", is_flag=True, help="Each line of TEXT is a text; skips empty ones."),
    option("--pooling", metavar="WAY", help="mean, last or cls [the model's own, else last]."),
    option("--dimensions", type=Whole(), metavar="N", help="Keep only the first N numbers [all]."),
    option("--raw-length", is_flag=True, help="Do not scale the embedding to length 1."),
)
@call_options
@under(MODEL, lora_name_option)
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
    own = {"pooling": pooling, "normalize": not raw_length, "dimensions": dimensions, "lora_name": flags["lora_name"]}

    def call(llm: LLM) -> Result:
        prompts = [llm.encode(one) for one in texts]
        found = llm.embed(prompts, **own)
        counts = [len(prompt) for prompt in prompts]
        return Result(
            facts=lambda: _facts(pooling or llm.pooling, found, counts),
            lines=(" ".join(_written(number) for number in row.tolist()) for row in found),
            counts=f"{counted(len(texts), 'text')}, {counted(sum(counts), 'token')}, {found.shape[1]} dimensions",
        )

    call_model(model, flags, as_json, call)


def _written(number: float) -> str:
    """Nine digits, which are a whole float32."""
    return f"{number:.9g}"


def _texts(text: str, lines: bool) -> list[str]:
    found = [line for line in text.splitlines() if line.strip()] if lines else [text]
    if not any(one.strip() for one in found):
        raise UsageError("there is no text to embed", hint='For example: puna embed "What is a llama?"')
    return found


def _facts(pooling: str, found: Floats, counts: list[int]) -> dict[str, Any]:
    rows = [[float(_written(number)) for number in row] for row in found.tolist()]
    embeddings = [{"num_tokens": count, "embedding": row} for count, row in zip(counts, rows, strict=True)]
    return {"pooling": pooling, "dimensions": found.shape[1], "embeddings": embeddings}
