"""A receipt survives JSON whole, restores the parameters, and refuses what is none, and models that are others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from puna.errors import UsageError
from puna.filters import needed_filters
from puna.glassbox.receipt import Fingerprint, Receipt
from puna.llm import LLM
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


def test_a_receipt_without_the_number_of_given_tokens_had_none(llm: LLM) -> None:
    facts = llm.receipt(llm.generate(PROMPT, max_tokens=3)).as_json()
    assert facts.pop("num_given") == 0 == Receipt.read(json.dumps(facts)).num_given


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
        (changed(lambda facts: facts.update(num_given=2)), "has 1 tokens, and num_given is 2"),
        (changed(lambda facts: facts.update(num_given=-1)), "num_given is -1"),
        (changed(lambda facts: facts.update(num_given="1")), "has no num_given, or it is not of its type"),
        (changed(lambda facts: facts.update(prompt_ids=["1"])), "has no prompt_ids, or it is not of its type"),
        (changed(lambda facts: facts.update(token_ids=[True])), "has no token_ids"),
        (changed(lambda facts: facts.update(settings=[])), "has no settings"),
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


def test_a_run_without_parameters_has_no_receipt(llm: LLM) -> None:
    done = llm.generate(PROMPT, max_tokens=1)
    with pytest.raises(UsageError, match="only the process that ran the model"):
        llm.receipt(replace(done, params=None))


def test_a_closed_model_says_so() -> None:
    with make_llm() as llm:
        done = llm.generate(PROMPT, max_tokens=1)
    with pytest.raises(UsageError, match="the model was closed"):
        llm.receipt(done)
