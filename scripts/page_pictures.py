"""The pictures of the web page in docs/: headless Chromium takes them, and a script writes the answers.

make pictures
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import sync_playwright

from scripts.pictures import DOCS, keep, launched
from tests.server.scripted import last_question, scripted_model
from tests.server.serving import TEMPLATE, serving

DESKTOP, PHONE = {"width": 1280, "height": 820}, {"width": 390, "height": 800}
THINKING = TEMPLATE + "{# <think> </think> #}"
DONE = "#send:not([hidden])"

ENGLISH = """A **llama** is a domesticated camelid of the high Andes. Herders keep it for three things:

| what | how much |
|:--|--:|
| load | 25 to 30 kg a day |
| wool | 2 to 3 kg a year |
| company | all day long |

It can carry about a quarter of its weight, so:

```python
def load(weight: float) -> float:
    \"\"\"How much a llama carries, in kg.\"\"\"
    return 0.25 * weight
```
"""
GERMAN = """Ein **Lama** ist ein Kamel der hohen Anden. Hirten halten es aus drei Gründen:

1. Es trägt 25 bis 30 kg am Tag.
2. Es gibt 2 bis 3 kg Wolle im Jahr.
3. Es leistet Gesellschaft.

| Tier | Gewicht |
|:--|--:|
| Lama | 130 kg |
| Alpaka | 65 kg |
"""
CHINESE = """**美洲驼**是安第斯高原上驯养的骆驼科动物。牧民饲养它有三个理由：

1. 一天能驮 25 到 30 公斤；
2. 一年产 2 到 3 公斤毛；
3. 整天陪伴主人。

| 动物 | 体重 |
|:--|--:|
| 美洲驼 | 130 公斤 |
| 羊驼 | 65 公斤 |
"""
THOUGHTS = (
    "Seven of them. A llama weighs about 130 kg and carries a quarter of that: 32.5 kg. But the table says 25 to 30 kg a day, "
    "so a quarter is the most, not the rule. Does the question ask for the most that the herd can carry, or for a usual day? "
    "Take both. The most is 7 x 32.5 = 227.5 kg. A usual day is 7 x 25 = 175 kg up to 7 x 30 = 210 kg. Let me check the first "
    "product: 7 x 30 = 210 and 7 x 2.5 = 17.5, together 227.5. Now, is a herd as strong as its strongest animal? "
)
ANSWERS = {"What is a llama?": ENGLISH, "Was ist ein Lama?": GERMAN, "什么是美洲驼？": CHINESE}


def answer(prompt: str) -> str:
    question = last_question(prompt)
    return ANSWERS.get(question) or f"<think>{THOUGHTS * 9}</think>About 227 kg: seven llamas, each with a quarter of its weight."


class Picture(NamedTuple):
    """A file in docs/, what the browser is, and what is done before the picture is taken."""

    name: str
    pose: Callable[[Any], None]
    browser: dict[str, Any]


def ask(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)


def chat(question: str) -> Callable[[Any], None]:
    return lambda page: ask(page, question)


def think(page: Any) -> None:
    ask(page, "What is a llama?")
    page.fill("#prompt", "How much do seven of them carry?")
    page.keyboard.press("Enter")
    page.locator(".thoughts summary").last.click()
    page.get_by_text("together 227.5").wait_for()


def inspect(page: Any) -> None:
    ask(page, "What is a llama?")
    page.click("#open-inspector")
    page.click("#tab-python")


PICTURES = (
    Picture("page-light", chat("What is a llama?"), {"viewport": DESKTOP, "locale": "en-US"}),
    Picture("page-dark", think, {"viewport": DESKTOP, "locale": "en-US", "color_scheme": "dark"}),
    Picture("page-empty", lambda page: None, {"viewport": DESKTOP, "locale": "en-US"}),
    Picture("page-inspector", inspect, {"viewport": DESKTOP, "locale": "en-US"}),
    Picture("page-chinese", chat("什么是美洲驼？"), {"viewport": DESKTOP, "locale": "zh-CN"}),
    Picture("page-phone-german", chat("Was ist ein Lama?"), {"viewport": PHONE, "locale": "de-DE", "is_mobile": True}),
)


@contextmanager
def opened(browser: Any, port: int, picture: Picture) -> Iterator[Any]:
    context = browser.new_context(reduced_motion="reduce", **picture.browser)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#models .choice", state="attached")
    yield page
    page.keyboard.press("Escape")  # an answer that is still coming is stopped first
    page.wait_for_selector(DONE)
    context.close()


def main(folder: Path) -> None:
    with serving(scripted_model(answer, "demo", 0.001, THINKING)) as server, sync_playwright() as playwright:
        browser = launched(playwright)
        for picture in PICTURES:
            with opened(browser, server.port, picture) as page:
                picture.pose(page)
                page.mouse.move(640, 20)
                page.wait_for_timeout(300)
                keep(page.screenshot(), folder / f"{picture.name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS)
