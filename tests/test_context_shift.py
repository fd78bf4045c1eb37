"""A full context goes on without its oldest tokens only if asked, and its bits are those of the shorter prompt."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from puna.async_llm import AsyncLLM
from puna.backends.reference import ReferenceBackend
from puna.config import EngineConfig
from puna.engine import Engine
from puna.errors import UsageError
from puna.llm import LLM
from puna.request import FinishReason, Request, SamplingParams
from puna.speculation import Drafter
from tests.fakes import (
    BOS,
    VOCAB_SIZE,
    ByteTokenizer,
    FakeBackend,
    SamplingBackend,
    make_engine,
    make_plan,
    random_checkpoint,
    run,
    tiny_config,
)
from tests.test_speculation import Copyist

CONTEXT = 128  # of `make_plan`


def expected(prompt_ids: list[int], num_keep: int, max_tokens: int) -> tuple[list[int], int]:
    """(output ids, dropped tokens) one token after the other, with llama.cpp's rule."""
    answer = FakeBackend(make_plan()).answer
    context, output, num_dropped = list(prompt_ids), list[int](), 0
    keep = num_keep + (prompt_ids[0] == BOS)
    while len(output) < max_tokens:
        if len(context) == CONTEXT:
            count = (len(context) - keep) // 2
            if count <= 0:
                break
            del context[keep : keep + count]
            num_dropped += count
        output.append(answer(context))
        context.append(output[-1])
    return output, num_dropped


def jobs(seed: int, count: int) -> list[tuple[list[int], SamplingParams]]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        prompt = [rng.choice([BOS, 5]), *(rng.randrange(256) for _ in range(rng.choice([0, 3, 40, 126])))]
        keep = rng.choice([0, 1, 7, 60, 125])
        made.append(
            (prompt, SamplingParams(max_tokens=rng.choice([3, 200, 400]), context_shift=True, num_keep=keep, ignore_eos=True))
        )
    return made


PLANS: list[dict[str, int]] = [{}, {"num_pages": 9}, {"num_pages": 20, "max_tokens": 9, "max_sequences": 3}]


@pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_it_drops_what_llama_cpp_drops_alone_and_together_whatever_is_preempted(
    kind: type[FakeBackend], plan: dict[str, int]
) -> None:
    sizes = make_plan(**plan)
    engine = make_engine(kind(sizes), sizes)
    wanted = jobs(3, 10)
    requests = [engine.add(*job) for job in wanted]
    other = engine.add([1, 2, 3], SamplingParams(max_tokens=50, ignore_eos=True))
    run(engine)
    for (prompt, params), request in zip(wanted, requests, strict=True):
        output, num_dropped = expected(prompt, params.num_keep, params.max_tokens or 0)
        assert (request.output_ids, request.num_dropped) == (output, num_dropped)
        assert request.finish_reason is FinishReason.LENGTH and request.prompt_ids == prompt
    assert other.output_ids == expected([1, 2, 3], 0, 50)[0]
    engine._scheduler.pages.check()
    assert engine.num_free_pages == sizes.num_pages
    assert sum(request.num_dropped > CONTEXT for request in requests) >= 2, "some were shifted again and again"


def test_speculation_beside_it_changes_no_token() -> None:
    def outcome(drafter: Drafter | None) -> list[tuple[list[int], int]]:
        plan = make_plan()
        backend = FakeBackend(plan, lambda ids: len(ids) % 5)
        engine = Engine(backend, ByteTokenizer(), plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE), drafter)
        requests = []
        for job in jobs(5, 8):  # one after the other: beside each other, guesses do not pay
            requests.append(engine.add(*job))
            run(engine)
        assert engine.num_free_pages == plan.num_pages
        assert drafter is None or sum(request.num_accepted for request in requests) > 100
        return [(request.output_ids, request.num_dropped) for request in requests]

    assert outcome(Copyist()) == outcome(None)


def test_without_being_asked_for_a_full_context_ends_with_length() -> None:
    engine = make_engine()
    request = engine.add([1, 2, 3], SamplingParams(max_tokens=None, ignore_eos=True))
    run(engine)
    assert (request.finish_reason, request.num_dropped, request.num_tokens) == (FinishReason.LENGTH, 0, CONTEXT)


