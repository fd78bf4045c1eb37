"""Replays of 100 receipts are verified; a token that differs is shown with both candidates and their margin."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.errors import UsageError
from puna.llm import LLM
from puna.philox import uniform
from puna.progress import SILENT
from tests.glassbox.cases import SETTINGS
from tests.glassbox.test_record import PROMPT, make_llm
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


def random_runs(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    rng, names = random.Random(5), list(SETTINGS)
    for number in range(count):
        settings = SETTINGS[names[number % len(names)]] | ({} if names[number % len(names)] == "greedy" else {"seed": number})
        yield "".join(rng.choices("abc the llama", k=rng.randrange(1, 40))), settings | {"max_tokens": rng.randrange(1, 9)}


def test_receipts_of_all_filters_are_verified(llm: LLM) -> None:
    receipts = [llm.receipt(llm.generate(prompt, **settings)) for prompt, settings in random_runs(2 * len(SETTINGS))]
    with make_llm() as another:
        assert all(another.replay(receipt).is_verified for receipt in receipts)


@pytest.mark.parametrize("name", ["greedy", "several", "mirostat"])
def test_the_receipt_of_an_answer_that_opened_with_given_tokens_is_verified(llm: LLM, name: str) -> None:
    settings = SETTINGS[name] | {"max_tokens": 12, "ignore_eos": True}
    receipt = llm.receipt(llm.generate(PROMPT, opening="go ", **settings))
    assert receipt.num_opened == 3 and llm.replay(receipt).is_verified
    assert not llm.replay(replace(receipt, num_opened=0)).is_verified
    one = llm.replay(replace(receipt, token_ids=(*receipt.token_ids[:7], 99, *receipt.token_ids[8:]))).difference
    assert one is not None and one.step == 7


@pytest.mark.parametrize("wrong", [-1, 10**12, 2**70])
def test_ids_that_are_no_tokens_are_refused(llm: LLM, wrong: int) -> None:
    receipt = llm.receipt(llm.generate(PROMPT, max_tokens=3, ignore_eos=True))
    with pytest.raises(UsageError, match="token 2 of the receipt has the id"):
        llm.replay(replace(receipt, token_ids=(receipt.token_ids[0], wrong)))
    with pytest.raises(UsageError, match="unknown setting 'self'"):
        llm.replay(replace(receipt, settings={"self": 1}))


@pytest.mark.full
def test_100_receipts_are_verified_on_cpu_and_reference(tmp_path: Path) -> None:
    config = tiny_config()
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size))
    with LLM(path, device="reference", report=SILENT) as there, LLM(path, device="cpu", report=SILENT) as here:
        receipts = [there.receipt(there.generate(prompt, **settings)) for prompt, settings in random_runs(100)]
        assert all(there.replay(receipt).is_verified for receipt in receipts)
        found = [here.replay(receipt) for receipt in receipts]
    assert all(one.is_verified or one.difference.is_near_tie for one in found if one.difference is not None)


def test_a_greedy_token_that_differs_has_both_candidates_and_their_margin(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=5, ignore_eos=True, logprobs=2)
    receipt = llm.receipt(done)
    (best, first), (second, next_best) = done.logprobs[3].top
    changed = replace(receipt, token_ids=(*done.token_ids[:3], second, done.token_ids[4]))
    found = llm.replay(changed)
    one = found.difference
    assert not found.is_verified and found.num_equal == 3 == one.step  # type: ignore[union-attr]
    assert one is not None and one.expected is not None and one.found is not None and one.draw is None
    assert (one.expected.id, one.expected.logprob, one.found.id, one.found.logprob) == (second, next_best, best, first)
    assert one.margin == first - next_best and one.is_near_tie == (first - next_best < 0.01)


def test_a_drawn_token_that_differs_shows_where_the_number_fell(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=4, ignore_eos=True, temperature=1.0, seed=8)
    other = next(i for i in range(32, 99) if i != done.token_ids[2])
    found = llm.replay(replace(llm.receipt(done), token_ids=(*done.token_ids[:2], other, 0)))
    one = found.difference
    assert one is not None and one.draw is not None and one.margin is not None and one.step == 2
    assert one.draw.low <= one.draw.uniform == uniform(8, 2) <= one.draw.high
    assert math.isclose(one.margin, min(one.draw.uniform - one.draw.low, one.draw.high - one.draw.uniform))


def test_a_run_that_ends_otherwise_differs(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=9, choice=["ab"])
    found = llm.replay(replace(llm.receipt(done), token_ids=(*done.token_ids, 7)))
    assert found.difference is not None and found.difference.found is None and found.num_equal == len(done.token_ids)


def test_an_id_outside_the_vocabulary_is_refused(llm: LLM) -> None:
    receipt = llm.receipt(llm.generate(PROMPT, max_tokens=1))
    with pytest.raises(UsageError, match="not in the vocabulary"):
        llm.replay(replace(receipt, prompt_ids=(10_000,)))
