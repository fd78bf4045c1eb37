"""OpenAI's `/v1/chat/completions` (https://platform.openai.com/docs/api-reference/chat)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.types import ASGIApp

from puna.server.conversation import as_conversation
from puna.server.events import CallPiece, Ended, Piece, Progress
from puna.server.fields import Fields
from puna.server.ids import new_id
from puna.server.job import Job, JobOpening
from puna.server.reasoning import Effort, ReasoningWish, hears
from puna.server.refusals import invalid
from puna.server.replies import sse
from puna.server.running_job import Drained, RunningJob
from puna.server.service import Endpoint, Service
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import (
    HINTS,
    SETTINGS,
    SHAPE,
    TokenIds,
    biases,
    error_body,
    know_model,
    logprob_entry,
    receipts_of,
    usage_body,
)
from puna.server.wires.openai_tools import ToolFields, checked_choice

FINISH = {"timeout": "length", "abort": "length"}  # OpenAI has no words for these; "stop" would say that the answer is whole


class StreamOptions(Fields):
    include_usage: bool = False
    continuous_usage_stats: bool = False


class ChatCompletionFields(ToolFields):
    """The body of a chat completion."""

    SETTINGS: ClassVar[Mapping[str, str]] = {**SETTINGS, "max_completion_tokens": "max_tokens"}
    HINTS: ClassVar[frozenset[str]] = HINTS | {"audio", "reasoning_control"}
    REFUSED: ClassVar[Mapping[str, str]] = {"functions": "send tools", "function_call": "send tool_choice"}

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    logit_bias: dict[str, float] = {}
    response_format: dict[str, Any] = {}
    tools: list[dict[str, Any]] = Field([], max_length=128)
    tool_choice: str | dict[str, Any] = "auto"
    reasoning_effort: Effort | None = None
    parallel_tool_calls: bool = True
    modalities: list[Literal["text"]] = []
    chat_template_kwargs: dict[str, Any] = {}
    continue_final_message: bool | None = None
    add_generation_prompt: bool = True
    return_token_ids: bool = False  # vLLM's; streams only
    return_receipt: bool = False  # the end tells what `puna replay` needs to verify the run
    opening: str | list[int] = ""  # the answer begins with this text, or these ids; they count as generated
    return_progress: bool = False  # llama-server's; streams only: tell often how far the prompt is

    def job(self) -> Job:
        """The internal request. Refusal for what cannot be done."""
        tools = self.functions.tools
        return Job(
            wire="openai",
            model=self.model,
            messages=[as_conversation(message) for message in self.messages],
            settings={**self.settings, **self._own_settings()},
            defaults={"max_tokens": None},
            template_args=self.chat_template_kwargs,
            tools=tools,
            tool_choice=checked_choice(self.tool_choice, tools),
            has_parallel_calls=self.parallel_tool_calls,
            reasoning=ReasoningWish(effort=self.reasoning_effort),
            opening=JobOpening(self.opening),
            shows_progress=self.return_progress,
        )

    def unheeded(self, template: str | None) -> list[str]:
        """Names of what changes nothing for the model of a chat template."""
        return [*self.ignored(), *(["reasoning_effort"] if self.reasoning_effort and not hears(template) else [])]

    def _own_settings(self) -> dict[str, Any]:
        own: dict[str, Any] = {**constraint_of(self.response_format)}
        if self.logit_bias:
            own["logit_bias"] = biases(self.logit_bias)
        if self.logprobs or self.top_logprobs:
            own["logprobs"] = self.top_logprobs
        if self.continue_final_message is not None:
            own["continue_final_message"] = self.continue_final_message
        if not self.add_generation_prompt and not self.continue_final_message:
            problem = "add_generation_prompt is false, which needs continue_final_message true; /v1/completions takes any prompt"
            raise invalid("add_generation_prompt", problem)
        return own


def constraint_of(given: Mapping[str, Any], name: str = "response_format") -> dict[str, Any]:
    """What `response_format` sets."""
    kind = given.get("type", "text")
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_object": True} if given.get("schema") is None else {"json_schema": given["schema"]}
    if kind == "json_schema" and isinstance(given.get("json_schema"), dict):
        return {"json_schema": given["json_schema"].get("schema", {})}
    raise invalid(name, f"{name} has the type {str(kind)[:40]!r}; allowed: text, json_object, json_schema")


class ChatWriter:
    """Writes a job as a chat completion: as chunks, or whole."""

    def __init__(self, run: RunningJob, model: str, fields: ChatCompletionFields) -> None:
        self._run, self._options = run, fields.stream_options
        self._num = run.params.n
        self._has_logprobs, self._has_receipt = fields.logprobs, fields.return_receipt
        self._ids = TokenIds(run, fields.return_token_ids)
        run.id = new_id("chatcmpl-")
        self._head: dict[str, Any] = {"id": run.id, "created": int(run.began_at), "model": model}

    async def chunks(self) -> AsyncIterator[bytes]:
        for index in range(self._num):
            yield self._chunk(index, {"role": "assistant", "content": ""}, **self._ids.of_prompt())
        async for event in self._run.events():
            match event:
                case Piece():
                    yield self._piece(event)
                case CallPiece():
                    yield self._chunk(event.index, {"tool_calls": [_call_delta(event)]})
                case Ended():
                    reason = FINISH.get(event.reason, event.reason)
                    yield self._chunk(event.index, {}, reason, of_choice=self._ids.at_end(event))
                case Progress():
                    yield self._chunk(
                        0, {}, prompt_progress={"total": event.total, "cache": event.cached, "processed": event.done}
                    )
        if self._has_receipt:
            yield sse(self._body([], **await self._receipts()))
        if self._options.include_usage:
            yield sse(self._body([], usage=usage_body(self._run.usage)))
        yield sse("[DONE]")

    async def whole(self) -> dict[str, Any]:
        drained = await self._run.drained()
        choices = [self._choice(drained, index) for index in range(self._num)]
        receipts = await self._receipts() if self._has_receipt else {}
        usage = usage_body(self._run.usage)
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage, **receipts}

    async def _receipts(self) -> dict[str, Any]:
        return {"puna_receipts": await receipts_of(self._run, self._head["model"])}

    def _choice(self, drained: Drained, index: int) -> dict[str, Any]:
        calls, text, thoughts = drained.calls_of(index), drained.text(index), drained.thoughts(index)
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if thoughts:
            message["reasoning_content"] = thoughts
        if calls:
            message["tool_calls"] = [_whole_call(call) for call in calls]
        reason = drained.ends[index].reason
        logprobs = {"content": [entry for piece in drained.pieces.get(index, ()) for entry in map(logprob_entry, piece.logprobs)]}
        return {
            "index": index,
            "message": message,
            "logprobs": logprobs if self._has_logprobs else None,
            "finish_reason": FINISH.get(reason, reason),
        }

    def _piece(self, piece: Piece) -> bytes:
        delta = {"content": piece.text} if not piece.reasoning else {"reasoning_content": piece.reasoning}
        if piece.reasoning and piece.text:
            delta["content"] = piece.text
        logprobs = {"content": list(map(logprob_entry, piece.logprobs))} if self._has_logprobs else None
        return self._chunk(piece.index, delta, logprobs=logprobs, of_choice=self._ids.of_piece(piece))

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: Any = None,
        of_choice: Mapping[str, Any] = MappingProxyType({}),
        **more: Any,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason, **of_choice}
        if self._options.continuous_usage_stats:
            more["usage"] = usage_body(self._run.usage)
        return sse(self._body([choice], **more))

    def _body(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}


def _call_delta(piece: CallPiece) -> dict[str, Any]:
    function: dict[str, str] = {"name": piece.name} if piece.name else {}
    head = {"id": piece.id, "type": "function"} if piece.id else {}
    return {"index": piece.call, **head, "function": {**function, "arguments": piece.arguments}}


def _whole_call(call: CallPiece) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def endpoint(service: Service) -> Endpoint:
    async def chat(request: Request) -> ASGIApp:
        fields = ChatCompletionFields.read(await service.read_json(request))
        run = await service.begin(fields.job())
        run.ignored = fields.unheeded(run.llm.chat_template)
        if fields.return_receipt:
            await know_model(run)
        writer = ChatWriter(run, service.models.named(fields.model).name, fields)
        return service.reply(writer, SHAPE, fields.stream, run)

    return service.answered(chat, error_body)


ROUTES = (WireRoute("/v1/chat/completions", endpoint, fields=ChatCompletionFields),)
