"""A traced run gives the tokens and log-probabilities of an untraced one, and its trace is whole, bounded, and valid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import jsonschema
import numpy as np
import pytest

from puna.completion import Completion
from puna.errors import ContextLengthError, UsageError
from puna.glassbox.record import settings_of
from puna.glassbox.schema import trace_schema
from puna.glassbox.trace import Trace, TracedStep
from puna.history import History, Row
from puna.llm import LLM
from puna.request import SamplingParams
from tests.fakes import EOS, VOCAB_SIZE
from tests.glassbox.cases import DRAWN, SETTINGS
from tests.glassbox.tiny import make_llm as make_llm

PROMPT = "the llama"


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


def check_equal(trace: Trace, plain: Completion) -> None:
    assert trace.token_ids == plain.token_ids and trace.text == plain.text and trace.seed == plain.seed
    assert (trace.finish_reason, trace.stop_reason) == (plain.finish_reason, plain.stop_reason)
    assert [step.token.id for step in trace.steps] == list(plain.token_ids)
    assert [step.logprob for step in trace.steps] == [entry.logprob for entry in plain.logprobs]
    tops = [tuple((one.id, one.logprob) for one in step.stages[0].top) for step in trace.steps]
    assert tops == [entry.top for entry in plain.logprobs]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_traced_run_is_the_untraced_one(llm: LLM, name: str) -> None:
    params = SamplingParams(**SETTINGS[name], max_tokens=12, ignore_eos=True)
    trace = llm.trace(PROMPT, params, top=5)
    check_equal(trace, llm.generate(PROMPT, params, logprobs=5))
    assert [one.name for one in trace.filters] == [stage.name for stage in trace.steps[0].stages[1:]]
    assert all(one.explanation for one in trace.filters) and trace.settings == settings_of(params)
    jsonschema.validate(json.loads(json.dumps(trace.as_json(), allow_nan=False)), trace_schema())


def test_guesses_of_tokens_change_nothing() -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    with make_llm(speculation="ngram") as guessing, make_llm() as plain:
        trace = guessing.trace("abababababab", params, top=5)
        check_equal(trace, plain.generate("abababababab", params, logprobs=5))
        kept = [step.kv_bytes or 0 for step in plain.trace("abababababab", params, top=1).steps]
    assert [step.kv_bytes for step in trace.steps] == kept == sorted(set(kept))
    assert sum(one.num_drafts for step in trace.steps for one in step.computed) > 0


def test_the_prompt_is_told_as_the_model_gets_it() -> None:
    with make_llm() as llm:
        first, again = (llm.trace(PROMPT * 9, max_tokens=2, ignore_eos=True) for _ in range(2))
    prompt, (one, two) = first.prompt, first.steps
    assert prompt.given == prompt.text == PROMPT * 9 == bytes.fromhex("".join(token.bytes for token in prompt.tokens)).decode()
    assert prompt.tokens[0].is_control and prompt.num_tokens == len(prompt.tokens) == 82
    assert prompt.padded.shape == (1, 84) and prompt.padded.num_pads == (2,)
    assert prompt.num_cached == 0 < again.prompt.num_cached == again.steps[0].computed[0].first
    spans = [(tokens.first, tokens.last) for tokens in (*one.computed, *two.computed)]
    assert spans[0][0] == 0 and all(last == first for (_, last), (first, _) in pairwise(spans)) and spans[-1] == (82, 83)
    assert (one.kv_bytes, two.kv_bytes) == (82 * 256, 83 * 256)  # K and V of 8 numbers of 4 bytes, in 2 layers and 2 heads


def test_a_token_without_a_choice_says_so(llm: LLM) -> None:
    trace = llm.trace(PROMPT, choice=["abcde", "abcxy"], max_tokens=9)
    assert trace.text in ("abcde", "abcxy") and trace.filters[0].name == "constraint"
    forced, chosen = [step for step in trace.steps if not step.stages], [step for step in trace.steps if step.stages]
    assert forced and [step.index for step in trace.steps] == list(range(len(trace.token_ids)))
    assert all(step.logprob is None for step in forced)
    assert [stage.name for stage in chosen[0].stages] == ["model", "constraint"] and chosen[0].stages[1].cut is not None
    jsonschema.validate(json.loads(json.dumps(trace.as_json())), trace_schema())
    assert trace.token_ids == llm.generate(PROMPT, choice=["abcde", "abcxy"], max_tokens=9).token_ids


class Seven:
    def sample(self, logits: Row, history: History) -> int:
        return 7


def test_a_sampler_of_the_callers_own_has_no_stages(llm: LLM) -> None:
    trace = llm.trace(PROMPT, sampler=Seven(), max_tokens=2)
    assert trace.token_ids == (7, 7) and trace.filters == ()
    assert [[stage.name for stage in step.stages] for step in trace.steps] == [["model"]] * 2


def test_logits_processors_are_a_stage(llm: LLM) -> None:
    def only_a(ids: list[int], logits: Row) -> Row:
        return np.where(np.arange(len(logits)) == ord("a"), logits, np.float32(-np.inf))

    trace = llm.trace(PROMPT, logits_processors=only_a, max_tokens=2)
    assert trace.text == "aa" and trace.steps[0].stages[1].name == "logits_processors" == trace.filters[0].name
    cut = trace.steps[0].stages[1].cut
    assert cut is not None and cut.num_removed == VOCAB_SIZE - 1 and cut.last_kept.text == "a"


def test_prompts_that_are_traced_together_stand_in_one_rectangle_of_metas(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    params = SamplingParams(max_tokens=3, ignore_eos=True, temperature=0.8, seed=5)
    prompts = ["the llama", "a"]
    traces = llm.trace(prompts, params, top=5)
    for trace, prompt in zip(traces, prompts, strict=True):
        check_equal(trace, llm.generate(prompt, params, logprobs=5))
        assert trace.prompt.given == prompt
    first, second = (trace.prompt.padded for trace in traces)
    assert (first.row, second.row) == (0, 1) and dataclasses.replace(second, row=0) == first
    assert first.shape == (2, 10 + 3) and first.num_pads == (3, 11) and first.num_prefilled == 2 and first.num_forced == (8, 0)
    assert [trace.steps[0].computed[0].last for trace in traces] == [10, 2], "puna pads nothing"
    jsonschema.validate(json.loads(json.dumps(traces[1].as_json())), trace_schema())
    assert llm.trace([]) == []
    monkeypatch.setattr(llm, "chat_template", "{{ messages[0].content }}:")
    assert [one.prompt.text for one in llm.chat_trace(["a", "b"], max_tokens=1)] == ["a:", "b:"]


def test_no_prompt_of_a_list_runs_on_if_one_is_refused(llm: LLM) -> None:
    with pytest.raises(UsageError, match="sampler"):
        llm.trace(["a", "b"], sampler=[Seven()])
    with pytest.raises(ContextLengthError):
        llm.trace(["a", "b" * 999])
    assert llm.runner.is_idle


def test_the_padded_batch_has_the_room_that_the_longest_answer_may_take(llm: LLM) -> None:
    each = [SamplingParams(max_tokens=most, ignore_eos=True) for most in (1, 4)]
    assert llm.trace(["ab", "c"], each)[0].prompt.padded.shape == (2, 3 + 4)
    assert llm.trace(["ab", "c"], [each[0], SamplingParams(max_tokens=None, stop=["a"], timeout=1e-9)])[
        0
    ].prompt.padded.shape == (2, llm.plan.max_context)


def test_a_trace_is_bounded_and_says_so(llm: LLM) -> None:
    trace = llm.trace(PROMPT, SamplingParams(max_tokens=20, ignore_eos=True), max_candidates=50)
    assert len(trace.token_ids) == 20 and len(trace.steps) == 4 and trace.num_left_out == 16


WHY = [
    ({"max_tokens": 2, "ignore_eos": True}, "max_tokens is 2"),
    ({"logit_bias": {EOS: 99.0}}, "the model's sign of the end"),
    ({"logit_bias": {ord("x"): 99.0}, "stop": ["xxx"]}, "the text reached the stop text 'xxx'"),
    ({"logit_bias": {ord("x"): 99.0}, "stop_ids": [ord("x")]}, "token 120 (b'x') is one of the caller's stop ids"),
    ({"choice": ["ab"]}, "the form of the answer is complete"),
    ({"max_tokens": None, "ignore_eos": True}, "tokens is full"),
    ({"timeout": 1e-9}, "timeout=1e-09 s have passed"),
]


@pytest.mark.parametrize(("settings", "why"), WHY)
def test_why_it_ended_is_said(llm: LLM, settings: dict[str, Any], why: str) -> None:
    assert why in llm.trace(PROMPT, **settings).why


@pytest.mark.parametrize(
    ("prompt", "settings", "problem"),
    [
        (["a", "b"], {"n": 2}, "a trace follows one sample"),
        ("a", {"max_candidates": 0}, "max_candidates"),
        ("a", {"temprature": 1}, "temprature"),
        ("a", {"n": 2}, "a trace follows one sample"),
        ("a", {"top": -1}, "top"),
        ("a", {"first": 0}, "first is 0, and the answer has no opening"),
        ("a", {"opening": [97, 98], "first": 3}, "first"),
        ("a", {"top": 1001}, "top"),
    ],
)
def test_what_cannot_be_traced_is_refused(llm: LLM, prompt: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.trace(prompt, **settings)


def test_a_chat_is_traced_as_it_is_answered(llm: LLM) -> None:
    llm.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    settings: dict[str, Any] = {"max_tokens": 5, "ignore_eos": True, **DRAWN}
    trace = llm.chat_trace("Why?", **settings)
    assert trace.token_ids == llm.chat("Why?", **settings).token_ids and trace.prompt.text == "<user>Why?"


@pytest.mark.parametrize("name", SETTINGS)
def test_an_answer_that_is_there_is_traced_as_the_run_that_made_it(llm: LLM, name: str) -> None:
    params = SamplingParams(**SETTINGS[name], max_tokens=12, ignore_eos=True)
    run = llm.trace(PROMPT, params, top=5)
    again = llm.trace(PROMPT, params, top=5, opening=run.token_ids, first=0)
    assert [in_itself(step) for step in again.steps] == [in_itself(step) for step in run.steps]
    later = llm.trace(PROMPT, params, top=5, opening=run.token_ids, first=7)
    assert [in_itself(step) for step in later.steps[7:]] == [in_itself(step) for step in run.steps[7:]]


def in_itself(step: TracedStep) -> TracedStep:
    """The step without times, and without what was computed together with it."""
    return dataclasses.replace(step, computed=(), kv_bytes=0, model_s=0.0, sampling_s=0.0)


def test_a_given_token_is_told_from_a_drawn_one(llm: LLM) -> None:
    params = SamplingParams(temperature=0.9, top_k=5, seed=7, max_tokens=12, ignore_eos=True)
    run = llm.trace(PROMPT, params)
    other = next(one.id for one in run.steps[4].stages[-1].top if one.id != run.token_ids[4])
    branch = llm.trace(PROMPT, params, opening=[*run.token_ids[:4], other], first=0)
    assert [step.is_given for step in branch.steps] == [False] * 4 + [True] + [False] * 7
    given = branch.steps[4]
    assert given.token.id == other and given.draw is None and given.stages[-1].chosen is not None
    removed = llm.trace(PROMPT, params, opening=[*run.token_ids[:4], 255], first=4).steps[4]
    assert removed.is_given and removed.stages[0].chosen is not None and removed.stages[-1].chosen is None
    assert llm.trace(PROMPT, params, opening=run.token_ids, first=0, top=0).steps[3].stages == ()
