"""A branch is what a fresh run with its prefix forced gives, a tried step that of a real run, and the tree is bounded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jsonschema
import numpy as np
import pytest

from puna.errors import ContextLengthError, UsageError
from puna.glassbox.explorer import MAX_OPTIONS, Explorer
from puna.glassbox.kept_rows import KeptRow, KeptRows
from puna.glassbox.record import settings_of
from puna.glassbox.schema import trace_schema
from puna.llm import LLM
from puna.request import FinishReason, SamplingParams
from tests.fakes import EOS, VOCAB_SIZE
from tests.glassbox.cases import DRAWN, SETTINGS
from tests.glassbox.test_record import PROMPT, in_itself, make_llm
from tests.test_opening import STATEFUL, Forcing

LENGTH = 24
NUM_POINTS = 50


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


@pytest.fixture(scope="module")
def uncached() -> Iterator[LLM]:
    with make_llm(prefix_cache=False) as it:
        yield it


def explorer_of(llm: LLM, **settings: Any) -> Explorer:
    explorer = llm.explore(PROMPT, **{"max_tokens": LENGTH, "ignore_eos": True, **settings}, top=5)
    explorer.start().finish()
    return explorer


def test_fifty_branches_are_what_fresh_runs_with_their_prefixes_forced_give(llm: LLM, uncached: LLM) -> None:
    seed = 20261201
    print("seed", seed)
    own = random.Random(seed)
    names = [name for name in SETTINGS if name not in STATEFUL]
    explorers = {name: explorer_of(llm, **SETTINGS[name]) for name in names}
    for point in range(NUM_POINTS):
        name = names[point % len(names)]
        explorer = explorers[name]
        parent = explorer.branches[own.choice(list(explorer.branches))]
        at, token_id = own.randrange(LENGTH), own.randrange(VOCAB_SIZE)
        branch = explorer.branch(parent.number, at, token_id).finish()
        params = replace(explorer.params)
        forced = uncached.generate(PROMPT, params, sampler=Forcing([*parent.token_ids[:at], token_id], params))
        assert branch.token_ids == forced.token_ids and branch.completion.text == forced.text, (name, at, token_id)
        assert branch.steps[:at] == parent.steps[:at] and len(branch.steps) == LENGTH


@pytest.mark.parametrize("name", STATEFUL)
def test_a_branch_under_a_filter_with_a_state_goes_on_as_its_parent_did(llm: LLM, name: str) -> None:
    explorer = explorer_of(llm, **SETTINGS[name])
    first = explorer.branches[0]
    again = explorer.branch(0, 9, first.token_ids[9]).finish()
    assert again.token_ids == first.token_ids and list(map(in_itself, again.steps)) == list(map(in_itself, first.steps))


def test_a_branch_costs_its_new_tokens_only(llm: LLM) -> None:
    explorer = explorer_of(llm, max_tokens=60)
    branch = explorer.branch(0, 50, 65).finish()
    computed = [tokens for step in branch.steps[50:] for tokens in step.computed]
    new = sum(tokens.last - tokens.first for tokens in computed)
    assert new <= llm.plan.page_size + 10 and branch.completion.timing.num_generated <= 10


@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_tried_with_other_settings_is_that_of_a_real_run(llm: LLM, name: str) -> None:
    explorer = explorer_of(llm, temperature=1.0, seed=11)
    ids, params = explorer.branches[0].token_ids, SamplingParams(**SETTINGS[name], max_tokens=LENGTH, ignore_eos=True)
    for at in (0, 5, 17):
        real = llm.trace(PROMPT, params, opening=ids[:at], first=at if at else None, top=5).steps[at]
        assert in_itself(explorer.resample(0, at, params)) == in_itself(real)


def test_settings_are_tried_without_the_model_while_the_row_is_kept(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    explorer = explorer_of(llm, temperature=1.0, seed=11)
    hot = replace(explorer.params, temperature=1.5, top_p=0.5)
    monkeypatch.setattr(llm.engine, "step", lambda: pytest.fail("the model was asked"))
    assert explorer.is_at_hand(0, 4, hot)
    assert [stage.name for stage in explorer.resample(0, 4, hot).stages] == ["model", "top_p", "temperature"]
    assert not explorer.is_at_hand(0, 4, replace(hot, mirostat=2))


def test_a_row_that_was_dropped_is_computed_again(llm: LLM) -> None:
    (job,) = llm.jobs(PROMPT, SamplingParams(temperature=1.0, seed=11, max_tokens=LENGTH, ignore_eos=True), {})
    make = partial(Explorer, llm.runner, llm.engine.admission, llm.traced_model, job.prompt_ids, job.params)
    small, large = make(rows=KeptRows(max_bytes=4 * VOCAB_SIZE)), make()
    for explorer in (small, large):
        explorer.start().finish()
    cold = replace(small.params, temperature=0.5)
    assert not small.is_at_hand(0, 3, cold)
    assert in_itself(small.resample(0, 3, cold)) == in_itself(large.resample(0, 3, cold))
    assert small.is_at_hand(0, 3, cold) and not small.is_at_hand(0, LENGTH - 1, cold)


def test_a_tree_without_room_for_steps_computes_them_again(llm: LLM) -> None:
    (job,) = llm.jobs(PROMPT, SamplingParams(max_tokens=LENGTH, ignore_eos=True), {})
    explorer = Explorer(llm.runner, llm.engine.admission, llm.traced_model, job.prompt_ids, job.params, top=5, max_candidates=40)
    first, whole = explorer.start().finish(), llm.trace(PROMPT, job.params, top=5)
    assert len(first.steps) < LENGTH == len(first.token_ids)
    assert [in_itself(explorer.step(0, at)) for at in range(LENGTH)] == list(map(in_itself, whole.steps))
    branch = explorer.branch(0, 20, 65).finish()
    assert len(branch.steps) == len(first.steps) and explorer.step(branch.number, 20).is_given
    assert len(explorer.trace(branch.number).steps) == LENGTH


def test_options_are_ranked_by_the_logs_that_scoring_gives(llm: LLM) -> None:
    explorer = explorer_of(llm, temperature=0.7, seed=3)
    ids, prompt = explorer.branches[0].token_ids, llm.encode(PROMPT)
    options: list[Any] = [" Lima", "ü", [1, 2, 3], [EOS, 4]]
    for at in (0, 8, LENGTH):
        found = explorer.rank(0, at, options)
        scored = llm.score([*prompt, *ids[:at]], [[token.id for token in one.tokens] for one in found])
        assert [one.text for one in found[:2]] == [" Lima", "ü"] and [token.id for token in found[2].tokens] == [1, 2, 3]
        for one, score in zip(found, scored, strict=True):
            assert one.logprobs == pytest.approx(score.token_logprobs, abs=1e-5)
            assert one.logprob == pytest.approx(score.logprob, abs=1e-4) and one.mean_logprob == one.logprob / len(one.tokens)
            assert (set(one.ranks) == {1}) == score.is_greedy


def test_a_text_is_forced_and_other_settings_go_on_from_a_token(llm: LLM) -> None:
    explorer = explorer_of(llm)
    forced = explorer.force(0, 3, "ü!").finish()
    assert bytes(forced.token_ids[3:6]) == "ü!".encode() and forced.num_given == 3 and forced.at == 3
    assert [step.is_given for step in forced.steps[3:6]] == [True] * 3
    hot = explorer.go_on(0, 3, replace(explorer.params, temperature=2.0)).finish()
    assert hot.token_ids[:3] == explorer.branches[0].token_ids[:3] and hot.num_given == 0
    assert hot.params.seed is not None and hot.token_ids[3] == explorer.resample(0, 3, hot.params).token.id
    longer = explorer.go_on(0, LENGTH, replace(explorer.params, max_tokens=LENGTH + 5)).finish()
    assert len(longer.token_ids) == LENGTH + 5 and longer.token_ids[:LENGTH] == explorer.branches[0].token_ids


def test_branches_form_a_tree(llm: LLM) -> None:
    explorer = explorer_of(llm)
    one, two = explorer.branch(0, 4, 65).finish(), explorer.branch(0, 2, 66).finish()
    three = explorer.branch(one.number, 9, 67).finish()
    assert explorer.children(0) == [two, one]
    assert [branch.number for branch in explorer.lineage(three.number)] == [three.number, one.number, 0]
    with pytest.raises(UsageError, match="others grow from it"):
        explorer.remove(one.number)
    explorer.remove(three.number)
    assert three.number not in explorer.branches and explorer.branch(0, 1, 65).finish().number not in (0, 1, 2, 3)


def test_the_trace_of_a_branch_is_valid_and_says_what_was_given(llm: LLM) -> None:
    explorer = explorer_of(llm, **DRAWN)
    same = explorer.branch(0, 4, 65).finish()
    hot = explorer.go_on(same.number, 9, replace(explorer.params, temperature=3.0)).finish()
    for branch in (explorer.branches[0], same, hot):
        trace = explorer.trace(branch.number)
        jsonschema.validate(json.loads(json.dumps(trace.as_json(), allow_nan=False)), trace_schema())
        assert trace.token_ids == branch.token_ids and len(trace.steps) == LENGTH and trace.text == branch.completion.text
        assert trace.settings == settings_of(branch.params)
    assert [step.index for step in explorer.trace(same.number).steps if step.is_given] == [4]
    again = explorer.trace(hot.number).steps
    assert again[4].is_given and not any(step.is_given for step in again[9:])


def test_a_branch_can_be_stopped_and_keeps_what_there_is(llm: LLM) -> None:
    explorer = explorer_of(llm, max_tokens=100)
    growth = explorer.branch(0, 2, 65)
    for so_far in growth:
        if so_far.num_tokens >= 10:
            growth.cancel()
    branch = growth.finish()
    assert branch.completion.finish_reason is FinishReason.ABORT and 10 <= len(branch.token_ids) < 100
    trace = explorer.trace(explorer.go_on(branch.number, 5, replace(explorer.params, temperature=1.0)).finish().number)
    assert len(trace.token_ids) == 100


def test_a_form_is_kept_while_settings_are_tried(llm: LLM) -> None:
    pytest.importorskip("llguidance")
    explorer = explorer_of(llm, choice=["abcde", "abxyz"], ignore_eos=False)
    steps = explorer.branches[0].steps
    forced, chosen = next(step for step in steps if not step.stages), next(step for step in steps if step.stages)
    assert explorer.resample(0, forced.index, explorer.params) == forced
    tried = explorer.resample(0, chosen.index, replace(explorer.params, temperature=1.0))
    assert [stage.name for stage in tried.stages] == ["model", "constraint", "temperature"]


@pytest.mark.parametrize(
    ("ask", "problem"),
    [
        (lambda explorer: explorer.branch(0, 4, VOCAB_SIZE).finish(), f"answer id {VOCAB_SIZE} is not in the vocabulary"),
        (lambda explorer: explorer.branch(0, 4, -1).finish(), "answer id -1"),
        (lambda explorer: explorer.branch(0, 4, "a").finish(), "token ids are whole numbers"),
        (lambda explorer: explorer.branch(0, LENGTH + 1, 4).finish(), "the token's place"),
        (lambda explorer: explorer.branch(7, 0, 4).finish(), "there is no branch 7"),
        (lambda explorer: explorer.branch([], 0, 4).finish(), "there is no branch"),
        (lambda explorer: explorer.force(0, 4, "").finish(), "the text is empty"),
        (lambda explorer: explorer.force(0, 4, "\ud800").finish(), "lone surrogate"),
        (lambda explorer: explorer.force(0, 4, "x" * LENGTH).finish(), f"max_tokens is {LENGTH}"),
        (lambda explorer: explorer.rank(0, 4, []), "0 options"),
        (lambda explorer: explorer.rank(0, 4, ["a"] * (MAX_OPTIONS + 1)), "101 options"),
        (lambda explorer: explorer.rank(0, 4, ["a", ""]), "option 2 is empty"),
        (lambda explorer: explorer.rank(0, 4, [[VOCAB_SIZE]]), "not in the vocabulary"),
        (lambda explorer: explorer.rank(0, 4, "text"), "the options"),
        (lambda explorer: explorer.step(0, LENGTH), "the token's place"),
        (lambda explorer: explorer.start(), "is there already"),
        (lambda explorer: explorer.remove(0), "cannot be removed"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_the_tree_as_it_was(llm: LLM, ask: Any, problem: str) -> None:
    explorer = explorer_of(llm)
    with pytest.raises(UsageError, match=problem):
        ask(explorer)
    assert list(explorer.branches) == [0] and len(explorer.branch(0, 4, 65).finish().token_ids) == LENGTH


def test_options_of_a_megabyte_are_refused_at_once(llm: LLM) -> None:
    explorer = explorer_of(llm)
    for ask in (lambda: explorer.rank(0, 4, ["x" * (1 << 20)]), lambda: explorer.force(0, 4, "x" * (1 << 20)).finish()):
        with pytest.raises(ContextLengthError):
            ask()


@pytest.mark.parametrize(("prompt", "settings"), [(["a", "b"], {}), ("a", {"n": 2}), ("a", {"opening": "b"}), ("a", {"top": 0})])
def test_what_cannot_be_explored_is_refused(llm: LLM, prompt: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        llm.explore(prompt, **settings)


def test_rows_are_bounded_and_the_last_used_ones_stay() -> None:
    rows = KeptRows(max_bytes=3 * 4 * VOCAB_SIZE)
    row = KeptRow(one := np.zeros(VOCAB_SIZE, np.float32), one)
    for index in range(3):
        rows.put((0, index), row)
    assert rows.get((0, 0)) is row
    rows.put((0, 3), row)
    assert [index for index in range(4) if (0, index) in rows] == [0, 2, 3]
