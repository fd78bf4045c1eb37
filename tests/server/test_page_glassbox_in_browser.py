"""The glass box of the web page in a browser: what it shows of an answer, and branches, which are the library's own."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.request import SamplingParams
from puna.server.models import ServedModel
from tests.browser import ATTACKS, AXE, CHROMIUM
from tests.glassbox.tiny import Forcing, make_llm
from tests.server.scripted import last_question, scripted_model
from tests.server.serving import TEMPLATE, RunningServer, serving
from tests.server.test_page_in_browser import DONE, THINKING, WIDTHS, api, ask, browser, expect, opened

__all__ = ["browser"]  # the fixture

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium (on Debian: sudo apt install chromium)"),
    pytest.mark.filterwarnings("default"),
]
HELLO = [{"role": "user", "content": "hello"}]
SAMPLING: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 5, "max_tokens": 30}
TOKENS = "#glassbox .version.active .token"
REFUSED = "Failed to load resource: the server responded with a status of 503 (Service Unavailable)"


@pytest.fixture(scope="module")
def served() -> Iterator[RunningServer]:
    """A tiny random model, with a byte for a token."""
    llm = make_llm()
    llm.chat_template = TEMPLATE
    with serving(ServedModel("tiny", None, llm)) as running:
        yield running


@pytest.fixture(scope="module")
def scripted() -> Iterator[RunningServer]:
    with serving(scripted_model(lambda prompt: last_question(prompt).removeprefix("echo "), pause_s=0.001)) as running:
        yield running


def asked(browser: Any, server: RunningServer, question: str = "hello", **context: Any) -> tuple[Any, Any]:
    """A page whose answer is looked into, at its first token."""
    page, seen = opened(browser, server, **context)
    typed = {name: str(value) for name, value in SAMPLING.items()}
    page.evaluate("typed => localStorage.setItem('puna.sampling', JSON.stringify(typed))", typed)
    ask(page, question)
    page.locator(".look").last.click()
    expect(page.locator("#glassbox .choice-row")).not_to_have_count(0)
    return page, seen


def look(page: Any, index: int) -> None:
    page.locator(TOKENS).nth(index).click()
    expect(page.locator("#glassbox .step-head")).to_contain_text(f"Token {index + 1} of")
    expect(page.locator("#glassbox .choice-row")).not_to_have_count(0)


def answers(page: Any) -> list[Any]:
    """The answers of the newest chat, as the browser keeps them."""
    found = page.evaluate(
        """() => new Promise((resolve) => {
            const request = indexedDB.open("puna", 1);
            request.onsuccess = () => {
                const all = request.result.transaction("chats").objectStore("chats").getAll();
                all.onsuccess = () => resolve(all.result.sort((a, b) => b.updatedAt - a.updatedAt)[0].nodes);
            };
        })"""
    )
    return [node for node in found if node["role"] == "assistant"]


def fresh(prefix: list[int], length: int, **changed: Any) -> tuple[str, list[int]]:
    """The text and the ids of a run without any cache, with its first tokens forced."""
    params = SamplingParams(**{**SAMPLING, "max_tokens": length, **changed})
    with make_llm(prefix_cache=False) as llm:
        llm.chat_template = TEMPLATE
        completion = llm.chat(HELLO, params, sampler=Forcing(prefix, params))
    return completion.text, list(completion.token_ids)


def branched(page: Any, click: Any, count: int) -> Any:
    """The branch that a click begins, once it has ended; `count`: answers that there are then."""
    click()
    expect(page.locator("#glassbox .version")).to_have_count(2)
    page.wait_for_selector(DONE, state="attached")
    expect(page.locator(TOKENS)).not_to_have_count(0)
    found = answers(page)
    assert len(found) == count
    return found[-1]


def test_another_token_is_taken_and_the_branch_is_that_of_a_fresh_run(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    (first,) = answers(page)
    assert (first["content"], first["run"]["ids"]) == fresh([], 30)
    expect(page.locator(TOKENS)).to_have_count(len(first["run"]["ids"]))
    look(page, 7)
    take = page.locator(".choice-row:not(.taken) button").first
    token = int(page.evaluate("document.querySelectorAll('.choice-row.taken').length"))
    assert token == 1
    branch = branched(page, take.click, 2)
    ids = branch["run"]["ids"]
    assert ids[:7] == first["run"]["ids"][:7] and ids[7] != first["run"]["ids"][7]
    assert (branch["content"], ids) == fresh(ids[:8], 38)
    assert branch["run"]["num_opened"] == 8 and branch["run"]["computed"] < len(ids) + 24  # the cache had the prompt
    expect(page.locator(".version.active .version-facts")).to_contain_text(
        "16 of the 32 tokens before token 9 were read from the prefix cache"
    )
    expect(page.locator("#glassbox .story")).to_contain_text("You put this token here.")
    expect(page.locator(".version:first-child .token.shared")).to_have_count(7)
    expect(page.locator(".version:last-child .token.shared")).to_have_count(7)
    expect(page.locator(".version.active .token.forced")).to_have_count(1)
    page.locator(".version:first-child .token").nth(9).click()
    expect(page.locator("#glassbox .step-head")).to_contain_text("Version 1 · Token 10 of")
    page.locator(".version:last-child .token").nth(9).click()
    expect(page.locator("#glassbox .step-head")).to_contain_text("Version 2 · Token 10 of")
    titles = page.locator(".version h2").all_inner_texts()
    page.get_by_role("button", name="Version 1", exact=True).click()
    expect(page.locator(".version.active")).to_have_attribute("aria-label", "Version 1")
    assert page.locator(".version h2").all_inner_texts() == titles and titles[0] == "Version 1"  # each keeps its side
    expect(page.locator(".chip[aria-pressed=true]")).to_be_focused()
    page.select_option("#compare", label="none")
    expect(page.locator("#glassbox .version")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(page.locator("#thread .branches")).to_contain_text("1/2")
    expect(page.locator("#thread .look").last).to_be_focused()
    seen.check()


def test_random_branches_of_branches_are_those_of_fresh_runs(browser: Any, served: RunningServer) -> None:
    seed = 11
    print("seed", seed)
    own = random.Random(seed)
    page, seen = asked(browser, served)
    for count in range(2, 6):
        shown = page.locator(TOKENS).count()
        look(page, own.randrange(min(shown, 25)))
        rows = page.locator(".choices:not(.nucleus) .choice-row:not(.taken) button")
        branch = branched(page, rows.nth(own.randrange(5)).click, count)
        ids, at = branch["run"]["ids"], branch["branch"]["at"]
        assert (branch["content"], ids) == fresh(ids[: at + 1], at + 31)
    expect(page.locator(".chip")).to_have_count(5)
    seen.check()


def test_what_was_computed_once_is_not_asked_for_again(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    look(page, 4)
    branched(page, page.locator(".choice-row:not(.taken) button").first.click, 2)
    expect(page.locator(".version .token")).not_to_have_count(0)
    page.wait_for_timeout(500)
    bodies: list[Any] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.url.endswith("/trace") else None)
    page.get_by_role("button", name="Version 1", exact=True).click()
    page.select_option("#compare", label="none")
    look(page, 4)
    page.wait_for_timeout(300)
    assert [body for body in bodies if body["top"] == 0] == []
    seen.check()


def test_own_words_are_ranked_and_put_into_the_answer(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    look(page, 5)
    page.fill("#own-words", "yes\nno\nperhaps <b>")
    page.click("#rank")
    rows = page.locator(".ranked-row")
    expect(rows).to_have_count(3)
    (first,) = answers(page)
    before = [*served.llm.encode_chat(HELLO), *first["run"]["ids"][:5]]
    options = ["yes", "no", "perhaps <b>"]
    scores = served.llm.score(before, [list(option.encode()) for option in options])
    best = sorted(options, key=lambda option: -scores[options.index(option)].logprob)
    assert [row.locator(".token-label").text_content() for row in rows.all()] == best
    branch = branched(page, rows.filter(has_text="perhaps").get_by_role("button").click, 2)
    prefix = [*first["run"]["ids"][:5], *b"perhaps <b>"]
    assert (branch["content"], branch["run"]["ids"]) == fresh(prefix, len(prefix) + 30)
    page.get_by_role("button", name="Version 1", exact=True).click()
    look(page, 9)
    page.fill("#own-words", "forced")
    branch = branched(page, lambda: page.click("#force"), 3)
    assert branch["run"]["ids"][9:15] == list(b"forced")
    expect(page.locator("#glassbox .story")).to_contain_text("This token is of the text that you put here.")
    seen.check()


def moved(page: Any, name: str, value: float) -> None:
    page.locator(f"#knob-{name}").fill(str(value))


def test_temperature_and_top_p_move_what_stays_at_once_and_exactly(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    look(page, 6)
    words, shares = page.locator(".knobs > .caption"), page.locator(".nucleus .choice-row .share")
    expect(words).to_contain_text("tokens stay")
    before = shares.all_inner_texts()
    page.route("**/trace", lambda route: None)  # the server says nothing any more
    moved(page, "temperature", 1.8)
    flat = shares.all_inner_texts()
    assert float(flat[0].rstrip("%")) < float(before[0].rstrip("%"))
    expect(page.locator(".nucleus .removed")).to_have_count(0)
    moved(page, "top_p", 0.05)
    expect(page.locator(".nucleus .kept")).not_to_have_count(10)
    page.get_by_label("Temperature before top p").check()
    moved(page, "top_p", 0.5)
    counts = []
    for temperature in (0.4, 1.0, 2.0):
        moved(page, "temperature", temperature)
        found = re.match(r"Only|\d+", words.inner_text())
        counts.append(0 if found is None else 1 if found[0] == "Only" else int(found[0]))
    assert counts[0] < counts[1] < counts[2]
    page.unroute("**/trace")
    moved(page, "temperature", 1.3)
    expect(words).to_contain_text("The number drawn here")
    (first,) = answers(page)
    changed: dict[str, Any] = {"temperature": 1.3, "top_p": 0.5, "samplers": ["temperature", "top_p"]}
    trace = served.llm.chat_trace(HELLO, **{**SAMPLING, "max_tokens": 7, **changed}, opening=first["run"]["ids"][:6], top=5)
    assert words.inner_text().startswith(f"{trace.steps[6].stages[-1].num_candidates} tokens stay")
    branch = branched(page, page.get_by_role("button", name="Go on from here with these settings").click, 2)
    prefix = first["run"]["ids"][:6]
    assert branch["run"]["ids"] == fresh(prefix, 36, **changed)[1] and branch["run"]["ids"][6] == trace.steps[6].token.id
    seen.check()


def test_what_a_step_was_is_told_as_the_trace_has_it(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    look(page, 3)
    (first,) = answers(page)
    trace = served.llm.chat_trace(HELLO, **{**SAMPLING, "max_tokens": 30}, opening=first["run"]["ids"], first=0, top=10)
    step = trace.steps[3]
    assert step.draw is not None and step.rank is not None
    expect(page.locator("#glassbox .story")).to_contain_text(f"the number {step.draw.uniform:.4f} fell on")
    expect(page.locator("#glassbox .facts")).to_contain_text(f"{step.rank} of 258")
    expect(page.locator("#glassbox .stages .stage")).to_have_count(len(step.stages))
    expect(page.locator("#glassbox .draw-line")).not_to_have_count(0)
    page.locator(".glassbox-head .term").first.click()
    expect(page.locator(".explanation")).to_contain_text("a number that stands for a piece of text")
    page.keyboard.press("Escape")
    expect(page.locator(".explanation")).to_be_hidden()
    expect(page.locator("#glassbox")).to_be_visible()
    seen.check()


def test_a_version_as_a_whole_tells_of_its_own_run_and_not_of_the_looking(browser: Any, served: RunningServer) -> None:
    question = "what is kept of this?"
    page, seen = asked(browser, served, question)
    (first,) = answers(page)
    ids, prompt = first["run"]["ids"], first["stats"]["prompt"]
    assert prompt == len(served.llm.encode_chat([{"role": "user", "content": question}]))
    first_cached = first["stats"]["cached"]  # what the chat template begins with, if an answer before had it
    computed = prompt - first_cached + len(ids) - 1
    without = sum(range(prompt, prompt + len(ids)))
    kept = page.locator("#whole-kept")
    expect(kept).to_contain_text(
        f"So {computed} tokens were computed for this answer; without it, it would have been {without:,}:"
    )
    expect(kept.locator("svg.staircase")).to_have_count(1)
    expect(page.locator("#whole-end")).to_contain_text("It ended because it reached its limit of tokens")
    expect(page.locator("#whole-end")).to_contain_text(f"{len(ids)} tokens in ")
    expect(page.locator("#whole-read .token")).to_have_count(prompt)
    expect(page.locator("#whole-time .overview")).to_contain_text(f"of {len(ids)} places the model's first choice was taken")
    expect(page.locator("#whole-time svg.chart")).to_have_count(1)  # no times, which would be those of the looking
    look(page, 6)
    facts = page.locator("#glassbox .facts")
    expect(facts).to_contain_text(f"1 token computed, {prompt + 5} read from the cache")
    expect(facts).not_to_contain_text("Model")
    chart = page.locator("#whole-time svg.chart").bounding_box()
    page.locator("#whole-time svg.chart").click(position={"x": chart["width"] * 20.5 / len(ids), "y": 10})
    expect(page.locator("#glassbox .step-head")).to_contain_text("Token 21 of")
    branch = branched(page, page.locator(".choice-row:not(.taken) button").first.click, 2)
    computed = branch["run"]["computed"]
    assert 30 <= computed < prompt + 21  # the cache had the greatest part of what it begins with
    expect(kept).to_contain_text(f"So {computed - 1} tokens were computed for this answer")  # the last one is not computed
    cached = prompt + len(branch["run"]["ids"]) - computed
    expect(page.locator(".version.active .version-facts")).to_contain_text(
        f"{cached} of the {prompt + 21} tokens before token 22"
    )
    seen.check()


@pytest.mark.parametrize("panel", ["settings", "inspector"])
def test_a_panel_beside_it_leaves_one_column(browser: Any, served: RunningServer, panel: str) -> None:
    page, seen = asked(browser, served, viewport={"width": 1280, "height": 800})

    def places() -> list[dict[str, float]]:
        return [page.locator(name).bounding_box() for name in ("#glassbox .answers", "#glassbox .step-pane")]

    answer, pane = places()
    assert answer["x"] + answer["width"] <= pane["x"]
    page.click(f"#open-{panel}")
    answer, pane = places()
    assert answer["x"] == pane["x"] and answer["y"] + answer["height"] <= pane["y"]
    assert page.evaluate("(box => box.scrollWidth - box.clientWidth)(document.querySelector('#glassbox'))") <= 0
    seen.check()


def test_temperature_0_leaves_one_token_until_another_is_tried(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.evaluate("localStorage.setItem('puna.sampling', '{\"max_tokens\": \"6\"}')")
    ask(page, "hello")
    page.locator(".look").click()
    look(page, 2)
    shares, words = page.locator(".nucleus .share"), page.locator(".knobs > .caption")
    assert shares.all_inner_texts() == ["100%", *["0%"] * 9]
    expect(words).to_contain_text("only the likeliest stays")
    expect(words).to_contain_text("Top p changes nothing then.")
    page.get_by_role("button", name="Try temperature 0.8 here").click()
    expect(page.locator("#knob-temperature-value")).to_have_text("0.8")
    expect(words).to_contain_text("The number drawn here")
    assert "0%" not in shares.all_inner_texts()
    seen.check()


def test_on_a_phone_a_token_comes_into_sight_and_versions_are_tabs(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served, viewport={"width": 390, "height": 844}, has_touch=True)
    page.locator(TOKENS).nth(5).tap()
    head = page.locator("#glassbox .step-head")
    expect(head).to_contain_text("Token 6 of")
    expect(page.locator("#glassbox .story")).to_be_in_viewport()
    page.evaluate("document.querySelector('#glassbox').scrollTop += 700")
    expect(head.get_by_role("button", name="Token after")).to_be_in_viewport()
    branched(page, page.locator(".choice-row:not(.taken) button").first.click, 2)
    shown = page.locator("#glassbox .version:visible")
    expect(shown).to_have_count(1)
    expect(shown.locator(".token.forced")).to_have_count(1)
    page.get_by_role("button", name="Version 1", exact=True).click()
    expect(shown).to_have_attribute("aria-label", "Version 1")
    seen.check()


def test_it_is_there_after_a_reload_and_in_another_browser(browser: Any, served: RunningServer, tmp_path: Path) -> None:
    page, seen = asked(browser, served)
    look(page, 4)
    branched(page, page.locator(".choice-row:not(.taken) button").first.click, 2)
    with page.expect_download() as download:
        page.click("#export")
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    page.reload()
    page.locator(".look").last.click()
    expect(page.locator("#glassbox .version")).to_have_count(2)
    other, seen_too = opened(browser, served)
    other.set_input_files("#import-file", file)
    other.locator("#chats .open").click()
    other.locator(".look").last.click()
    expect(other.locator("#glassbox .version")).to_have_count(2)
    expect(other.locator(".version.active .token.forced")).to_have_count(1)
    given = json.loads(file.read_text("utf-8"))
    given["chats"][0]["nodes"][-1]["run"]["ids"] = ["<b>"]
    file.write_text(json.dumps(given), "utf-8")
    other.keyboard.press("Escape")
    other.set_input_files("#import-file", file)
    other.locator("#chats .open").first.click()
    expect(other.locator("#thread .look")).to_have_count(0)
    seen.check()
    seen_too.check()


def test_an_answer_goes_on_from_its_tokens(browser: Any) -> None:
    with serving(scripted_model(lambda _: "one " * 200, pause_s=0.005)) as server:
        page, seen = opened(browser, server)
        page.fill("#prompt", "a long one")
        page.keyboard.press("Enter")
        expect(page.locator("#thread .assistant .body")).to_contain_text("one one")
        page.keyboard.press("Escape")
        page.wait_for_selector(DONE)
        ids = answers(page)[0]["run"]["ids"]
        with page.expect_request("**/v1/chat/completions") as sent:
            page.get_by_role("button", name="Continue").click()
        body = json.loads(sent.value.post_data)
        assert body["opening"] == ids and body["messages"] == [{"role": "user", "content": "a long one"}]
        page.wait_for_selector(DONE)
        assert page.locator("#thread .assistant .body").inner_text() == ("one " * 200).strip()
        page.locator(".look").click()
        expect(page.locator(TOKENS)).to_have_count(801)
        seen.check()


def test_an_answer_at_its_limit_goes_on_as_a_longer_one(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    page.evaluate('localStorage.setItem(\'puna.sampling\', \'{"temperature": "0.8", "top_p": "0.9", "max_tokens": "12"}\')')
    ask(page, "hello")
    seed = answers(page)[0]["run"]["seed"]
    page.get_by_role("button", name="Continue").click()
    page.wait_for_selector(DONE)
    (answer,) = answers(page)
    assert (answer["content"], answer["run"]["ids"]) == fresh([], 24, seed=seed)
    page.locator(".look").click()
    look(page, 3)
    expect(page.locator("#glassbox .story")).to_contain_text("Then chance decided")
    expect(page.locator("#glassbox .story")).not_to_contain_text("was there before")
    seen.check()


def test_thoughts_are_a_part_of_the_answer(browser: Any) -> None:
    thoughts = "<think>I count.</think>"
    with serving(scripted_model(lambda _: f"{thoughts}Seven.", "thinker", 0.0, THINKING)) as server:
        page, seen = opened(browser, server)
        ask(page, "how many?")
        page.locator(".look").click()
        expect(page.locator(TOKENS)).to_have_count(len(f"{thoughts}Seven.") + 1)
        look(page, thoughts.index("count"))
        page.fill("#own-words", "doubt it.</think>Eight")
        branch = branched(page, lambda: page.click("#force"), 2)
        assert (branch["reasoning"], branch["content"]) == ("I doubt it.", "Eight.")
        page.keyboard.press("Escape")
        expect(page.locator("#thread .assistant .body")).to_have_text("Eight.")
        seen.check()


def test_a_branch_that_is_coming_can_be_stopped(browser: Any) -> None:
    with serving(scripted_model(lambda _: "one " * 500, pause_s=0.01)) as server:
        page, seen = opened(browser, server)
        page.fill("#prompt", "a long one")
        page.keyboard.press("Enter")
        expect(page.locator("#thread .assistant .body")).to_contain_text("one one")
        page.keyboard.press("Escape")
        page.wait_for_selector(DONE)
        page.locator(".look").click()
        look(page, 0)
        page.fill("#own-words", "No. ")
        page.click("#force")
        expect(page.locator(".version[aria-busy=true] .version-text")).to_contain_text("No.")
        page.locator(".version.active").get_by_role("button", name="Stop").click()
        expect(page.locator(TOKENS)).not_to_have_count(0)
        assert answers(page)[-1]["finish"] == "stopped"
        seen.check()


def test_what_goes_wrong_is_told_where_it_was_asked(browser: Any, served: RunningServer) -> None:
    page, seen = asked(browser, served)
    refusal = {"error": {"message": "no memory for <b>that</b>", "code": "x"}}
    page.route("**/trace", lambda route: route.fulfill(status=503, json=refusal))
    page.route("**/rank", lambda route: route.fulfill(status=503, json=refusal))
    page.fill("#own-words", "yes")
    page.click("#rank")
    expect(page.locator(".own-words .problem")).to_have_text("no memory for <b>that</b>")
    page.locator(TOKENS).nth(4).click()
    expect(page.locator(".step-pane")).to_have_text("no memory for <b>that</b>")
    page.keyboard.press("Escape")
    page.locator(".look").click()
    expect(page.locator(".version-facts")).to_have_text("no memory for <b>that</b>")
    seen.check(REFUSED)


def test_what_a_model_writes_is_text(browser: Any, scripted: RunningServer) -> None:
    page, seen = opened(browser, scripted)
    for attack in ATTACKS:
        page.click("#new-chat")
        ask(page, f"echo {attack}")
        page.locator(".look").click()
        expect(page.locator(TOKENS)).to_have_count(len(attack.encode()) + 1)
        look(page, 0)
        page.fill("#own-words", attack.splitlines()[0])
        page.click("#rank")
        expect(page.locator(".ranked-row .token-label")).to_have_text(attack.splitlines()[0].replace("\t", "⇥"))
        assert page.evaluate("window.hit") is None
        assert forbidden_in(page) == [], attack
    seen.check()


def forbidden_in(page: Any) -> Any:
    """Elements and attributes that no text may become."""
    return page.evaluate(
        """() => [...document.querySelectorAll("#glassbox *, #chats *")]
            .filter((one) => /^(script|img|iframe|object|embed|form|base|meta|link|style|video|a)$/i.test(one.localName)
                || [...one.attributes].some(({ name }) => /^on|^srcdoc$/.test(name)))
            .map((one) => one.localName)"""
    )


def test_keyboard_alone(browser: Any, served: RunningServer) -> None:
    page, seen = opened(browser, served)
    ask(page, "hello")
    page.locator(".look").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#close-glassbox")).to_be_focused()
    expect(page.locator("#glassbox .choice-row")).not_to_have_count(0)
    page.locator(f"{TOKENS}[tabindex='0']").focus()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator(TOKENS).nth(3)).to_be_focused()
    expect(page.locator(".step-head")).to_contain_text("Token 4 of")
    names = []
    for _ in range(8):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent"))
    assert {"Token before", "Token after"} <= set(names) and any(name.startswith("Take it: ") for name in names)
    page.locator("#knob-temperature").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#knob-temperature-value")).to_have_text("0.05")
    page.locator("#knob-temperature").focus()
    page.keyboard.press("Escape")
    expect(page.locator("#glassbox")).to_be_hidden()
    expect(page.locator(".look")).to_be_focused()
    expect(page.locator("#composer")).to_be_visible()
    seen.check()


@pytest.mark.parametrize(
    ("locale", "texts"),
    [
        ("de-DE", ["Wie diese Antwort entstand", "Was es sonst hätte sein können", "Die Ziehung", "Die Zufallszahl 0,"]),
        ("zh-CN", ["这个回答是怎样产生的", "它本来还可能是什么", "抽取", "随机数 0."]),
    ],
)
def test_languages(browser: Any, served: RunningServer, locale: str, texts: list[str]) -> None:
    page = browser.new_context(locale=locale).new_page()
    page.goto(f"http://127.0.0.1:{served.port}/")
    page.evaluate('localStorage.setItem(\'puna.sampling\', \'{"temperature": "0.8", "seed": "5", "max_tokens": "9"}\')')
    ask(page, "hello")
    page.locator(".look").click()
    for text in texts:
        expect(page.locator("#glassbox")).to_contain_text(text)
    page.click("#open-settings")
    page.select_option("#choose-language", "en")
    expect(page.locator("#glassbox h1")).to_have_text("How this answer came to be")
    expect(page.locator("#glassbox")).to_contain_text("What else it could have been")


@pytest.mark.parametrize("width", WIDTHS)
def test_no_width_scrolls_sideways(browser: Any, served: RunningServer, width: int) -> None:
    page, seen = asked(browser, served, viewport={"width": width, "height": 700})
    look(page, 2)
    page.fill("#own-words", "w" * 90)
    page.click("#rank")
    expect(page.locator(".ranked-row")).to_have_count(1)
    branched(page, page.locator(".ranked-row button").click, 2)
    expect(page.locator("#glassbox .choice-row")).not_to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate("(box => box.scrollWidth - box.clientWidth)(document.querySelector('#glassbox'))") <= 0
    seen.check()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not here: make browser fetches it with npm")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_nothing(browser: Any, served: RunningServer, width: int, scheme: str) -> None:
    more: dict[str, Any] = {
        "bypass_csp": True,
        "color_scheme": scheme,
        "reduced_motion": "reduce",
        "viewport": {"width": width, "height": 800},
    }
    page, _ = asked(browser, served, **more)

    def check(what: str) -> None:
        page.evaluate(AXE.read_text("utf-8"))
        found = page.evaluate("axe.run()")["violations"]
        assert [(what, one["id"], [node["target"] for node in one["nodes"]]) for one in found] == []

    look(page, 3)
    check("a step")
    page.fill("#own-words", "yes\nno")
    page.click("#rank")
    expect(page.locator(".ranked-row")).to_have_count(2)
    moved(page, "top_p", 0.3)
    check("ranked, and other settings")
    branched(page, page.locator(".choice-row:not(.taken) button").first.click, 2)
    expect(page.locator("#glassbox .choice-row")).not_to_have_count(0)
    check("two versions")
    page.locator(".glassbox-head .term").first.click()
    check("an explanation")


assert api  # Playwright is there, or this file is skipped
