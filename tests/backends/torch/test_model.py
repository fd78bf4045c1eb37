"""Features of the torch backend alone: splitting steps when memory runs out, budgets, weights in fewer bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from puna.backends import BACKENDS, create_backend
from puna.backends.base import Backend
from puna.backends.torch.model import TorchBackend
from puna.backends.torch.step import Step
from puna.config import EngineConfig, WeightsType
from puna.engine import Engine
from puna.errors import InsufficientMemoryError
from puna.model.spec import AttentionSpec, Experts, ModelConfig
from puna.plan import Plan, make_plan
from puna.request import SamplingParams
from puna.units import parse_bytes
from tests.conformance.test_backends import forward, loaded, plan_of, random_ids
from tests.fakes import random_checkpoint, run, tiny_config, with_layers

CONFIG = tiny_config()
BIASES = tiny_config(num_layers=4, qkv_bias=True, o_bias=True, qk_norm=True)
EXPERTS = with_layers(tiny_config(num_layers=4), AttentionSpec(qk_norm="full"), Experts(64, count=4, top_k=2), "both")


class Small:
    """A device on which more than `limit` token rows do not fit into one step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.sizes: list[int] = []
        whole = TorchBackend._pass

        def held(backend: TorchBackend, step: Step) -> Any:
            self.sizes.append(len(step.token_ids))
            if len(step.token_ids) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 86.00 MiB")
            return whole(backend, step)

        monkeypatch.setattr(TorchBackend, "_pass", held)


