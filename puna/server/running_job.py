"""Runs a job and tells of it by events. The runner's thread computes; the event loop only waits for what it tells."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from puna import samples
from puna.async_llm import News
from puna.calls import ChatSettings, PromptJob
from puna.chat import encode_chat, guessed_template
from puna.completion import Completion
from puna.errors import UsageError
from puna.llm import LLM
from puna.messages import Messages
from puna.request import Request, StepOutput
from puna.runner import Handle
from puna.sampling import Watcher
from puna.score import OptionIds
from puna.server.calling import Calling, held_to_tools, told_of_tools
from puna.server.conversation import fitted
from puna.server.events import CallPiece, Ended, Event, Piece, Progress, Usage
from puna.server.fields import NOTICE_HEADER, ignored_header
from puna.server.guard import TENANT
from puna.server.job import Job, JobOpening
from puna.server.refusals import Refusal, invalid, logged_refusal
from puna.server.tools import format_of
from puna.tokenizers.continuation import continuation_ids
from puna.traceable import traced_from
from puna.units import counted

WATCHED_S = 0.25  # between two reports of progress that a person watches


class RunningJob:
    """A job that runs. Iterate over `events` once; `close` ends it at any time."""

    def __init__(
        self, llm: LLM, job: Job, prepared: PromptJob, progress_s: float, watcher: Watcher | None = None, prepare_s: float = 0.0
    ) -> None:
        """`watcher`: hears of each step; `prepare_s`: what the template and the tokenizer took."""
        self.llm, self.job, self.prepare_s = llm, job, prepare_s
        self.began_at = time.time()
        self.id = ""  # what its client calls it
        self.tenant = TENANT.get()
        self.on_close: Callable[[RunningJob], None] = lambda run: None
        self.problem: Refusal | None = None  # what broke it
        self.ignored: list[str] = []  # fields of the request that changed nothing
        self._news, self._progress_s = News(), min(progress_s, WATCHED_S) if job.shows_progress else progress_s
        self._calling = Calling(format_of(llm.chat_template, job.tools), job.tools) if job.may_call else None
        self.notice = "" if self._calling is None else self._calling.notice
        self._is_closed = False
        self.params, self.prompt_ids, self.num_prompt = prepared.params, prepared.prompt_ids, len(prepared.prompt_ids)
        self.num_opened = len(prepared.opening.token_ids)  # tokens that the answer was given to open with
        self.handle: Handle = samples.submit(llm.runner, *prepared, listener=self._news.tell, watcher=watcher)

    @property
    def headers(self) -> dict[str, str]:
        """What the head of the answer tells: fields that changed nothing, and a notice."""
        return ignored_header(self.ignored) | ({NOTICE_HEADER: self.notice} if self.notice else {})

    async def events(self) -> AsyncIterator[Event]:
        """What happens, until every sample has ended. Raises a Refusal if the engine refuses the job, or if it fails."""
        try:
            async for output in self._outputs():
                if isinstance(output, Progress):
                    yield output
                else:
                    for event in self._events_of(output):
                        yield event
        except Exception as error:  # whatever the engine raises belongs to this job
            self.problem = logged_refusal(error)
            raise self.problem from error
        finally:
            self.close()

    async def drained(self) -> Drained:
        """All events together, as who does not stream needs them."""
        drained = Drained()
        async for event in self.events():
            drained.add(event)
        return drained

    @property
    def completion(self) -> Completion:
        """The whole result, after the last event."""
        return Completion.of(self.handle)

    @property
    def usage(self) -> Usage:
        """What was used so far. Cached are tokens of the prompt, and of an opening after it."""
        requests = [one.request for one in self.handle.samples if one.request is not None]
        if not requests:
            return Usage()
        thoughts = sum(one.reasoning.num_tokens for one in requests if one.reasoning is not None)
        output = sum(len(one.output_ids) for one in requests)
        return Usage(len(requests[0].prompt_ids), requests[0].num_cached, output, thoughts)

    @property
    def progress(self) -> Progress:
        """How far the prompt is."""
        request = next((one.request for one in self.handle.samples), None)
        if request is None:
            return Progress(0, 0, 0)
        return Progress(min(request.num_computed, len(request.prompt_ids)), request.num_cached, len(request.prompt_ids))

    def close(self) -> None:
        """End the job if it runs, before the next step. Never waits. Idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self.handle.cancel()
            self.on_close(self)

    async def _outputs(self) -> AsyncIterator[StepOutput | Progress]:
        """The engine's outputs. Until the first one, Progress at least each `progress_s`."""
        has_begun = False
        while True:
            if (output := self.handle.take()) is not None:
                has_begun = True
                yield output
            elif self.handle.is_over:
                if self.handle.error is not None:
                    raise self.handle.error
                return
            elif has_begun:
                await self._news.next()
            elif not await self._heard_within(self._progress_s):
                yield self.progress

    async def _heard_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._news.next()
        except TimeoutError:
            return False
        return True

    def _events_of(self, output: StepOutput) -> Iterator[Event]:
        if self._calling is not None:
            yield from self._calling.events(output, self._has_thought(output.index))
        elif output.token_ids or output.text or output.reasoning:
            yield Piece(output.index, output.text, output.reasoning, output.token_ids, output.logprobs)
        if output.finish_reason is not None:
            reason = str(output.finish_reason) if self._calling is None else self._calling.reason(output)
            yield Ended(output.index, reason, self._stop_reason(output.index))

    def _has_thought(self, index: int) -> bool:
        request = self._request(index)
        return request is not None and request.reasoning is not None and request.reasoning.is_present

    def _stop_reason(self, index: int) -> int | str | None:
        request = self._request(index)
        return None if request is None else request.stop_reason

    def _request(self, index: int) -> Request | None:
        return self.handle.samples[index].request if index < len(self.handle.samples) else None


