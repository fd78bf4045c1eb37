"""n samples of one prompt: each as alone with its seed, the prompt computed once; best_of; streams that say which sample."""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from puna.async_llm import AsyncLLM
from puna.completion import Completion
from puna.errors import UsageError
from puna.llm import LLM
from puna.request import FinishReason, SamplingParams, StepOutput
from puna.samples import params_of_samples, seed_of
from puna.sampling import History, Row
from tests.conformance.test_backends import BACKENDS_UNDER_TEST
from tests.conformance.test_generation import tiny_llm
from tests.fakes import ByteTokenizer
from tests.test_llm import make_llm

HOT = SamplingParams(max_tokens=12, temperature=2.0, seed=7, ignore_eos=True)


@pytest.fixture
def llm() -> Iterator[LLM]:
    with make_llm(ByteTokenizer()) as it:
        yield it
        assert it.engine.num_free_pages == it.plan.num_pages and not it.engine.has_work


def gist(one: Completion) -> tuple[object, ...]:
    return one.text, one.token_ids, one.logprobs, one.prompt_logprobs, one.finish_reason, one.seed


FULL = {"cpu": pytest.mark.full, "torch": pytest.mark.full}  # they compile, or are slow


@pytest.mark.parametrize("device", [pytest.param(one, marks=FULL.get(one, ())) for one in BACKENDS_UNDER_TEST])
def test_each_of_n_is_what_it_is_alone_with_its_seed_and_the_prompt_is_computed_once(device: str) -> None:
    rng = random.Random(3)
    prompts = [[rng.randrange(256) for _ in range(n)] for n in (1, 16, 17, 50)]
    for cached in (True, False):
        with tiny_llm(device, "Q4_1", prefix_cache=cached, chunk_tokens=16) as llm:
            for ids in prompts:
                params = replace(HOT, n=4, logprobs=2, prompt_logprobs=None if len(ids) % 2 else 1)
                found = llm.generate(ids, params)
                shared = (len(ids) - 1) // 16 * 16 if cached else 0
                assert [one.num_cached for one in found.choices[1:]] == [shared] * 3
                assert [one.seed for one in found.choices] == [seed_of(7, number) for number in range(4)]
                for one in found.choices:
                    alone = llm.generate(ids, replace(params, n=1, seed=one.seed))
                    assert gist(one) == gist(alone) and alone.choices == (alone,)
            assert llm.engine.num_free_pages == llm.plan.num_pages


def test_the_first_sample_is_the_one_that_a_call_without_n_gives(llm: LLM) -> None:
    several = llm.generate(["hello", "you"], HOT, n=3)
    assert [gist(one) for one in several] == [gist(llm.generate(text, HOT)) for text in ("hello", "you")]
    assert all(len({one.text for one in each.choices}) == 3 for each in several)


def test_without_a_seed_the_samples_differ_and_can_be_made_again(llm: LLM) -> None:
    found = llm.generate("hello", HOT, seed=None, n=3)
    assert found.seed is not None and found.seed < 1 << 53
    assert [gist(one) for one in llm.generate("hello", HOT, seed=found.seed, n=3).choices] == [gist(one) for one in found.choices]


def test_greedy_samples_are_equal(llm: LLM) -> None:
    found = llm.generate("hello", max_tokens=5, n=2)
    assert found.text == found.others[0].text and found.seed is None


def test_best_of_returns_the_most_likely(llm: LLM) -> None:
    everything = llm.generate("hello", HOT, n=6, logprobs=0)
    best = llm.generate("hello", HOT, n=2, best_of=6)
    ranked = sorted(everything.choices, key=lambda one: -math.fsum(entry.logprob for entry in one.logprobs))
    assert [one.token_ids for one in best.choices] == [one.token_ids for one in ranked[:2]]
    assert all(one.logprobs == () for one in best.choices), "they were not asked for"
    told = llm.generate("hello", HOT, best_of=6, logprobs=1)
    assert (told.others == () and told.logprobs == replace(ranked[0]).logprobs) or len(told.logprobs) == 12


