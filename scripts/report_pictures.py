"""The pictures of a trace's report in docs/: the default model answers, and headless Chromium takes them.

make pictures
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

from puna.glassbox.report import trace_page
from puna.llm import LLM
from scripts.pictures import DOCS, keep, launched


class Run(NamedTuple):
    """A question, how it is answered, and the step that is shown, from 1."""

    question: str
    settings: dict[str, Any]
    step: int


LLAMAS = Run("Write one sentence about llamas.", {"temperature": 0.8, "top_p": 0.9, "seed": 4, "max_tokens": 60}, 39)
PERU = Run("What is the capital of Peru?", {"layers": [5], "max_tokens": 12}, 6)


class Picture(NamedTuple):
    """A file in docs/, what is shown, what the browser is, and which part of the page is at the top."""

    name: str
    run: Run
    browser: dict[str, Any]
    part: str = "header"


PICTURES = (
    Picture("trace-light", LLAMAS, {"viewport": {"width": 1280, "height": 1100}}),
    Picture("trace-dark", LLAMAS, {"viewport": {"width": 1280, "height": 830}, "color_scheme": "dark"}, "#time"),
    Picture(
        "trace-phone", LLAMAS, {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "color_scheme": "dark"}, ".step"
    ),
    Picture("trace-layers", PERU, {"viewport": {"width": 1280, "height": 830}}, "#layers"),
)


def pages() -> dict[str, str]:
    """The report of each run, by its question."""
    runs = {picture.run.question: picture.run for picture in PICTURES}
    with LLM() as llm:
        return {question: trace_page(llm.chat_trace(question, **run.settings)) for question, run in runs.items()}


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        file, browser, found = Path(home) / "trace.html", launched(playwright), pages()
        for picture in PICTURES:
            file.write_text(found[picture.run.question], "utf-8")
            page = browser.new_context(reduced_motion="reduce", **picture.browser).new_page()
            page.goto(f"{file.as_uri()}#{picture.run.step}")
            page.locator(picture.part).evaluate("(part) => part.scrollIntoView()")
            page.wait_for_timeout(300)
            keep(page.screenshot(), folder / f"{picture.name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
