"""Faults end one request: every k-th call of every part fails once, and numbers that are not finite appear in eight places."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import puna.engine as engine_module
from puna.backends import backend_spec, create_backend
from puna.backends.base import Backend
from puna.batch import Batch, Computed, SamplingBatch
from puna.config import EngineConfig
from puna.detokenize import Detokenizer
from puna.engine import Engine
from puna.formats.base import Checkpoint
from puna.pages import Pages
from puna.plan import make_plan
from puna.request import FinishReason, Request, SamplingParams
from puna.runner import Runner
from puna.sampling import Sampler
from puna.scheduler import Scheduler
from tests import fakes
from tests.conformance.test_backends import BACKENDS_UNDER_TEST, THREADS
from tests.fakes import ByteTokenizer, FakeBackend, FakeSampled, SamplingBackend, make_engine, make_tensor, random_checkpoint, run

ERRORS = (MemoryError, OSError, RuntimeError)
KINDS = (FakeBackend, SamplingBackend)
OF_REQUEST = "of one request"
OF_STEP = "of the step"

# What fails: its class or module, its name, whose fault it is.
SITES: list[tuple[Any, str, str]] = [
    (Sampler, "sample", OF_REQUEST),
    (Sampler, "uniform", OF_STEP),  # on a device; on the host it is part of `sample`
    (ByteTokenizer, "token_bytes", OF_REQUEST),
    (Detokenizer, "push", OF_REQUEST),
    (Detokenizer, "flush", OF_REQUEST),
    (engine_module, "token_logprob", OF_REQUEST),
    (engine_module, "require_finite", OF_REQUEST),
    (engine_module, "sampled_logprob", OF_REQUEST),
    (engine_module, "spelled", OF_REQUEST),
    (engine_module, "_end_of", OF_REQUEST),
    (FakeBackend, "_forward", OF_STEP),
    (Computed, "logits", OF_STEP),
    (FakeSampled, "token_ids", OF_STEP),
    (Batch, "of", OF_STEP),
    (SamplingBatch, "of", OF_STEP),
    (Scheduler, "schedule", OF_STEP),
    (Scheduler, "advance", OF_STEP),
    (Scheduler, "publish", OF_STEP),
    (Pages, "reserve", OF_STEP),
    (Pages, "match", OF_STEP),
    (Pages, "publish", OF_STEP),
    (Pages, "release", OF_STEP),
]


@dataclass
class KthCall:
    """Raises `error` at the k-th call of a function, once."""

    k: int
    error: type[Exception]
    num_calls: int = 0

    @contextmanager
    def of(self, owner: Any, name: str) -> Iterator[None]:
        is_class_method = isinstance(vars(owner).get(name), classmethod)
        real = getattr(owner, name)

        def failing(*args: Any, **more: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self.k:
                raise self.error("k-th")
            return real(*args, **more)

        patch = pytest.MonkeyPatch()
        patch.setattr(owner, name, staticmethod(failing) if is_class_method else failing)
        try:
            yield
        finally:
            patch.undo()


def jobs() -> list[tuple[list[int], SamplingParams]]:
    """Six prompts that share beginnings, want different things, and do not fit into the pages together."""
    common = [7] * 20
    return [
        ([*common, 1], SamplingParams(max_tokens=9)),
        ([*common, 2, 3], SamplingParams(max_tokens=7, temperature=2.0, seed=5, stop=("zz", "qq"))),
        ([5] * 40, SamplingParams(max_tokens=6)),
        ([1], SamplingParams(max_tokens=12, temperature=1.0, seed=6)),
        ([*common, 9], SamplingParams(max_tokens=5, repetition_penalty=1.2)),
        ([8] * 33, SamplingParams(max_tokens=4)),
    ]


def host_jobs() -> list[tuple[list[int], SamplingParams]]:
    scored = SamplingParams(max_tokens=5, logprobs=1, prompt_logprobs=0)
    return [*jobs(), ([4] * 18, scored), ([7] * 21, SamplingParams(max_tokens=4, logprobs=0, temperature=1.0, seed=8))]


@dataclass
class Walk:
    """Runs prompts while faults may come, and remembers what happened."""

    engine: Engine
    requests: list[Request] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def run(self, prompts: list[tuple[list[int], SamplingParams]]) -> None:
        self.requests = [self.engine.add(ids, params) for ids, params in prompts]
        for _ in range(2000):
            if not self.engine.has_work:
                return
            try:
                outputs = self.engine.step()
            except ERRORS:
                outputs = self.engine.outputs()
            self.ended += [output.request_id for output in outputs if output.finish_reason]
        raise AssertionError("the engine never ends")


def small_engine(kind: type[FakeBackend]) -> Engine:
    plan = fakes.make_plan(num_pages=9, max_tokens=24, max_sequences=4)
    return make_engine(kind(plan), plan)


def results(requests: list[Request]) -> list[tuple[Any, ...]]:
    return [(r.output_ids, r.logprobs, r.prompt_logprobs, r.finish_reason) for r in requests]


# Every k, and in the normal tier every 17th.
strides = pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.full)])


@strides
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("owner", "name", "whose"), SITES, ids=[f"{name} {i}" for i, (_, name, _) in enumerate(SITES)])
def test_the_kth_call_of_any_part_fails_and_harms_only_whom_it_concerns(
    owner: Any, name: str, whose: str, kind: type[FakeBackend], stride: int
) -> None:
    """For every k until a run without a fault. The three errors take turns."""
    prompts = jobs() if kind is SamplingBackend else host_jobs()
    clean = Walk(small_engine(kind))
    clean.run(prompts)
    expected = results(clean.requests)
    k, fault = 1, KthCall(0, RuntimeError)
    while fault.num_calls >= fault.k:
        walk, fault = Walk(small_engine(kind)), KthCall(k, ERRORS[k % 3])
        with fault.of(owner, name):
            walk.run(prompts)
        if fault.num_calls >= k:
            check_after_fault(walk, expected, whose, fault.error)
        k += stride
    assert results(walk.requests) == expected
    print(f"{fault.num_calls} calls of {name}")


def check_after_fault(walk: Walk, expected: list[tuple[Any, ...]], whose: str, error: type[Exception]) -> None:
    found = results(walk.requests)
    failed = [r for r in walk.requests if r.finish_reason is FinishReason.ERROR]
    assert all(r.error == f"{error.__name__}: k-th" and isinstance(r.fault, error) for r in failed)
    assert sorted(walk.ended) == [r.id for r in walk.requests], "each has one last output"
    assert len(failed) == 1 if whose is OF_REQUEST else 1 <= len(failed) <= 4
    for one, whole, request in zip(found, expected, walk.requests):
        if request in failed:
            assert one[0] == whole[0][: len(one[0])], "what it had told was right"
        else:
            assert one == whole
    walk.engine._scheduler.pages.check()
    assert walk.engine.num_free_pages == walk.engine._plan.num_pages and not walk.engine._live
    again = Walk(walk.engine)
    again.run(jobs())
    assert results(again.requests) == expected[: len(again.requests)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_fails_ends_those_in_it_and_who_waits_is_served(kind: type[FakeBackend]) -> None:
    plan = fakes.make_plan(max_sequences=2)
    backend = kind(plan)
    runner = Runner(make_engine(backend, plan))

    def fail(call: int) -> None:
        if call == 3:
            raise RuntimeError("the card is gone\nat line 1")

    backend.fail = fail
    handles = [runner.submit([i], SamplingParams(max_tokens=6, ignore_eos=True)) for i in range(4)]
    assert len(list(handles[3])) == 6, "its thread stepped, and does not hear of others' errors"
    assert len(list(handles[2])) == 6
    for handle in handles[:2]:
        with pytest.raises(RuntimeError, match="the card is gone"):
            list(handle)
        assert handle.outputs[-1].finish_reason is FinishReason.ERROR
        assert handle.confirm().error == "RuntimeError: the card is gone"
    runner.close()


# ---- numbers that are not finite ------------------------------------------------------------------------------------

# Where they appear, and whether a row of logits shows them: (ids of prompt and answer so far) -> what is added to the logits.
PLACES: dict[str, Callable[[list[int]], bool]] = {
    "the first token's logits": lambda ids: len(ids) == 40,
    "a later token's logits": lambda ids: len(ids) == 45,
    "a row inside the prompt": lambda ids: len(ids) == 17,
    "the last row of a chunk": lambda ids: len(ids) == 24,
    "every row of the prompt": lambda ids: len(ids) <= 40,
}


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_that_are_not_finite_end_their_request_and_no_other(kind: type[FakeBackend], place: str, poison: float) -> None:
    plan = fakes.make_plan(max_tokens=24)
    backend = kind(plan)
    backend.poison = lambda ids: poison if ids[0] == 9 and PLACES[place](ids) else 0.0
    params = SamplingParams(max_tokens=10, prompt_logprobs=0 if kind is FakeBackend else None)
    prompts = [[first, *range(39)] for first in (8, 9, 10)]
    engine = make_engine(backend, plan)
    requests = [engine.add(ids, params) for ids in prompts]
    run(engine)
    shows = kind is FakeBackend or "row" not in place or place == "every row of the prompt"
    assert (requests[1].finish_reason is FinishReason.ERROR) == shows
    assert not shows or "not finite" in requests[1].error
    clean = make_engine(PlainCopy(plan), plan)
    others = [clean.add(ids, params) for ids in prompts]
    run(clean)
    assert [results(requests)[i] for i in (0, 2)] == [results(others)[i] for i in (0, 2)]
    engine._scheduler.pages.check()
    assert not shows or engine._scheduler.pages.match(prompts[1]) == [], "a page of wrong numbers can be found"


class PlainCopy(FakeBackend):
    """A backend without faults."""


def test_a_prompts_pages_are_shared_only_after_its_logits_were_seen() -> None:
    """A second prompt comes while the first, whose K and V are NaN, is at its third chunk of five."""
    plan = fakes.make_plan(max_tokens=16)
    backend = FakeBackend(plan)
    backend.poison = lambda ids: math.nan if len(ids) >= 80 and ids[0] == 9 else 0.0
    engine = make_engine(backend, plan)
    first = engine.add([9, *range(79)], SamplingParams(max_tokens=3))
    for _ in range(3):
        engine.step()
    assert first.num_computed == 48
    second = engine.add([9, *range(60)], SamplingParams(max_tokens=3))
    run(engine)
    assert (first.finish_reason, second.finish_reason) == (FinishReason.ERROR, FinishReason.LENGTH)
    assert second.num_cached == 0


MODEL = fakes.tiny_config(num_heads=3, num_kv_heads=1, head_dim=16, hidden_size=64, ffn_size=96, max_context=96)
SLOW = {"torch": pytest.mark.full}
BAD = 77  # the token whose embedding is not finite


def bad_checkpoint(value: float) -> Checkpoint:
    """F32 weights, of which only the quantised ones' scales are looked at when a model is loaded."""
    checkpoint = random_checkpoint(MODEL, "F32", seed=4)
    embed = checkpoint.tensors["embed"].dequantize().copy()
    head = checkpoint.tensors.get("lm_head", checkpoint.tensors["embed"])
    embed[BAD] = value
    tensors = {**checkpoint.tensors, "embed": make_tensor("embed", embed, "F32"), "lm_head": head}
    return Checkpoint(checkpoint.path, checkpoint.format, checkpoint.config, tensors)


