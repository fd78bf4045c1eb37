"""Whole generations on every backend: 64 prompts in one call, one at a time, streamed, with few pages: the same bits.

A backend joins by its line in `test_backends.BACKENDS_UNDER_TEST`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import puna
from puna import filters
from puna.backends import backend_spec, create_backend
from puna.completion import Completion
from puna.config import EngineConfig
from puna.constraints import Constraint
from puna.history import History, Row
from puna.llm import LLM
from puna.model.spec import ModelConfig
from puna.plan import make_plan
from puna.request import FinishReason, SamplingParams
from tests.conformance.test_backends import BACKENDS_UNDER_TEST, THREADS
from tests.fakes import ByteTokenizer, ParamsWithOnly, only, random_checkpoint, tiny_config
from tests.families import FAMILIES
from tests.test_speculation import Adversary

CONFIG: ModelConfig = tiny_config(num_heads=3, num_kv_heads=1, head_dim=16, hidden_size=64, ffn_size=96, max_context=96)
devices = pytest.mark.parametrize("device", BACKENDS_UNDER_TEST)


@contextmanager
def tiny_llm(device: str, quant: str, num_pages: int = 0, **settings: int | bool | str) -> Iterator[LLM]:
    checkpoint = random_checkpoint(CONFIG, quant, seed=4)
    config = EngineConfig(device=device, page_size=16, threads=THREADS.get(device, 0), **settings)  # type: ignore[arg-type]
    backend = create_backend(config)
    layouts = backend_spec(device).layouts
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, layouts, backend.info.free_bytes)
    plan = replace(plan, num_pages=num_pages or plan.num_pages)
    backend.load(checkpoint, plan)
    with LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, config) as llm:
        yield llm


def jobs() -> tuple[list[list[int]], list[SamplingParams]]:
    """64 prompts of 1 to 60 ids, some with a common beginning; greedy and sampled."""
    rng = random.Random(64)
    common = [rng.randrange(256) for _ in range(40)]
    prompts = [common[: rng.choice([0, 20, 40])] + [rng.randrange(256) for _ in range(rng.randint(1, 20))] for _ in range(64)]
    params = [
        SamplingParams(
            max_tokens=rng.randint(1, 24),
            temperature=i % 2 * 1.5,
            seed=i,
            logprobs=4,
            prompt_logprobs=None if i % 3 else 2,
        )
        for i in range(64)
    ]
    return prompts, params


def gist(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(c.text, c.token_ids, c.logprobs, c.prompt_logprobs, c.finish_reason) for c in completions]


def weights_and_devices() -> Iterator[object]:
    """torch does the same with all types of weights, and is slow: one of them in the normal tier."""
    for quant, device in product(("F32", "Q4_1"), BACKENDS_UNDER_TEST):
        yield pytest.param(device, quant, marks=[pytest.mark.full] if (quant, device) == ("F32", "torch") else [])


@pytest.mark.parametrize(("device", "quant"), list(weights_and_devices()))
def test_64_prompts_in_one_call_give_what_each_gives_alone(device: str, quant: str) -> None:
    prompts, params = jobs()
    with tiny_llm(device, quant, prefix_cache=False, max_batch=1) as llm:
        alone = [llm.generate(p, each) for p, each in zip(prompts, params, strict=True)]
    with tiny_llm(device, quant) as llm:
        together = llm.generate(prompts, params)
        assert gist(together) == gist(alone)
        assert llm.engine.num_free_pages == llm.plan.num_pages
        streamed = [list(llm.stream(p, each)) for p, each in zip(prompts[:8], params[:8], strict=True)]
        assert ["".join(piece.text for piece in pieces) for pieces in streamed] == [c.text for c in alone[:8]]
    with tiny_llm(device, quant, chunk_tokens=5, max_batch=4) as llm:
        assert gist(llm.generate(prompts, params)) == gist(alone)


def copies(count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Prompts that repeat themselves and each other, so that there is much to guess."""
    rng = random.Random(count)
    common = [rng.randrange(256) for _ in range(20)]
    prompts = [
        (common + [rng.randrange(256)] * rng.randint(0, 3)) * rng.randint(1, 2) + common[: rng.randint(1, 20)]
        for _ in range(count)
    ]
    params = [
        SamplingParams(
            max_tokens=rng.randint(8, 28),
            temperature=rng.choice([0.0, 0.0, 0.3]),
            repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
            logit_bias=dict.fromkeys(common, 8.0),
            seed=i,
            logprobs=2,
            prompt_logprobs=rng.choice([None, None, 1]),
        )
        for i in range(count)
    ]
    return prompts, params


