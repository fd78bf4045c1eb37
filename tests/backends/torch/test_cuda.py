"""Tests that need a card: compiled kernels, replayed graphs, no waits. Skipped without a card."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from puna.backends import backend_spec, create_backend
from puna.config import EngineConfig, KVType
from puna.llm import LLM
from puna.model.spec import AttentionSpec, Experts, ModelConfig
from puna.plan import make_plan
from puna.request import SamplingParams
from tests.conformance import test_backends as conformance
from tests.conformance.test_backends import FAMILY_SIZES, ODD_SIZES, forward, random_ids, require_close
from tests.fakes import ByteTokenizer, random_checkpoint, tiny_config, with_layers

if not torch.cuda.is_available():
    pytest.skip("there is no NVIDIA card here", allow_module_level=True)

DEVICE = "cuda"
PAGES = [3, 11, 7, 0]
# Of the size of a small real model: more tiles than one, columns shared among programs, whole blocks of 256 for K-quants.
CONFIG = tiny_config(
    num_layers=3, num_heads=12, num_kv_heads=4, head_dim=64, hidden_size=768, ffn_size=2048, vocab_size=5000, max_context=512
)
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")


EXPERTS = with_layers(
    replace(CONFIG, logit_softcap=5.0), AttentionSpec(qk_norm="full", softcap=8.0), Experts(256, count=16, top_k=4), "both"
)


@contextmanager
def model(kind: str, config: ModelConfig = CONFIG, **settings: Any) -> Iterator[LLM]:
    checkpoint = random_checkpoint(config, kind, seed=4)
    engine = EngineConfig(device=DEVICE, **settings)
    backend = create_backend(engine)
    layouts = backend_spec(DEVICE).layouts
    plan = make_plan(config, checkpoint.tensors, engine, layouts, min(backend.info.free_bytes, 4 << 30))
    backend.load(checkpoint, plan)
    with LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, engine) as llm:
        yield llm


def jobs(count: int) -> tuple[list[list[int]], list[SamplingParams]]:
    """Greedy and drawn, with penalties and without, of several lengths."""
    rng = random.Random(count)
    prompts = [[rng.randrange(256) for _ in range(rng.randint(1, 150))] for _ in range(count)]
    params = [
        SamplingParams(
            max_tokens=rng.randint(8, 48),
            ignore_eos=True,
            temperature=i % 2 * 0.8,
            top_p=0.9 if i % 4 == 3 else 1.0,
            repetition_penalty=1.1 if i % 3 == 2 else 1.0,
            seed=i,
        )
        for i in range(count)
    ]
    return prompts, params


def ids_of(llm: LLM, prompts: list[list[int]], params: list[SamplingParams]) -> list[tuple[int, ...]]:
    return [tuple(completion.token_ids) for completion in llm.generate(prompts, params)]


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_the_references(kind: str) -> None:
    checkpoint = random_checkpoint(CONFIG, kind, seed=1)
    ids = random_ids(CONFIG, 41)
    tolerance = conformance.tolerance("torch", kind if kind != "BF16" else "Q8_0", "f32")
    with conformance.loaded("reference", checkpoint) as reference, conformance.loaded(DEVICE, checkpoint, kv="f32") as backend:
        expected = forward(reference, (ids, 0, PAGES))
        for prompt_length in (1, 41):  # one way, and the other
            require_close(forward(backend, (ids, 0, PAGES), prompt_length=prompt_length), expected, tolerance)


@pytest.mark.parametrize("kv", ["bf16", "f16", "f32", "int8"])
@pytest.mark.parametrize("shape", ["ratio-3-head-64", "ratio-8-head-100", "biases", "qk-norm-head-20", "window-5-ratio-1"])
def test_odd_sizes_and_every_type_of_k_and_v(shape: str, kv: KVType) -> None:
    checkpoint = random_checkpoint(ODD_SIZES[shape], "Q8_0", seed=1)
    ids = random_ids(checkpoint.config, 41)
    with conformance.loaded("reference", checkpoint) as reference, conformance.loaded(DEVICE, checkpoint, kv=kv) as backend:
        expected = forward(reference, (ids, 0, PAGES))
        for prompt_length in (1, 20, 41):
            found = forward(backend, (ids, 0, PAGES), prompt_length=prompt_length)
            require_close(found, expected, conformance.QUANTISED)


@pytest.mark.parametrize("shape", FAMILY_SIZES)
def test_families_have_the_references_logits(shape: str) -> None:
    checkpoint = random_checkpoint(FAMILY_SIZES[shape], "F32", seed=1)
    ids = random_ids(checkpoint.config, 41)
    with conformance.loaded("reference", checkpoint) as reference, conformance.loaded(DEVICE, checkpoint, kv="f32") as backend:
        expected = forward(reference, (ids, 0, PAGES))
        for prompt_length in (1, 41):
            require_close(forward(backend, (ids, 0, PAGES), prompt_length=prompt_length), expected, conformance.EXACT)


@pytest.mark.parametrize(("kind", "config"), [("BF16", CONFIG), ("Q8_0", CONFIG), ("Q4_K", CONFIG), ("Q4_K", EXPERTS)])
def test_texts_are_the_same_alone_in_batches_of_any_size_and_without_graphs(kind: str, config: ModelConfig) -> None:
    prompts, params = jobs(40)
    with model(kind, config) as llm:
        together = ids_of(llm, prompts, params)
        alone = [ids_of(llm, [ids], [each])[0] for ids, each in zip(prompts, params, strict=True)]
        in_fives = [found for i in range(0, 40, 5) for found in ids_of(llm, prompts[i : i + 5], params[i : i + 5])]
    with model(kind, config, graphs=False, prefix_cache=False, chunk_tokens=64) as llm:
        eager = ids_of(llm, prompts, params)
    assert together == alone
    assert together == in_fives
    assert together == eager


@pytest.mark.parametrize("config", [CONFIG, EXPERTS], ids=["dense", "experts"])
def test_the_host_waits_for_nothing_but_the_ids_of_the_step_before(config: ModelConfig) -> None:
    """Steps of prompts and of generated tokens, drawn and penalised; what PyTorch's own debug mode sees."""
    prompts, params = jobs(12)
    with model("Q4_0", config) as llm:
        ids_of(llm, prompts, params)  # compiles, and records
        ids_of(llm, prompts, params)
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                ids_of(llm, prompts, params)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)] == []


def test_what_is_planned_is_what_is_taken() -> None:
    """A gigabyte of K and V: within 3 %, and what is reserved for kernels."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_reserved()
    prompts, params = jobs(64)
    with model("BF16", max_batch=64) as llm:
        ids_of(llm, prompts, params)
        planned, taken = llm.plan.total_bytes, torch.cuda.max_memory_reserved() - before
    print(f"planned {planned >> 20} MiB, reserved {taken >> 20} MiB")
    assert taken < 1.03 * planned + (512 << 20)
    assert taken > 0.97 * (llm.plan.weights_bytes + llm.plan.kv_bytes)
