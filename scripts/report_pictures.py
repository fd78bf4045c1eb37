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

QUESTION = "Write one sentence about llamas."
SETTINGS: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 4, "max_tokens": 60}
STEP = 39  # the model wavers between five endings of a word


class Picture(NamedTuple):
    """A file in docs/, what the browser is, and which part of the page is shown at the top."""

    name: str
    browser: dict[str, Any]
    part: str = "header"


PICTURES = (
    Picture("trace-light", {"viewport": {"width": 1280, "height": 1100}}),
    Picture("trace-dark", {"viewport": {"width": 1280, "height": 830}, "color_scheme": "dark"}, "#time"),
    Picture("trace-layers", {"viewport": {"width": 1280, "height": 830}}, "#layers"),
    Picture("trace-phone", {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "color_scheme": "dark"}, ".step"),
)


def main(folder: Path) -> None:
    with LLM() as llm:
        trace = llm.chat_trace(QUESTION, layers=[STEP - 1], **SETTINGS)
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        file = Path(home) / "trace.html"
        file.write_text(trace_page(trace), "utf-8")
        browser = launched(playwright)
        for picture in PICTURES:
            page = browser.new_context(reduced_motion="reduce", **picture.browser).new_page()
            page.goto(f"{file.as_uri()}#{STEP}")
            page.locator(picture.part).evaluate("(part) => part.scrollIntoView()")
            page.wait_for_timeout(300)
            keep(page.screenshot(), folder / f"{picture.name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