def how_many_texts() -> Iterator[object]:
    """500 on each backend, and a part of them in the normal tier."""
    for device, few in (("reference", 5), ("cpu", 16), ("torch", 3)):
        yield pytest.param(device, few)
        yield pytest.param(device, 500, marks=pytest.mark.full)


@pytest.mark.parametrize(("device", "count"), list(how_many_texts()))
def test_speculation_chunks_preemption_and_stored_pages_change_no_bit(device: str, count: int, tmp_path: Path) -> None:
    """RELIABILITY's D2: texts and log-probabilities equal those of one request at a time, token by token, without any cache."""
    prompts, params = copies(count)
    with tiny_llm(device, "Q4_1", prefix_cache=False, max_batch=1, speculation="off") as llm:
        alone = [llm.generate(ids, each) for ids, each in zip(prompts, params, strict=True)]
    hard: dict[str, Any] = {
        "chunk_tokens": 24,
        "max_batch": 6,
        "num_pages": 14,
        "cache_dir": str(tmp_path),
        "speculation": "ngram",
    }
    for run in ("first", "from the disk"):
        with tiny_llm(device, "Q4_1", **hard) as llm:
            together = llm.generate(prompts, params)
            assert gist(together) == gist(alone), run
            assert llm.engine.num_free_pages == llm.plan.num_pages
            llm.engine._drafter = Adversary(1, {i: list(c.token_ids) for i, c in enumerate(alone, start=len(alone) + 1)})
            again = llm.generate(prompts, params)
            assert gist(again) == gist(alone), f"{run}, with guesses of all kinds"
        assert sum(c.timing.num_accepted for c in again) > count


@devices
def test_an_answer_read_as_a_prompt_has_the_log_probabilities_of_its_making(device: str) -> None:
    with tiny_llm(device, "F32") as llm:
        made = llm.generate([5, 6, 7], max_tokens=40, temperature=1.0, seed=3, logprobs=3, ignore_eos=True)
        ids = [*made.prompt_ids, *made.token_ids]
        assert llm.generate(ids, max_tokens=0, prompt_logprobs=3).prompt_logprobs[3:] == made.logprobs


@devices
def test_a_device_that_samples_gives_what_the_host_would(device: str) -> None:
    """Requests that want ids only, beside the same ones that want log-probabilities too, for which the host samples."""
    prompts, params = jobs()
    plain = [replace(each, logprobs=None, prompt_logprobs=None) for each in params]
    with tiny_llm(device, "F16") as llm:
        told = llm.generate(prompts, params)
        sampled = llm.generate(prompts, plain)
    assert [c.token_ids for c in sampled] == [c.token_ids for c in told]
    assert {c.num_cached > 0 for c in sampled} == {True, False}, "pages of ids that were read late are found, too"


CONSTRAINTS: list[dict[str, Any]] = [
    {"json_schema": {"type": "object", "properties": {"name": {"enum": ["llama", "alpaca"]}}, "required": ["name"]}},
    {"json_schema": {"type": "array", "items": {"type": "integer", "maximum": 99, "minimum": 10}, "minItems": 3, "maxItems": 3}},
    {"regex": "the (llama|alpaca) (sees|hears) [a-z]{3} plains"},
    {"choice": ["Lima is the capital", "Lisbon is not"]},
    {},
]