class Drained:
    """The events of a job, collected: of each sample its text, reasoning, calls and end."""

    def __init__(self) -> None:
        self.texts: dict[int, list[str]] = {}
        self.reasoning: dict[int, list[str]] = {}
        self.calls: dict[int, dict[int, CallPiece]] = {}
        self.pieces: dict[int, list[Piece]] = {}
        self.ends: dict[int, Ended] = {}

    def add(self, event: Event) -> None:
        if isinstance(event, Piece):
            self.texts.setdefault(event.index, []).append(event.text)
            self.reasoning.setdefault(event.index, []).append(event.reasoning)
            self.pieces.setdefault(event.index, []).append(event)
        elif isinstance(event, CallPiece):
            calls = self.calls.setdefault(event.index, {})
            so_far = calls.get(event.call)
            calls[event.call] = event if so_far is None else _joined(so_far, event)
        elif isinstance(event, Ended):
            self.ends[event.index] = event

    def text(self, index: int = 0) -> str:
        return "".join(self.texts.get(index, ()))

    def thoughts(self, index: int = 0) -> str:
        return "".join(self.reasoning.get(index, ()))

    def calls_of(self, index: int = 0) -> list[CallPiece]:
        return [call for _, call in sorted(self.calls.get(index, {}).items())]


def _joined(first: CallPiece, more: CallPiece) -> CallPiece:
    return CallPiece(first.index, first.call, first.arguments + more.arguments, first.id, first.name)


def prepare(llm: LLM, job: Job, cap: int | None = None) -> PromptJob:
    """Check and encode a job; the template runs here. Raises UsageError and its kinds. Takes its time: call it in a thread.

    What the engine would refuse is refused here, before a stream is opened. `cap`: tokens of its answer at most, beside those
    that it opens with.
    """
    prepared = _encoded(llm, job)
    num_opened = len(prepared.opening.token_ids)
    _require_opening(llm, job, prepared)
    if cap is not None and (prepared.params.max_tokens is None or prepared.params.max_tokens > cap + num_opened):
        prepared = prepared._replace(params=replace(prepared.params, max_tokens=cap + num_opened))
    params, opening = samples.params_of_samples(prepared.params)[0], prepared.opening
    llm.engine.admission.admit(0, prepared.prompt_ids, params, prepared.sampler, None, prepared.processors, opening=opening)
    return traced_from(prepared, job.opening.traced_from)


def _require_opening(llm: LLM, job: Job, prepared: PromptJob) -> None:
    """Refusal (400), with the field's name, for an opening of ids that the model does not have, or of too many."""
    ids, limit, name = prepared.opening.token_ids, prepared.params.max_tokens, job.opening.field
    try:
        llm.engine.admission.require_ids("token id", ids)
    except UsageError as error:
        raise invalid(name, f"{name}: {error.line}") from None
    if limit is not None and len(ids) > limit:
        raise invalid(name, f"{name} has {counted(len(ids), 'token')}, and max_tokens, which counts them, is {limit}")


