"""Pools: the same bits whatever the pieces; embeddings by the engine beside generation, also with preemption."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from puna.engine import Engine
from puna.errors import ContextLengthError, NumericalError, UsageError
from puna.pooling import Pool, Pooling, checked_pooling
from puna.request import FinishReason, SamplingParams
from tests.fakes import FakeBackend, SamplingBackend, make_engine, make_plan, run

WAYS: tuple[Pooling, ...] = ("mean", "last", "cls")
PROMPT_ONLY = SamplingParams(max_tokens=0)
ways = pytest.mark.parametrize("way", WAYS)
backends = pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend], ids=["plain steps", "overlapped steps"])


@ways
def test_pieces_change_no_bit(way: Pooling) -> None:
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((37, 5)).astype(np.float32)
    whole = Pool(way)
    whole.add(rows)
    for seed in range(20):
        cuts = sorted(random.Random(seed).sample(range(1, 37), 4))
        pool = Pool(way)
        for piece in np.split(rows, cuts):
            pool.add(piece)
        assert pool.vector().tobytes() == whole.vector().tobytes(), (way, seed)


def test_each_way_is_what_its_name_says() -> None:
    rows = np.array([[1, 5], [2, 7], [6, 0]], np.float32)
    expected = {"mean": [3, 4], "last": [6, 0], "cls": [1, 5]}
    for way in WAYS:
        pool = Pool(way)
        pool.add(rows)
        assert pool.vector().tolist() == expected[way]


def test_a_number_that_is_not_finite_and_an_empty_pool_are_errors() -> None:
    pool = Pool("mean")
    with pytest.raises(UsageError, match="nothing was pooled"):
        pool.vector()
    with pytest.raises(NumericalError, match="hidden states are not finite"):
        pool.add(np.array([[1, math.nan]], np.float32))


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UsageError, match="pooling is 'max'; allowed: mean, last, cls"):
        checked_pooling("pooling", "max")
    for wrong in (np.array([1, 2]), np.array([]), 10**5000, ["mean"], None):
        with pytest.raises(UsageError, match=r"pooling is .*; allowed: mean, last, cls"):
            checked_pooling("pooling", wrong)


# ---- by the engine --------------------------------------------------------------------------------------------------


def embedded(engine: Engine, prompt: list[int], way: Pooling) -> bytes:
    pool = Pool(way)
    engine.add(prompt, PROMPT_ONLY, pool=pool)
    run(engine)
    return pool.vector().tobytes()


def prompts_of(seed: int, count: int) -> list[list[int]]:
    """Some begin alike, so that the prefix cache has something to give."""
    rng = random.Random(seed)
    start = [rng.randrange(256) for _ in range(40)]
    return [start[: rng.randrange(41)] + [rng.randrange(256) for _ in range(rng.randrange(1, 60))] for _ in range(count)]


@backends
@ways
def test_beside_generation_in_few_pages_each_embedding_is_the_one_alone(way: Pooling, kind: type[FakeBackend]) -> None:
    """Nine pages for eight sequences: chunks, preemption and the prefix cache all happen."""
    for seed in range(6):
        prompts = prompts_of(seed, 10)
        alone = [embedded(make_engine(kind(make_plan())), prompt, way) for prompt in prompts]
        plan = make_plan(num_pages=9, max_tokens=24)
        engine, pools = make_engine(kind(plan), plan), [Pool(way) for _ in prompts]
        texts = []
        for prompt, pool in zip(prompts, pools, strict=True):
            engine.add(prompt, PROMPT_ONLY, pool=pool)
            texts.append(engine.add(prompt, SamplingParams(max_tokens=9, temperature=0.8, seed=seed)))
        run(engine)
        assert [pool.vector().tobytes() for pool in pools] == alone, seed
        for prompt, text in zip(prompts, texts, strict=True):
            lone = make_engine(kind(make_plan()))
            request = lone.add(prompt, SamplingParams(max_tokens=9, temperature=0.8, seed=seed))
            run(lone)
            assert request.output_ids == text.output_ids, seed
        engine._scheduler.pages.check()
        assert engine.num_free_pages == plan.num_pages


def test_the_cached_prefix_is_not_computed_again_for_the_last_token() -> None:
    backend = FakeBackend(make_plan())
    engine = make_engine(backend)
    first = embedded(engine, list(range(64)), "last")
    backend.batches.clear()
    assert embedded(engine, list(range(64)), "last") == first
    assert sum(len(batch.token_ids) for batch in backend.batches) == 16, "the last of four pages"


def test_no_logits_are_computed_for_an_embedding() -> None:
    backend = FakeBackend(make_plan())
    embedded(make_engine(backend), list(range(50)), "mean")
    assert [len(batch.logit_rows) for batch in backend.batches] == [0, 0]
    assert [len(batch.hidden_rows) for batch in backend.batches] == [32, 18]


def test_hidden_states_that_are_not_finite_end_their_request_only() -> None:
    backend = FakeBackend(make_plan())
    backend.poison = lambda ids: math.nan if ids[0] == 9 else 0.0
    engine, pools = make_engine(backend), [Pool("mean"), Pool("mean")]
    bad, good = (engine.add([first, 1, 2], PROMPT_ONLY, pool=pool) for first, pool in zip((9, 8), pools, strict=True))
    run(engine)
    assert bad.finish_reason is FinishReason.ERROR and "hidden states are not finite" in bad.error
    assert good.finish_reason is FinishReason.LENGTH and pools[1].num_rows == 3


def test_a_prompt_may_fill_the_context_and_not_more() -> None:
    engine = make_engine()
    assert embedded(engine, [1] * 128, "mean")
    with pytest.raises(ContextLengthError):
        engine.add([1] * 129, PROMPT_ONLY, pool=Pool("mean"))
