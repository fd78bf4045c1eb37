"""Writes docs/tours/*.md, the tours as pages, from a run of each on the default model: `python -m scripts.tours [TOPIC ...]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from puna.cli.tour_view import block_lines
from puna.cli.word_wrap import wrapped
from puna.explain.live import LiveModel
from puna.explain.parts import Block, CodeLines, Prose, TourPart
from puna.explain.topics import TOPICS
from puna.explain.tours import parts_of
from puna.explain.words import ENGLISH, Words

FOLDER = Path(__file__).parents[1] / "docs" / "tours"
WIDTH, PAGE_WIDTH = 80, 130  # cells of a picture, and of a line of prose

ABOUT = (
    "How a language model works, shown by running one: `puna explain` lists these tours, `puna explain TOPIC` shows one part by "
    "part, in English, German or Chinese (`--lang`), with your own text and model (`--model`). Each points to the lines of puna "
    "that do the work. For the road as a whole: [How generate works](../how-generate-works.md)."
)


def page(topic: str, parts: Iterable[TourPart]) -> str:
    """The page of a tour: the text and the pictures of a run, and where its code stands; the terminal shows the code itself."""
    about = (
        f"A guided tour, which also runs in your terminal, on your model and with your own text: `puna explain {topic}`. This "
        "page is such a run on the small default model, written by `python -m scripts.tours`; times differ from machine to "
        "machine. [All tours](README.md)"
    )
    head = "\n".join((f"# {Words(ENGLISH, topic)('title')}", *wrapped(about, PAGE_WIDTH)))
    return f"{head}\n" + "".join(f"\n{section(number, part)}" for number, part in enumerate(parts, start=1))


def section(number: int, part: TourPart) -> str:
    return f"## {number}. {part.title}\n" + "\n".join(map(shown, part.blocks))


def shown(block: Block) -> str:
    """A block in Markdown."""
    if isinstance(block, Prose):
        return "\n".join(wrapped(_escaped(block.text), PAGE_WIDTH)) + "\n"
    if isinstance(block, CodeLines):
        return f"The code: `{block.name}` in [{block.file}](../../{block.file})\n"
    return "```text\n" + "\n".join(line.rstrip() for line in block_lines(block, WIDTH)) + "\n```\n"


def _escaped(text: str) -> str:
    """Prose without signs that Markdown would read."""
    for sign in ("<", "*"):
        text = text.replace(sign, f"\\{sign}")
    return text


def listed() -> Iterator[str]:
    """The lines of the list of tours."""
    yield "# Guided tours of a language model"
    yield from wrapped(ABOUT, PAGE_WIDTH)
    yield ""
    for topic in TOPICS:
        yield f"- [{topic}]({topic}.md): {Words(ENGLISH, topic)('about')}"


def main(topics: list[str]) -> None:
    from puna import hub
    from puna.llm import LLM
    from puna.progress import SILENT

    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "README.md").write_text("\n".join(listed()) + "\n", "utf-8")
    path = hub.resolve(None)
    live = LiveModel(path, lambda settings: LLM(path, report=SILENT, **settings))
    for topic in topics or TOPICS:
        (FOLDER / f"{topic}.md").write_text(page(topic, parts_of(topic, live, ENGLISH)), "utf-8")
    live.close()


if __name__ == "__main__":
    main(sys.argv[1:])