def _encoded(llm: LLM, job: Job) -> PromptJob:
    settings: dict[str, Any] = {name: value for name, value in job.defaults.items() if name not in llm.suggested.settings}
    if job.messages:
        settings |= job.reasoning.settings(llm.chat_template)
    settings |= job.settings
    if job.opening.given:
        settings["opening"] = _opening_of(llm, job.opening)
    if job.messages:
        told = told_of_tools(llm.chat_template, job)
        messages = fitted_to(llm, told.messages)
        settings |= held_to_tools(llm, job, settings)
        args = {**job.reasoning.template_args(llm.chat_template), **job.template_args, **told.args}
        in_chat: ChatSettings = {**settings, "template_args": args} if args else {**settings}  # type: ignore[typeddict-item]
        return llm.chat_jobs([messages], None, in_chat)[0]
    if job.prompt is None:
        raise invalid("messages", "messages is empty; a chat needs at least one message")
    if job.suffix is not None and isinstance(job.prompt, str):
        infill = llm.encode_infill(job.prompt, job.suffix)
        settings["stop_ids"] = (*settings.get("stop_ids", ()), *infill.stop_ids)
        return llm.jobs([infill.token_ids], None, settings)[0]  # type: ignore[arg-type]
    return llm.jobs([job.prompt], None, settings)[0]  # type: ignore[arg-type]


def option_jobs(llm: LLM, job: Job, options: Sequence[str], field: str) -> list[tuple[int, PromptJob]]:
    """What scores each option after a job's prompt and the tokens that its answer opens with, and how many tokens these are.

    Takes its time: call it in a thread. Refusal (400) for an option without tokens; `field` names the options.
    """
    prepared = prepare(llm, job)
    before, params = [*prepared.prompt_ids, *prepared.opening.token_ids], prepared.params
    each = [_opening_of(llm, JobOpening(option, f"{field}.{number}")) for number, option in enumerate(options)]
    if empty := [number for number, ids in enumerate(each) if not ids]:
        raise invalid(f"{field}.{empty[0]}", f"{field}.{empty[0]} has no tokens; leave it out")
    pairs = [OptionIds(before, list(ids)) for ids in each]
    own: dict[str, Any] = {name: getattr(params, name) for name in ("cache_salt", "lora_name", "priority", "timeout")}
    jobs = [PromptJob(pair.prompt_ids + pair.option_ids, replace(pair.params, **own), None) for pair in pairs]
    for one in jobs:
        llm.engine.admission.admit(0, one.prompt_ids, one.params, None, None, ())
    return [(len(before), one) for one in jobs]


def _opening_of(llm: LLM, opening: JobOpening) -> Sequence[int]:
    """The ids; those of a text are what it has where it continues another one."""
    if not isinstance(opening.given, str):
        return opening.given
    if llm.tokenizer is None:
        raise invalid(opening.field, f"{opening.field} is a text, and the model has no tokenizer; give token ids")
    return continuation_ids(opening.given, llm.tokenizer, llm.plan.max_context)


def prompt_size(llm: LLM, job: Job) -> int:
    """The exact number of tokens of a chat's prompt, also of one that is too long for the model. Takes its time."""
    return len(prompt_ids(llm, job))


def prompt_ids(llm: LLM, job: Job, add_generation_prompt: bool = True) -> list[int]:
    """A chat's prompt, whatever its length. Takes its time: call it in a thread."""
    if llm.tokenizer is None:
        raise Refusal(400, "the model has no tokenizer, so messages cannot be encoded", field="messages")
    told = told_of_tools(llm.chat_template, job)
    args = {**llm.template_args, **job.reasoning.template_args(llm.chat_template), **job.template_args, **told.args}
    messages = fitted_to(llm, told.messages)
    return encode_chat(
        messages, llm.tokenizer, llm.chat_template, add_generation_prompt=add_generation_prompt, template_args=args
    )


def fitted_to(llm: LLM, messages: Sequence[Mapping[str, Any]]) -> Messages:
    """The messages in an order that the model's template takes."""
    known = () if llm.tokenizer is None else llm.tokenizer.special_tokens
    return fitted(messages, llm.chat_template or guessed_template(known))
