"""An answer that opens with given tokens goes on as the run that came to them by itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from puna.completion import Completion
from puna.errors import ConstraintError, ContextLengthError, UsageError
from puna.llm import LLM
from puna.request import FinishReason, SamplingParams
from puna.tokenizers.continuation import continuation_ids
from tests.fakes import VOCAB_SIZE, ByteTokenizer
from tests.glassbox.cases import SETTINGS
from tests.glassbox.test_record import PROMPT, make_llm
from tests.glassbox.tiny import Forcing as Forcing

LENGTH = 40
STATEFUL = ("mirostat", "adaptive_p")


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


def check_equal(one: Completion, other: Completion) -> None:
    assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_answer_goes_on_from_any_of_its_tokens_as_it_did(llm: LLM, name: str) -> None:
    params = SamplingParams(**SETTINGS[name], max_tokens=LENGTH, ignore_eos=True)
    whole = llm.generate(PROMPT, params)
    for at in (1, 7, 16, LENGTH - 1, LENGTH):
        check_equal(llm.generate(PROMPT, params, opening=whole.token_ids[:at]), whole)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in STATEFUL])
def test_a_branch_is_what_a_fresh_run_with_that_prefix_forced_gives(llm: LLM, name: str) -> None:
    seed = 17
    print("seed", seed)
    own, params = random.Random(seed), SamplingParams(**SETTINGS[name], max_tokens=LENGTH, ignore_eos=True)
    whole = llm.generate(PROMPT, params).token_ids
    for _ in range(4):
        prefix = [*whole[: own.randrange(LENGTH)], own.randrange(VOCAB_SIZE)]
        with make_llm(prefix_cache=False) as fresh:
            expected = fresh.generate(PROMPT, params, sampler=Forcing(prefix, params))
        check_equal(llm.generate(PROMPT, params, opening=prefix), expected)


def test_a_branch_computes_its_new_tokens_only(llm: LLM) -> None:
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    whole = llm.generate("a long prompt", params).token_ids
    (stream,) = llm.stream(["a long prompt"], params, opening=[*whole[:50], 65])
    list(stream)
    timing = stream.completion.timing
    assert 0 < timing.num_prefilled <= llm.plan.page_size < 50 and timing.num_generated == 9


def test_logprobs_of_an_opening_are_those_of_the_run(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, seed=4, max_tokens=LENGTH, logprobs=3, ignore_eos=True)
    whole = llm.generate(PROMPT, params)
    again = llm.generate(PROMPT, params, opening=whole.token_ids[:30])
    assert again.logprobs == whole.logprobs


def test_an_opening_is_computed_in_few_steps(llm: LLM) -> None:
    params = SamplingParams(temperature=0.8, seed=4, max_tokens=LENGTH, logprobs=0, ignore_eos=True)
    whole = llm.generate(PROMPT, params)
    (stream,) = llm.stream([PROMPT], params, opening=whole.token_ids)
    list(stream)
    assert stream.request.num_accepted >= LENGTH - 2


def test_a_text_opens_an_answer_and_is_a_part_of_it(llm: LLM) -> None:
    completion = llm.generate(PROMPT, max_tokens=20, ignore_eos=True, opening="Sure, ü")
    assert completion.text.startswith("Sure, ü") and len(completion.token_ids) == 20
    assert list(completion.token_ids[:8]) == continuation_ids("Sure, ü", ByteTokenizer())


def test_an_opening_that_ends_the_text_ends_it(llm: LLM) -> None:
    stopped = llm.generate(PROMPT, max_tokens=20, opening="one stop two", stop="stop")
    assert (stopped.text, stopped.finish_reason, stopped.stop_reason) == ("one ", FinishReason.STOP, "stop")
    full = llm.generate(PROMPT, max_tokens=3, opening="abc")
    assert (full.text, full.finish_reason) == ("abc", FinishReason.LENGTH)


def test_several_samples_open_alike(llm: LLM) -> None:
    completion = llm.generate(PROMPT, max_tokens=12, n=3, temperature=1.0, seed=1, opening="go ", ignore_eos=True)
    texts = [one.text for one in completion.choices]
    assert len(set(texts)) > 1 and all(text.startswith("go ") for text in texts)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"opening": [VOCAB_SIZE]}, f"answer id {VOCAB_SIZE} is not in the vocabulary"),
        ({"opening": [-1]}, "answer id -1 is not in the vocabulary"),
        ({"opening": 7}, "opening"),
        ({"opening": [1, 2, 3], "max_tokens": 2}, "the answer opens with 3 tokens, and max_tokens is 2"),
        ({"opening": "a", "sampler": Forcing([], SamplingParams())}, "a sampler of your own"),
    ],
)
def test_a_wrong_opening_is_refused(llm: LLM, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.generate(PROMPT, **settings)


def test_an_opening_beyond_the_context_is_refused(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match=str(len(PROMPT) + 1 + llm.plan.max_context)):
        llm.generate(PROMPT, max_tokens=None, opening=[65] * llm.plan.max_context)


def test_a_form_refuses_what_may_not_follow_and_goes_on_from_what_may(llm: LLM) -> None:
    pytest.importorskip("llguidance")
    good = llm.generate(PROMPT, regex="yes|no", opening="n")
    assert good.text == "no" and good.finish_reason is FinishReason.STOP
    with pytest.raises(ConstraintError, match="token 120 was given, and may not follow"):
        llm.generate(PROMPT, regex="yes|no", opening="x")


KINDS: tuple[dict[str, Any], ...] = (
    {"regex": "[a-z ]{5,30}"},
    {"json_object": True},
    {"choice": ["a llama hums", "a llama", "an alpaca"]},
    {"stop": ["e", "the"], "min_tokens": 9},
    {"context_shift": True, "max_tokens": 150},
    {"logprobs": 2},
    {"thinking_budget": 5, "max_tokens": 30},
    {"thinking_budget": 0, "regex": "[0-9]+"},
)


def random_settings(own: random.Random) -> dict[str, Any]:
    drawn = dict(own.choice(list(SETTINGS.values())))
    return {"max_tokens": 40, "ignore_eos": own.random() < 0.5, **drawn, **(own.choice(KINDS) if own.random() < 0.7 else {})}


@pytest.mark.parametrize("rounds", [3, pytest.param(60, marks=pytest.mark.full)])
def test_any_answer_goes_on_from_any_of_its_tokens_beside_others_in_few_pages(rounds: int) -> None:
    pytest.importorskip("llguidance")
    seed = 23
    print("seed", seed)
    own = random.Random(seed)
    with make_llm() as alone, make_llm(num_pages=13) as crowded:
        for llm in (alone, crowded):
            llm.chat_template = "{{ messages[0].content }}<think></think>"
        for _ in range(rounds):
            prompts = [own.choice(["the llama", "why<think>", "go", "hm " * 20]) for _ in range(5)]
            settings = [SamplingParams(**random_settings(own)) for _ in prompts]
            wholes = [finished(alone, prompt, params) for prompt, params in zip(prompts, settings)]
            cuts = [whole.token_ids[: own.randrange(len(whole.token_ids) + 1)] for whole in wholes]
            streams = [
                crowded.stream(prompt, params, opening=cut) for prompt, params, cut in zip(prompts, settings, cuts, strict=True)
            ]
            for stream, whole, params in zip(streams, wholes, settings, strict=True):
                for _ in stream:
                    pass
                again = stream.completion
                check_equal(again, whole)
                assert (again.reasoning, again.raw_text, again.logprobs) == (whole.reasoning, whole.raw_text, whole.logprobs), (
                    params
                )


def finished(llm: LLM, prompt: str, params: SamplingParams) -> Completion:
    stream = llm.stream(prompt, params)
    for _ in stream:
        pass
    return stream.completion
