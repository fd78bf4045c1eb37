"""Options are scored as the definition says: batch or alone, prompt cached or not, with the harness's border of tokens."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from puna.async_llm import AsyncLLM
from puna.backends.reference import ReferenceBackend
from puna.batch import Logits
from puna.config import EngineConfig
from puna.errors import ContextLengthError, PunaError, UsageError
from puna.llm import LLM
from puna.score import OptionScore, encode_options
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.fakes import BOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.tokenizers.vocabularies import CORPUS, small_bpe, small_spm

TOKENIZERS = {"bpe": build_tokenizer(small_bpe()), "spm": build_tokenizer(small_spm()), "bytes": ByteTokenizer()}


def make_llm(tokenizer: Tokenizer | None = None) -> LLM:
    checkpoint, sizes = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), make_plan(num_pages=64)
    config = EngineConfig(device="reference")
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, tokenizer, backend, sizes, config)


@pytest.fixture
def llm() -> Iterator[LLM]:
    with make_llm(ByteTokenizer()) as it:
        yield it


def expected(llm: LLM, prompt_ids: list[int], option_ids: list[int]) -> OptionScore:
    """Token by token, from the log-probabilities of a whole prompt in a model of its own."""
    with make_llm() as other:
        entries = other.generate(prompt_ids + option_ids, max_tokens=0, prompt_logprobs=1).prompt_logprobs[len(prompt_ids) :]
    scored = [entry for entry in entries if entry is not None]
    is_greedy = [entry.top[0][0] for entry in scored] == option_ids
    return OptionScore(tuple(option_ids), tuple(entry.logprob for entry in scored), is_greedy)


def test_an_option_is_scored_token_by_token(llm: LLM) -> None:
    (one, other), ids = llm.score("The llama", [" is", "s are"]), llm.encode("The llama")
    assert one == expected(llm, ids, list(b" is")) and other == expected(llm, ids, list(b"s are"))
    assert one.logprob == pytest.approx(sum(one.token_logprobs)) and one.mean_logprob == pytest.approx(one.logprob / 3)


def test_is_greedy_says_what_greedy_sampling_would_write(llm: LLM) -> None:
    ids = llm.encode("The llama")
    written = list(llm.generate(ids, max_tokens=5, ignore_eos=True).token_ids)
    scores = llm.score(ids, [written[:n] for n in range(1, 6)])
    other = llm.score(ids, [[*written[:-1], (written[-1] + 1) % VOCAB_SIZE]])
    assert [score.is_greedy for score in scores] == [True] * 5 and not other[0].is_greedy


def test_of_equal_logits_the_lower_id_is_greedy() -> None:
    class Even(FakeBackend):
        def _logits(self, ids: list[int]) -> Logits:
            return np.zeros(VOCAB_SIZE, np.float32)

    plan, config = make_plan(), EngineConfig(device="reference")
    with LLM.from_parts(random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), None, Even(plan), plan, config) as llm:
        assert [score.is_greedy for score in llm.score([5], [[0], [0, 0], [1], [0, 1]])] == [True, True, False, False]


@pytest.mark.parametrize("seed", range(3))
def test_batch_equals_alone_bit_for_bit_and_the_prompt_is_computed_once(seed: int) -> None:
    rng = random.Random(seed)
    common = [rng.randrange(256) for _ in range(40)]
    prompts = [common[: rng.choice([3, 33, 40])] + [rng.randrange(256) for _ in range(rng.randint(1, 9))] for _ in range(6)]
    options = [[[rng.randrange(256) for _ in range(rng.randint(1, 6))] for _ in range(rng.randint(1, 5))] for _ in prompts]
    with make_llm() as llm:
        together = llm.score(prompts, options, progress=False)
    for prompt, own, scores in zip(prompts, options, together, strict=True):
        assert scores == [expected(llm, prompt, option) for option in own]
        with make_llm() as alone:
            assert alone.score(prompt, own, progress=False) == scores


def test_the_prompt_comes_from_the_prefix_cache_for_all_options_but_the_first() -> None:
    prompt, options = [3] * 70, [[n] for n in range(8)]
    with make_llm() as llm:
        computed = count_computed(llm)
        llm.score(prompt, options, progress=False)
        assert sum(computed) < 2 * 70, "whole pages of the prompt are computed once"


def count_computed(llm: LLM) -> list[int]:
    counts: list[int] = []
    step = llm.backend.step

    def counted(batch: Any, sampling: Any = None) -> Any:
        counts.append(len(batch.token_ids))
        return step(batch, sampling)

    llm.backend.step = counted  # type: ignore[method-assign]
    return counts


def test_options_are_for_all_prompts_or_one_list_each(llm: LLM) -> None:
    shared = llm.score(["a", "b"], ["c", "dd"], progress=False)
    assert shared == llm.score(["a", "b"], [["c", "dd"], ["c", "dd"]], progress=False)
    assert shared == [llm.score("a", ["c", "dd"]), llm.score("b", ["c", "dd"])]
    uneven = llm.score(["a", "b"], [["c"], ["c", "dd", "e"]], progress=False)
    assert [len(row) for row in uneven] == [1, 3] and uneven[1][:2] == shared[1]


def test_it_is_there_for_asyncio() -> None:
    async def scored() -> Any:
        async with AsyncLLM.from_llm(make_llm(ByteTokenizer())) as llm:
            return await llm.score("The llama", [" is", "s are"])

    with make_llm(ByteTokenizer()) as llm:
        assert asyncio.run(scored()) == llm.score("The llama", [" is", "s are"])


# ---- the border between prompt and option --------------------------------------------------------------------------------


def harness_pair(tokenizer: Tokenizer, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """What lm-eval does: the spaces move over, both are encoded together, and the rest is the option's."""
    spaces = len(context) - len(context.rstrip())
    if spaces > 0:
        continuation, context = context[-spaces:] + continuation, context[:-spaces]
    if context == "":
        return [tokenizer.bos_id or 0], tokenizer.encode(continuation, bos=False)
    ids = tokenizer.encode(context)
    return ids, tokenizer.encode(context + continuation)[len(ids) :]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_border_is_where_the_harness_has_it(name: str) -> None:
    tokenizer, rng = TOKENIZERS[name], random.Random(1)
    merged = 0
    for _ in range(400):
        start, middle, end = sorted(rng.randint(0, len(CORPUS)) for _ in range(3))
        prompt, option = CORPUS[start:middle], CORPUS[middle:end]
        prompt_ids, option_ids = harness_pair(tokenizer, prompt, option)
        if option_ids:
            (pair,) = encode_options(prompt, [option], tokenizer)
            assert (pair.prompt_ids, pair.option_ids) == (prompt_ids, option_ids)
        else:
            merged += 1
            with pytest.raises(UsageError, match="option 0 adds no token"):
                encode_options(prompt, [option], tokenizer)
    print(name, "options that add no token:", merged)


