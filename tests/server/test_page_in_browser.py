"""The web page in a browser: headless Chromium, driven by Playwright. Skips where one of them is missing."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.causes import CAUSES
from puna.errors import DeviceError
from puna.llm import LLM
from puna.machine.finding import Finding, Remedy
from puna.server import diagnoses
from puna.server.models import ServedModel
from puna.server.settings import ServerSettings
from tests.browser import ATTACKS, AXE, CHROMIUM
from tests.models import random_tensors, tiny_config, write_gguf
from tests.server.pdfs import document, flate, line, stream, with_streams
from tests.server.scripted import last_question, scripted_model
from tests.server.serving import SETTINGS, TEMPLATE, RunningServer, serving
from tests.server.test_page_documents import PROBLEMS, docx

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (on Debian: sudo apt install chromium)"),
    pytest.mark.filterwarnings("default"),
]
expect = api.expect

DONE = "#send:not([hidden])"
ANSWERS = "#thread .assistant"
NO_MODEL = "Failed to load resource: net::ERR_CONNECTION_REFUSED"
LONG = "one " * 400
THINKING = TEMPLATE + "{# <think> </think> #}"
WIDTHS = (320, 390, 820, 1280)


def answer(prompt: str) -> str:
    question = last_question(prompt)
    if question.startswith("echo "):
        return question.removeprefix("echo ")
    return LONG if "long" in question else f"You said **{question}**."


def model(name: str = "scripted", pause_s: float = 0.0) -> ServedModel:
    return scripted_model(answer, name, pause_s)


def thinker(thoughts: str, pause_s: float = 0.0) -> ServedModel:
    return scripted_model(lambda _: f"<think>{thoughts}</think>Seven.", "thinker", pause_s, THINKING)


class Seen:
    """What a page did that it must not do."""

    def __init__(self, page: Any, origin: str) -> None:
        self.messages: list[str] = []
        self.foreign: list[str] = []
        page.on("console", lambda message: self._heard(message.type, message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self._asked(request.url, origin))

    def _heard(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.messages.append(text)

    def _asked(self, url: str, origin: str) -> None:
        if not url.startswith((f"{origin}/", f"blob:{origin}/")):
            self.foreign.append(url)

    def check(self, *allowed: str) -> None:
        assert [text for text in self.messages if text not in allowed] == []
        assert self.foreign == []


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    with serving(model(pause_s=0.003)) as running:
        yield running


def opened(browser: Any, server: RunningServer, **context: Any) -> tuple[Any, Seen]:
    origin = f"http://127.0.0.1:{server.port}"
    page = browser.new_context(locale="en-US", **context).new_page()
    page.set_default_timeout(20_000)
    seen = Seen(page, origin)
    page.goto(f"{origin}/")
    expect(page.locator("#models .choice")).not_to_have_count(0)
    return page, seen


def ask(page: Any, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)


def test_send_stream_and_read(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.fill("#prompt", "a long one")
    page.click("#send")
    expect(page.locator(f"{ANSWERS} .body")).to_contain_text("one one")
    assert len(page.locator(f"{ANSWERS} .body").inner_text()) < len(LONG) - 100  # it is still on its way
    page.wait_for_selector(DONE)
    assert page.locator(f"{ANSWERS} .body").inner_text() == LONG.strip()
    expect(page.locator(".stats")).to_contain_text("1,601 tokens")  # the last one ends it
    expect(page.locator("#context")).to_contain_text("of 4,096 tokens")
    assert page.locator("#announcer").inner_text().startswith("one one")
    seen.check()


def test_stop_and_continue(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.fill("#prompt", "a long one")
    page.keyboard.press("Enter")
    expect(page.locator(f"{ANSWERS} .body")).to_contain_text("one one")
    page.keyboard.press("Escape")
    page.wait_for_selector(DONE)
    expect(page.locator(".note")).to_contain_text("You stopped")
    assert len(page.locator(f"{ANSWERS} .body").inner_text()) < len(LONG) - 100
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector(DONE)
    assert page.locator(f"{ANSWERS} .body").inner_text() == LONG.strip()
    seen.check()


def test_edit_regenerate_and_go_back(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(page, "first")
    page.get_by_role("button", name="Answer again").click()
    page.wait_for_selector(DONE)
    expect(page.locator(f"{ANSWERS} .branches")).to_contain_text("2/2")
    page.locator(".user").get_by_role("button", name="Edit").click()
    page.locator(".editor textarea").fill("second")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    expect(page.locator(f"{ANSWERS} .body")).to_have_text("You said second.")
    page.locator(".user").get_by_role("button", name="Version before").click()
    expect(page.locator(".bubble")).to_have_text("first")
    expect(page.locator(f"{ANSWERS} .branches")).to_contain_text("2/2")
    seen.check()


def test_another_answer_is_drawn_and_says_how(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)

    def again(**fields: Any) -> None:
        with page.expect_request("**/v1/chat/completions") as sent:
            page.get_by_role("button", name="Answer again").click()
        page.wait_for_selector(DONE)
        assert {name: json.loads(sent.value.post_data).get(name) for name in ("temperature", "seed")} == fields

    ask(page, "first")
    expect(page.locator(".stats")).not_to_contain_text("Temperature")
    again(temperature=0.7, seed=None)
    expect(page.locator(".stats")).to_contain_text("Temperature 0.7")
    page.click("#open-settings")
    expect(page.locator("#sampling-temperature-hint")).to_contain_text("then uses 0.7")
    page.fill("#sampling-temperature", "0.5")
    page.fill("#sampling-seed", "8")
    again(temperature=0.5, seed=10)
    expect(page.locator(".stats")).to_contain_text("Seed 10")
    seen.check()


def test_history_lasts_is_searched_and_deleted(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(page, "about llamas")
    page.click("#new-chat")
    ask(page, "about alpacas")
    page.reload()
    expect(page.locator("#chats li")).to_have_count(2)
    page.fill("#search", "llamas")
    expect(page.locator("#chats li")).to_have_count(1)
    page.locator("#chats .open").click()
    expect(page.locator(f"{ANSWERS} .body")).to_have_text("You said about llamas.")
    page.get_by_role("button", name="Delete “about llamas”").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    page.fill("#search", "")
    expect(page.locator("#chats li")).to_have_count(1)
    seen.check()


def test_a_chat_is_renamed_with_the_mouse_and_by_keys(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(page, "about llamas")
    page.locator("#chats .open").dblclick(delay=100)
    page.locator("#chats .rename").fill("The herd")
    page.keyboard.press("Enter")
    expect(page.locator("#chats .open")).to_have_text("The herd")
    expect(page.locator("#chats .open")).to_be_focused()
    expect(page).to_have_title("The herd · puna")
    page.keyboard.press("F2")
    page.keyboard.type("not this")
    page.keyboard.press("Escape")
    page.fill("#prompt", "more")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    page.reload()
    expect(page.locator("#chats .open")).to_have_text("The herd")
    page.get_by_role("button", name="Rename “The herd”").click()
    page.locator("#chats .rename").fill("")
    page.click("#prompt")
    expect(page.locator("#chats .open")).to_have_text("about llamas")
    expect(page.locator("#prompt")).to_be_focused()
    seen.check()


def test_export_and_import(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = opened(browser, served)
    ask(page, "keep me")
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    other, seen_too = opened(browser, served)
    other.set_input_files("#import-file", file)
    other.locator("#chats .open").click()
    expect(other.locator(f"{ANSWERS} .body")).to_have_text("You said keep me.")
    broken = json.loads(file.read_text("utf-8"))
    broken["chats"][0]["nodes"][0]["parent"] = broken["chats"][0]["nodes"][1]["id"]
    file.write_text(json.dumps(broken), "utf-8")
    other.set_input_files("#import-file", file)
    expect(other.locator("#notice")).to_contain_text("no tree")
    seen.check()
    seen_too.check()


def test_system_prompt_and_sampling_reach_the_server(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#sampling-temperature", "9")
    expect(page.locator("#sampling-temperature-hint")).to_have_text("Not used: from 0 to 2 is possible.")
    page.fill("#sampling-temperature", "0.5")
    expect(page.locator("#sampling-temperature-hint")).to_contain_text("0 always takes")
    page.get_by_text("More settings").click()
    page.fill("#sampling-stop", "END\nSTOP")
    page.click("#close-settings")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "hello")
    body = json.loads(sent.value.post_data)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["temperature"], body["stop"]) == (0.5, ["END", "STOP"])
    assert not {"top_p", "seed", "max_tokens"} & body.keys()
    page.click("#open-inspector")
    expect(page.locator("#inspected")).to_contain_text("Be brief.")
    for tab, text in (("events", "chat.completion.chunk"), ("curl", "curl http"), ("python", "from openai import OpenAI")):
        page.click(f"#tab-{tab}")
        expect(page.locator("#inspected")).to_contain_text(text)
    seen.check()


def test_a_text_file_goes_along(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = opened(browser, served)
    (tmp_path / "notes.txt").write_text("the llama hums", "utf-8")
    (tmp_path / "picture.bin").write_bytes(b"\xff\xd8\x00")
    page.set_input_files("#attach-file", [tmp_path / "notes.txt", tmp_path / "picture.bin"])
    expect(page.locator("#attachments .file")).to_have_count(1)
    expect(page.locator("#notice")).to_contain_text("picture.bin is no text file")
    page.click("#open-settings")
    expect(page.locator("#notice")).to_be_hidden(timeout=2000)  # at once, and not after a while
    page.click("#close-settings")
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "what does it do?")
    content = json.loads(sent.value.post_data)["messages"][0]["content"]
    assert content == "notes.txt:\n```\nthe llama hums\n```\n\nwhat does it do?"
    seen.check()


def test_a_pdf_and_a_word_document_go_along(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = opened(browser, served)
    (tmp_path / "report.pdf").write_bytes(with_streams(document(flate(line(b"first page")), stream(line(b"second page")))))
    (tmp_path / "letter.docx").write_bytes(docx())
    (tmp_path / "old.txt").write_bytes("Preis – 5 €".encode("windows-1252"))
    page.set_input_files("#attach-file", [tmp_path / name for name in ("report.pdf", "letter.docx", "old.txt")])
    expect(page.locator("#attachments .file[aria-busy=false]")).to_have_count(3)
    expect(page.locator("#attachments .file").first).to_contain_text("2 pages · about 5 tokens")
    page.get_by_role("button", name="Remove letter.docx").click()
    with page.expect_request("**/v1/chat/completions") as sent:
        ask(page, "sum up")
    content = json.loads(sent.value.post_data)["messages"][0]["content"]
    assert content == "report.pdf:\n```\nfirst page\n\nsecond page\n```\n\nold.txt:\n```\nPreis – 5 €\n```\n\nsum up"
    file = page.locator(".user details.file").first
    expect(file.locator("pre")).to_have_count(0)
    file.locator("summary").click()
    expect(file.locator("pre")).to_have_text("first page\n\nsecond page")
    page.reload()
    page.locator("#chats .open").click()
    expect(page.locator(".user details.file").first).to_contain_text("2 pages")
    seen.check()


def test_a_file_that_cannot_be_read_says_why(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = opened(browser, served)
    for name, (data, _) in PROBLEMS.items():
        file = tmp_path / f"{name}.pdf"
        file.write_bytes(data)
        page.set_input_files("#attach-file", file)
        expect(page.locator("#notice")).to_contain_text(file.name)
        expect(page.locator("#attachments .file")).to_have_count(0)
    seen.check()


def test_formulas_are_drawn_and_prices_are_not(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(
        page,
        "echo Let $x^2$ be\n\n$$\\frac{a}{b}$$\n\n\\[\\sum_{i=1}^n \\foo\\]\n\n"
        "It costs $5 and $6, and `$x$` is code. \\(\\frac{1}\\)",
    )
    body = page.locator(f"{ANSWERS} .body")
    expect(body.locator("math")).to_have_count(3)
    assert body.locator("math").evaluate_all("all => all.map((one) => one.getAttribute('alttext'))") == [
        "x^2",
        "\\frac{a}{b}",
        "\\sum_{i=1}^n \\foo",
    ]
    expect(body).to_contain_text("\\foo")
    expect(body).to_contain_text("It costs $5 and $6")
    expect(body.locator("code")).to_have_text(["$x$", "\\frac{1}"])
    above, below = body.locator("mfrac > *").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert above < below
    seen.check()


def test_formulas_of_the_person_are_drawn_and_the_rest_is_as_it_was_typed(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    typed = "**Why** \\$a$ `$x$`, $HOME/$USER and $5 or $6? \\(\\frac{1}\\)"
    ask(page, f"{typed} $x^2$ and\n\n$$\\frac{{a}}{{b}}$$")
    bubble = page.locator(".bubble")
    expect(bubble).to_contain_text(typed)
    assert bubble.locator("math").evaluate_all("all => all.map((one) => one.getAttribute('alttext'))") == ["x^2", "\\frac{a}{b}"]
    seen.check()


def test_keyboard_alone(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.keyboard.type("by keys")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two lines")
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    expect(page.locator(".bubble")).to_have_text("by keys\ntwo lines")
    names = []
    for _ in range(12):
        page.keyboard.press("Shift+Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))
    assert {"Edit", "Copy", "Answer again", "Settings", "Inspector", "Model scripted"} <= set(names)
    page.focus("#open-inspector")
    page.keyboard.press("Enter")
    page.focus("#tab-body")
    for key, tab in (("ArrowRight", "events"), ("ArrowLeft", "body"), ("ArrowLeft", "python")):
        page.keyboard.press(key)
        expect(page.locator(f"#tab-{tab}")).to_be_focused()
    page.focus("#open-settings")
    page.keyboard.press("Enter")
    expect(page.locator("#close-settings")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#open-settings")).to_be_focused()
    seen.check()


@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_scrolls_sideways(browser: Any, served: RunningServer, width: int) -> None:
    page, seen = opened(browser, served, viewport={"width": width, "height": 700})
    ask(page, "$" + "a+b+" * 40 + "c$ $$" + "\\frac{a}{b} + " * 40 + "c$$")
    ask(page, "echo " + "w" * 300 + "\n\n```\n" + "c" * 300 + "\n```\n\n|a|b|\n|-|-|\n|" + "t" * 200 + "|b|")
    for button in ("#open-settings", "#open-inspector", "#open-machine"):
        page.click(button)
        if button == "#open-machine":
            fill_machine(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        page.keyboard.press("Escape")
    assert page.evaluate("document.querySelector('#scroll').scrollWidth - document.querySelector('#scroll').clientWidth") <= 0
    seen.check()


def test_dark_by_the_system_and_by_choice(browser: Any, served: RunningServer) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page, seen = opened(browser, served, color_scheme="dark")
    dark = page.evaluate(ground)
    page.click("#open-settings")
    page.select_option("#choose-theme", "light")
    light = page.evaluate(ground)
    page.reload()
    assert page.evaluate(ground) == light != dark
    seen.check()


@pytest.mark.parametrize(
    ("locale", "text"), [("de-DE", "Was möchten Sie wissen?"), ("zh-CN", "想了解什么？"), ("fr-FR", "What would")]
)
def test_languages(browser: Any, served: RunningServer, locale: str, text: str) -> None:
    page = browser.new_context(locale=locale).new_page()
    page.goto(f"http://127.0.0.1:{served.port}/")
    expect(page.locator("#welcome h1")).to_contain_text(text)
    page.click("#open-settings")
    page.select_option("#choose-language", "zh")
    expect(page.locator("#welcome h1")).to_have_text("想了解什么？")


def test_the_server_goes_and_comes_back(browser: Any) -> None:
    port = free_port()
    with serving(model(), settings=SETTINGS, port=port) as server:
        page, seen = opened(browser, server)
        ask(page, "before")
    page.fill("#prompt", "meanwhile")
    page.keyboard.press("Enter")
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator("#thread .note")).to_contain_text("The server did not answer.")
    with serving(model(), settings=SETTINGS, port=port):
        expect(page.locator("#notice")).to_contain_text("is back")
        page.get_by_role("button", name="Try again").click()
        page.wait_for_selector(DONE)
        expect(page.locator(f"{ANSWERS} .body").last).to_have_text("You said meanwhile.")
    seen.check(NO_MODEL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_the_key_is_asked_for_and_forgotten_with_the_tab(browser: Any) -> None:
    with serving(model(), settings=ServerSettings(port=0, api_keys=("secret",))) as server:
        context = browser.new_context(locale="en-US")
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-wrong")).to_be_visible()
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        expect(page.locator("#models .choice")).to_have_count(1)
        ask(page, "hello")
        expect(page.locator(f"{ANSWERS} .body")).to_have_text("You said hello.")
        assert "secret" not in page.evaluate("JSON.stringify(localStorage)")
        other = context.new_page()
        other.goto(f"http://127.0.0.1:{server.port}/")
        expect(other.locator("#key-dialog")).to_be_visible()


def test_what_a_model_writes_is_text(browser: Any) -> None:
    name = ATTACKS[1]
    with serving(model(name)) as server:
        page, seen = opened(browser, server)
        assert page.locator("#model-name").inner_text() == name
        for attack in ATTACKS:
            page.click("#new-chat")
            ask(page, f"echo {attack}")
            assert page.evaluate("window.hit") is None
            assert forbidden_in(page) == [], attack
            shown = page.locator(f"{ANSWERS} .body").inner_text()
            assert letters(shown) in letters(attack) or "window.hit" not in attack
        seen.check()


FOUND = [
    Finding("disk.cache", "ok", "/home/ann/.cache/puna: 611 GiB free"),
    Finding("memory.free", "warning", "1 GiB free", "little fits", Remedy("r", "Close programs:", (f"ps {'-x ' * 60}",), True)),
    Finding("nvidia.module", "error", "<img src=x onerror=window.hit=1>", "models run on the CPU"),
]


@pytest.fixture(autouse=True)
def found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the doctor finds, so that no test looks at this machine."""
    monkeypatch.setattr(diagnoses, "examine", lambda patient, probes: FOUND)


