"""The stepper's screen: what stands on it, and that it fits every size, whatever a model and a person write."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from puna.cli.stepper_bars import candidate_rows
from puna.cli.stepper_state import Stepping
from puna.cli.stepper_view import STYLES, screen, text_of
from puna.cli.width import display_width
from puna.llm import LLM
from tests.cli.test_stepper_state import DRAWN, typed
from tests.glassbox.test_record import PROMPT, make_llm

HOSTILE = "Käse 日本語 🦙👩‍👩‍👧 e\u0301 \x1b[2J\x1b]0;x\x07 \u202eright\u2066 \t\r\n\x00\x9b2J"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


@pytest.fixture
def state(llm: LLM) -> Stepping:
    stepping = Stepping(llm, llm.explore(PROMPT, **DRAWN | {"top_p": 0.8, "max_tokens": 60}))
    stepping.start()
    return stepping


def shown(state: Stepping, width: int = 80, height: int = 24) -> list[str]:
    return text_of(screen(state, width, height))


def test_a_step_shows_the_answer_the_stages_the_cut_and_the_draw(state: Stepping) -> None:
    state.go_to(2)
    step, lines = state.step, shown(state)
    assert step is not None and step.draw is not None and len(lines) == 24
    text = "\n".join(lines)
    assert lines[0] == "puna trace  one branch" and "Token 3 of 60" in text and f"rank {step.rank}" in text
    assert "temperature 0.9  top_p 0.8  top_k 20  min_p off  seed 7" in text
    header = next(line for line in lines if " model " in line)
    assert header.split() == ["model", "→", "top_k", "→", "top_p", "→", "temperature"]
    assert re.search(r"tokens left 258 +20 ", text) and "keeps" not in text
    assert "top_k cuts 238 tokens" in text and "top_p cuts" in text and "cut" in text
    assert f"{step.draw.uniform:.4f} was drawn" in text and "? help" in lines[-1]
    rows = [line for line in lines if line.lstrip()[:1].isdigit() and "%" in line]
    assert len(rows) >= 5 and sum("●" in row for row in rows) == 1


def test_the_mark_stands_where_the_number_fell(state: Stepping) -> None:
    for at in range(60):
        state.go_to(at)
        step, lines = state.step, shown(state, width=60, height=30)
        assert step is not None and step.draw is not None
        place = next(number for number, line in enumerate(lines) if "▲" in line)
        cell = lines[place].index("▲") - 2
        assert abs((cell + 0.5) / 56 - step.draw.uniform) <= 1 / 56
        taken = next(number for number, row in enumerate(state.rows) if row.id == step.token.id)
        if step.draw.high - step.draw.low > 2 / 56:
            around = lines[place - 1][2:][max(0, cell - 1) : cell + 2]
            assert ("123456789"[taken] if taken < 9 else "+") in around


def test_a_candidate_that_a_filter_removed_is_cut_and_one_that_is_not_listed_is_a_dot(state: Stepping) -> None:
    step = state.explorer.branches[0].steps[0]
    model, kept = step.stages[0], step.stages[1]
    few = replace(kept, num_candidates=2, top=kept.top[:2], chosen=None)
    rows = candidate_rows(replace(step, stages=(model, few)), state.explorer.token)
    assert [row.shares[1].is_cut for row in rows[:3]] == [False, False, True]
    many = candidate_rows(replace(step, stages=(model, replace(kept, top=kept.top[:2], chosen=None))), state.explorer.token)
    assert many[2].shares[1].share is None and not many[2].shares[1].is_cut


def test_tried_settings_say_what_would_be_taken(state: Stepping) -> None:
    typed(state, lambda one: one.ask_setting("temperature"), "0")
    text = " ".join(" ".join(shown(state)).split())
    assert "with these settings" in text and "tried: temperature 0 " in text and "no draw" in text and "▲" not in text
    assert "→ temperature 0" in text and "temperature 0: only the likeliest stays" in text and "nothing is drawn" in text
    first, *others = [line for line in shown(state) if re.match(r" ?\d+ [ ●]", line)]
    assert "●" in first and first.endswith(" 100.0%") and others and all(line.endswith(" cut") for line in others)
    left = next(line for line in shown(state) if "tokens left" in line)
    assert left.split() == ["tokens", "left", "258", "1"]
    state.ask_setting("top_p")
    assert "top_p is 0.8. Type a number, 0 to 1; Up and Down change it." in shown(state)[-1]


def test_a_greedy_answer_shows_what_temperature_0_does_and_its_last_token_why_it_ended(llm: LLM) -> None:
    state = Stepping(llm, llm.explore(PROMPT, max_tokens=5, ignore_eos=True))
    state.start()
    for at in range(5):
        state.go_to(at)
        text = " ".join(" ".join(shown(state)).split())
        assert "the likeliest, as always at temperature 0" in text and "100.0%" in text
        assert ("The answer ends here: max_tokens is 5." in text) == (at == 4)
        assert state.branch is not None and [stage.name for stage in state.branch.steps[at].stages] == ["model"]
    state.go_to(2)
    typed(state, Stepping.ask_text, "日")
    assert state.step is not None and state.step.is_given and state.step.stages[-1].chosen is None
    assert state.step.stages[-1].top[0].id == state.step.stages[0].top[0].id


def test_given_tokens_branches_ranks_and_help_have_their_pages(state: Stepping) -> None:
    state.go_to(5)
    typed(state, Stepping.ask_text, "日本")
    text = "\n".join(shown(state))
    assert "given; it would have been another" in text and "branch 2, one of 2; it leaves branch 1 at token 6" in text
    assert "bytes e6" in text and "··日" in shown(state)[1]
    state.show("tree")
    assert "└ 2 at token 6: ··日··本" in "\n".join(shown(state))
    typed(state, Stepping.ask_options, "yes|no")
    assert "as a whole" in "\n".join(shown(state)) and "Esc back" in shown(state)[-1]
    state.show("help")
    first = shown(state)
    for _ in range(200):
        state.mark(1)
    assert (
        "puna explain sampling" in first[0]
        and first[1] == "Keys"
        and "prefix cache" in "\n".join(shown(state))
        and shown(state)[-2] != ""
    )


def test_the_end_says_why_and_what_would_follow(llm: LLM, state: Stepping) -> None:
    state.go_to(99)
    assert "The end: max_tokens is 60" in "\n".join(shown(state)) and "would follow" in "\n".join(shown(state))
    ended = Stepping(llm, llm.explore(PROMPT, logit_bias={257: 99.0}, max_tokens=9))
    ended.start()
    ended.go_to(1)
    assert "sign of the end" in " ".join(shown(ended)) and ended.rows == []
    assert "There is no answer yet." in shown(Stepping(llm, llm.explore("x")))


def everything(state: Stepping) -> Iterator[Stepping]:
    """The state in each of its forms."""
    yield state
    typed(state, Stepping.ask_text, HOSTILE[:40])
    yield state
    typed(state, Stepping.ask_any_setting, "top_n_sigma 1")
    yield state
    for panel in ("help", "tree"):
        state.show(panel)
        yield state
    typed(state, Stepping.ask_options, HOSTILE + "|" + "x" * 50)
    yield state
    state.go_to(99)
    yield state
    state.message = HOSTILE * 9
    yield state
    state.ask_text()
    yield state


@pytest.mark.parametrize("text", [PROMPT, HOSTILE], ids=["plain", "hostile"])
def test_every_line_fits_every_size_and_nothing_controls_the_terminal(llm: LLM, text: str) -> None:
    stepping = Stepping(llm, llm.explore(text[:30], **DRAWN | {"top_p": 0.8, "max_tokens": 60}))
    stepping.start()
    for state in everything(stepping):
        for width, height in ((80, 24), (40, 24), (40, 10), (20, 5), (7, 3), (1, 1), (200, 60), (80, 2)):
            lines = screen(state, width, height)
            assert len(lines) == height, (width, height, state.panel)
            for line in text_of(lines):
                assert display_width(line) <= width and line.isprintable(), (width, height, line)
    styles = {f"class:{style}" for style in STYLES} | {""}
    assert {style for line in screen(stepping, 80, 24) for style, _ in line} <= styles


def test_a_step_is_drawn_fast(state: Stepping) -> None:
    """A key must not wait for the screen: 50 pictures in under two seconds on a busy machine."""

    started = time.process_time()
    for at in range(50):
        state.go_to(at)
        screen(state, 80, 24)
    assert time.process_time() - started < 2