@pytest.mark.parametrize("limit", [1, 2, 3, 11, 40])
def test_a_step_that_does_not_fit_is_made_in_parts(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = random_checkpoint(CONFIG, seed=1)
    pieces = [(random_ids(CONFIG, n, seed=n), 0, [2 * i, 2 * i + 1]) for i, n in enumerate((19, 1, 1, 7, 12))]
    with loaded("torch", checkpoint) as backend:
        expected = forward(backend, *pieces)
        last = forward(backend, *pieces, last_only=True)
    with loaded("torch", checkpoint) as backend:
        small = Small(monkeypatch, limit)
        assert np.array_equal(forward(backend, *pieces), expected)
        tried = len(small.sizes)
        assert np.array_equal(forward(backend, *pieces, last_only=True), last)
        assert max(small.sizes[tried:]) <= limit, "what was learnt is kept"


def test_a_single_token_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with loaded("torch", random_checkpoint(CONFIG)) as backend:
        Small(monkeypatch, 0)
        with pytest.raises(InsufficientMemoryError, match="ran out of memory in a step of 1 tokens: CUDA out of memory"):
            forward(backend, ([1, 2, 3], 0, [0]))


@pytest.mark.parametrize("num_offloaded", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("quant", "model"), [("F32", BIASES), ("Q4_1", BIASES), ("Q8_0", EXPERTS)], ids=["F32", "Q4_1", "experts"]
)
def test_offloaded_layers_change_no_bit(num_offloaded: int, quant: str, model: ModelConfig) -> None:
    checkpoint = random_checkpoint(model, quant, seed=3)
    ids = random_ids(checkpoint.config, 20)
    with loaded("torch", checkpoint) as backend:
        expected = [forward(backend, (ids, 0, [0, 1])), forward(backend, ([5], 20, [0, 1]))]
    config = EngineConfig(device="torch", threads=1, page_size=16)
    backend = create_backend(config)
    backend.load(checkpoint, plan_of(checkpoint, config, backend).offloading(num_offloaded))
    found = [forward(backend, (ids, 0, [0, 1])), forward(backend, ([5], 20, [0, 1]))]
    backend.close()
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


class Plain:
    """The same backend, but the host samples."""

    filters: frozenset[str] = frozenset()

    def __init__(self, backend: Backend) -> None:
        self.info, self.step, self.prompts_apart = backend.info, backend.step, backend.prompts_apart


REQUESTS: list[dict[str, Any]] = [
    {"repetition_penalty": 1.2},
    {},
    {"frequency_penalty": 0.5, "temperature": 0.9, "seed": 4},
    {"logit_bias": {3: 1.5, 250: -100.0}, "presence_penalty": 0.7},
    {"temperature": 1.0, "top_k": 9, "seed": 5},
]


def written(backend: Any, plan: Plan, model: ModelConfig, max_tokens: int) -> list[list[int]]:
    """The ids of some requests that run together, as many at a time as `plan` allows."""
    engine = Engine(backend, None, plan, EngineConfig(), model)
    prompts = [random_ids(model, n, seed=n) for n in (1, 5, 17, 4, 1)]
    requests = [
        engine.add(ids, SamplingParams(max_tokens=max_tokens, **params)) for ids, params in zip(prompts, REQUESTS, strict=True)
    ]
    run(engine)
    return [request.output_ids for request in requests]


def require_the_hosts_ids(model: ModelConfig, max_tokens: int) -> None:
    checkpoint = random_checkpoint(model, seed=6)
    with loaded("torch", checkpoint) as backend:
        plan = replace(plan_of(checkpoint, EngineConfig(device="torch", page_size=16), backend), max_sequences=3)
        assert backend.filters
        assert written(backend, plan, model, max_tokens) == written(Plain(backend), plan, model, max_tokens)


@pytest.mark.parametrize("logit_softcap", [0.0, 2.0])
def test_penalties_on_the_device_give_the_hosts_ids(logit_softcap: float) -> None:
    require_the_hosts_ids(replace(CONFIG, logit_softcap=logit_softcap), max_tokens=12)


@pytest.mark.parametrize(("vram", "weights"), [("2.2M", "as-is"), ("1.3M", "int8"), ("0.8M", "int4")])
def test_a_budget_is_kept_by_weights_of_fewer_bits(vram: str, weights: str) -> None:
    """On the CPU, what a card of that size would do."""
    config = tiny_config(num_layers=4, hidden_size=128, ffn_size=256, num_heads=4, num_kv_heads=2, head_dim=32, max_context=96)
    settings = EngineConfig(device="torch", threads=1, page_size=16, vram=parse_bytes(vram), chunk_tokens=16)
    backend = create_backend(settings)
    checkpoint = random_checkpoint(config, "BF16", seed=4)
    plan = make_plan(config, checkpoint.tensors, settings, BACKENDS["torch"].layouts, backend.info.free_bytes)
    assert plan.weights == weights and plan.total_bytes <= settings.vram
    backend.load(checkpoint, plan)
    ids = random_ids(config, 9)
    found = forward(backend, (ids, 0, [0]))
    backend.close()
    with loaded("reference", checkpoint) as reference:
        expected = forward(reference, (ids, 0, [0]))
    error = np.abs(found - expected).max() / expected.std()
    assert error < {"as-is": 0.12, "int8": 0.2, "int4": 1.5}[weights]


@pytest.mark.parametrize(("weights", "tolerance"), [("as-is", 1e-4), ("int8", 0.2), ("int4", 1.5)])
def test_experts_have_fewer_bits_and_their_router_keeps_all(weights: WeightsType, tolerance: float) -> None:
    """Each token takes all experts: one that a rounded number turns from one to another would be far from the reference."""
    model = with_layers(CONFIG, AttentionSpec(), Experts(64, count=3, top_k=3))
    checkpoint, ids = random_checkpoint(model, "BF16", seed=5), random_ids(model, 9)
    backend = create_backend(config := EngineConfig(device="torch", threads=1, page_size=16, weights=weights, kv_type="f32"))
    plan = plan_of(checkpoint, config, backend)
    backend.load(checkpoint, plan)
    assert backend.weights_bytes() == plan.weights_bytes and plan.types["layers.0.router"] == "F32"
    found = forward(backend, (ids, 0, [0]))
    backend.close()
    with loaded("reference", checkpoint) as reference:
        expected = forward(reference, (ids, 0, [0]))
    error = np.abs(found - expected).max() / expected.std()
    print("largest error:", error)
    assert error < tolerance


@pytest.mark.parametrize("head_dim", [14, 34])
def test_bits_do_not_depend_on_chunks_where_heads_lie_at_odd_addresses(head_dim: int) -> None:
    config = tiny_config(num_heads=1, num_kv_heads=1, head_dim=head_dim, max_context=256)
    checkpoint, ids = random_checkpoint(config, seed=1), random_ids(config, 129)
    with loaded("torch", checkpoint, kv="f32") as backend:
        whole = forward(backend, (ids, 0, list(range(9))))
        for cut in (3, 64, 66, 100):
            pages = list(range(10, 19))
            parts = [forward(backend, (ids[:cut], 0, pages)), forward(backend, (ids[cut:], cut, pages))]
            assert np.array_equal(np.concatenate(parts), whole), cut
