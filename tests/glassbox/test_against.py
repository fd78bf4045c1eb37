"""Two runs compared: none differs from itself, KL is numpy's, and a changed layer is named."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from puna.backends.reference import ReferenceBackend
from puna.config import EngineConfig
from puna.errors import UsageError
from puna.formats.base import Checkpoint
from puna.glassbox import against
from puna.glassbox.diff import OtherRun, RunDiff
from puna.glassbox.replay import NEAR_TIE
from puna.glassbox.schema import diff_schema
from puna.llm import LLM
from puna.model.spec import ModelConfig
from puna.progress import SILENT
from puna.request import SamplingParams
from tests.conformance.test_backends import forward, loaded
from tests.fakes import VOCAB_SIZE, ByteTokenizer, make_plan, make_tensor, random_checkpoint, tiny_config
from tests.glassbox.cases import SETTINGS
from tests.test_lora import Case

PROMPT = "the llama"
GREEDY: dict[str, Any] = {"max_tokens": 16, "ignore_eos": True}
CONFIG: ModelConfig = tiny_config(vocab_size=VOCAB_SIZE, num_layers=4)
PLAIN = random_checkpoint(CONFIG, "F32", seed=1)


@contextmanager
def running(checkpoint: Checkpoint = PLAIN, name: str = "") -> Iterator[LLM]:
    sizes, config = make_plan(num_pages=64), EngineConfig(device="reference")
    backend = ReferenceBackend(config)
    backend.load(checkpoint, sizes)
    named = dataclasses.replace(checkpoint, path=Path(name or "plain"))
    with LLM.from_parts(named, ByteTokenizer(), backend, sizes, config, report=SILENT) as llm:
        yield llm


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with running() as it:
        yield it


def only(diff: RunDiff) -> OtherRun:
    jsonschema.validate(json.loads(json.dumps(diff.as_json(), allow_nan=False)), diff_schema())
    (other,) = diff.others
    return other


def quantised(kind: str) -> Checkpoint:
    """The same weights, rounded."""
    tensors = {
        name: tensor if len(tensor.shape) == 1 else make_tensor(name, tensor.dequantize(), kind)
        for name, tensor in PLAIN.tensors.items()
    }
    return dataclasses.replace(PLAIN, tensors=tensors)


def with_changed(*names: str) -> Checkpoint:
    tensors = {
        name: make_tensor(name, 1.01 * tensor.dequantize(), "F32") if name in names else tensor
        for name, tensor in PLAIN.tensors.items()
    }
    return dataclasses.replace(PLAIN, tensors=tensors)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.9}, SETTINGS["xtc"]], ids=["greedy", "drawn", "filters that draw"])
def test_the_same_weights_differ_in_nothing(llm: LLM, settings: dict[str, Any]) -> None:
    with running(name="a copy") as copy:
        diff = llm.diff(PROMPT, other=copy, **GREEDY, **settings)
    other = only(diff)
    assert other.parting is None and other.num_equal == 16 and other.run.token_ids == diff.first.token_ids
    assert other.divergence.per_step == (0.0,) * 16 and other.divergence.mean == other.divergence.max == 0.0
    assert other.divergence.same_top == 1.0 and other.divergence.num_left_out == 0
    assert other.layers is not None and other.layers.errors == (0.0,) * 5 and other.layers.first is None
    assert other.run.seed == diff.first.seed and other.run.name == "a copy"


def logits_of(checkpoint: Checkpoint, ids: list[int], prompt: int) -> np.ndarray[Any, Any]:
    with loaded("reference", checkpoint, kv="f32") as backend:
        return forward(backend, (ids, 0, list(range(8))), prompt_length=prompt)[prompt - 1 : -1].astype(np.float64)


def test_kl_is_that_of_the_logits(llm: LLM) -> None:
    copy = quantised("Q4_0")
    with running(copy, "q4_0") as rounded:
        diff = llm.diff(PROMPT, other=rounded, **GREEDY)
    other, ids = only(diff), [*diff.prompt_ids, *diff.first.token_ids]
    p, q = (logits_of(one, ids, len(diff.prompt_ids)) for one in (PLAIN, copy))
    p, q = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (p, q))
    wanted = (p * np.log(p / q)).sum(axis=1)
    found = other.divergence
    assert np.abs(np.array(found.per_step) - wanted).max() < 1e-9 and 1e-4 < found.mean == pytest.approx(wanted.mean())
    assert found.at == wanted.argmax() and found.max == pytest.approx(wanted.max())
    assert found.same_top == np.mean(p.argmax(axis=1) == q.argmax(axis=1))
    assert other.layers is not None and other.layers.first == 0 and all(error for error in other.layers.errors)


@pytest.mark.parametrize(
    ("name", "first"),
    [("embed", 0), ("layers.0.q_proj", 1), ("layers.2.down_proj", 3), ("layers.3.ffn_norm", 4), ("final_norm", None)],
)
def test_the_first_layer_that_differs_is_named(llm: LLM, name: str, first: int | None) -> None:
    with running(with_changed(name), name) as other:
        found = only(llm.diff(PROMPT, other=other, **GREEDY))
    assert found.layers is not None and found.layers.first == first and found.divergence.max > 0
    for layer, error in enumerate(found.layers.errors):
        assert error is not None and (error > 0) == (first is not None and layer >= first)
    assert found.layers.num_positions == 16


def test_where_they_part_both_candidates_have_both_probabilities(llm: LLM) -> None:
    copy = quantised("Q4_0")
    with running(copy, "q4_0") as rounded:
        diff = llm.diff(PROMPT, other=rounded, max_tokens=80, ignore_eos=True)
    other = only(diff)
    step, parting = other.num_equal, other.parting
    assert parting is not None and parting.step == step < 80 and parting.first is not None and parting.other is not None
    assert diff.first.token_ids[:step] == other.run.token_ids[:step]
    assert (parting.first.first.id, parting.other.first.id) == (diff.first.token_ids[step], other.run.token_ids[step])
    ids = [*diff.prompt_ids, *diff.first.token_ids]
    rows = [logits_of(one, ids, len(diff.prompt_ids))[step] for one in (PLAIN, copy)]
    for pair in (parting.first, parting.other):
        for candidate, row in zip((pair.first, pair.other), rows, strict=True):
            assert candidate.logit == row[candidate.id]
            assert candidate.probability == pytest.approx(np.exp(row - row.max())[candidate.id] / np.exp(row - row.max()).sum())
    assert parting.first.first.probability > parting.other.first.probability
    assert parting.other.other.probability > parting.first.other.probability
    margin = parting.other.other.logprob - parting.first.other.logprob
    assert parting.margin == pytest.approx(margin) and parting.is_near_tie == (margin < NEAR_TIE) and parting.draw is None


def test_a_near_tie_is_named(llm: LLM) -> None:
    """The likeliest token and the next one change places: their rows of the output matrix move towards each other."""
    step = llm.trace(PROMPT, max_tokens=1, ignore_eos=True).steps[0].stages[0].top[:2]
    head = PLAIN.tensors["lm_head"].dequantize().copy()
    one, two = (candidate.id for candidate in step)
    middle = (head[one] + head[two]) / 2
    head[one], head[two] = middle - 1e-5 * (head[one] - middle), middle - 1e-5 * (head[two] - middle)
    tensors = {**PLAIN.tensors, "lm_head": make_tensor("lm_head", head, "F32")}
    with running(dataclasses.replace(PLAIN, tensors=tensors), "swapped") as swapped:
        found = only(llm.diff(PROMPT, other=swapped, max_tokens=1, ignore_eos=True))
    assert found.parting is not None and found.parting.is_near_tie and found.num_equal == 0


def test_another_temperature_parts_the_runs_and_not_the_models(llm: LLM) -> None:
    diff = llm.diff(PROMPT, changed={"temperature": 1.5, "seed": 3}, **GREEDY)
    other = only(diff)
    assert other.parting is not None and other.parting.draw is not None and other.divergence.max == 0.0
    assert other.parting.draw.low <= other.parting.draw.uniform < other.parting.draw.high
    assert other.layers is None and "same weights" in other.why_no_layers
    assert other.run.name == "temperature=1.5, seed=3" and other.run.settings["temperature"] == 1.5
    assert other.run.text == llm.generate(PROMPT, temperature=1.5, seed=3, **GREEDY).text


def test_a_run_that_ends_before_the_other_is_told(llm: LLM) -> None:
    for first, second, has_first in ((8, 5, True), (5, 8, False)):
        found = only(llm.diff(PROMPT, max_tokens=first, ignore_eos=True, changed={"max_tokens": second}))
        assert found.parting is not None and found.num_equal == found.parting.step == 5 and found.parting.margin is None
        assert (found.parting.first is not None, found.parting.other) == (has_first, None)


def test_where_a_form_leaves_no_choice_nothing_is_compared(llm: LLM) -> None:
    found = only(llm.diff(PROMPT, choice=["abcde", "abcxy"], max_tokens=9, changed={"seed": 1}))
    steps = llm.trace(PROMPT, choice=["abcde", "abcxy"], max_tokens=9).steps
    assert [value is None for value in found.divergence.per_step] == [not step.stages for step in steps]
    assert found.divergence.num_left_out == 0 and found.divergence.max == 0 and found.parting is None


def test_an_adapter_is_a_difference_from_its_first_layer_on(tmp_path: Path) -> None:
    case = Case("llama-3.1", tmp_path)
    with LLM(case.path, device="reference", lora_modules=case.modules, report=SILENT) as llm:
        found = only(llm.diff(case.prompts[1], changed={"lora_name": "one"}, **GREEDY))
        assert found.layers is not None and found.layers.first == 1 and found.divergence.mean > 0
        with LLM(case.path, device="reference", lora=(str(case.paths[0]),), report=SILENT) as merged:
            same = only(llm.diff(case.prompts[1], other=merged, changed={"lora_name": None}, lora_name="one", **GREEDY))
    assert same.layers is not None and max(error or 0 for error in same.layers.errors) < 1e-5


def test_models_of_other_sizes_are_compared_by_their_logits_alone(llm: LLM) -> None:
    with running(random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE), seed=1), "shallow") as shallow:
        found = only(llm.diff(PROMPT, other=shallow, **GREEDY))
    assert found.layers is None and found.why_no_layers == "the models have 4 and 2 layers, of 32 and 32 numbers"
    assert found.divergence.mean > 0


def test_what_does_not_fit_is_left_out_and_told(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "MAX_LOGITS", 5 * VOCAB_SIZE)
    monkeypatch.setattr("puna.glassbox.layers.memory_bytes", lambda: (1 << 30, 1000))
    with running(name="a copy") as copy:
        found = only(llm.diff(PROMPT, other=copy, **GREEDY))
    assert found.divergence.per_step == (0.0,) * 5 + (None,) * 11 and found.divergence.num_left_out == 11
    assert found.layers is None and "looking at layers needs" in found.why_no_layers


class OtherWords(ByteTokenizer):
    def piece(self, token_id: int) -> str:
        return "ä" if token_id == 97 else super().piece(token_id)


def test_other_vocabularies_are_refused(llm: LLM) -> None:
    with running(name="strange") as strange:
        strange.tokenizer = OtherWords()
        with pytest.raises(UsageError, match="different vocabularies: token 97 is 'ä' in strange, and"):
            llm.diff(PROMPT, other=strange, **GREEDY)


@pytest.mark.parametrize(
    ("prompt", "settings", "problem"),
    [
        ([PROMPT, PROMPT], {}, "a comparison is of one prompt"),
        (PROMPT, {"n": 2}, "one sample is compared with another"),
        (PROMPT, {"context_shift": True}, "drop their oldest tokens"),
        (PROMPT, {"opening": "a"}, "takes no sampler, logits_processors or opening"),
        (PROMPT, {"changed": {"temperature": "hot"}}, "temperature"),
        (PROMPT, {"changed": {"temprature": 1}}, "temprature"),
        (PROMPT, {"changed": {"lora_name": "x"}}, "lora_name"),
    ],
)
def test_what_cannot_be_compared_is_refused(llm: LLM, prompt: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        llm.diff(prompt, **settings)


def test_a_chat_is_compared_as_it_is_answered(llm: LLM) -> None:
    llm.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    diff = llm.chat_diff("Why?", changed={"seed": 5}, temperature=0.9, seed=4, **GREEDY)
    assert diff.first.token_ids == llm.chat("Why?", SamplingParams(temperature=0.9, seed=4, **GREEDY)).token_ids