def test_a_stream_says_which_sample_a_piece_belongs_to(llm: LLM) -> None:
    with llm.stream("hello", HOT, n=3) as stream:
        pieces = list(stream)
    assert {piece.index for piece in pieces} == {0, 1, 2}
    for number, one in enumerate(stream.completion.choices):
        assert "".join(piece.text for piece in pieces if piece.index == number) == one.text
        assert [i for piece in pieces if piece.index == number for i in piece.token_ids] == list(one.token_ids)
    assert [gist(one) for one in stream.completion.choices] == [gist(one) for one in llm.generate("hello", HOT, n=3).choices]


def test_asyncio_has_them_too(llm: LLM) -> None:
    expected = [gist(one) for one in llm.generate("hello", HOT, n=3).choices]

    async def work() -> None:
        shared = AsyncLLM.from_llm(llm)
        found = await shared.generate(["hello", "x"], HOT, n=3)
        assert [gist(one) for one in found[0].choices] == expected
        pieces: list[StepOutput] = []
        async with shared.stream("hello", HOT, n=3) as stream:
            async for piece in stream:
                pieces.append(piece)
        assert {piece.index for piece in pieces} == {0, 1, 2}
        assert [gist(one) for one in stream.completion.choices] == expected

    asyncio.run(work())


@pytest.mark.parametrize("how", ["close", "drop", "cancel"])
def test_who_gives_up_ends_all_samples(llm: LLM, how: str) -> None:
    stream = llm.stream("hello", HOT, n=4, max_tokens=None)
    next(stream)
    assert len(llm.engine._live) == 4
    if how == "close":
        stream.close()
    elif how == "cancel":
        stream.handle.cancel()
    else:
        del stream
        gc.collect()
    llm.generate("x", max_tokens=1)
    assert not llm.engine._live


def test_a_sampler_that_fails_in_one_sample_is_heard_of(llm: LLM) -> None:
    class Fragile:
        num_calls = 0

        def sample(self, logits: Row, history: History) -> int:
            self.num_calls += 1
            if self.num_calls == 5:
                raise LookupError("fifth")
            return int(logits.argmax())

    with pytest.raises(LookupError, match="fifth"):
        llm.generate("hello", HOT, n=3, sampler=Fragile())


def test_a_refused_prompt_is_refused_once(llm: LLM) -> None:
    with pytest.raises(UsageError, match="not in the vocabulary"):
        llm.generate([1, 1 << 20], HOT, n=3)


def test_the_engine_itself_makes_one_sample_per_request(llm: LLM) -> None:
    with pytest.raises(UsageError, match="one sample"):
        llm.engine.add([1], SamplingParams(n=2))


def test_siblings_go_on_when_the_one_that_computes_their_prompt_ends(llm: LLM) -> None:
    stream = llm.stream([5] * 100, HOT, n=3)
    next(stream)
    with llm.stream([6] * 100, HOT, n=3) as other:
        other.handle.samples[0].cancel()
        list(other)
        reasons = [one.finish_reason for one in other.completion.choices]
    assert reasons == [FinishReason.ABORT, FinishReason.LENGTH, FinishReason.LENGTH]
    stream.close()


def test_seeds_of_samples_are_apart_and_the_first_is_the_callers() -> None:
    seeds = [own.seed for seed in range(100) for own in params_of_samples(SamplingParams(seed=seed, n=8))]
    assert len(set(seeds)) == 800 and seeds[::8] == list(range(100))


@pytest.mark.parametrize(
    ("given", "words"),
    [({"n": 0}, "n is 0"), ({"n": 9}, "n is 9"), ({"best_of": 9}, "best_of is 9"), ({"n": 3, "best_of": 2}, "less than n")],
)
def test_numbers_that_are_not_allowed_are_refused(given: dict[str, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SamplingParams(**given)  # type: ignore[arg-type]
