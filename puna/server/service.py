"""What the routes of all wires share: the models, the limits, and the way a job begins."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.async_llm import AsyncLLM
from puna.errors import QueueFullError
from puna.llm import LLM
from puna.pooling import Floats
from puna.request import MAX_SALT_CHARACTERS
from puna.rerank import Ranked
from puna.sampling import Watcher
from puna.score import OptionScore
from puna.server.body import read_json
from puna.server.guard import TENANT
from puna.server.job import Job
from puna.server.models import Models
from puna.server.refusals import Refusal, invalid, logged_refusal
from puna.server.replies import AnswerSource, AnswerWriter, ErrorBody, Reply, ReplyShape, StreamReply, WholeReply, headers_of
from puna.server.running_job import RunningJob, option_jobs, prepare, prompt_size
from puna.server.settings import ServerSettings
from puna.server.stored_responses import StoredResponses

Endpoint = Callable[[Request], Awaitable[ASGIApp]]

MAX_PROMPTS = 2048  # OpenAI's limit of texts to embed


class Embedded(NamedTuple):
    """Vectors, one for each prompt, and the tokens of all."""

    vectors: Floats
    num_tokens: int


class Service:
    """One running server."""

    def __init__(self, models: Models, settings: ServerSettings) -> None:
        self.models, self.settings = models, settings
        self.running: set[RunningJob] = set()
        self.listeners: list[Callable[[RunningJob], None]] = []  # told of each run at its end: log, metrics
        self.responses = StoredResponses()
        self.is_draining = False
        self._num_begun = 0  # jobs that are being prepared, and work without one

    async def read_json(self, request: Request) -> dict[str, Any]:
        return await read_json(request, self.settings)

    async def begin(self, job: Job, watch: Callable[[LLM], Watcher] | None = None) -> RunningJob:
        """Start a job: its model is loaded, its prompt checked and encoded. Raises what is wrong before anything is sent.

        `watch` makes what hears of each step of the only sample.
        """
        self._require_open()
        model = self.models.named(job.model)
        model.num_users += 1
        self._num_begun += 1
        try:
            llm = await self.models.ready(model)
            self._require_room(llm.plan.max_sequences)
            started = time.perf_counter()
            prepared = await asyncio.to_thread(prepare, llm, _of_tenant(job), self.settings.max_tokens)
            watcher, took_s = None if watch is None else watch(llm), time.perf_counter() - started
            run = RunningJob(llm, job, prepared, self.settings.progress_s, watcher, took_s)
        except BaseException:
            self.models.release(model)
            raise
        finally:
            self._num_begun -= 1
        self.running.add(run)
        run.on_close = lambda ended: self._end(ended, lambda: self.models.release(model))
        return run

    def run_of(self, name: str) -> RunningJob:
        """The running job that its client calls so. Refusal (404) if there is none, or if a client with another key owns it."""
        found = next((run for run in self.running if run.id == name and run.tenant == TENANT.get()), None)
        if not name or found is None:
            raise Refusal(404, f"no request {name[:80]!r} is running", field="id", code="not_found")
        return found

    async def measured(self, job: Job) -> tuple[int, int]:
        """The tokens of a chat's prompt, and how many may be there at most if one is to be generated."""
        async with self.models.using(job.model) as llm:
            return await asyncio.to_thread(prompt_size, llm, job), llm.plan.max_context - 1

    async def embed(
        self, model: str, prompts: Sequence[Any], dimensions: int | None = None, *, truncates: bool = False
    ) -> Embedded:
        """The embeddings of texts or rows of ids. `truncates`: cut those that are longer than the context."""
        async with self._admitted(model) as llm:
            ids = await asyncio.to_thread(_rows_of_ids, llm, prompts, truncates)
            vectors = await AsyncLLM.from_llm(llm).embed(ids, dimensions=dimensions)
        return Embedded(vectors, sum(map(len, ids)))

    async def rerank(self, model: str, query: str, documents: Sequence[str], top_n: int | None) -> list[Ranked]:
        """The best documents first."""
        async with self._admitted(model) as llm:
            return await AsyncLLM.from_llm(llm).rerank(query, documents, top_n=top_n)

    async def score(self, job: Job, options: Sequence[str], field: str = "options") -> list[OptionScore]:
        """How likely each option is after a job's prompt and the tokens that its answer opens with. `field` names the options."""
        async with self._admitted(job.model) as llm:
            pairs = await asyncio.to_thread(option_jobs, llm, _of_tenant(job), options, field)
            first, rest = [job for _, job in pairs[:1]], [job for _, job in pairs[1:]]  # the first computes the prompt for all
            model = AsyncLLM.from_llm(llm)
            completions = [*await model.run_jobs(lambda: first), *(await model.run_jobs(lambda: rest) if rest else ())]
            return [OptionScore.of(one, num_before) for one, (num_before, _) in zip(completions, pairs, strict=True)]

    @contextlib.asynccontextmanager
    async def _admitted(self, name: str) -> AsyncIterator[LLM]:
        """The model, loaded, for work without a RunningJob; it counts as one in the queue."""
        self._require_open()
        self._num_begun += 1
        try:
            async with self.models.using(name) as llm:
                self._require_room(llm.plan.max_sequences)
                yield llm
        finally:
            self._num_begun -= 1

    def _require_open(self) -> None:
        if self.is_draining:
            raise Refusal(503, "the server is ending; it takes no new requests", code="server_ending", retry_after=5)

    def _require_room(self, max_sequences: int) -> None:
        """429 if as many requests wait as may."""
        if len(self.running) + self._num_begun > max_sequences + self.settings.max_queue:
            raise QueueFullError.of(self.settings.max_queue)

    def _end(self, run: RunningJob, release: Callable[[], None]) -> None:
        self.running.discard(run)
        release()
        for listener in self.listeners:
            listener(run)

    def reply(self, writer: AnswerWriter, shape: ReplyShape, streams: bool, source: AnswerSource) -> Reply:
        """An answer: the writer's chunks as a stream, or what it writes whole. The source is closed at the end."""
        if streams:
            return StreamReply(
                writer.chunks(), shape.failed, source.close, shape.stream_type, source.headers, self.settings.stream_s
            )
        return WholeReply(writer.whole(), shape.error_body, source.close, source.headers)

    def answered(self, endpoint: Endpoint, error_body: ErrorBody) -> Endpoint:
        """The endpoint, with its errors in the wire's shape. A bug is logged under an id, and the client gets the id."""

        async def answer(request: Request) -> ASGIApp:
            try:
                return await endpoint(request)
            except Exception as error:  # noqa: BLE001 - a client never gets a traceback
                return self.refused(error, error_body)

        return answer

    def refused(self, error: Exception, error_body: ErrorBody) -> ASGIApp:
        refusal = logged_refusal(error)
        return JSONResponse(error_body(refusal), refusal.status, headers_of(refusal))


def _of_tenant(job: Job) -> Job:
    """The job, kept apart from those of other keys. A salt of the client's own is added to that."""
    if not (tenant := TENANT.get()):
        return job
    return replace(
        job, settings={**job.settings, "cache_salt": f"{tenant} {job.settings.get('cache_salt', '')}"[:MAX_SALT_CHARACTERS]}
    )


def _rows_of_ids(llm: LLM, prompts: Sequence[Any], truncates: bool) -> list[list[int]]:
    if not prompts or len(prompts) > MAX_PROMPTS:
        raise invalid("input", f"input holds {len(prompts)} texts; 1 to {MAX_PROMPTS} are allowed")
    rows = [_row_of_ids(llm, prompt, truncates) for prompt in prompts]
    if [] in rows:
        raise invalid("input", f"text {rows.index([])} of input has no tokens")
    return rows


def _row_of_ids(llm: LLM, prompt: Any, truncates: bool) -> list[int]:
    if truncates and isinstance(prompt, str) and llm.tokenizer is not None:
        return llm.tokenizer.encode(prompt)[: llm.plan.max_context]
    return llm.encode(prompt)
