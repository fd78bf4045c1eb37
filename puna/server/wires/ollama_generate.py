"""Ollama's `/api/chat` and `/api/generate` (docs/api.md): lines of JSON, unless `stream` is false."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.events import CallPiece, Ended, Piece
from puna.server.job import Job
from puna.server.reasoning import Effort, ReasoningWish
from puna.server.refusals import Refusal, invalid
from puna.server.replies import ndjson
from puna.server.running_job import Drained, RunningJob
from puna.server.service import Endpoint, Service
from puna.server.times import rfc3339
from puna.server.wires.base import WireRoute
from puna.server.wires.ollama_shapes import (
    SHAPE,
    OllamaFields,
    counts,
    error_body,
    format_settings,
    name_of,
    settings_of,
)
from puna.server.wires.openai_shapes import logprob_entry
from puna.server.wires.openai_tools import ToolFields

Part = Callable[[str, str, Sequence[CallPiece]], dict[str, Any]]

DONE = {"timeout": "length", "abort": "length", "tool_calls": "stop"}  # Ollama knows stop, length, load and unload


class AnswerFields(OllamaFields):
    """What a chat and a generation share."""

    HINTS: ClassVar[frozenset[str]] = frozenset({"truncate", "context"})

    stream: bool = True
    format: str | dict[str, Any] | None = None
    think: bool | Effort | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    shift: bool | None = None

    def own_settings(self) -> dict[str, Any]:
        own = {**settings_of(self.options), **format_settings(self.format)}
        if self.logprobs or self.top_logprobs:
            own["logprobs"] = self.top_logprobs
        if self.shift:
            own["context_shift"] = True
        return own

    def wish(self) -> ReasoningWish:
        return ReasoningWish(True, effort=self.think) if isinstance(self.think, str) else ReasoningWish(self.think)


class OllamaChatFields(AnswerFields, ToolFields):
    """The body of `/api/chat`. Without messages it loads the model, or unloads it."""

    messages: list[dict[str, Any]] = []

    def job(self) -> Job:
        return Job(
            wire="ollama",
            model=name_of(self.model),
            messages=[_message(message) for message in self.messages],
            settings=self.own_settings(),
            defaults={"max_tokens": None},
            reasoning=self.wish(),
            tools=self.functions.tools,
        )


class OllamaGenerateFields(AnswerFields):
    """The body of `/api/generate`. Without a prompt it loads the model, or unloads it."""

    HINTS: ClassVar[frozenset[str]] = AnswerFields.HINTS | {"width", "height", "steps"}  # of models that draw

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    raw: bool = False
    images: list[str] = []
    template: str = ""

    def job(self) -> Job:
        if self.images:
            raise images_refused()
        if self.template:
            raise invalid("template", "template is not taken from requests; leave it out")
        shared: dict[str, Any] = {"settings": self.own_settings(), "defaults": {"max_tokens": None}}
        if self.raw or self.suffix:
            return Job("ollama", name_of(self.model), prompt=self.prompt, suffix=self.suffix or None, **shared)
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, {"role": "user", "content": self.prompt}]
        return Job("ollama", name_of(self.model), messages=messages, reasoning=self.wish(), **shared)


def images_refused() -> Refusal:
    return invalid("images", "images are given, and this server's models read text only")


def _message(given: Mapping[str, Any]) -> dict[str, Any]:
    """A message in OpenAI's form, which templates know."""
    if given.get("images"):
        raise images_refused()
    kept = {name: value for name, value in given.items() if value is not None and name not in ("images", "thinking", "tool_name")}
    kept.setdefault("content", "")
    if given.get("thinking"):
        kept["reasoning_content"] = given["thinking"]
    if given.get("tool_name"):
        kept["name"] = given["tool_name"]
    return kept


