"""`AsyncLLM`: what `LLM` gives, to many tasks at once; the event loop never waits for a step; nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

import puna
from puna.async_llm import AsyncLLM, AsyncStream
from puna.backends import backend_spec, create_backend
from puna.completion import Completion
from puna.config import EngineConfig
from puna.errors import ContextLengthError, UsageError
from puna.glassbox.trace import Trace
from puna.llm import LLM
from puna.plan import make_plan as plan_of_model
from puna.request import FinishReason, SamplingParams
from puna.sampling import History, Row
from tests.fakes import ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.test_llm import make_llm, same

T = TypeVar("T")
WAIT_S = 30.0  # for what comes at once: a test that takes as long has failed
TEN = SamplingParams(max_tokens=10, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=None, ignore_eos=True)


class Gate(FakeBackend):
    """Its steps wait while it is shut."""

    def __init__(self) -> None:
        super().__init__(make_plan())
        self._is_open = threading.Event()
        self._is_open.set()
        self.inside = threading.Event()
        self.breaks: Callable[[], None] = lambda: None
        self.fail = self._pass

    def shut(self) -> None:
        self.inside.clear()
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    async def until_inside(self) -> None:
        """Wait for a step to begin, without a thread that waits: the event loop must run meanwhile."""
        while not self.inside.is_set():
            await asyncio.sleep(0)

    def _pass(self, call: int) -> None:
        self.inside.set()
        assert self._is_open.wait(WAIT_S), "nobody opened the gate: the event loop waited for the step"
        self.breaks()


def gated() -> tuple[AsyncLLM, Gate]:
    gate = Gate()
    llm = LLM.from_parts(random_checkpoint(tiny_config()), ByteTokenizer(), gate, make_plan(), EngineConfig())
    return AsyncLLM.from_llm(llm), gate


def ran(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(WAIT_S):
            return await main()

    return asyncio.run(limited())


def is_clean(llm: AsyncLLM) -> bool:
    runner, engine = llm.sync.runner, llm.sync.engine
    return runner.is_idle and not runner._handles and engine.num_free_pages == llm.sync.plan.num_pages


async def until_clean(llm: AsyncLLM) -> None:
    while not is_clean(llm):
        await asyncio.sleep(0.001)


def solo(prompt: str, params: SamplingParams = TEN) -> Completion:
    llm, _ = gated()
    with llm.sync as sync:
        return sync.generate(prompt, params)


# ---- the same as LLM ------------------------------------------------------------------------------------------------


def test_its_calls_give_what_those_of_llm_give() -> None:
    drawn = SamplingParams(max_tokens=10, temperature=2.0, seed=3, logprobs=2)
    with make_llm(ByteTokenizer()) as llm:
        expected = llm.generate(["hello", "world"], [TEN, drawn])

        async def main() -> None:
            async_llm = AsyncLLM.from_llm(llm)
            found = await async_llm.generate(["hello", "world"], [TEN, drawn])
            assert all(map(same, found, expected))
            assert same(await async_llm.generate("hello", TEN), expected[0])
            assert same(await async_llm.generate([256, *b"hello"], max_tokens=10, ignore_eos=True), expected[0])
            nothing: list[str] = []
            assert await async_llm.generate(nothing) == []
            stream = async_llm.stream("world", drawn)
            pieces = [piece async for piece in stream]
            assert "".join(piece.text for piece in pieces) == expected[1].text and same(stream.completion, expected[1])
            assert [piece async for piece in stream] == [] and stream.done
            assert repr(async_llm) == "<Async" + repr(llm)[1:]

        ran(main)


def test_conversations_are_answered_as_by_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.llm.encode_chat", lambda messages, *_, **__: [256, *messages[0]["content"].encode()])
    with make_llm(ByteTokenizer()) as llm:
        expected = llm.chat(["hello", "world"], TEN)

        async def main() -> None:
            async_llm = AsyncLLM.from_llm(llm)
            assert all(map(same, await async_llm.chat(["hello", "world"], TEN), expected))
            assert same(await async_llm.chat([{"role": "user", "content": "hello"}], TEN, template_args={}), expected[0])
            pieces = [piece.text async for piece in async_llm.chat_stream("world", TEN)]
            assert "".join(pieces) == expected[1].text
            with pytest.raises(UsageError, match="a stream has one prompt, and a list was given"):
                async_llm.chat_stream(["a", "b"])  # type: ignore[list-item]

        ran(main)


def test_it_loads_as_llm_does_and_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **settings: Any) -> LLM:
        asked.append((args, settings))
        return make_llm()

    monkeypatch.setattr("puna.async_llm.LLM", load)

    async def main() -> None:
        async with await asyncio.to_thread(puna.AsyncLLM, "model", max_context=64, tokenizer="t.bin") as llm:
            assert len((await llm.generate([1, 2], TEN)).token_ids) == 10
        with pytest.raises(UsageError, match="the model was closed"):
            await llm.generate([1, 2])
        await llm.close()

    ran(main)
    (((path, config), settings),) = asked
    assert (path, config, settings.pop("max_context"), settings.pop("tokenizer")) == ("model", None, 64, "t.bin")
    assert settings == {"report": None, "check": None}


def test_a_sampler_of_the_callers_is_asked() -> None:
    class Second:
        def sample(self, logits: Row, history: History) -> int:
            return int(np.argsort(logits)[-2])

    llm, _ = gated()

    async def main() -> None:
        async with llm:
            found = await llm.generate("hello", TEN, sampler=Second())
            assert len(found.token_ids) == 10 and found.token_ids[0] != solo("hello").token_ids[0]

    ran(main)


@pytest.mark.parametrize("bad", [None, 5, {1: 2}, ["a", "b"], [[1]], []], ids=str)
def test_what_is_no_single_prompt_is_refused_at_once(bad: Any) -> None:
    llm, _ = gated()
    with pytest.raises(UsageError, match="prompt"):
        llm.stream(bad)
    llm.sync.close()


def test_what_is_wrong_with_a_prompt_is_raised_in_its_task_alone() -> None:
    llm, _ = gated()

    async def read(prompt: Any, **settings: Any) -> str:
        return "".join([piece.text async for piece in llm.stream(prompt, TEN, **settings)])

    async def main() -> None:
        async with llm:
            asks = [read("good"), read("x" * 200), read([1 << 30]), read("a", temprature=1), llm.generate([[1], [], [2]])]
            good, *errors = await asyncio.gather(*asks, return_exceptions=True)
            assert good == solo("good").text
            assert [type(error) for error in errors] == [ContextLengthError, *[UsageError] * 3]
            await until_clean(llm)

    ran(main)


# ---- many tasks -----------------------------------------------------------------------------------------------------


def cpu_llm() -> LLM:
    checkpoint = random_checkpoint(tiny_config(), "Q4_0", seed=1)
    config = EngineConfig(device="cpu", page_size=16)
    backend = create_backend(config)
    plan = plan_of_model(checkpoint.config, checkpoint.tensors, config, backend_spec("cpu").layouts, backend.info.free_bytes)
    backend.load(checkpoint, plan)
    return LLM.from_parts(checkpoint, ByteTokenizer(), backend, plan, config)


@pytest.mark.parametrize("made", [lambda: gated()[0].sync, cpu_llm], ids=["fake", "cpu"])
def test_a_hundred_tasks_at_once_give_the_bits_that_each_gives_alone(made: Callable[[], LLM]) -> None:
    rng = random.Random(100)
    prompts = [[rng.randrange(256) for _ in range(rng.randint(1, 40))] for _ in range(100)]
    each = [SamplingParams(max_tokens=rng.randint(1, 20), temperature=i % 2, seed=i, logprobs=2) for i in range(100)]
    with made() as llm:
        alone = [llm.generate(prompt, params) for prompt, params in zip(prompts, each, strict=True)]

    async def streamed(llm: AsyncLLM, prompt: list[int], params: SamplingParams) -> Completion:
        stream = llm.stream(prompt, params)
        async for _ in stream:
            pass
        return stream.completion

    async def main() -> list[Completion]:
        async with AsyncLLM.from_llm(made()) as llm:
            ways = (llm.generate, lambda *args: streamed(llm, *args))
            asks = [ways[i % 2](prompt, params) for i, (prompt, params) in enumerate(zip(prompts, each, strict=True))]
            return await asyncio.gather(*asks)

    assert all(map(same, ran(main), alone))


def test_two_tasks_share_one_stream_and_threads_pull_beside() -> None:
    llm, _ = gated()

    async def main() -> None:
        async with llm:
            stream, pieces = llm.stream("hello", TEN), list[str]()

            async def read() -> None:
                pieces.extend([piece.text async for piece in stream])

            pulled = asyncio.to_thread(llm.sync.generate, "world", TEN)
            *_, world = await asyncio.gather(read(), read(), read(), pulled)
            assert len(pieces) == 10 and same(stream.completion, solo("hello")) and same(world, solo("world"))

    ran(main)


# ---- the event loop -------------------------------------------------------------------------------------------------


def test_the_event_loop_goes_on_while_a_step_runs() -> None:
    """Submitting, cancelling and breaking off too: all of it happens inside one step."""
    llm, gate = gated()

    async def main() -> None:
        async with llm:
            gate.shut()
            first, second = asyncio.create_task(llm.generate("first", TEN)), asyncio.create_task(llm.generate("second", ENDLESS))
            await gate.until_inside()
            late = [asyncio.create_task(llm.generate(f"late {i}", TEN)) for i in range(20)]
            await asyncio.sleep(0.01)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            assert len(gate.batches) == 1
            gate.open()
            assert same(await first, solo("first"))
            assert all(map(same, await asyncio.gather(*late), [solo(f"late {i}") for i in range(20)]))

    ran(main)


# ---- who gives up ---------------------------------------------------------------------------------------------------


async def cancelled(llm: AsyncLLM, prompt: str) -> None:
    """A task that reads a stream is cancelled while it waits."""
    task = asyncio.create_task(_read(llm.stream(prompt, ENDLESS)))
    await _running(llm)
    task.cancel()
    await asyncio.wait([task])


async def timed_out(llm: AsyncLLM, prompt: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await llm.generate([prompt, "another"], ENDLESS)


async def waited_for(llm: AsyncLLM, prompt: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(llm.generate(prompt, ENDLESS), 0.05)


async def broken_off(llm: AsyncLLM, prompt: str) -> None:
    async for _ in llm.stream(prompt, ENDLESS):
        break


async def raised(llm: AsyncLLM, prompt: str) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async for _ in llm.stream(prompt, ENDLESS):
            raise ZeroDivisionError


async def left(llm: AsyncLLM, prompt: str) -> None:
    async with llm.stream(prompt, ENDLESS) as stream:
        await anext(stream)
    assert stream.completion.finish_reason is FinishReason.ABORT and len(stream.completion.token_ids) >= 1
    assert [piece async for piece in stream] == []


async def closed(llm: AsyncLLM, prompt: str) -> None:
    stream = llm.stream(prompt, ENDLESS)
    await anext(stream)
    with pytest.raises(UsageError, match="not finished"):
        _ = stream.completion
    await stream.close()
    await stream.close()
    assert stream.done


async def _read(stream: AsyncStream) -> None:
    async for _ in stream:
        pass


async def _running(llm: AsyncLLM) -> None:
    while not llm.sync.runner._handles:
        await asyncio.sleep(0)


async def traced(llm: AsyncLLM, prompt: str) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(llm.trace([prompt, "another"], ENDLESS), 0.05)


WAYS = (traced, cancelled, timed_out, waited_for, broken_off, raised, left, closed)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_who_gives_up_ends_his_request_within_a_step(way: Callable[[AsyncLLM, str], Coroutine[Any, Any, None]]) -> None:
    llm, gate = gated()
    gate.breaks = lambda: time.sleep(0.002)  # 128 tokens, which fill the context, take longer than any of the ways

    async def main() -> None:
        async with llm:
            await way(llm, "given up")
            begun = len(gate.batches)
            await until_clean(llm)
            assert len(gate.batches) <= begun + 1 < 100
            assert same(await llm.generate("other", TEN), solo("other"))

    ran(main)


def test_a_stream_that_is_given_up_before_it_began_never_begins() -> None:
    llm, gate = gated()

    async def main() -> None:
        async with llm:
            async with llm.stream("hello", TEN) as stream:
                assert repr(stream) == "<AsyncStream not begun>"
            assert [piece async for piece in stream] == []
            reading = asyncio.create_task(_read(stream := llm.stream("hello", TEN)))
            await asyncio.sleep(0)  # its prompt is encoded now
            await stream.close()
            await reading
            task = asyncio.create_task(llm.generate("hello", TEN))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            await until_clean(llm)
            assert gate.batches == []

    ran(main)


def test_a_loop_that_ends_with_requests_running_leaves_the_model_usable() -> None:
    llm, gate = gated()
    gate.breaks = lambda: time.sleep(0.002)
    kept: list[Any] = []

    async def leave() -> None:
        kept.append(llm.stream("kept", ENDLESS))
        await anext(kept[0])

    ran(leave)
    assert same(llm.sync.generate("hello", TEN), solo("hello"))
    kept.clear()
    ended = time.monotonic() + WAIT_S
    while not is_clean(llm):
        assert time.monotonic() < ended
    ran(llm.close)


# ---- what ends all --------------------------------------------------------------------------------------------------


class Broken(Exception):
    pass


def test_an_error_in_a_step_is_raised_in_every_task_and_the_model_can_be_used_again() -> None:
    llm, gate = gated()

    async def main() -> None:
        async with llm:
            gate.shut()
            asks = [llm.generate(["a", "b"], TEN), _read(llm.stream("c", ENDLESS)), llm.generate("d", ENDLESS)]
            tasks = [asyncio.create_task(ask) for ask in asks]
            await gate.until_inside()
            while len(llm.sync.runner._calls) + len(llm.sync.runner._handles) < 4:
                await asyncio.sleep(0)

            def fail() -> None:
                if len(gate.batches) == 3:
                    raise Broken

            gate.breaks = fail
            gate.open()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(one) for one in found] == [Broken] * 3
            assert same(await llm.generate("other", TEN), solo("other"))
            await until_clean(llm)  # the step that gave the last output may still be ending

    ran(main)


def test_closing_tells_every_task_that_runs() -> None:
    llm, gate = gated()

    async def text(stream: AsyncStream) -> FinishReason | None:
        return [piece.finish_reason async for piece in stream][-1]

    async def main() -> None:
        gate.shut()
        running = [asyncio.create_task(llm.generate(f"{i}", ENDLESS)) for i in range(5)]
        streams = [asyncio.create_task(text(llm.stream(f"s{i}", ENDLESS))) for i in range(5)]
        await gate.until_inside()
        while len(llm.sync.runner._calls) + len(llm.sync.runner._handles) < 10:
            await asyncio.sleep(0)
        gate.open()
        await asyncio.sleep(0.02)
        await asyncio.gather(llm.close(), llm.close())
        ended = {FinishReason.ABORT, FinishReason.LENGTH}  # the context holds few tokens
        assert {one.finish_reason for one in await asyncio.gather(*running)} | set(await asyncio.gather(*streams)) <= ended
        with pytest.raises(UsageError, match="closed"):
            await text(llm.stream("late", TEN))

    ran(main)
    assert is_clean(llm) and "puna-runner" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_tasks_do_each_hears_all_of_its_own_or_is_told(seed: int) -> None:
    """Tasks read, break off, are cancelled at random moments; steps break; threads pull beside."""
    rng = random.Random(seed)
    print("seed", seed)
    llm, gate = gated()
    expected = {text: solo(text).token_ids for text in map(str, range(20))}
    breaks = {rng.randrange(20, 300) for _ in range(3)}

    def fail() -> None:
        if len(gate.batches) in breaks:
            breaks.discard(len(gate.batches))
            raise Broken

    gate.breaks = fail

    async def act(own: random.Random) -> None:
        for _ in range(10):
            text, limit, found = str(own.randrange(20)), own.choice([1, 5, 99]), list[int]()
            with contextlib.suppress(Broken):
                async for piece in llm.stream(text, TEN):
                    found += piece.token_ids
                    if len(found) == limit:
                        break
                assert tuple(found) == expected[text][:limit]
            with contextlib.suppress(TimeoutError, Broken):
                async with asyncio.timeout(own.random() * 0.02):
                    assert (await llm.generate(text, TEN)).token_ids == expected[text]

    def pull() -> None:
        for text in map(str, range(10)):
            with contextlib.suppress(Broken):
                assert llm.sync.generate(text, TEN).token_ids == expected[text]

    async def main() -> None:
        tasks = [asyncio.create_task(act(random.Random(rng.random()))) for _ in range(20)]
        await asyncio.gather(*tasks, asyncio.to_thread(pull))
        breaks.clear()
        assert (await llm.generate("7", TEN)).token_ids == expected["7"]
        await until_clean(llm)
        await llm.close()

    ran(main)


def test_embeddings_are_those_of_llm_beside_answers() -> None:
    prompts = ["one", "the other", "a third, longer than the others"]
    with make_llm(ByteTokenizer()) as llm:
        expected = llm.embed(prompts, pooling="mean", dimensions=9)

    async def both() -> tuple[Any, Any, Completion]:
        async with AsyncLLM.from_llm(make_llm(ByteTokenizer())) as llm:
            rows, answer = await asyncio.gather(llm.embed(prompts, pooling="mean", dimensions=9), llm.generate("one", TEN))
            return rows, await llm.embed("one", pooling="mean", dimensions=9), answer

    rows, one, answer = asyncio.run(both())
    assert rows.tobytes() == expected.tobytes() and one.tobytes() == expected[0].tobytes()
    assert len(answer.token_ids) == 10


def test_a_cancelled_embedding_ends_its_requests() -> None:
    async def cancelled() -> None:
        async with AsyncLLM.from_llm(make_llm(ByteTokenizer())) as llm:
            task = asyncio.create_task(llm.embed(["x" * 90] * 40))
            await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert await llm.embed("after it") is not None
            assert not llm.sync.engine.has_work

    asyncio.run(cancelled())


# ---- the glass box --------------------------------------------------------------------------------------------------


def told(trace: Trace) -> Any:
    """A trace without what differs between two runs: their times, and what came from the cache."""
    steps = [dataclasses.replace(step, model_s=None, sampling_s=None, computed=()) for step in trace.steps]
    return steps, trace.token_ids, trace.text, trace.why, trace.prompt.padded


def test_traces_receipts_and_replays_are_those_of_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = SamplingParams(max_tokens=6, temperature=2.0, seed=3, top_k=9)
    monkeypatch.setattr("puna.llm.encode_chat", lambda messages, *_, **__: [256, *messages[0]["content"].encode()])
    with make_llm(ByteTokenizer()) as llm:
        expected, chats = llm.trace(["hello", "a"], drawn), llm.chat_trace("hello", drawn, top=2)
        receipt = llm.receipt(llm.generate("hello", drawn))

        async def main() -> None:
            own = AsyncLLM.from_llm(llm)
            traces, answer = await asyncio.gather(own.trace(["hello", "a"], drawn), own.generate("beside", TEN))
            assert list(map(told, traces)) == list(map(told, expected)) and len(answer.token_ids) == 10
            assert told(await own.trace("hello", drawn))[:3] == told(expected[0])[:3]
            assert told(await own.chat_trace("hello", drawn, top=2)) == told(chats)
            assert await own.receipt(await own.generate("hello", drawn)) == receipt
            assert (await own.replay(receipt)).is_verified
            assert not (await own.replay(dataclasses.replace(receipt, token_ids=(7, *receipt.token_ids[1:])))).is_verified
            with pytest.raises(UsageError, match="top"):
                await own.trace("hello", top=-1)

        ran(main)


def test_a_comparison_is_that_of_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = SamplingParams(max_tokens=6, temperature=2.0, seed=3)
    monkeypatch.setattr("puna.llm.encode_chat", lambda messages, *_, **__: [256, *messages[0]["content"].encode()])
    with make_llm(ByteTokenizer()) as llm:
        expected, chat = llm.diff("hello", drawn, changed={"seed": 4}), llm.chat_diff("hello", drawn, other=llm)

        async def main() -> None:
            own = AsyncLLM.from_llm(llm)
            found, answer = await asyncio.gather(own.diff("hello", drawn, changed={"seed": 4}), own.generate("beside", TEN))
            assert found == expected and len(answer.token_ids) == 10
            assert await own.chat_diff("hello", drawn, other=own) == chat and chat.others[0].parting is None
            with pytest.raises(UsageError, match="temperature"):
                await own.diff("hello", changed={"temperature": -1})

        ran(main)


def test_the_event_loop_goes_on_while_a_trace_and_a_replay_run() -> None:
    llm, gate = gated()

    async def main() -> None:
        async with llm:
            receipt = await llm.receipt(await llm.generate("first", TEN))
            gate.shut()
            tracing, replaying = asyncio.create_task(llm.trace("first", TEN)), asyncio.create_task(llm.replay(receipt))
            await gate.until_inside()
            replaying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await replaying
            gate.open()
            assert (await tracing).token_ids == receipt.token_ids
            await until_clean(llm)

    ran(main)
