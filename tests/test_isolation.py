"""Nobody's text reaches another, whoever shares prefixes, pages and threads; a request that is given up harms nobody."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.async_llm import AsyncLLM, AsyncStream
from puna.engine import Engine
from puna.errors import QueueFullError
from puna.llm import LLM
from puna.request import FinishReason, Request, SamplingParams
from puna.runner import Handle, Runner
from tests import fakes
from tests.fakes import EOS, FakeBackend, SamplingBackend, make_engine, make_plan, run
from tests.models import random_tensors, tiny_config, write_gguf
from tests.test_llm import same

MARK = 1  # before a secret
NUM_PREFIXES = 6
WAIT_S = 300.0
runs_of_a_prefix = pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.full)])


def repeat_secret(ids: list[int]) -> int:
    """The next token of an answer that repeats what stands after the last mark of its own pages."""
    at = max((i for i, one in enumerate(ids) if one == MARK), default=len(ids))
    told = len(ids) - at - 9
    return ids[at + 1 + told] if 0 <= told < 8 else EOS


@runs_of_a_prefix
@pytest.mark.parametrize("kind", [FakeBackend, SamplingBackend])
def test_a_secret_is_told_to_nobody_else(kind: type[FakeBackend], count: int) -> None:
    """Prompts of six prefixes, each with a secret of its own, in few pages; some are given up on the way."""
    rng = random.Random(9)
    plan = make_plan(num_pages=40, max_tokens=48, max_sequences=8)
    engine = make_engine(kind(plan, repeat_secret), plan)
    prefixes = [[2 + rng.randrange(250) for _ in range(rng.choice([15, 16, 33, 48]))] for _ in range(NUM_PREFIXES)]
    asked: list[tuple[Request, list[int]]] = []
    for _ in range(count):
        for prefix in prefixes:
            secret = [2 + rng.randrange(250) for _ in range(8)]
            params = SamplingParams(max_tokens=12, priority=rng.choice([0, 0, 1]))
            asked.append((engine.add([*prefix, MARK, *secret], params), secret))
        for _ in range(rng.randint(0, 9)):
            engine.step()
        if rng.random() < 0.3:
            engine.abort(rng.choice(asked)[0].id)
    run(engine)
    for request, secret in asked:
        expected = [*secret, EOS]
        if request.finish_reason is not FinishReason.ABORT:
            assert request.output_ids == expected
        assert request.output_ids == expected[: len(request.output_ids)]
    assert sum(request.num_cached > 0 for request, _ in asked) > len(asked) / 4, "prefixes are shared"
    require_clean(engine)


def require_clean(engine: Engine) -> None:
    engine._scheduler.pages.check()
    assert engine.num_free_pages == engine._plan.num_pages and not engine._live and not engine.has_work


@pytest.mark.parametrize("when", ["queued", "twice", "after its end", "between two that wait"])
@pytest.mark.parametrize("times", [8, pytest.param(50, marks=pytest.mark.full)])
def test_a_request_that_is_cancelled_while_another_decodes_changes_nothing_of_it(when: str, times: int) -> None:
    rng = random.Random(4)
    for _ in range(times):
        plan = make_plan(max_sequences=1 if when != "after its end" else 4)
        engine = make_engine(rng.choice([FakeBackend, SamplingBackend])(plan), plan)
        runner, prompt = Runner(engine), [rng.randrange(256) for _ in range(rng.randint(1, 40))]
        params = SamplingParams(max_tokens=20, ignore_eos=True)
        lone = make_engine()
        expected = lone.add(prompt, params)
        run(lone)
        active = runner.submit(prompt, params)
        others = [runner.submit([7, 8], SamplingParams(max_tokens=3)) for _ in range(3)]
        for _ in range(rng.randint(1, 8)):
            next(active)
        victim = others[1 if when == "between two that wait" else 0]
        if when == "after its end":
            list(victim)
        victim.cancel()
        if when == "twice":
            next(active)
            victim.cancel()
        list(active)
        assert active.confirm().output_ids == expected.output_ids
        others[2].close()
        list(others[0 if victim is others[1] else 1])
        victim.cancel()
        assert victim.ended_at and runner.is_idle
        require_clean(engine)
        runner.close()


@pytest.mark.parametrize("calls", [6, pytest.param(500, marks=pytest.mark.full)])
def test_sixteen_threads_share_one_tokenizer_and_one_engine(tmp_path: Path, calls: int) -> None:
    config = tiny_config()
    texts = ["".join(np.random.default_rng(i).choice(list("ab cdé\n"), 1 + i % 17)) for i in range(40)]
    with LLM(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1)), device="reference", page_size=16) as llm:
        params = SamplingParams(max_tokens=2, ignore_eos=True)
        expected = [(llm.encode(text), llm.generate(text, params).token_ids) for text in texts]
        problems: list[object] = []

        def work(number: int) -> None:
            rng = random.Random(number)
            for _ in range(calls):
                i = rng.randrange(len(texts))
                try:
                    ids = llm.encode(texts[i])
                    found = (ids, llm.generate(texts[i], params).token_ids)
                    if found != expected[i] or llm.decode(ids) != llm.decode(expected[i][0]):
                        problems.append((texts[i], found))
                except Exception as error:  # noqa: BLE001 - whatever comes is told
                    problems.append(error)

        threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert problems == []
        require_clean(llm.engine)


def test_each_runs_on_a_tiny_model_as_alone() -> None:
    """A backend of arithmetic whose every token depends on all ids before: a page of another's would change it."""
    rng = random.Random(2)
    prefixes = [[rng.randrange(256) for _ in range(32)] for _ in range(NUM_PREFIXES)]
    plan = fakes.make_plan(num_pages=30, max_sequences=8)
    engine = make_engine(FakeBackend(plan), plan)
    jobs = [[*rng.choice(prefixes), *(rng.randrange(256) for _ in range(rng.randint(1, 20)))] for _ in range(60)]
    requests = [engine.add(ids, SamplingParams(max_tokens=10)) for ids in jobs]
    run(engine)
    for request, ids in zip(requests, jobs, strict=True):
        lone = make_engine()
        alone = lone.add(ids, SamplingParams(max_tokens=10))
        run(lone)
        assert request.output_ids == alone.output_ids
    require_clean(engine)