def fill_machine(page: Any) -> None:
    """Both halves of the panel of errors and of this machine."""
    page.fill("#why-text", "ValueError: No available memory for the cache blocks. " + "w" * 300)
    page.click("#why-ask")
    expect(page.locator("#why-result")).to_contain_text("puna explain kv-cache")
    page.click("#doctor-look")
    expect(page.locator("#doctor-result .finding")).to_have_count(3)
    page.locator("#doctor-result summary").click()


def test_the_doctor_looks_on_demand_and_says_what_is_wrong_first(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.click("#open-machine")
    expect(page.locator(".finding")).to_have_count(0)
    page.click("#doctor-look")
    expect(page.locator("#doctor-result > .finding strong")).to_have_text(["Error", "Warning"])
    expect(page.locator("#doctor-result details")).to_contain_text("1 check is fine")
    warning = page.locator(".finding.warning")
    for words in ("little fits", "Close programs:", "ps -x", "Restart the machine"):
        expect(warning).to_contain_text(words)
    expect(page.locator(".finding.ok")).to_contain_text("/home/ann")  # it is the person at the machine who asks
    expect(page.locator("#doctor-look")).to_be_focused()
    assert page.evaluate("window.hit") is None
    seen.check()


def test_a_pasted_error_is_explained_and_an_unknown_one_says_so(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.click("#open-machine")
    page.fill("#why-text", "RuntimeError: Distributed package doesn't have NCCL built in")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    result = page.locator("#why-result")
    for words in ("nccl-not-built-in", "doesn't have NCCL built in", "What to do", "With puna"):
        expect(result).to_contain_text(words)
    expect(result).not_to_contain_text("How it works")
    for attack in ATTACKS:
        page.fill("#why-text", f"FrobError: {attack}; use --frob-size 3")
        page.click("#why-ask")
        expect(result.locator("blockquote")).to_contain_text("FrobError")
        assert page.evaluate("window.hit") is None
        assert (
            result.locator("script, img, iframe, svg, a, form, style, link, base, meta, object, embed, video, input").count() == 0
        )
    expect(result).to_contain_text(f"none of its {len(CAUSES)} causes")
    seen.check()


def test_a_failed_answer_offers_its_cause(browser: Any) -> None:
    def fail(call: int) -> None:
        raise DeviceError("cuda:0 failed in a step: CUDA error: device-side assert triggered at /home/ann/x.cu")

    failing = model()
    assert failing.llm is not None
    failing.llm.backend.fail = fail  # type: ignore[attr-defined]
    with serving(failing) as server:
        page, seen = opened(browser, server)
        ask(page, "hello")
        expect(page.locator(".note.problem")).to_contain_text("its log has the error under req_")
        page.get_by_role("button", name="Why?").click()
        result = page.locator("#why-result")
        for words in ("device-side-assert", "What to do", "puna explain tokenizer"):
            expect(result).to_contain_text(words)
        expect(page.locator("#why-text")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("#machine")).to_be_hidden()
        seen.check()


def test_a_client_with_a_key_sees_no_path_of_the_machine(browser: Any) -> None:
    with serving(model(), settings=ServerSettings(port=0, api_keys=("secret",))) as server:
        page = browser.new_context(locale="en-US").new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        page.fill("#key", "secret")
        page.keyboard.press("Enter")
        page.click("#open-machine")
        page.click("#doctor-look")
        expect(page.locator("#doctor-result")).to_contain_text("paths and the network are not shown")
        page.locator("#doctor-result summary").click()
        expect(page.locator(".finding.ok")).to_contain_text("[path]: 611 GiB free")


def forbidden_in(page: Any) -> Any:
    """Elements and addresses that no message may hold."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#thread *, #chats *")]
            .filter((one) => /^(script|img|iframe|object|embed|form|base|meta|link|style|video)$/i.test(one.localName)
                || [...one.attributes].some(({ name }) => /^on|^style$|^srcdoc$/.test(name))
                || (one.localName === "a" && !/^(https?|mailto):/.test(one.getAttribute("href"))))
            .map((one) => one.localName)"""
    )


def letters(text: str) -> str:
    return re.sub(r"\W", "", unicodedata.normalize("NFKC", text))  # a formula's letters are drawn as italic ones


def test_thoughts_are_folded_and_go_back_with_the_next_message(browser: Any) -> None:
    with serving(thinker("I count.")) as server:
        page, seen = opened(browser, server)
        ask(page, "how many?")
        expect(page.locator(f"{ANSWERS} .body")).to_have_text("Seven.")
        expect(page.locator(".thoughts-text")).to_be_hidden()
        page.locator(".thoughts summary").click()
        expect(page.locator(".thoughts-text")).to_have_text("I count.")
        with page.expect_request("**/v1/chat/completions") as sent:
            ask(page, "sure?")
        assert json.loads(sent.value.post_data)["messages"][1] == {
            "role": "assistant", "content": "Seven.", "reasoning_content": "I count.",
        }  # fmt: skip
        expect(page.locator(f"{ANSWERS} .body").last).to_have_text("Seven.")
        seen.check()


def test_thinking_is_set_where_the_model_thinks(browser: Any) -> None:
    with serving(thinker("I count."), model("plain")) as server:
        page, seen = opened(browser, server)
        page.click("#open-settings")
        page.select_option("#sampling-reasoning_effort", "none")
        page.fill("#sampling-thinking_budget", "3")
        for name, sent_fields in (("thinker", {"reasoning_effort": "none", "thinking_budget": 3}), ("plain", {})):
            page.click("#model")
            page.get_by_role("radio", name=name).check()
            page.keyboard.press("Escape")
            expect(page.locator("#sampling-thinking_budget")).to_have_count(len(sent_fields) // 2)
            with page.expect_request("**/v1/chat/completions") as sent:
                ask(page, "how many?")
            body = json.loads(sent.value.post_data)
            assert {key: body[key] for key in ("reasoning_effort", "thinking_budget") if key in body} == sent_fields
        seen.check()


def test_answer_now_ends_the_thinking(browser: Any) -> None:
    with serving(thinker("so " * 2000, pause_s=0.005)) as server:
        page, seen = opened(browser, server)
        page.fill("#prompt", "how many?")
        page.keyboard.press("Enter")
        button = page.get_by_role("button", name="Answer now")
        expect(page.locator(".thoughts summary")).to_have_text("Thinking …")
        button.press("Enter")
        page.wait_for_selector(DONE)
        expect(page.locator(f"{ANSWERS} .body")).to_have_text("Seven.")
        expect(page.locator(".thoughts summary")).to_contain_text("Thought for")
        assert len(page.locator(".thoughts-text").text_content()) < 4000
        expect(button).to_be_hidden()
        seen.check()


def test_the_prompts_progress_is_shown(browser: Any) -> None:
    with serving(model(pause_s=0.15)) as server:
        page, seen = opened(browser, server)
        page.fill("#prompt", "echo " + "p" * 3000)
        page.keyboard.press("Enter")
        bar, values = page.locator(".waiting progress"), []
        while page.locator(".waiting").is_visible():
            if bar.is_visible():
                values.append(bar.evaluate("bar => bar.value / bar.max"))
                assert re.fullmatch(r"Reading [\d,]+ of 3,0\d\d tokens", page.locator(".waiting .hint").inner_text())
            time.sleep(0.05)
        assert len(set(values)) >= 3 and values == sorted(values) and 0 <= values[0] < values[-1] <= 1
        page.keyboard.press("Escape")
        page.wait_for_selector(DONE)
        seen.check()


def test_the_models_with_their_plans(browser: Any, tmp_path: Path) -> None:
    config = tiny_config()
    write_gguf(tmp_path / "second.gguf", config, random_tensors(config, seed=1))
    others = ServedModel("second", str(tmp_path / "second.gguf")), ServedModel("gone", str(tmp_path / "gone.gguf"))

    def load(*_: Any) -> LLM:
        time.sleep(1.0)
        made = model("second").llm
        assert made is not None
        return made

    with serving(model("first"), *others, load=load) as server:
        page, seen = opened(browser, server)
        page.focus("#model")
        page.keyboard.press("Enter")
        rows = page.locator("#models .choice")
        expect(rows.nth(0)).to_contain_text("in memory")
        expect(rows.nth(0)).to_contain_text("4,096 tokens of context")
        expect(rows.nth(1)).to_contain_text("MiB of memory · 128 tokens of context")
        expect(rows.nth(2)).to_contain_text("Cannot be opened")
        expect(rows.nth(2).locator("input")).to_be_disabled()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(rows.nth(0)).to_be_hidden()
        expect(page.locator("#model-name")).to_have_text("second")
        page.fill("#prompt", "hello")
        page.keyboard.press("Enter")
        expect(page.locator(".waiting")).to_contain_text("Loading second into memory")
        expect(page.locator(f"{ANSWERS} .body")).to_have_text("You said hello.")
        page.click("#model")
        expect(rows.nth(1)).to_contain_text("in memory")
        page.keyboard.press("Escape")
        expect(page.locator("#model")).to_be_focused()
        page.reload()
        expect(page.locator("#model-name")).to_have_text("second")
        seen.check()


def test_a_model_that_does_not_fit_says_what_it_needs(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config()
    write_gguf(tmp_path / "second.gguf", config, random_tensors(config, seed=1))
    monkeypatch.setattr("puna.machine.planning.devices.memory_bytes", lambda host: (1 << 20, 1 << 10))
    with serving(model("first"), ServedModel("second", str(tmp_path / "second.gguf"))) as server:
        server.service.models.default.num_users += 1  # else it would make room
        page, seen = opened(browser, server)
        page.click("#model")
        expect(page.locator("#models .choice").nth(1)).to_contain_text("Does not fit: it needs")
        expect(page.locator("#models input").nth(1)).to_be_disabled()
        server.service.models.default.num_users -= 1
        seen.check()


def test_a_chat_that_is_too_long_says_so(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(page, "x" * 5000)
    expect(page.locator(".note")).to_contain_text("This chat is too long for the model.")
    expect(page.locator(".note small")).to_contain_text("the context holds 4096")
    page.locator(".note").get_by_role("button", name="New chat").click()
    expect(page.locator("#welcome")).to_be_visible()
    ask(page, "long " + "x" * 3000)
    expect(page.locator(".note")).to_contain_text("context is full")
    expect(page.locator(".note")).to_contain_text("It repeats itself; a repetition penalty of 1.1 helps.")
    seen.check("Failed to load resource: the server responded with a status of 400 (Bad Request)")


def test_a_message_that_is_too_long_is_told_of_before_it_is_sent(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = opened(browser, served)
    warning = page.locator("#too-long")
    (tmp_path / "book.txt").write_text("a word " * 600, "utf-8")
    page.set_input_files("#attach-file", tmp_path / "book.txt")
    expect(warning).to_have_text(re.compile(r"it has 4,2\d\d tokens, and the context holds 4,096\."))  # the server has counted
    page.get_by_role("button", name="Remove book.txt").click()
    expect(warning).to_be_hidden()
    page.fill("#prompt", "a word " * 300)
    page.wait_for_timeout(600)
    expect(warning).to_be_hidden()
    ask(page, "echo " + "a word " * 200)
    page.fill("#prompt", "a word " * 400)
    expect(warning).to_be_visible()  # with the chat before it
    page.click("#new-chat")
    expect(warning).to_be_hidden()
    seen.check()


def test_an_answer_is_kept_when_the_page_is_left(browser: Any) -> None:
    with serving(model(pause_s=0.02)) as server:
        page, seen = opened(browser, server)
        page.fill("#prompt", "a long one")
        page.keyboard.press("Enter")
        expect(page.locator(f"{ANSWERS} .body")).to_contain_text("one " * 100, timeout=30_000)
        page.reload()
        expect(page.locator(".note")).to_contain_text("You left this page")
        assert page.locator(f"{ANSWERS} .body").inner_text().startswith("one one")
        page.get_by_role("button", name="Continue").click()
        page.wait_for_selector(DONE)
        assert page.locator(f"{ANSWERS} .body").inner_text() == LONG.strip()
        seen.check()


@pytest.mark.parametrize("question", ["hello", "echo it's \"quoted\" $HOME `x` \\n 'and' 🦙\nnew line"], ids=["plain", "quoted"])
def test_the_inspectors_curl_and_python_do_the_same(browser: Any, served: RunningServer, tmp_path: Path, question: str) -> None:
    page, seen = opened(browser, served)
    page.click("#open-settings")
    page.fill("#system", 'It\'s "here" \\ $PATH')
    page.fill("#sampling-temperature", "0")
    page.get_by_text("More settings").click()
    page.fill("#sampling-top_k", "3")
    page.click("#close-settings")
    page.fill("#prompt", question)
    page.click("#send")
    page.wait_for_selector(DONE)
    expected = answer(f"user: {question}\nassistant: ")
    page.click("#open-inspector")
    codes = {}
    for tab in ("curl", "python"):
        page.click(f"#tab-{tab}")
        codes[tab] = page.locator("#inspected").text_content()
    (tmp_path / "same.py").write_text(codes["python"], "utf-8")
    said = subprocess.run([sys.executable, tmp_path / "same.py"], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout.strip() == expected.strip()
    streamed = subprocess.run(["sh", "-c", codes["curl"]], capture_output=True, text=True, timeout=60, check=True).stdout
    events = [json.loads(line.removeprefix("data: ")) for line in streamed.splitlines() if line.startswith("data: {")]
    texts = [event["choices"][0]["delta"].get("content", "") for event in events if event["choices"]]
    assert "".join(texts) == expected
    seen.check()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not here: make browser fetches it with npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(browser: Any, served: RunningServer, width: int, scheme: str) -> None:
    script = AXE.read_text("utf-8")
    page, _ = opened(
        browser, served, bypass_csp=True, color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800}
    )

    def check(what: str) -> None:
        page.evaluate(script)
        found = page.evaluate("axe.run()")["violations"]
        assert [(what, one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []

    check("the empty page")
    page.click("#model")
    check("the models")
    page.keyboard.press("Escape")
    ask(page, "echo # A\n\n|a|b|\n|-|-|\n|c|d|\n\n```py\nx = 1\n```\n\n> q\n\n1. [x](https://example.org)")
    page.get_by_role("button", name="Answer again").click()
    page.wait_for_selector(DONE)
    check("a chat")
    page.set_input_files("#attach-file", {"name": "a.docx", "mimeType": "", "buffer": docx()})
    check("an attached file")
    ask(page, "echo $x$ and\n\n\\[" + "\\frac{a}{b} + " * 20 + "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}\\]")
    page.locator("details.file summary").click()
    check("a file and formulas")
    for name in ("settings", "inspector", "machine"):
        page.click(f"#open-{name}")
        if name == "machine":
            fill_machine(page)
        check(name)
        page.click(f"#close-{name}")
    if width < 820:
        page.click("#open-sidebar")
        check("the chats")
