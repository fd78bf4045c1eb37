"""The report of a trace in headless Chromium, opened as a file. Skips where Chromium or Playwright is missing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.glassbox.report import trace_page
from puna.glassbox.trace import Trace, TracedToken
from tests.browser import ATTACKS, AXE, CHROMIUM
from tests.glassbox.report.traces import DRAWN, layers_of, sampled, word

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (on Debian: sudo apt install chromium)"),
    pytest.mark.filterwarnings("default"),
]
expect = api.expect

TOKENS = "#answer-heading ~ .strip .token"
CHOSEN = f"{TOKENS}[aria-selected=true]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def trace() -> Trace:
    found = sampled(30, {**DRAWN, "top_k": 12})
    return replace(found, layers=layers_of(found))


class Opened:
    """A report in a page, and what it did that it must not do."""

    def __init__(self, browser: Any, trace: Trace, folder: Path, hash: str = "", **context: Any) -> None:
        file = folder / "trace.html"
        file.write_text(trace_page(trace), "utf-8")
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(f"{file.as_uri()}{hash}")
        self.address = file.as_uri()

    def check(self) -> None:
        """No console message at all, and no request but the file itself."""
        assert self.messages == [] and self.requests == [self.address]

    def number(self) -> int:
        """The step that is shown, from 1."""
        return int(self.page.locator("#step-heading span").inner_text().split()[1])


def test_it_opens_as_a_file_without_network_or_console_message(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path)
    page = opened.page
    expect(page.locator("h1")).to_have_text("How an answer came to be")
    expect(page.locator(TOKENS)).to_have_count(30)
    expect(page.locator(".asked")).to_have_text("a question")
    for text in ("The model", "top-k 12", "top-p 0.9", "temperature 0.8", "The draw"):
        expect(page.locator(".stage h3").filter(has_text=text)).to_have_count(1)
    expect(page.locator("#end")).to_contain_text("because max_tokens is 30")
    opened.check()


def test_keys_and_clicks_step(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path, "#5")
    page = opened.page
    assert opened.number() == 5
    page.keyboard.press("ArrowRight")
    assert opened.number() == 6 and page.evaluate("location.hash") == "#6"
    page.click("#next")
    page.click("#back")
    page.click("#back")
    assert opened.number() == 5
    page.locator(TOKENS).nth(11).click()
    assert opened.number() == 12
    expect(page.locator(CHOSEN)).to_have_count(1)
    page.locator(CHOSEN).focus()
    for key, number in (("ArrowLeft", 11), ("Home", 1), ("ArrowLeft", 1), ("End", 30), ("ArrowRight", 30)):
        page.keyboard.press(key)
        assert opened.number() == number
        assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"
    expect(page.locator("#next")).to_be_disabled()
    chart = page.locator(".chart").first
    chart.click(position={"x": chart.bounding_box()["width"] * 3.5 / 30, "y": 10})
    assert opened.number() == 4
    page.keyboard.press("Control+ArrowRight")
    assert opened.number() == 4
    opened.check()


def test_the_numbers_of_a_step_are_those_of_the_trace(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path, "#3")
    page, step = opened.page, trace.steps[2]
    for stage, card in zip(step.stages, page.locator(".stages .stage").all(), strict=True):
        shown = card.locator(".bar:not(.removed)").all_inner_texts()
        assert [text.split()[0].strip("␣") for text in shown] == [one.text.strip() for one in stage.top]
        assert abs(float(shown[0].split()[1].strip("%,<>")) / 100 - stage.top[0].probability) < 0.0006
        expect(card.locator(".cut")).to_have_count(0 if stage.cut is None else 1)
    assert step.draw is not None
    expect(page.locator(".draw .caption").first).to_contain_text(f"{step.draw.uniform:.6f}")
    expect(page.locator(".story").first).to_contain_text(f"“␣{step.token.text.strip()}”")
    opened.check()


def test_play_steps_by_itself_and_can_be_stopped(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path, "#2")
    page = opened.page
    page.clock.install()
    page.click("#play")
    page.clock.run_for(2300)
    assert opened.number() == 4
    page.click("#play")
    page.clock.run_for(5000)
    assert opened.number() == 4
    opened.check()


def test_words_explain_themselves_by_key_and_by_finger(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    page = opened.page
    page.locator(".facts .term").filter(has_text="Entropy").tap()
    expect(page.get_by_role("dialog")).to_contain_text("how open a choice is")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator("header .term").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("a number that stands for a piece of text")
    page.keyboard.press("Escape")
    expect(page.locator("header .term").first).to_be_focused()
    opened.check()


def test_the_layers_follow_the_step(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path, "#2")
    page, layers = opened.page, trace.layers
    assert layers is not None
    home = page.locator("#layers")
    expect(home.locator("tbody tr")).to_have_count(layers.num_layers + 1)
    expect(home.locator("select").first).to_have_value("1")
    home.locator("select").nth(2).select_option(index=2)  # the second head, after all heads
    heads = layers.positions[1].layers[layers.num_layers].attention
    assert heads is not None
    shown = home.locator(".attention .bar .share").first.inner_text()
    assert abs(float(shown.strip("%")) / 100 - max(heads[1])) < 0.001
    page.locator(TOKENS).nth(20).click()
    expect(home).to_contain_text("no layers for token 21")
    opened.check()


def test_a_prompts_token_tells_its_bytes(browser: Any, trace: Trace, tmp_path: Path) -> None:
    opened = Opened(browser, trace, tmp_path)
    page = opened.page
    page.locator("#prompt .token").nth(1).click()
    expect(page.locator("#prompt .detail")).to_contain_text(" ".join(f"{byte:02x}" for byte in word(2).text.encode()))
    page.locator("#prompt .token").nth(1).press("ArrowLeft")
    expect(page.locator("#prompt .detail")).to_contain_text("It is a control token")
    page.locator("#prompt summary").click()
    expect(page.locator("#prompt tbody tr")).to_have_count(3)
    opened.check()


LANGUAGES = ["🦙", " größer", "字典", "العربية", "\u202eevil\u202c", "\x1b[2J\x07", "\n", "\t", " ", "\ufffd", "👩‍🚀"]


@pytest.mark.parametrize("width", [390, 1280])
def test_what_a_model_writes_is_text(browser: Any, tmp_path: Path, width: int) -> None:
    texts = [*ATTACKS, *LANGUAGES, "w" * 300]

    def token(token_id: int) -> TracedToken:
        text = texts[token_id % len(texts)]
        return TracedToken(token_id, text, text, text.encode().hex(), is_control=False)

    found = sampled(40, {**DRAWN, "temperature": 2.0}, token)
    everything = "".join(texts)
    prompt = replace(found.prompt, given=everything, text=everything, tokens=tuple(map(token, range(len(texts)))))
    hostile = replace(found, model=everything, backend=everything, why=everything, text=everything, prompt=prompt)
    opened = Opened(browser, replace(hostile, layers=layers_of(hostile)), tmp_path, viewport={"width": width, "height": 800})
    page = opened.page
    page.locator("#prompt summary").click()
    for number in range(1, 41):
        page.evaluate(f"location.hash = '#{number}'")
        page.locator("#step-heading span").filter(has_text=f"Token {number} of").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate("window.hit") is None
    assert page.evaluate(FORBIDDEN) == []
    assert page.locator("#prompt .token").first.inner_text() == ATTACKS[0]
    assert "U+202E" in page.locator("#prompt .strip").inner_text() and "\u202e" not in page.locator("body").inner_text()
    opened.check()


FORBIDDEN = """() => [...document.body.querySelectorAll("*")]
    .filter((one) => /^(img|iframe|object|embed|form|base|meta|link|style|video|math|body|a)$/i.test(one.localName)
        || (one.localName === "script" && one.parentNode !== document.body)
        || [...one.attributes].some(({ name }) => /^on|^srcdoc$|^href$/.test(name)))
    .map((one) => one.localName)"""


def test_answers_in_other_scripts_are_whole(browser: Any, tmp_path: Path) -> None:
    def token(token_id: int) -> TracedToken:
        data = b"\xf0" if token_id % 2 else "größer 字".encode()
        text = data.decode("utf-8", "replace")
        return TracedToken(token_id, text, text, data.hex(), is_control=False)

    found = sampled(2, DRAWN)
    llama = "🦙".encode()
    pieces = [
        TracedToken(9, "", "\ufffd", llama[:2].hex(), is_control=False),
        TracedToken(8, "", "\ufffd", llama[2:].hex(), is_control=False),
    ]
    steps = tuple(replace(step, token=piece) for step, piece in zip(found.steps, pieces, strict=True))
    opened = Opened(browser, replace(found, steps=steps), tmp_path)
    assert opened.page.locator(TOKENS).all_inner_texts() == ["f0 9f", "🦙"]
    opened.check()


@pytest.mark.parametrize(
    "settings", [{"temperature": 0.0}, {"temperature": 1.0, "seed": 3}, {**DRAWN, "min_p": 0.1, "xtc_probability": 1.0}]
)
def test_greedy_and_other_filters_are_told(browser: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    opened = Opened(browser, sampled(4, settings), tmp_path)
    for number in range(1, 5):
        opened.page.evaluate(f"location.hash = '#{number}'")
    title = "No draw" if settings["temperature"] == 0 else "The draw"
    expect(opened.page.locator(".draw h3")).to_contain_text(title)
    if settings["temperature"] == 0:
        last = opened.page.locator(".stages .stage").last
        expect(last.locator("h3")).to_contain_text("temperature 0")
        expect(last.locator(".bar.taken .share")).to_contain_text("100%")
    opened.check()


@pytest.mark.parametrize(
    ("locale", "language", "title"),
    [("de-AT", "de-DE", "Wie eine Antwort entstand"), ("zh-TW", "zh-CN", "一个回答是怎样产生的"), ("fr-FR", "en-US", "How an")],
)
def test_it_speaks_the_browsers_language(
    browser: Any, trace: Trace, tmp_path: Path, locale: str, language: str, title: str
) -> None:
    opened = Opened(browser, trace, tmp_path, locale=locale)
    expect(opened.page.locator("h1")).to_contain_text(title)
    assert opened.page.evaluate("document.documentElement.lang") == language
    for text in opened.page.locator("h2, h3, p, dt, label").all_inner_texts():
        assert "{" not in text and "undefined" not in text
    opened.check()


def test_a_trace_without_stages_is_shown(browser: Any, tmp_path: Path) -> None:
    found = sampled(3, DRAWN)
    steps = tuple(replace(step, stages=(), draw=None) for step in found.steps)
    opened = Opened(
        browser, replace(found, steps=(*steps[:2], replace(steps[2], logprob=None, rank=None, kv_bytes=None))), tmp_path
    )
    expect(opened.page.locator(".story").first).to_contain_text("choice")
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    expect(opened.page.locator(".story").first).to_contain_text("Nothing was sampled")
    opened.check()


def test_an_empty_answer_is_told(browser: Any, tmp_path: Path) -> None:
    empty = replace(sampled(1, DRAWN), steps=(), token_ids=(), text="", finish_reason="timeout", why="timeout=1.0 s have passed")
    opened = Opened(browser, empty, tmp_path)
    expect(opened.page.locator("#end")).to_contain_text("timeout=1.0 s have passed")
    opened.check()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not here: make browser fetches it with npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(browser: Any, trace: Trace, tmp_path: Path, width: int, scheme: str) -> None:
    opened = Opened(
        browser,
        trace,
        tmp_path,
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        bypass_csp=True,
        reduced_motion="reduce",
    )
    page = opened.page

    def check(what: str) -> None:
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        assert [(what, one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []

    check("a step")
    page.locator("#numbers").check()
    page.locator("#prompt summary").click()
    page.locator("#prompt .token").nth(1).click()
    check("numbers, and the table of tokens")
    page.locator(".facts .term").first.click()
    check("an explanation")