CUTS = ("before it is taken", "in the prompt", "in the answer", "never")
WAYS = ("cancel", "close", "drop")


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.full)])
def test_a_storm_of_clients_that_leave_harms_none_that_stay(tmp_path: Path, count: int) -> None:
    """64 at a time on 8 sequences, cut at any moment in any way: what stays is the text alone, and nothing else stays."""
    config, rng = tiny_config(max_context=160), random.Random(1)
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=2))
    with LLM(path, device="reference", page_size=16, max_batch=8, chunk_tokens=32) as llm:
        prompts = [[rng.randrange(256) for _ in range(rng.choice([1, 20, 70]))] for _ in range(16)]
        params = SamplingParams(max_tokens=12, ignore_eos=True)
        alone = [llm.generate(ids, params) for ids in prompts]
        num_threads, problems = threading.active_count(), []
        jobs = [(rng.randrange(16), rng.choice(CUTS), rng.choice(WAYS), rng.randint(1, 8)) for _ in range(count)]

        def work() -> None:
            while jobs:
                try:
                    number, cut, way, length = jobs.pop()
                except IndexError:
                    return
                stream = llm.stream(prompts[number], params)
                if cut == "in the answer":
                    for _, _ in zip(range(length), stream):
                        pass
                elif cut == "in the prompt":
                    _ = stream.request
                elif cut == "never":
                    _ = list(stream)
                    if (stream.completion.text, stream.completion.token_ids) != (alone[number].text, alone[number].token_ids):
                        problems.append(number)
                    continue
                if way == "close":
                    stream.close()
                elif way == "cancel":
                    stream.handle.cancel()
                del stream

        clients = [threading.Thread(target=work, daemon=True) for _ in range(64)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(WAIT_S)
            assert not client.is_alive()
        assert llm.generate(prompts[0], params).token_ids == alone[0].token_ids, "whoever comes next is served"
        assert problems == [] and llm.runner.is_idle and threading.active_count() == num_threads
        require_clean(llm.engine)


# ---- the same for asyncio --------------------------------------------------------------------------------------------

ASYNC_CUTS = ("before the first token", "in the prompt", "in the answer", "never")


@pytest.mark.parametrize("count", [50, pytest.param(400, marks=pytest.mark.full)])
def test_a_storm_of_tasks_that_leave_harms_none_that_stay(tmp_path: Path, count: int) -> None:
    """64 at a time on 8 sequences, four of five are streams. At most 2 s afterwards nothing is left."""
    rng = random.Random(13)
    with tiny_llm(tmp_path, max_batch=8, chunk_tokens=32) as llm:
        prompts = [[rng.randrange(256) for _ in range(rng.choice([1, 20, 70]))] for _ in range(16)]
        params = SamplingParams(max_tokens=12, ignore_eos=True)
        alone = [llm.generate(ids, params) for ids in prompts]
        num_threads, finished = threading.active_count(), list[bool]()

        async def client(places: asyncio.Semaphore, number: int, cut: str, is_stream: bool, moment: float) -> None:
            async with places:
                if not is_stream:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(None if cut == "never" else moment * 0.02):
                            finished.append(same(await asyncio_llm.generate(prompts[number], params), alone[number]))
                    return
                stream = asyncio_llm.stream(prompts[number], params)
                reading = asyncio.create_task(read(stream, 1 + int(moment * 8) if cut == "in the answer" else 99))
                if cut in ASYNC_CUTS[:2]:
                    await asyncio.sleep(0 if cut == ASYNC_CUTS[0] else moment * 0.01)
                    reading.cancel()
                await asyncio.wait([reading])
                if cut == "never":
                    finished.append(same(stream.completion, alone[number]))
                elif moment < 0.5:
                    await stream.close()

        async def storm() -> float:
            places = asyncio.Semaphore(64)
            jobs = [(rng.randrange(16), rng.choice(ASYNC_CUTS), i % 5 > 0, rng.random()) for i in range(count)]
            await asyncio.gather(*(client(places, *job) for job in jobs))
            ended_at = time.monotonic()
            while not (llm.runner.is_idle and not llm.runner._handles):
                assert time.monotonic() < ended_at + 2.0
                await asyncio.sleep(0.001)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            return time.monotonic() - ended_at

        asyncio_llm = AsyncLLM.from_llm(llm)
        begun_at = time.monotonic()
        settled_s = asyncio.run(storm())
        print(f"{count} in {time.monotonic() - begun_at:.2f} s, settled {settled_s:.3f} s later; {len(finished)} texts compared")
        assert len(finished) >= count // 5 and all(finished)
        assert threading.active_count() == num_threads + 1, "the runner's own"
        require_clean(llm.engine)


async def read(stream: AsyncStream, limit: int) -> None:
    num_pieces = 0
    async for _ in stream:
        num_pieces += 1
        if num_pieces == limit:
            return


def test_a_hundred_at_once_on_eight_places_and_a_queue_of_32(tmp_path: Path) -> None:
    """Those beyond the queue are refused, all others finish, and none waits three times the median."""
    with tiny_llm(tmp_path, max_batch=8, max_queue=32) as llm:
        rng = random.Random(14)
        prompts = [[rng.randrange(256) for _ in range(rng.randint(32, 64))] for _ in range(100)]
        params = SamplingParams(max_tokens=16, ignore_eos=True)
        alone = {i: llm.generate(ids, params) for i, ids in enumerate(prompts[:32])}
        handles = [llm.runner.submit(ids, params) for ids in prompts]
        refused_at = [handle.ended_at for handle in handles]
        found = [caught_full(handle) for handle in handles]
        accepted = [i for i, one in enumerate(found) if one is None]
        assert refused_at == [0.0] * 100 and len(accepted) == 32 and accepted == list(range(32))
        assert all("32 requests wait" in str(one) for one in found if one is not None)
        for i in accepted:
            assert tuple(handles[i].confirm().output_ids) == alone[i].token_ids
        waits = sorted(handles[i].first_token_at - handles[i].submitted_at for i in accepted)
        print(f"{len(accepted)} accepted, waits {waits[0]:.3f} to {waits[-1]:.3f} s, median {waits[16]:.3f} s")
        assert waits[-1] <= 3 * waits[16]
        require_clean(llm.engine)


def caught_full(handle: Handle) -> QueueFullError | None:
    try:
        for _ in handle:
            pass
    except QueueFullError as error:
        return error
    return None


def tiny_llm(folder: Path, **settings: Any) -> LLM:
    config = tiny_config(max_context=160)
    path = write_gguf(folder / "m.gguf", config, random_tensors(config, seed=2))
    return LLM(path, device="reference", page_size=16, **settings)