@devices
def test_tokens_that_a_constraint_forces_are_computed_together_with_the_same_bits(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With jump-ahead, one chunk has several known tokens behind the prompt; without it each of them has a step."""
    prompts, _ = jobs()
    params = [
        SamplingParams(max_tokens=36, temperature=i % 3 * 0.8, seed=i, **CONSTRAINTS[i % len(CONSTRAINTS)]) for i in range(10)
    ]
    with tiny_llm(device, "Q4_0") as llm:
        together = llm.generate(prompts[:10], params)
        alone = [llm.generate(p, each) for p, each in zip(prompts[:10], params, strict=True)]
        monkeypatch.setattr(Constraint, "forced", lambda self: ())
        step_by_step = llm.generate(prompts[:10], params)
    assert gist(together) == gist(alone) == gist(step_by_step)
    assert {one.finish_reason for one in together} >= {FinishReason.STOP}


@devices
def test_a_filter_that_is_only_a_field_and_a_function_is_obeyed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside requests that do not need it, and get what they got before."""
    prompts = [[5, 6, 7], [8, 9], [3]]
    hot = ParamsWithOnly(max_tokens=8, temperature=5.0, seed=1, ignore_eos=True)
    with tiny_llm(device, "F32") as llm:
        before = [c.token_ids for c in llm.generate(prompts, hot)]
        monkeypatch.setattr(filters, "FILTERS", {**filters.FILTERS, "only": filters.Filter(only, ("only",))})
        assert [c.token_ids for c in llm.generate(prompts, hot)] == before
        found = [c.token_ids for c in llm.generate(prompts, [hot, replace(hot, only=42), replace(hot, only=7, temperature=0.1)])]
    assert found == [before[0], (42,) * 8, (7,) * 8] and (42,) * 8 not in before


@devices
def test_a_filter_that_is_always_on_is_obeyed(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_42(logits: Row, params: SamplingParams, history: History) -> Row:
        return only(logits, ParamsWithOnly(only=42), history)

    with tiny_llm(device, "F32") as llm:
        always_on = filters.Filter(only_42, (), is_edit=True)
        monkeypatch.setattr(filters, "FILTERS", {"only_42": always_on, **filters.FILTERS})
        for params in (SamplingParams(max_tokens=4), SamplingParams(max_tokens=4, temperature=5.0, top_p=0.9, seed=2)):
            assert llm.generate([5, 6, 7], params).token_ids == (42,) * 4


PACKAGE = Path(puna.__file__).parent


def test_one_decoded_token_passes_twelve_files(default_model: Path) -> None:
    """On the CPU, whoever reads the road of a token reads twelve files; its bytes are looked up at its first use."""
    files: set[Path] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            files.add(path.relative_to(PACKAGE))

    with LLM.load(default_model, EngineConfig(device="cpu")) as llm:
        ids = llm.encode("one, two, one, two, one, two, one, two,")
        llm.generate(ids, max_tokens=8)
        with llm.stream(ids, max_tokens=8) as stream:
            next(stream)
            sys.setprofile(note)
            try:
                next(stream)
            finally:
                sys.setprofile(None)
    assert len(files) <= 12, sorted(map(str, files))


@pytest.mark.parametrize("name", ["llama-2", pytest.param("qwen3", marks=pytest.mark.full)])
@devices
def test_log_probabilities_are_the_log_softmax_of_transformers_aligned_in_prompt_and_answer(device: str, name: str) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    model = FAMILIES[name].transformers_model(seed=9)
    checkpoint = FAMILIES[name].checkpoint(model)
    prompts = [[random.Random(i).randrange(3, 96) for _ in range(3 + 9 * i)] for i in range(4)]
    config = EngineConfig(device=device, page_size=16, threads=THREADS.get(device, 0), kv_type="f32")
    backend = create_backend(config)
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, backend_spec(device).layouts, backend.info.free_bytes)
    backend.load(checkpoint, plan)
    with LLM.from_parts(checkpoint, None, backend, plan, config) as llm:
        made = llm.generate(prompts, max_tokens=6, logprobs=5, prompt_logprobs=5, ignore_eos=True, progress=False)
    largest = 0.0
    for completion in made:
        ids = [*completion.prompt_ids, *completion.token_ids]
        with torch.no_grad():
            expected = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1).numpy()
        entries = [*completion.prompt_logprobs, *completion.logprobs]
        assert entries[0] is None and [entry.token_id for entry in entries[1:] if entry] == ids[1:]
        for row, entry in zip(expected, entries[1:]):
            assert entry is not None
            told = [(entry.token_id, entry.logprob), *entry.top]
            largest = max(largest, *(abs(value - row[token_id]) for token_id, value in told))
            assert [value for _, value in entry.top] == pytest.approx(sorted(row)[:-6:-1], abs=1e-4)
    print(device, name, "largest difference of log-probabilities:", largest)
    assert largest < 1e-4