def test_an_option_after_an_empty_prompt_follows_the_bos(llm: LLM) -> None:
    assert llm.score("", ["ab"]) == [expected(llm, [BOS], list(b"ab"))]


# ---- what is refused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "options", "told"),
    [
        ("a", [], "no options"),
        ("a", "bc", "the options"),
        ("a", [1], "option 0"),
        ("a", ["b", ""], "option 1 adds no token"),
        ("a", [[1]], "option 0"),
        ([1], ["b"], "option 0"),
        ([1], [[2], []], "option 1 adds no token"),
        ([1], [[VOCAB_SIZE]], "vocabulary"),
        ([1], [[2.5]], "whole numbers"),
        (["a", "b"], [["c"]], "1 list of options for 2 prompts"),
        ("a", ["\ud800"], "option 0"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(llm: LLM, prompt: Any, options: Any, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        llm.score(prompt, options)
    assert not llm.engine.has_work


def test_text_needs_a_tokenizer_and_ids_do_not() -> None:
    with make_llm() as llm:
        with pytest.raises(UsageError, match="needs a tokenizer"):
            llm.score("a", ["b"])
        assert len(llm.score([1], [[2]])) == 1


def test_an_option_that_does_not_fit_is_refused_and_not_cut(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match="128"):
        llm.score([1] * 100, [[2], [3] * 29])
    with pytest.raises(ContextLengthError, match=r"tokens.* 128"):
        llm.score("a", ["b", "c" * 1_000_000])
    for prompt, option in (([1], range(10**12)), (range(10**12), [1])):  # counted, not copied
        with pytest.raises(ContextLengthError, match=r"1000000000000 tokens.* 128"):
            llm.score(prompt, [option])
    assert len(llm.score([1] * 100, [[2], [3] * 28])[1].token_logprobs) == 28


def test_logits_that_are_not_finite_are_an_error_not_a_score() -> None:
    plan, config = make_plan(), EngineConfig(device="reference")
    backend = FakeBackend(plan)
    backend.poison = lambda ids: float("nan") if ids[-1] == 9 else 0.0
    with LLM.from_parts(random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), None, backend, plan, config) as llm:
        with pytest.raises(PunaError, match="could not be scored"):
            llm.score([1, 2], [[9, 3]])
        assert len(llm.score([1, 2], [[8, 3]])) == 1
