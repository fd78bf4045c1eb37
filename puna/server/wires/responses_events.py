"""Writes a running job as the events of OpenAI's Responses. The last event holds the whole response, which is also the answer
of a request without a stream.

https://platform.openai.com/docs/api-reference/responses-streaming. While a prompt is computed, `response.in_progress` says that
the stream lives: agents count events, and no comments.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from puna.server.events import CallPiece, Ended, Piece, Progress, Usage
from puna.server.ids import new_id
from puna.server.reasoning import packed
from puna.server.refusals import Refusal
from puna.server.replies import sse
from puna.server.running_job import RunningJob
from puna.server.wires.openai_shapes import logprob_entry

ResponseEvent = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartKind:
    """A kind of text in an item: where it is, and the names of its events."""

    type: str
    place: str  # the item's list that holds it
    index: str
    part_event: str
    text_event: str


OUTPUT_TEXT = PartKind("output_text", "content", "content_index", "response.content_part", "response.output_text")
REASONING_TEXT = PartKind("reasoning_text", "content", "content_index", "response.content_part", "response.reasoning_text")
SUMMARY_TEXT = PartKind(
    "summary_text", "summary", "summary_index", "response.reasoning_summary_part", "response.reasoning_summary_text"
)
ARGUMENTS = "response.function_call_arguments"


@dataclass(frozen=True, slots=True)
class ResponseForm:
    """What a client wants to see. `in_namespaces`: names of tools -> the namespace, and the name in there."""

    thoughts: PartKind = REASONING_TEXT
    seals_thoughts: bool = False  # thoughts also come in a form that the client carries back without reading it
    has_logprobs: bool = False
    in_namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class OutputItem:
    """An item of the answer while it grows. `head`: what it has besides its text."""

    def __init__(self, head: dict[str, Any], index: int, part: PartKind | None, form: ResponseForm) -> None:
        self.head, self.index, self._part, self._form = head, index, part, form
        self.pieces: list[str] = []
        self.logprobs: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def begun(self) -> dict[str, Any]:
        empty: dict[str, Any] = {"arguments": ""} if self._part is None else {self._part.place: []}
        if self.head["type"] == "reasoning":
            empty.setdefault("summary", [])
        return {**self.head, **empty, "status": "in_progress"}

    def whole(self, status: str = "completed") -> dict[str, Any]:
        if self._part is None:
            return {**self.head, "arguments": self.text, "status": status}
        item = {**self.head, self._part.place: [self.part(self.text)]}
        if self.head["type"] == "reasoning":
            item.setdefault("summary", [])
            item |= {"encrypted_content": packed(self.text)} if self._form.seals_thoughts else {}
        return {**item, "status": status}

    def part(self, text: str) -> dict[str, Any]:
        assert self._part is not None
        more = {"annotations": [], "logprobs": list(self.logprobs)} if self._part is OUTPUT_TEXT else {}
        return {"type": self._part.type, "text": text, **more}

    def opening(self) -> Iterator[ResponseEvent]:
        yield {"type": "response.output_item.added", "output_index": self.index, "item": self.begun()}
        if self._part is not None:
            yield {"type": f"{self._part.part_event}.added", **self._place(), "part": self.part("")}

    def growing(self, text: str, logprobs: list[dict[str, Any]]) -> ResponseEvent:
        self.pieces.append(text)
        self.logprobs += logprobs
        more = {"logprobs": logprobs} if self._part is OUTPUT_TEXT else {}
        return {"type": f"{self._text_event}.delta", **self._place(), "delta": text, **more}

    def closing(self, status: str) -> Iterator[ResponseEvent]:
        if self._part is None:
            yield {"type": f"{ARGUMENTS}.done", **self._place(), "arguments": self.text}
        else:
            part = self.part(self.text)
            more = {"logprobs": part["logprobs"]} if self._part is OUTPUT_TEXT else {}
            yield {"type": f"{self._part.text_event}.done", **self._place(), "text": part["text"], **more}
            yield {"type": f"{self._part.part_event}.done", **self._place(), "part": part}
        yield {"type": "response.output_item.done", "output_index": self.index, "item": self.whole(status)}

    @property
    def _text_event(self) -> str:
        return ARGUMENTS if self._part is None else self._part.text_event

    def _place(self) -> dict[str, Any]:
        within = {} if self._part is None else {self._part.index: 0}
        return {"item_id": self.head["id"], "output_index": self.index, **within}


class ResponseWriter:
    """Writes a job as a response. `head`: what is known at once. `keep` gets the whole response before the last event is sent."""

    def __init__(
        self, run: RunningJob, head: dict[str, Any], form: ResponseForm, keep: Callable[[dict[str, Any]], object]
    ) -> None:
        self._run, self._head, self._form, self._keep = run, head, form, keep
        self._items: list[OutputItem] = []
        self._open: tuple[str, int] | None = None  # the kind of the last item, and the number of its call, if it is open
        self._done: list[dict[str, Any]] = []  # items that are complete
        self._logprobs: list[dict[str, Any]] = []  # of tokens whose text has not come yet
        self._number = -1
        self.problem: Refusal | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        async for event in self.events():
            yield sse(event, event["type"])

    async def whole(self) -> dict[str, Any]:
        """The response. Raises the Refusal of a job that failed."""
        response: dict[str, Any] = {}
        async for event in self.events():
            response = event.get("response", response)
        if self.problem is not None:
            raise self.problem
        return response

    async def events(self) -> AsyncIterator[ResponseEvent]:
        async for event in self._events():
            yield self._numbered(event)

    async def _events(self) -> AsyncIterator[ResponseEvent]:
        yield self._begun()
        yield {**self._begun(), "type": "response.in_progress"}
        ended = Ended(0, "abort")
        try:
            async for event in self._run.events():
                if isinstance(event, Ended):
                    ended = event
                for told in self._told(event):
                    yield told
        except Refusal as refusal:
            self.problem = refusal
            yield self._failed(_code_of(refusal), refusal.message)
            return
        for told in self._closed("completed" if ended.reason in ("stop", "tool_calls") else "incomplete"):
            yield told
        yield self._last(ended)

    def _told(self, event: Progress | Piece | CallPiece | Ended) -> Iterator[ResponseEvent]:
        match event:
            case Progress():
                yield {**self._begun(), "type": "response.in_progress"}
            case Piece():
                if event.reasoning:
                    yield from self._added(("reasoning", 0), event.reasoning)
                if self._form.has_logprobs and not event.reasoning:
                    self._logprobs += map(logprob_entry, event.logprobs)
                if event.text:
                    yield from self._added(("message", 0), event.text)
            case CallPiece():
                yield from self._added(("function_call", event.call), event.arguments, event)

    def _added(self, key: tuple[str, int], text: str, call: CallPiece | None = None) -> Iterator[ResponseEvent]:
        """The events by which an item of this kind gets more text; another item is closed."""
        if self._open != key:
            yield from self._closed("completed")
            self._open = key
            self._items.append(self._item(key[0], call))
            yield from self._items[-1].opening()
        if text:
            logprobs, self._logprobs = (self._logprobs, []) if key[0] == "message" else ([], self._logprobs)
            yield self._items[-1].growing(text, logprobs)

    def _item(self, kind: str, call: CallPiece | None) -> OutputItem:
        index = len(self._items)
        if call is not None:
            space, name = self._form.in_namespaces.get(call.name, ("", call.name))
            named = {"name": name, "namespace": space} if space else {"name": name}
            return OutputItem({"id": new_id("fc_"), "type": kind, "call_id": call.id, **named}, index, None, self._form)
        if kind == "reasoning":
            return OutputItem({"id": new_id("rs_"), "type": kind}, index, self._form.thoughts, self._form)
        return OutputItem({"id": new_id("msg_"), "type": kind, "role": "assistant"}, index, OUTPUT_TEXT, self._form)

    def _closed(self, status: str) -> Iterator[ResponseEvent]:
        if self._open is not None:
            if self._open[0] == "message":
                self._items[-1].logprobs += self._logprobs
                self._logprobs = []
            self._open = None
            self._done.append(self._items[-1].whole(status))
            yield from self._items[-1].closing(status)

    # ---- responses ----------------------------------------------------------------------------------------------------

    def _begun(self) -> ResponseEvent:
        return {"type": "response.created", "response": self._response("in_progress")}

    def _last(self, ended: Ended) -> ResponseEvent:
        """The event that ends a stream. A context that is full is an error, as agents compact their conversation then."""
        run = self._run
        limit = run.params.max_tokens
        if ended.reason == "length" and (limit is None or run.usage.output < limit):
            problem = f"the context of {run.llm.plan.max_context} tokens is full; the answer is cut"
            return self._failed("context_length_exceeded", problem)
        if ended.reason in ("timeout", "abort"):
            return self._failed("server_error", f"the answer is cut: {ended.reason}")
        is_cut = ended.reason == "length"
        status, why = ("incomplete", {"reason": "max_output_tokens"}) if is_cut else ("completed", None)
        response = self._response(status, run.usage, incomplete_details=why, completed_at=time.time())
        self._keep(response)
        return {"type": f"response.{status}", "response": response}

    def _failed(self, code: str, message: str) -> ResponseEvent:
        response = self._response("failed", self._run.usage, error={"code": code, "message": message})
        return {"type": "response.failed", "response": response}

    def _response(self, status: str, usage: Usage | None = None, **more: Any) -> dict[str, Any]:
        told = None if usage is None else usage_body(usage)
        blank = {"error": None, "incomplete_details": None}
        return {**self._head, "status": status, "output": list(self._done), "usage": told, **blank, **more}

    def _numbered(self, event: ResponseEvent) -> ResponseEvent:
        self._number += 1
        return {**event, "sequence_number": self._number}


def _code_of(refusal: Refusal) -> str:
    """A code of the few that agents know: they try again after a server's error, and not with a wrong prompt."""
    known = ("context_length_exceeded", "rate_limit_exceeded")
    return refusal.code if refusal.code in known else "server_error" if refusal.status >= 500 else "invalid_prompt"


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.output,
    }