@contextmanager
def loaded(device: str, checkpoint: Checkpoint) -> Iterator[tuple[Engine, Backend]]:
    config = EngineConfig(device=device, page_size=16, threads=THREADS.get(device, 0), chunk_tokens=16)
    backend = create_backend(config)
    layouts = backend_spec(device).layouts
    plan = make_plan(checkpoint.config, checkpoint.tensors, config, layouts, backend.info.free_bytes)
    backend.load(checkpoint, plan)
    try:
        yield Engine(backend, ByteTokenizer(), plan, config, checkpoint.config), backend
    finally:
        backend.close()


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
@pytest.mark.parametrize("device", [pytest.param(one, marks=SLOW.get(one, ())) for one in BACKENDS_UNDER_TEST])
def test_k_and_v_that_are_not_finite_end_whose_they_are_on_every_backend(device: str, value: float) -> None:
    """One id of the vocabulary has a bad embedding. Its pages are given to others afterwards, who must not notice."""
    rng = random.Random(5)
    params = SamplingParams(max_tokens=6, ignore_eos=True, logprobs=1, logit_bias={BAD: -100.0})
    good = [[rng.randrange(70) for _ in range(n)] for n in (5, 33, 20)]
    bad = [[*good[1][:20], BAD, 3, 4], [BAD], [*good[2], BAD]]
    with loaded(device, bad_checkpoint(value)) as (engine, _):
        alone = []
        for ids in good:
            alone.append(engine.add(ids, params))
            run(engine)
    with loaded(device, bad_checkpoint(value)) as (engine, _):
        for _ in range(2):  # the second time on pages that held such numbers
            requests = [engine.add(ids, params) for pair in zip(good, bad, strict=True) for ids in pair]
            run(engine)
            assert results(requests[0::2]) == results(alone)
            assert {(r.finish_reason, len(r.output_ids)) for r in requests[1::2]} == {(FinishReason.ERROR, 0)}
            engine._scheduler.pages.check()
            assert all(len(engine._scheduler.pages.match(ids)) <= 1 for ids in bad), "only the page before the bad id"
            engine.abort_all()


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_whatever_free_pages_hold_harms_nobody(device: str) -> None:
    """The last layer's pages, and all others, are full of NaN before they are used."""
    params = SamplingParams(max_tokens=8, ignore_eos=True, logprobs=1)
    found = []
    for fill in (False, True):
        with loaded(device, random_checkpoint(MODEL, "F32", seed=4)) as (engine, backend):
            if fill:
                fill_pages(backend)
            requests = [engine.add(list(range(n)), params) for n in (3, 16, 37)]
            run(engine)
            found.append(results(requests))
    assert found[0] == found[1]


def fill_pages(backend: Any) -> None:
    if hasattr(backend, "_keys"):
        backend._keys[:], backend._values[:] = np.nan, np.nan
    else:
        backend._arrays["kv"][:] = 0xFF  # NaN in each floating-point type
