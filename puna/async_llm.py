"""`LLM` for asyncio. The runner's thread runs the steps, so that the event loop never waits for one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, overload

from puna import samples
from puna.calls import CallSettings, Chat, Chats, ChatSettings, Params, Prompt, PromptJob, Prompts, is_conversation, is_prompt
from puna.completion import Completion, state_of
from puna.config import EngineConfig, EngineSettings
from puna.embedding import EmbeddingSettings
from puna.errors import UsageError
from puna.formats.base import Checkpoint
from puna.glassbox.diff import RunDiff
from puna.glassbox.receipt import Receipt
from puna.glassbox.record import Recording
from puna.glassbox.replay import Replay
from puna.glassbox.trace import Trace
from puna.llm import LLM
from puna.messages import Messages
from puna.pooling import Floats
from puna.progress import Reporter
from puna.request import SamplingParams, StepOutput
from puna.rerank import Ranked, checked_count, ranked
from puna.runner import Call, Handle, Runner
from puna.score import OptionScore
from puna.traceable import ChatTraceSettings, TraceSettings


class AsyncLLM:
    """A loaded model for asyncio: the settings, calls and results of `LLM`.

    Any number of tasks may use it; their requests run together, and each result is the same as alone. A task that is cancelled,
    or that breaks off an `async for`, ends its request within a step.

    >>> async with AsyncLLM() as llm:                                                              # doctest: +SKIP
    ...     print((await llm.chat("What is the capital of Peru?")).text)
    ...     async for piece in llm.chat_stream("What is gravity?"):
    ...         print(piece.text, end="", flush=True)
    """

    def __init__(
        self,
        path_or_name: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        tokenizer: str | Path | None = None,
        report: Reporter | None = None,
        check: Callable[[Checkpoint], None] | None = None,
        **settings: Unpack[EngineSettings],
    ) -> None:
        """Load a model, with the arguments of `LLM`. While others use the event loop, load in a thread:
        `await asyncio.to_thread(AsyncLLM, "model")`.
        """
        self._begin(LLM(path_or_name, config, tokenizer=tokenizer, report=report, check=check, **settings))

    @classmethod
    def from_llm(cls, llm: LLM) -> Self:
        """The same model for asyncio. Threads may go on using `llm`; closing one closes both."""
        made = cls.__new__(cls)
        made._begin(llm)
        return made

    def _begin(self, llm: LLM) -> None:
        self.sync = llm  # its other methods and facts are here: encode, decode, plan, notices
        self._runner = llm.runner.start()

    def __repr__(self) -> str:
        return f"<Async{repr(self.sync)[1:]}"

    @overload
    async def generate(self, prompts: str, params: Params = None, **settings: Unpack[CallSettings]) -> Completion: ...
    @overload
    async def generate(
        self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Unpack[CallSettings]
    ) -> list[Completion]: ...
    @overload
    async def generate(self, prompts: Sequence[int], params: Params = None, **settings: Unpack[CallSettings]) -> Completion: ...
    async def generate(
        self, prompts: Prompt | Prompts, params: Params = None, **settings: Unpack[CallSettings]
    ) -> Completion | list[Completion]:
        """As `LLM.generate`: one prompt, or a list that runs together."""
        completions = await self.run_jobs(partial(self.sync.jobs, prompts, params, settings))
        return completions[0] if is_prompt(prompts) else completions

    @overload
    async def chat(self, messages: Chat, params: Params = None, **settings: Unpack[ChatSettings]) -> Completion: ...
    @overload
    async def chat(
        self, messages: list[str] | Sequence[Messages], params: Params = None, **settings: Unpack[ChatSettings]
    ) -> list[Completion]: ...
    async def chat(
        self, messages: Chat | Chats, params: Params = None, **settings: Unpack[ChatSettings]
    ) -> Completion | list[Completion]:
        """As `LLM.chat`: one conversation, or a list."""
        completions = await self.run_jobs(partial(self.sync.chat_jobs, messages, params, settings))
        return completions[0] if is_conversation(messages) else completions

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **settings: Unpack[CallSettings]) -> AsyncStream:
        """Like `generate`, piece by piece, for one prompt. It begins, or refuses the prompt, when it is first read."""
        _require_one(is_prompt(prompt))
        return AsyncStream(self._runner, partial(self.sync.jobs, prompt, params, settings))

    def chat_stream(self, messages: Chat, params: SamplingParams | None = None, **settings: Unpack[ChatSettings]) -> AsyncStream:
        """Like `chat`, piece by piece, for one conversation."""
        _require_one(is_conversation(messages))
        return AsyncStream(self._runner, partial(self.sync.chat_jobs, messages, params, settings))

    async def score(self, prompts: Prompt | Prompts, options: Sequence[Any]) -> list[OptionScore] | list[list[OptionScore]]:
        """As `LLM.score`. A task that is cancelled leaves its scores to be computed."""
        return await asyncio.to_thread(partial(self.sync.score, prompts, options, progress=False))

    async def embed(self, prompts: Prompt | Prompts, **settings: Unpack[EmbeddingSettings]) -> Floats:
        """As `LLM.embed`."""
        job = await asyncio.to_thread(self.sync.embedding_job, prompts, settings)
        news = News()
        rows = job.rows(await _ended(job.begin(self._runner, news.tell_end), news))
        return rows[0] if is_prompt(prompts) else rows

    async def rerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """As `LLM.rerank`."""
        count = checked_count(top_n)
        job = await asyncio.to_thread(self.sync.ranking_job, query, documents, instruction)
        news = News()
        return ranked(job.scores(await _ended(job.begin(self._runner, news.tell_end), news)), count)

    @overload
    async def trace(self, prompts: str, params: Params = None, **settings: Unpack[TraceSettings]) -> Trace: ...
    @overload
    async def trace(
        self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Unpack[TraceSettings]
    ) -> list[Trace]: ...
    @overload
    async def trace(self, prompts: Sequence[int], params: Params = None, **settings: Unpack[TraceSettings]) -> Trace: ...
    async def trace(
        self, prompts: Prompt | Prompts, params: Params = None, **settings: Unpack[TraceSettings]
    ) -> Trace | list[Trace]:
        """As `LLM.trace`."""
        traces = await self._traces(partial(self.sync.recording, prompts, params, settings))
        return traces[0] if is_prompt(prompts) else traces

    @overload
    async def chat_trace(self, messages: Chat, params: Params = None, **settings: Unpack[ChatTraceSettings]) -> Trace: ...
    @overload
    async def chat_trace(
        self, messages: list[str] | Sequence[Messages], params: Params = None, **settings: Unpack[ChatTraceSettings]
    ) -> list[Trace]: ...
    async def chat_trace(
        self, messages: Chat | Chats, params: Params = None, **settings: Unpack[ChatTraceSettings]
    ) -> Trace | list[Trace]:
        """As `LLM.chat_trace`."""
        traces = await self._traces(partial(self.sync.chat_recording, messages, params, settings))
        return traces[0] if is_conversation(messages) else traces

    async def _traces(self, prepare: Callable[[], Recording]) -> list[Trace]:
        recording = await asyncio.to_thread(prepare)
        news = News()
        await _ended(recording.begin(news.tell_end), news)
        return await asyncio.to_thread(recording.traces)

    async def receipt(self, completion: Completion) -> Receipt:
        """As `LLM.receipt`. A task that is cancelled leaves the weights to be read."""
        return await asyncio.to_thread(self.sync.receipt, completion)

    async def replay(self, receipt: Receipt) -> Replay:
        """As `LLM.replay`."""
        job = await asyncio.to_thread(self.sync.replay_job, receipt)
        news = News()
        (handle,) = await _ended([job.begin(news.tell_end)], news)
        return await asyncio.to_thread(job.result, handle)

    async def diff(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        other: AsyncLLM | None = None,
        changed: Mapping[str, Any] | None = None,
        **settings: Unpack[CallSettings],
    ) -> RunDiff:
        """As `LLM.diff`. A task that is cancelled leaves the runs to end."""
        compare = partial(self.sync.diff, prompt, params, other=None if other is None else other.sync, changed=changed)
        return await asyncio.to_thread(compare, **settings)

    async def chat_diff(
        self,
        messages: Chat,
        params: Params = None,
        *,
        other: AsyncLLM | None = None,
        changed: Mapping[str, Any] | None = None,
        **settings: Unpack[ChatSettings],
    ) -> RunDiff:
        """As `LLM.chat_diff`. A task that is cancelled leaves the runs to end."""
        compare = partial(self.sync.chat_diff, messages, params, other=None if other is None else other.sync, changed=changed)
        return await asyncio.to_thread(compare, **settings)

    async def close(self) -> None:
        """End all requests and free the memory. Running tasks get the end of their texts, with ABORT. Idempotent."""
        await asyncio.to_thread(self.sync.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def run_jobs(self, prepare: Callable[[], list[PromptJob]]) -> list[Completion]:
        """Run the jobs that `prepare` makes, together. If anything is raised, or the task is cancelled, end them all."""
        jobs = await asyncio.to_thread(prepare)
        news, call = News(), Call()
        handles = [samples.submit(self._runner, *job, listener=news.tell_end, call=call) for job in jobs]
        completions = [Completion.of(handle) for handle in await _ended(handles, news)]
        self.sync.tell_shifted(completions)
        return completions


class AsyncStream(AsyncIterator[StepOutput]):
    """The pieces of one completion, in an event loop; afterwards `completion` is the whole.

    The request ends when a task that waits for a piece is cancelled, and when the stream is closed or dropped. If you break off
    an `async for` over a stream that has a name, close it, or put it into `async with`.
    """

    def __init__(self, runner: Runner, prepare: Callable[[], list[PromptJob]]) -> None:
        self._runner = runner
        self._prepare = prepare
        self._opening = asyncio.Lock()  # two tasks may be the first to read
        self._is_closed = False
        self._news: News
        self.handle: Handle | None = None  # None until the first read

    def __repr__(self) -> str:
        return f"<AsyncStream {'not begun' if self.handle is None else state_of(self.handle)}>"

    async def __anext__(self) -> StepOutput:
        try:
            handle = self.handle or await self._opened()
            while (output := handle.take()) is None:
                if handle.is_over:
                    raise handle.error or StopAsyncIteration
                await self._news.next()
        except BaseException:
            self.cancel()
            raise
        return output

    async def _opened(self) -> Handle:
        async with self._opening:
            if self.handle is not None:
                return self.handle
            jobs = [] if self._is_closed else await asyncio.to_thread(self._prepare)
            if self._is_closed:
                raise StopAsyncIteration
            self._news = News()
            self.handle = samples.submit(self._runner, *jobs[0], listener=self._news.tell)
            return self.handle

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.handle is not None and self.handle.ended_at > 0

    @property
    def completion(self) -> Completion:
        """The whole completion. UsageError until the request has ended."""
        return Completion.of(self.handle)

    def cancel(self) -> None:
        """End the request before the next step. Never waits. Idempotent."""
        self._is_closed = True
        if self.handle is not None:
            self.handle.cancel()

    async def close(self) -> None:
        """End the request, and wait until it has ended, which is at most a step. Idempotent."""
        self.cancel()
        if self.handle is not None:
            while not self.handle.ended_at:
                await self._news.next()
            self.handle.close()


class News:
    """Wakes tasks of the running event loop, from the thread that steps."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()

    def tell(self, handle: Handle) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens
            self._loop.call_soon_threadsafe(self._event.set)

    def tell_end(self, handle: Handle) -> None:
        if handle.ended_at:
            self.tell(handle)

    async def next(self) -> None:
        """Wait for what is told from now on. What was told before must have been looked at."""
        self._event.clear()
        await self._event.wait()


async def _ended(handles: list[Handle], news: News) -> list[Handle]:
    """Wait until all have ended, and raise the first error. If anything is raised, end them all."""
    try:
        while not all(handle.ended_at for handle in handles) and not _error_of(handles):
            await news.next()
    finally:
        for handle in handles:
            handle.cancel()
    if error := _error_of(handles):
        raise error
    return handles


def _error_of(handles: list[Handle]) -> BaseException | None:
    return next((handle.error for handle in handles if handle.error is not None), None)


def _require_one(is_one: bool) -> None:
    if not is_one:
        raise UsageError("a stream has one prompt, and a list was given", hint="Open a stream for each prompt.")