def test_where_everything_is_to_be_kept_it_ends_with_length() -> None:
    engine = make_engine()
    request = engine.add([1] * 100, SamplingParams(max_tokens=None, context_shift=True, num_keep=127, ignore_eos=True))
    run(engine)
    assert (request.finish_reason, request.num_dropped, len(request.output_ids)) == (FinishReason.LENGTH, 0, 28)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.5, "seed": 3, "top_k": 40}], ids=str)
def test_the_bits_after_a_shift_are_those_of_the_shorter_prompt(settings: dict[str, Any]) -> None:
    checkpoint, sizes, config = (
        random_checkpoint(tiny_config(), seed=1),
        make_plan(),
        EngineConfig(device="reference", page_size=16),
    )
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    with LLM.from_parts(checkpoint, ByteTokenizer(), backend, sizes, config) as llm:
        prompt = [BOS, *b"the llama on the high plain"]
        shared: dict[str, Any] = {"logprobs": 3, "ignore_eos": True, **settings}
        whole = llm.generate(prompt, max_tokens=150, context_shift=True, num_keep=4, **shared)
        first = CONTEXT - len(prompt)
        count = (CONTEXT - 5) // 2
        assert whole.num_dropped == count and len(whole.token_ids) == 150
        left = [*prompt, *whole.token_ids[:first]]
        del left[5 : 5 + count]
        rest = llm.generate(left, max_tokens=150 - first, **(shared | ({"temperature": 0.0} if not settings else {})))
        if not settings:
            assert (rest.token_ids, rest.logprobs) == (whole.token_ids[first:], whole.logprobs[first:])
        scored = llm.generate([*left, *whole.token_ids[first:]], max_tokens=0, prompt_logprobs=3).prompt_logprobs[len(left) :]
        assert [entry.logprob for entry in scored if entry] == [entry.logprob for entry in whole.logprobs[first:]]


def test_it_is_told() -> None:
    class Kept:
        def __init__(self) -> None:
            self.notices: list[str] = []

        def progress(self, stage: str, done: int, total: int, unit: str = "") -> None:
            pass

        def notice(self, text: str) -> None:
            self.notices.append(text)

    plan, config, report = make_plan(), EngineConfig(device="reference"), Kept()
    checkpoint = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1)
    with LLM.from_parts(checkpoint, None, FakeBackend(plan), plan, config, report=report) as llm:
        done = llm.generate([1, 2, 3], max_tokens=130, context_shift=True, ignore_eos=True)
        assert done.num_dropped == CONTEXT // 2
        told = "1 answer filled the context of 128 tokens and went on without 64 tokens, the oldest"
        assert report.notices == [told]
        again = asyncio.run(AsyncLLM.from_llm(llm).generate([1, 2, 3], max_tokens=130, context_shift=True, ignore_eos=True))
        assert again.num_dropped == CONTEXT // 2 and report.notices == [told, told]


def test_ids_of_a_shifted_request_are_those_that_are_left() -> None:
    rng = random.Random(2)
    for _ in range(300):
        prompt, output = (
            [rng.randrange(99) for _ in range(rng.randint(1, 9))],
            [rng.randrange(99) for _ in range(rng.randint(0, 9))],
        )
        request = Request(1, prompt, SamplingParams(), output_ids=output, num_in_flight=rng.randint(0, 1))
        whole = [*prompt, *output, *[-1] * request.num_in_flight]
        at = rng.randint(0, len(whole))
        request.first_dropped, request.num_dropped = (
            at,
            rng.randint(0, len(prompt) + len(output) - min(at, len(prompt) + len(output))),
        )
        left = whole[:at] + whole[at + request.num_dropped :]
        first = rng.randint(0, len(left))
        last = rng.randint(first, len(left))
        assert request.token_ids(first, last) == left[first:last] and request.num_tokens == len(left)


def test_num_keep_without_a_shift_is_refused() -> None:
    with pytest.raises(UsageError, match="num_keep is 3, and context_shift is off"):
        make_engine().add([1], SamplingParams(num_keep=3))