class OllamaWriter:
    """Writes a job as Ollama's lines. `part` makes of (text, thinking, calls) what a line holds."""

    def __init__(self, run: RunningJob, fields: AnswerFields, load_s: float, part: Part) -> None:
        self._run, self._fields, self._load_s, self._part = run, fields, load_s, part

    async def chunks(self) -> AsyncIterator[bytes]:
        calls: dict[int, CallPiece] = {}
        async for event in self._run.events():
            if isinstance(event, Piece):
                yield ndjson(self._line(self._part(event.text, event.reasoning, ()), event.logprobs))
            elif isinstance(event, CallPiece):
                before = calls.get(event.call)
                arguments = (before.arguments if before else "") + event.arguments
                calls[event.call] = CallPiece(0, event.call, arguments, event.id, before.name if before else event.name)
            elif isinstance(event, Ended):
                if calls:
                    yield ndjson(self._line(self._part("", "", [calls[number] for number in sorted(calls)])))
                yield ndjson(self._last(self._part("", "", ()), event.reason))

    async def whole(self) -> dict[str, Any]:
        drained = await self._run.drained()
        told = self._part(drained.text(), drained.thoughts(), drained.calls_of())
        return {**self._last(told, drained.ends[0].reason), **self._logprobs(_entries(drained))}

    def _line(self, told: dict[str, Any], logprobs: Sequence[Any] = ()) -> dict[str, Any]:
        return {"model": self._fields.model, "created_at": rfc3339(), **told, "done": False, **self._logprobs(logprobs)}

    def _last(self, told: dict[str, Any], reason: str) -> dict[str, Any]:
        head = {
            "model": self._fields.model,
            "created_at": rfc3339(),
            **told,
            "done_reason": DONE.get(reason, reason),
            "done": True,
        }
        return {**head, **counts(self._run, self._load_s)}

    def _logprobs(self, entries: Sequence[Any]) -> dict[str, Any]:
        return {"logprobs": list(map(logprob_entry, entries))} if self._fields.logprobs and entries else {}


def _entries(drained: Drained) -> list[Any]:
    return [entry for piece in drained.pieces.get(0, ()) for entry in piece.logprobs]


def chat_part(text: str, thinking: str, calls: Sequence[CallPiece]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return {"message": message}


def generate_part(text: str, thinking: str, calls: Sequence[CallPiece]) -> dict[str, Any]:
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def _call(call: CallPiece) -> dict[str, Any]:
    """Ollama gives arguments as an object; those that were cut have none."""
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError):
        arguments = {}
    return {"id": call.id, "function": {"index": call.call, "name": call.name, "arguments": arguments}}


async def _loaded(service: Service, fields: AnswerFields, told: dict[str, Any]) -> ASGIApp:
    """Load a model, or unload it at keep_alive 0, without generating."""
    model = service.models.named(name_of(fields.model))
    fields.keep_model(service.models)
    if fields.keep_alive is not None and model.keep_alive_s == 0:
        if model.num_users == 0:
            await service.models.unload(model)
        reason = "unload"
    else:
        await service.models.ready(model)
        reason = "load"
    return JSONResponse({"model": fields.model, "created_at": rfc3339(), **told, "done_reason": reason, "done": True})


def _endpoint(service: Service, kind: type[OllamaChatFields | OllamaGenerateFields], part: Part) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = kind.read(await service.read_json(request))
        is_empty = not fields.messages if isinstance(fields, OllamaChatFields) else not (fields.prompt or fields.raw)
        if is_empty:
            return await _loaded(service, fields, part("", "", ()))
        job, asked_at = fields.job(), time.perf_counter()
        fields.keep_model(service.models)
        run = await service.begin(job)
        run.ignored = fields.ignored()
        writer = OllamaWriter(run, fields, run.handle.submitted_at - asked_at, part)
        return service.reply(writer, SHAPE, fields.stream, run)

    return service.answered(answer, error_body)


def chat(service: Service) -> Endpoint:
    return _endpoint(service, OllamaChatFields, chat_part)


def generate(service: Service) -> Endpoint:
    return _endpoint(service, OllamaGenerateFields, generate_part)


ROUTES = (
    WireRoute("/api/chat", chat, fields=OllamaChatFields),
    WireRoute("/api/generate", generate, fields=OllamaGenerateFields),
)
