"""Writes a running job as Anthropic's events, or as one message: https://platform.claude.com/docs/en/build-with-claude/streaming."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from puna.server.events import CallPiece, Ended, Piece, Progress, Usage
from puna.server.ids import new_id, request_id
from puna.server.reasoning import packed
from puna.server.refusals import Refusal
from puna.server.replies import ReplyShape, sse
from puna.server.running_job import RunningJob

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
# What ended a sample -> a stop reason. The client may send a paused turn back as it is, to have it continued.
STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "timeout": "pause_turn",
    "abort": "pause_turn",
}


def error_body(refusal: Refusal) -> dict[str, Any]:
    """An error as Anthropic writes it."""
    kind = KINDS.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "api_error")
    error = {"type": kind, "message": refusal.message}
    return {"type": "error", "error": error, "request_id": request_id()}


def failed(refusal: Refusal) -> bytes:
    """The last event of a stream that failed."""
    return sse(error_body(refusal), "error")


SHAPE = ReplyShape(error_body, failed)


def usage_body(usage: Usage) -> dict[str, Any]:
    """Tokens. Anthropic counts those from the cache apart from the others of the prompt."""
    return {
        "input_tokens": usage.prompt - usage.cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


class ContentBlock:
    """A block of the answer while it grows. `more` is what a call has besides its arguments."""

    def __init__(self, kind: str, more: dict[str, str]) -> None:
        self.kind, self.more = kind, more
        self.parts: list[str] = []
        self.signature = ""

    def begun(self) -> dict[str, Any]:
        return {"type": self.kind, **self.more, **self._content("", {})}

    def whole(self) -> dict[str, Any]:
        text = "".join(self.parts)
        return {"type": self.kind, **self.more, **self._content(text, _arguments(text) if self.kind == "tool_use" else {})}

    def _content(self, text: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self.kind == "tool_use":
            return {"input": arguments}
        return {self.kind: text} | ({"signature": self.signature} if self.kind == "thinking" else {})


class MessageWriter:
    """Writes a job as a message. `hides_thoughts`: only the signature of a block of thoughts is sent, and holds them."""

    def __init__(self, run: RunningJob, model: str, hides_thoughts: bool) -> None:
        self._run, self._hides = run, hides_thoughts
        self._head = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": model}
        self._blocks: list[ContentBlock] = []
        self._open: tuple[str, int] | None = None  # the kind of the last block, and the number of its call, if it is open
        self._thoughts: list[str] = []  # of the open block
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}

    async def chunks(self) -> AsyncIterator[bytes]:
        async for event in self.events():
            yield sse(event, event["type"])

    async def whole(self) -> dict[str, Any]:
        async for _ in self.events():
            pass
        return self._message([block.whole() for block in self._blocks], self._run.usage)

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        yield {"type": "message_start", "message": self._message([], Usage(prompt=self._run.num_prompt))}
        async for event in self._run.events():
            for told in self._told(event):
                yield told
        for told in self._closed():
            yield told
        yield {"type": "message_delta", "delta": self._stop, "usage": usage_body(self._run.usage)}
        yield {"type": "message_stop"}

    def _told(self, event: Progress | Piece | CallPiece | Ended) -> Iterator[dict[str, Any]]:
        match event:
            case Progress():
                yield {"type": "ping"}
            case Piece():
                if event.reasoning:
                    yield from self._thought(event.reasoning)
                if event.text:
                    yield from self._added(("text", 0), event.text)
            case CallPiece():
                yield from self._added(("tool_use", event.call), event.arguments, id=event.id, name=event.name)
            case Ended():
                self._stop = self._stopped(event)

    def _thought(self, text: str) -> Iterator[dict[str, Any]]:
        yield from self._added(("thinking", 0), "" if self._hides else text)
        self._thoughts.append(text)

    def _added(self, key: tuple[str, int], text: str, **more: str) -> Iterator[dict[str, Any]]:
        """The events by which a block of this kind gets more text; another block is closed."""
        if self._open != key:
            yield from self._closed()
            self._open = key
            self._blocks.append(ContentBlock(key[0], more))
            yield {"type": "content_block_start", "index": self._index, "content_block": self._blocks[-1].begun()}
        if text:
            self._blocks[-1].parts.append(text)
            kind, name = DELTAS[key[0]]
            yield self._delta({"type": kind, name: text})

    def _closed(self) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        if self._open[0] == "thinking":
            signature = self._blocks[-1].signature = packed("".join(self._thoughts) if self._hides else "")
            self._thoughts.clear()
            yield self._delta({"type": "signature_delta", "signature": signature})
        self._open = None
        yield {"type": "content_block_stop", "index": self._index}

    def _delta(self, delta: dict[str, str]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    @property
    def _index(self) -> int:
        return len(self._blocks) - 1

    def _stopped(self, ended: Ended) -> dict[str, Any]:
        reason, text = STOP_REASONS.get(ended.reason, "end_turn"), ended.stop_reason
        if reason == "end_turn" and isinstance(text, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": text}
        limit = self._run.params.max_tokens
        if reason == "max_tokens" and (limit is None or self._run.usage.output < limit):
            reason = "model_context_window_exceeded"
        return {"stop_reason": reason, "stop_sequence": None}

    def _message(self, content: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return {**self._head, "content": content, **self._stop, "usage": usage_body(usage)}


def _arguments(text: str) -> dict[str, Any]:
    """The arguments of a call; none if max_tokens has cut them off."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
