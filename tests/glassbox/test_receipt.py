"""A receipt survives JSON whole, restores the parameters, and refuses what is none, and models that are others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.backends.reference import ReferenceBackend
from puna.config import EngineConfig
from puna.errors import UsageError
from puna.filters import needed_filters
from puna.formats.base import Adapter, LowRank
from puna.glassbox.receipt import Fingerprint, Receipt
from puna.history import History, Row
from puna.llm import LLM
from puna.request import SamplingParams
from tests.fakes import VOCAB_SIZE, ByteTokenizer, make_plan, random_checkpoint, tiny_config
from tests.glassbox.cases import SETTINGS
from tests.glassbox.test_record import PROMPT, make_llm


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with make_llm() as it:
        yield it


@pytest.mark.parametrize("settings", [*SETTINGS.values(), {"json_schema": {"type": "integer"}}, {"temperature": 1.0}])
def test_a_receipt_restores_the_run_from_its_json(llm: LLM, settings: dict[str, Any]) -> None:
    done = llm.generate(PROMPT, max_tokens=3, **settings)
    receipt = llm.receipt(done)
    again = Receipt.read(json.dumps(receipt.as_json()))
    assert again == receipt and again.params == done.params and again.params.seed == done.seed
    assert again.filters == needed_filters(again.params) and again.token_ids == done.token_ids
    assert (again.weights, again.tokenizer) == (llm.fingerprint.weights, llm.fingerprint.tokenizer)


def test_other_weights_and_other_tokenizers_are_refused_with_both_digests(llm: LLM) -> None:
    receipt = llm.receipt(llm.generate(PROMPT, max_tokens=1))
    with pytest.raises(UsageError, match=f"the digest of its weights is {receipt.weights}, and that of m.gguf 00"):
        receipt.require_same(Fingerprint("00", receipt.tokenizer), "m.gguf")
    with pytest.raises(UsageError, match="the digest of its tokenizer is"):
        receipt.require_same(Fingerprint(receipt.weights, "00"), "m.gguf")


def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, Any]], str]:
    def text(facts: dict[str, Any]) -> str:
        change(facts)
        return json.dumps(facts)

    return text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (lambda facts: "{", "is no JSON"),
        (lambda facts: "[" * 100_000, "is no JSON"),
        (lambda facts: "[]", "is no receipt of the format"),
        (changed(lambda facts: facts.update(format="puna-receipt-9")), "is no receipt of the format"),
        (changed(lambda facts: facts.pop("weights")), "has no weights"),
        (changed(lambda facts: facts.update(prompt_ids=["1"])), "has no prompt_ids, or it is not of its type"),
        (changed(lambda facts: facts.update(token_ids=[True])), "has no token_ids"),
        (changed(lambda facts: facts.update(settings=[])), "has no settings"),
        (changed(lambda facts: facts.update(num_opened=2)), "opens with 2 tokens, and has 1"),
        (changed(lambda facts: facts.update(adapter=None)), "has no adapter"),
    ],
)
def test_what_is_no_receipt_is_refused(llm: LLM, text: Callable[[dict[str, Any]], str], problem: str) -> None:
    facts = llm.receipt(llm.generate(PROMPT, max_tokens=1)).as_json()
    with pytest.raises(UsageError, match=problem):
        Receipt.read(text(json.loads(json.dumps(facts))))


@pytest.mark.parametrize("settings", [{"temprature": 1}, {"temperature": "hot"}, {"logit_bias": {"x": 1.0}}])
def test_settings_that_puna_does_not_know_are_refused(llm: LLM, settings: dict[str, Any]) -> None:
    receipt = replace(llm.receipt(llm.generate(PROMPT, max_tokens=1)), settings=settings)
    with pytest.raises((UsageError, TypeError)):
        llm.replay(receipt)


def test_each_sample_has_a_receipt_of_its_own(llm: LLM) -> None:
    done = llm.generate(PROMPT, n=2, best_of=3, temperature=1.0, seed=3, max_tokens=4, ignore_eos=True)
    receipts = [llm.receipt(one) for one in done.choices]
    assert [one.token_ids for one in receipts] == [one.token_ids for one in done.choices]
    assert len({one.settings["seed"] for one in receipts}) == 2 and all(llm.replay(one).is_verified for one in receipts)


def test_an_answer_that_was_opened_is_replayed_with_its_opening(llm: LLM) -> None:
    done = llm.generate(PROMPT, opening=[99, 98], max_tokens=5, ignore_eos=True)
    assert done.token_ids[:2] == (99, 98) != llm.generate(PROMPT, max_tokens=2, ignore_eos=True).token_ids
    receipt = llm.receipt(done)
    assert receipt.num_opened == 2 and llm.replay(receipt).is_verified
    assert not llm.replay(replace(receipt, num_opened=0)).is_verified
    cut = llm.receipt(llm.generate(PROMPT, opening=[99, 98], max_tokens=2))
    assert cut.num_opened == 2 and llm.replay(cut).is_verified


def test_older_receipts_without_opening_and_adapter_are_read(llm: LLM) -> None:
    facts = llm.receipt(llm.generate(PROMPT, max_tokens=1)).as_json()
    del facts["num_opened"], facts["adapter"]
    assert Receipt.read(json.dumps(facts)).num_opened == 0


class Seven:
    def sample(self, logits: Row, history: History) -> int:
        return 7


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sampler": Seven()}, "the run used sampler of the caller's own"),
        ({"logits_processors": lambda ids, logits: logits}, "the run used logits_processors of the caller's own"),
    ],
)
def test_functions_of_the_callers_own_have_no_receipt(llm: LLM, settings: dict[str, Any], problem: str) -> None:
    for done in (llm.generate(PROMPT, max_tokens=1, **settings), *llm.generate(PROMPT, max_tokens=1, n=2, **settings).choices):
        with pytest.raises(UsageError, match=problem):
            llm.receipt(done)


def test_thinking_that_somebody_ended_has_no_receipt(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=1)
    with pytest.raises(UsageError, match="somebody ended the thinking"):
        llm.receipt(replace(done, is_reasoning_cut=True))
    budgeted = replace(done, is_reasoning_cut=True, params=SamplingParams(thinking_budget=3, max_tokens=1))
    assert llm.receipt(budgeted).settings["thinking_budget"] == 3


def adapted(seed: int, name: str = "sql") -> LLM:
    """The model with an adapter beside it."""
    checkpoint, sizes = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), make_plan(num_pages=64)
    changed = "layers.0.q_proj"
    rows, columns = checkpoint.tensors[changed].shape
    numbers = np.random.default_rng(seed)
    part = LowRank(*(numbers.standard_normal(shape).astype(np.float32) for shape in ((2, columns), (rows, 2))))
    checkpoint = replace(checkpoint, adapters=(Adapter(Path("a"), {changed: part}, name),))
    backend = ReferenceBackend(EngineConfig(device="reference"))
    backend.load(checkpoint, sizes)
    return LLM.from_parts(checkpoint, ByteTokenizer(), backend, sizes, EngineConfig(device="reference"))


def test_the_adapter_of_a_run_is_told_by_its_digest_and_another_one_is_refused(llm: LLM) -> None:
    with adapted(5) as one, adapted(5) as same, adapted(6) as other, adapted(5, "chat") as renamed:
        done = one.generate(PROMPT, lora_name="sql", max_tokens=6, ignore_eos=True)
        assert done.token_ids != llm.generate(PROMPT, max_tokens=6, ignore_eos=True).token_ids
        receipt = Receipt.read(json.dumps(one.receipt(done).as_json()))
        assert receipt.adapter == one.adapter_digests["sql"] and same.replay(receipt).is_verified
        with pytest.raises(
            UsageError, match=f"adapter 'sql' is {receipt.adapter}, and that of .* {other.adapter_digests['sql']}"
        ):
            other.replay(receipt)
        for without in (llm, renamed):
            with pytest.raises(UsageError, match=f"the LoRA adapter 'sql', whose digest is {receipt.adapter}") as refused:
                without.replay(receipt)
            assert "lora_modules" in refused.value.hint
        with pytest.raises(UsageError, match="adapter 'sql' is none, and that of"):
            one.replay(replace(receipt, adapter=""))
        assert one.receipt(one.generate(PROMPT, max_tokens=1)).adapter == ""


def test_a_run_without_parameters_has_no_receipt(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=1)
    with pytest.raises(UsageError, match="only the process that ran the model"):
        llm.receipt(replace(done, params=None))


def test_a_closed_model_says_so() -> None:
    with make_llm() as llm:
        done = llm.generate(PROMPT, max_tokens=1)
    with pytest.raises(UsageError, match="the model was closed"):
        llm.receipt(done)
