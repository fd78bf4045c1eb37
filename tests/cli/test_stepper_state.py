"""A person's way through a tree of answers: other tokens, texts and settings, branches, undo, files, and what is refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from puna.cli.stepper_state import Stepping
from puna.cli.stepper_view import screen
from puna.glassbox.receipt import Receipt
from puna.glassbox.schema import trace_schema
from puna.llm import LLM
from tests.glassbox.test_record import PROMPT, make_llm

LENGTH = 12
DRAWN: dict[str, Any] = {"temperature": 0.9, "top_k": 20, "seed": 7, "max_tokens": LENGTH, "ignore_eos": True}


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


@pytest.fixture
def state(llm: LLM) -> Stepping:
    stepping = Stepping(llm, llm.explore(PROMPT, **DRAWN))
    stepping.start()
    return stepping


def typed(state: Stepping, ask: Callable[[Stepping], None], text: str) -> str:
    """Answer a question; the message that comes of it."""
    ask(state)
    assert state.question is not None
    state.answer(text)
    return state.message


def num_left(state: Stepping) -> tuple[int | None, int]:
    """The top_k that is tried, and how many candidates it leaves."""
    assert state.step is not None
    return None if state.tried is None else state.tried.top_k, state.step.stages[1].num_candidates


def ids(state: Stepping) -> list[int]:
    return [token.id for token in state.tokens]


def test_a_person_moves_along_the_answer(state: Stepping) -> None:
    assert state.at == 0 and len(state.tokens) == LENGTH and state.step is not None
    for by, at in ((-1, 0), (1, 1), (1, 2), (100, LENGTH), (1, LENGTH), (-1, LENGTH - 1)):
        state.move(by)
        assert state.at == at and state.step is not None and state.step.index == at
    state.go_to(0)
    state.last()
    assert state.at == LENGTH - 1
    assert typed(state, Stepping.ask_place, "3") == "" and state.at == 2
    assert typed(state, Stepping.ask_place, "x").startswith("a number from 1 to 12") and state.at == 2
    assert state.rows[state.selected].id == state.tokens[2].id


def test_a_candidate_is_chosen_by_its_number_by_the_mark_or_by_typing(state: Stepping) -> None:
    before = ids(state)
    state.go_to(4)
    other = next(number for number, row in enumerate(state.rows) if row.id != before[4])
    state.choose(other + 1)
    assert state.current == 1 and state.at == 4 and ids(state)[:4] == before[:4] and state.message == "Branch 2: 8 new tokens."
    state.choose(1 + next(number for number, row in enumerate(state.rows) if row.id == ids(state)[4]))
    assert state.message.startswith("That is the token that was taken") and len(state.explorer.branches) == 2
    state.undo()
    assert state.current == 0 and ids(state) == before and list(state.explorer.branches) == [0]
    for _ in range(40):
        state.mark(1)
    assert state.selected == len(state.rows) - 1
    chosen = state.rows[-1].id
    state.enter()
    assert ids(state)[4] == chosen
    assert typed(state, Stepping.ask_choice, "ü").endswith("new tokens.") and bytes(ids(state)[4:6]) == "ü".encode()
    assert typed(state, Stepping.ask_choice, "1").endswith("new tokens.") or state.message.startswith("That is the token")
    assert typed(state, Stepping.ask_choice, "999") == "There is no candidate 999."


def test_a_typed_text_gets_the_space_that_the_token_has_and_none_in_quotes(llm: LLM) -> None:
    for letter, is_spaced in ((" ", True), ("x", False)):
        state = Stepping(llm, llm.explore(PROMPT, max_tokens=3, logit_bias={ord(letter): 99.0}, ignore_eos=True))
        state.start()
        assert state.tokens[1].text == letter
        for ask, typed_text, text in (
            (Stepping.ask_text, "ab", " ab" if is_spaced else "ab"),
            (Stepping.ask_choice, "ab", " ab" if is_spaced else "ab"),
            (Stepping.ask_text, " ab", " ab"),
            (Stepping.ask_text, '"ab"', "ab" if is_spaced else '"ab"'),
        ):
            state.go_to(1)
            ask(state)
            assert state.question is not None
            assert ("A space is put before it" in state.question.prompt) == is_spaced == ("quotes" in state.question.prompt)
            state.leave_question()
            typed(state, lambda one: one.ask_any_setting(), "max_tokens 9")
            typed(state, ask, typed_text)
            assert "".join(token.text for token in state.tokens[1:]).startswith(text), typed_text
            state.undo()
            state.undo()
        typed(state, Stepping.ask_options, 'ab | c|"d"')
        space_or_not = " " if is_spaced else ""
        assert {one.text for one in state.ranks} == {f"{space_or_not}ab", f"{space_or_not}c", "d" if is_spaced else '"d"'}


def test_a_setting_is_tried_while_it_is_typed_and_the_answer_goes_on_with_it(state: Stepping) -> None:
    state.go_to(3)
    state.ask_setting("top_k")
    question = state.question
    assert question is not None and "top_k is 20" in question.prompt
    question.changed("2")
    assert num_left(state) == (2, 2)
    question.changed("nonsense")
    assert num_left(state) == (2, 2) and question.moved("", 1) == "21" and question.moved("0", -1) == "0"
    state.leave_question()
    assert num_left(state) == (None, 20)
    typed(state, lambda one: one.ask_setting("top_k"), "1")
    assert num_left(state) == (1, 1)
    state.move(1)
    assert num_left(state) == (1, 1)
    state.enter()
    branch = state.branch
    assert branch is not None and branch.params.top_k == 1 and num_left(state) == (None, 1) and branch.at == 4
    assert all(step.stages[1].num_candidates == 1 for step in branch.steps[4:])


def test_tried_settings_are_left_and_taken_back(state: Stepping) -> None:
    typed(state, lambda one: one.ask_setting("temperature"), "0.2")
    typed(state, lambda one: one.ask_setting("min_p"), "0.5")
    assert state.params.temperature == 0.2 and state.params.min_p == 0.5
    state.undo()
    assert state.params.temperature == 0.2 and state.params.min_p == 0.0
    state.back()
    assert state.tried is None
    state.undo()
    assert state.params.temperature == 0.2
    typed(state, lambda one: one.ask_setting("temperature"), "  ")
    assert state.params.temperature == 0.2
    assert typed(state, Stepping.ask_any_setting, "mirostat=2") == "" and state.step is not None
    assert [stage.name for stage in state.step.stages] == ["model", "temperature", "mirostat"]


def test_the_answer_goes_on_beyond_its_end_with_more_tokens(state: Stepping) -> None:
    state.go_to(LENGTH)
    assert state.step is not None and state.step.index == LENGTH and state.goes_beyond
    following = state.step.token.id
    state.enter()
    assert len(state.tokens) == 2 * LENGTH and ids(state)[LENGTH] == following and state.at == LENGTH
    state.undo()
    assert state.at == LENGTH and state.current == 0
    typed(state, Stepping.ask_any_setting, "max_tokens 20")
    typed(state, Stepping.ask_text, "!")
    assert len(state.tokens) == 20 and state.tokens[LENGTH].text == "!"
    state.go_to(15)
    assert typed(state, Stepping.ask_text, "123456").startswith("the answer opens with 21 tokens, and max_tokens is 20")


def test_drawing_again_takes_other_numbers(state: Stepping) -> None:
    before = ids(state)
    state.go_to(2)
    state.redraw()
    assert ids(state)[:2] == before[:2] and ids(state) != before
    typed(state, lambda one: one.ask_setting("temperature"), "0")
    state.redraw()
    assert "no seed changes that" in state.message


def test_branches_are_a_tree_to_walk(state: Stepping) -> None:
    for at, text in ((6, "a"), (3, "b")):
        state.go_to(at)
        typed(state, Stepping.ask_text, text)
        state.visit(-state.tree().index(next(one for one in state.tree() if one[1].number == state.current)))
        assert state.current == 0
    assert [(depth, branch.number, branch.at) for depth, branch in state.tree()] == [(0, 0, 0), (1, 2, 3), (1, 1, 6)]
    state.show("tree")
    state.mark(1)
    state.mark(1)
    state.mark(1)
    state.enter()
    assert state.current == 1 and state.panel == "step" and state.at == 6
    state.visit(1)
    assert state.current == 1
    state.visit(-1)
    assert state.current == 2
    state.undo()
    assert state.current == 1 and len(state.explorer.branches) == 3
    for _ in range(20):
        state.undo()
    assert state.message == "There is nothing to take back." and list(state.explorer.branches) == [0]


def test_options_are_ranked_the_likeliest_first(state: Stepping) -> None:
    state.go_to(2)
    typed(state, Stepping.ask_options, "a|b|cd")
    expected = sorted(state.explorer.rank(0, 2, ["a", "b", "cd"]), key=lambda one: -one.logprob)
    assert [one.text for one in state.ranks] == [one.text for one in expected]
    panels = [state.panel]
    state.enter()
    assert [*panels, state.panel] == ["ranks", "step"]
    assert typed(state, Stepping.ask_options, "||").startswith("0 options")
    assert "x" * 100 not in typed(state, Stepping.ask_options, "x" * (1 << 20)) and state.panel == "step"


def test_a_branch_is_saved_by_the_ending_of_the_name(llm: LLM, state: Stepping, tmp_path: Path) -> None:
    state.go_to(5)
    typed(state, Stepping.ask_text, "ü")
    assert typed(state, Stepping.ask_file, str(tmp_path / "b.json")).startswith("Branch 2 was saved as a trace")
    trace = json.loads((tmp_path / "b.json").read_text("utf-8"))
    jsonschema.validate(trace, trace_schema())
    assert trace["token_ids"] == ids(state)
    for name in ("b.receipt", "b.receipt.json"):
        assert "puna replay" in typed(state, Stepping.ask_file, str(tmp_path / name))
        receipt = Receipt.read((tmp_path / name).read_text("utf-8"))
        assert receipt.num_opened == 7 and llm.replay(receipt).is_verified
    assert "saved as a page" in typed(state, Stepping.ask_file, str(tmp_path / "b.html"))
    assert (tmp_path / "b.html").read_text("utf-8").lstrip().lower().startswith("<!doctype html>")
    assert "exists" in typed(state, Stepping.ask_file, str(tmp_path / "b.json"))
    for name in ("b.txt", "", ".json", "\x00.json", "x" * 5000 + ".json", str(tmp_path / "none" / "b.json")):
        assert typed(state, Stepping.ask_file, name) and "was saved" not in state.message
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.html", "b.json", "b.receipt", "b.receipt.json"]


@pytest.mark.parametrize(
    ("ask", "text", "problem"),
    [
        (Stepping.ask_text, "", "the text is empty"),
        (Stepping.ask_text, "x" * (1 << 20), "context"),
        (Stepping.ask_text, "\ud800", "lone surrogate"),
        (Stepping.ask_any_setting, "", "there is no setting ''"),
        (Stepping.ask_any_setting, "tempreature 1", "Did you mean temperature"),
        (Stepping.ask_any_setting, "temperature", "temperature must be a number"),
        (Stepping.ask_any_setting, "temperature nan", "temperature must be a number"),
        (Stepping.ask_any_setting, "temperature " + "9" * 9999, "temperature must be a number"),
        (Stepping.ask_any_setting, "mirostat_tau -1", "mirostat_tau must be"),
        (Stepping.ask_choice, "", "the text is empty"),
        (Stepping.ask_place, "9" * 9999, "a number from 1 to 12"),
        (lambda state: state.ask_setting("top_p"), "2", "top_p must be a number, 0 to 1"),
    ],
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    state: Stepping, ask: Callable[[Stepping], None], text: str, problem: str
) -> None:
    message = typed(state, ask, text)
    assert problem in message and len(message) <= 301
    assert list(state.explorer.branches) == [0] and state.tried is None and state.question is None and state.growth is None


TYPED: tuple[str, ...] = (
    "",
    " ",
    "0",
    "1",
    "0.5",
    "7",
    "-1",
    "a|b",
    "日本",
    "\x1b[2J",
    "\x00",
    "top_k 3",
    "mirostat 2",
    "adaptive_target 0.3",
    "seed none",
)
ACTIONS: tuple[Callable[[Stepping, random.Random], object], ...] = (
    lambda state, own: state.move(own.choice((-3, -1, 1, 2, 50))),
    lambda state, own: state.mark(own.choice((-9, -1, 1, 9))),
    lambda state, own: state.choose(own.randrange(-1, 14)),
    lambda state, own: state.enter(),
    lambda state, own: state.back(),
    lambda state, own: state.undo(),
    lambda state, own: state.redraw(),
    lambda state, own: state.visit(own.choice((-1, 1))),
    lambda state, own: state.show(own.choice(("help", "tree", "ranks", "step"))),
    lambda state, own: typed(state, own.choice(ASKS), own.choice(TYPED)),
)
ASKS: tuple[Callable[[Stepping], None], ...] = (
    Stepping.ask_text, Stepping.ask_choice, Stepping.ask_options, Stepping.ask_any_setting, Stepping.ask_place,
    lambda state: state.ask_setting("temperature"), lambda state: state.ask_setting("top_p"),
)  # fmt: skip


def test_whatever_a_person_does_the_state_is_whole(llm: LLM) -> None:
    seed = 20261201
    print("seed", seed)
    own = random.Random(seed)
    state = Stepping(llm, llm.explore(PROMPT, **DRAWN))
    state.start()
    for number in range(200):
        own.choice(ACTIONS)(state, own)
        branch = state.branch
        assert branch is not None and state.question is None and state.growth is None and not state.is_working, number
        assert tuple(ids(state)) == branch.token_ids and 0 <= state.at <= len(state.tokens), number
        assert not state.rows or 0 <= state.selected < len(state.rows), number
        assert len(screen(state, own.randrange(1, 100), own.randrange(1, 40))) > 0
        if state.tried is None and state.step is not None and not state.is_at_end:
            assert state.step.token.id == state.tokens[state.at].id, number
