"""Faults end one request: every k-th call of every part fails once, and numbers that are not finite appear in eight places."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import puna.admission as admission_module
import puna.backends.reference as reference_module
import puna.engine as engine_module
from puna import page_store
from puna.backends import backend_spec, create_backend
from puna.backends.base import Backend
from puna.batch import Batch, Computed, Logits, SamplingBatch
from puna.config import EngineConfig
from puna.constraints import Constraint, Constraints
from puna.detokenize import Detokenizer
from puna.draft_model import ModelDrafter
from puna.engine import Engine
from puna.errors import ConstraintError
from puna.formats.base import Adapter, Checkpoint, LowRank
from puna.llm import LLM, Stream
from puna.ngrams import Copying
from puna.page_store import PageStore
from puna.pages import Pages
from puna.plan import Plan, make_plan
from puna.progress import KeepingReporter
from puna.request import FinishReason, Request, SamplingParams
from puna.runner import Runner
from puna.sampling import Sampler
from puna.scheduler import Scheduler
from puna.schemas import JsonSchema
from puna.speculation import Drafter, NGramDrafter
from puna.stored_pages import StoredPages
from tests import fakes
from tests.conformance.test_backends import BACKENDS_UNDER_TEST, THREADS
from tests.fakes import ByteTokenizer, FakeBackend, FakeSampled, SamplingBackend, make_engine, make_tensor, random_checkpoint, run
from tests.test_draft_model import Steady
from tests.test_stored_pages import store_in

ERRORS = (MemoryError, OSError, RuntimeError)
KINDS = (FakeBackend, SamplingBackend)
OF_REQUEST = "of one request"
OF_STEP = "of the step"
TRIED_AGAIN = "of one request, if it fails twice"
OF_NOBODY = "of nobody"
NUM_FAILED = {OF_REQUEST: (1, 1), OF_STEP: (1, 4), TRIED_AGAIN: (0, 1), OF_NOBODY: (0, 0)}  # requests that end: at least, at most

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
    prompts = jobs() if kind is SamplingBackend else host_jobs()
    fail_each_call(owner, name, whose, lambda: small_engine(kind), prompts, stride)


def fail_each_call(
    owner: Any, name: str, whose: str, make: Callable[[], Engine], prompts: list[tuple[list[int], SamplingParams]], stride: int
) -> int:
    """For every k until a run without a fault, on an engine of its own: how many calls that has. The three errors take turns."""
    clean = Walk(make())
    clean.run(prompts)
    expected = results(clean.requests)
    k, fault, num_failed = 1, KthCall(0, RuntimeError), 0
    while fault.num_calls >= fault.k:
        walk, fault = Walk(make()), KthCall(k, ERRORS[k % 3])
        with fault.of(owner, name):
            walk.run(prompts)
        if fault.num_calls >= k:
            num_failed += check_after_fault(walk, expected, whose, fault.error, prompts)
        k += stride
    assert results(walk.requests) == expected
    print(f"{fault.num_calls} calls of {name}, {num_failed} requests ended")
    return fault.num_calls


def check_after_fault(
    walk: Walk,
    expected: list[tuple[Any, ...]],
    whose: str,
    error: type[Exception],
    prompts: list[tuple[list[int], SamplingParams]],
) -> int:
    """How many requests have failed: as many as the fault concerns."""
    found = results(walk.requests)
    failed = [r for r in walk.requests if r.finish_reason is FinishReason.ERROR]
    assert all(r.error == f"{error.__name__}: k-th" and isinstance(r.fault, error) for r in failed)
    assert sorted(walk.ended) == [r.id for r in walk.requests], "each has one last output"
    least, most = NUM_FAILED[whose]
    assert least <= len(failed) <= most
    for one, whole, request in zip(found, expected, walk.requests):
        if request in failed:
            assert one[0] == whole[0][: len(one[0])], "what it had told was right"
        else:
            assert one == whole
    walk.engine._scheduler.pages.check()
    assert walk.engine.num_free_pages == walk.engine._plan.num_pages and not walk.engine._live
    again = Walk(walk.engine)
    again.run(prompts)
    assert results(again.requests) == expected
    return len(failed)


# ---- parts that not every request has -------------------------------------------------------------------------------


def copying_jobs() -> list[tuple[list[int], SamplingParams]]:
    """Prompts whose answers repeat themselves, so that there is much to guess; two more than run at once."""
    return [([*range(i), *[3, 4, 5] * 4], SamplingParams(max_tokens=24 - i, ignore_eos=True)) for i in range(1, 7)]


def copying_backend(plan: Plan) -> FakeBackend:
    return FakeBackend(plan, lambda ids: ids[-3] if len(ids) > 3 else 7)


class DraftBackend(FakeBackend):
    """Of a draft model."""

    def _forward(self, batch: Batch) -> Logits:
        return super()._forward(batch)


def drafting_engine(kind: str) -> Engine:
    plan = fakes.make_plan(num_pages=20, max_tokens=24, max_sequences=4)
    draft: Drafter = NGramDrafter()
    if kind == "model":
        own = fakes.make_plan()
        draft = Steady(DraftBackend(own, copying_backend(own).answer), own, fakes.VOCAB_SIZE)
    return Engine(
        copying_backend(plan), ByteTokenizer(), plan, EngineConfig(), fakes.tiny_config(vocab_size=fakes.VOCAB_SIZE), draft
    )


DRAFTS = [
    ("ngram", NGramDrafter, "start"),
    ("ngram", NGramDrafter, "draft"),
    ("ngram", NGramDrafter, "note"),
    ("ngram", NGramDrafter, "finish"),
    ("ngram", Copying, "read"),
    ("ngram", Copying, "guess"),
    ("model", ModelDrafter, "start"),
    ("model", ModelDrafter, "draft"),
    ("model", ModelDrafter, "finish"),
    ("model", ModelDrafter, "_step"),
    ("model", ModelDrafter, "_reserve"),
    ("model", DraftBackend, "_forward"),
]


@strides
@pytest.mark.parametrize(("kind", "owner", "name"), DRAFTS, ids=[f"{kind} {name}" for kind, _, name in DRAFTS])
def test_a_drafter_that_fails_is_dropped_and_no_request_notices(kind: str, owner: Any, name: str, stride: int) -> None:
    assert fail_each_call(owner, name, OF_NOBODY, lambda: drafting_engine(kind), copying_jobs(), stride) > 0


def test_that_nothing_is_guessed_any_more_is_told_once() -> None:
    engine = drafting_engine("ngram")
    engine._report = report = KeepingReporter()
    with KthCall(2, MemoryError).of(NGramDrafter, "draft"):
        Walk(engine).run(copying_jobs())
    assert report.texts == ["no more tokens are guessed: MemoryError: k-th"]


def constrained_jobs() -> list[tuple[list[int], SamplingParams]]:
    """Requests with constraints among others: free and forced tokens, sampled and greedy."""
    free = SamplingParams(max_tokens=9)
    return [
        ([1] * 20, free),
        ([2] * 17, SamplingParams(max_tokens=12, regex="[ab]{2,7}(same|others)")),
        ([3], SamplingParams(max_tokens=20, choice=("yes, it is", "no, never"))),
        ([4] * 33, SamplingParams(max_tokens=9, temperature=1.0, seed=3)),
        ([5] * 5, SamplingParams(max_tokens=30, temperature=1.0, seed=4, json_schema=JsonSchema.of("s", {"enum": [1, "two"]}))),
        ([6] * 5, free),
    ]


MASKS = [
    ("prepare", TRIED_AGAIN),
    ("sample", OF_REQUEST),
    ("accept", OF_REQUEST),
    ("forced", OF_REQUEST),
    ("_allowed", OF_REQUEST),
    ("_may_end", OF_REQUEST),
]


@strides
@pytest.mark.parametrize(("name", "whose"), MASKS)
def test_a_constraint_that_fails_ends_its_request_only(name: str, whose: str, stride: int) -> None:
    assert fail_each_call(Constraint, name, whose, lambda: small_engine(FakeBackend), constrained_jobs(), stride) > 0


class PromptPages(StoredPages):
    """Waits until its thread has done what it was told, so that a fault comes where it should."""

    def _do(self, work: Callable[[PageStore], None]) -> None:
        super()._do(work)
        super()._do(lambda store: None)
        while not self._queue.empty():
            time.sleep(0)


# What fails, and whether the folder has pages of an earlier start.
STORE: list[tuple[Any, str, bool]] = [
    (PageStore, "has", False),
    (PageStore, "has", True),
    (PageStore, "read", True),
    (PageStore, "write", False),
    (PageStore, "touch", False),
    (PageStore, "touch", True),
    (page_store, "make_room", False),
    (page_store, "write_whole", False),
    (StoredPages, "_name", True),
    (FakeBackend, "read_pages", False),
    (FakeBackend, "write_pages", True),
]


@strides
@pytest.mark.parametrize(("owner", "name", "is_warm"), STORE, ids=[f"{name} {is_warm}" for _, name, is_warm in STORE])
def test_a_page_store_that_fails_costs_only_its_pages(owner: Any, name: str, is_warm: bool, stride: int, tmp_path: Path) -> None:
    """With few pages, what was preempted is loaded again."""
    starts = count()
    stores: list[StoredPages] = []

    def make() -> Engine:
        for store in stores:
            store.close()
        plan = fakes.make_plan(num_pages=9, max_tokens=24, max_sequences=4)
        backend, folder = FakeBackend(plan), tmp_path if is_warm else tmp_path / f"{next(starts)}"
        stores[:] = [store_in(folder, backend, plan, PromptPages)]
        config = fakes.tiny_config(vocab_size=fakes.VOCAB_SIZE)
        return Engine(backend, ByteTokenizer(), plan, EngineConfig(), config, source=stores[0])

    if is_warm:
        Walk(make()).run(jobs())
    assert fail_each_call(owner, name, OF_NOBODY, make, jobs(), stride) > 0
    stores[0].close()


@strides
def test_a_lora_adapter_that_fails_ends_the_step_it_is_in(stride: int) -> None:
    """The waiting requests are answered as without the fault, and so are later ones of every kind."""
    rng = np.random.default_rng(3)
    checkpoint = random_checkpoint(MODEL, "F32", seed=4)

    def adapter(name: str) -> Adapter:
        a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, MODEL.hidden_size), (MODEL.q_size, 4)))
        return Adapter(Path(name), {"layers.1.q_proj": LowRank(a, b)}, name)

    checkpoint = replace(checkpoint, adapters=[adapter("one"), adapter("two")])
    with loaded("reference", checkpoint) as (engine, backend):

        def make() -> Engine:
            digests = {one.name: one.digest for one in checkpoint.adapters}
            plan = replace(engine._plan, max_sequences=2)
            return Engine(backend, ByteTokenizer(), plan, engine._config, MODEL, adapters=digests)

        names = ("one", None, "two", "one", None)
        prompts = [([7] * (3 + i), SamplingParams(max_tokens=3, ignore_eos=True, lora_name=name)) for i, name in enumerate(names)]
        assert fail_each_call(reference_module, "low_rank", OF_STEP, make, prompts, stride) > 0


class EncodesItself(ByteTokenizer):
    """Its `encode` is a function of its own, which may fail."""

    def encode(self, text: str, **more: Any) -> list[int]:
        return super().encode(text, **more)


ADMISSION: list[tuple[Any, str]] = [(EncodesItself, "encode"), (Constraints, "_copy"), (admission_module, "begin_thinking")]


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("one", {}),
    ("two, which is longer", {"choice": ["yes, it is", "no, never"]}),
    ("three", {"thinking_budget": 3}),
    ("four", {"regex": "[ab]{2,7}same"}),
]


def asked(llm: LLM) -> list[Any]:
    """All at once: their texts, or what was raised."""
    streams = [caught(partial(llm.stream, text, max_tokens=8, **settings)) for text, settings in ASKED]
    return [caught(partial(text_of, stream)) if isinstance(stream, Stream) else stream for stream in streams]


def text_of(stream: Stream) -> str:
    return "".join(output.text for output in stream)


def caught(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (*ERRORS, ConstraintError) as error:
        return error


@pytest.mark.parametrize(("owner", "name"), ADMISSION, ids=[name for _, name in ADMISSION])
def test_what_fails_before_the_queue_ends_the_request_that_asked(owner: Any, name: str) -> None:
    """The tokenizer encodes prompts, the tags that end thinking, and texts that a constraint forces."""
    checkpoint, plan = random_checkpoint(fakes.tiny_config(vocab_size=fakes.VOCAB_SIZE)), fakes.make_plan(max_sequences=3)

    def make() -> LLM:
        llm = LLM.from_parts(checkpoint, EncodesItself(), FakeBackend(plan), plan, EngineConfig())
        llm.chat_template = "<think></think>"
        return llm

    with make() as llm:
        expected = asked(llm)
    k, fault, num_failed = 1, KthCall(0, RuntimeError), 0
    while fault.num_calls >= fault.k:
        fault = KthCall(k, ERRORS[k % 3])
        with make() as llm:
            with fault.of(owner, name):
                found = asked(llm)
            assert llm.runner.is_idle and not llm.engine._live and llm.engine.num_free_pages == plan.num_pages
            assert asked(llm) == expected
        wrong = [one for one, whole in zip(found, expected, strict=True) if one != whole]
        assert len(wrong) <= 1, "llguidance may ask the tokenizer once more"
        assert all(re.fullmatch(r"k-th|\w+: \w+\('k-th'\)", str(one)) for one in wrong)
        num_failed += len(wrong)
        k += 1
    assert num_failed >= 2
    print(f"{fault.num_calls} calls of {name}, {num_failed} requests ended")


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
    if hasattr(backend, "_pass"):
        backend._pass.kv[:] = np.nan
    else:
        backend._arrays["kv"][:] = 0xFF  # NaN in each floating-point type
