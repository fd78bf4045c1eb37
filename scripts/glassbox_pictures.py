"""The pictures of the page's glass box in docs/: the default model answers, and headless Chromium takes them.

make pictures
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

from puna.llm import LLM
from puna.server.models import ServedModel
from scripts.pictures import DOCS, keep, launched
from tests.server.serving import RunningServer, serving

DONE = "#send:not([hidden])"
TYPED = {"temperature": "0.8", "top_p": "0.9", "seed": "5", "max_tokens": "60"}
QUESTION = "Tell me about llamas in two sentences."
PLACE = 8  # of the token that is looked at
TALL, PHONE = {"width": 1280, "height": 1000}, {"width": 390, "height": 844}


class Picture(NamedTuple):
    """A file in docs/, what is done before it is taken, and what the browser is."""

    name: str
    pose: Callable[[Any], None]
    browser: dict[str, Any]


def look(page: Any) -> None:
    """Look into the answer, at one of its tokens."""
    page.locator(".look").last.click()
    page.locator("#glassbox .version.active .token").nth(PLACE).click()
    page.wait_for_selector("#own-words")
    page.wait_for_timeout(500)


def branch(page: Any) -> None:
    look(page)
    page.locator("#glassbox .choice-row:not(.removed):not(.taken) button").first.click()
    page.wait_for_selector(DONE, state="attached")
    page.wait_for_selector("#glassbox .version.active .token.forced")
    page.wait_for_selector("#glassbox .choice-row.taken")


def turn(page: Any) -> None:
    look(page)
    page.locator("#knob-temperature").fill("1.6")
    page.fill("#own-words", "goat\nsmall camel\nbanana")
    page.click("#rank")
    page.wait_for_selector(".ranked-row")
    page.wait_for_timeout(600)
    page.evaluate("document.querySelector('.step-pane').scrollTop = document.querySelector('.knobs').offsetTop - 120")


PICTURES = (
    Picture("page-glassbox", branch, {"viewport": TALL, "locale": "en-US"}),
    Picture("page-glassbox-settings", turn, {"viewport": TALL, "locale": "en-US", "color_scheme": "dark"}),
    Picture("page-glassbox-phone", look, {"viewport": PHONE, "locale": "de-DE", "is_mobile": True}),
)


def taken(browser: Any, server: RunningServer, picture: Picture) -> bytes:
    page = browser.new_context(reduced_motion="reduce", **picture.browser).new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    page.evaluate("typed => localStorage.setItem('puna.sampling', typed)", json.dumps(TYPED))
    page.wait_for_selector("#models .choice", state="attached")
    page.fill("#prompt", QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    picture.pose(page)
    page.mouse.move(640, 20)
    page.wait_for_timeout(300)
    png: bytes = page.screenshot()
    return png


def main(folder: Path) -> None:
    with serving(ServedModel("smollm2-135m", None, LLM())) as server, sync_playwright() as playwright:
        browser = launched(playwright)
        for picture in PICTURES:
            keep(taken(browser, server, picture), folder / f"{picture.name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
