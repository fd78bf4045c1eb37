"""Sends answers, whole or streamed, and ends the work behind one whose client has gone away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from puna.server.refusals import Refusal, logged_refusal

SSE, NDJSON, JSON = "text/event-stream; charset=utf-8", "application/x-ndjson", "application/json"
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)  # json.dumps would make one for each chunk

ErrorBody = Callable[[Refusal], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class ReplyShape:
    """How a wire answers: what an error is, how a stream tells of one at its end, and the media type of streams."""

    error_body: ErrorBody
    failed: Callable[[Refusal], bytes]
    stream_type: str = SSE


class AnswerWriter(Protocol):
    """Writes an answer in the words of a wire: as chunks, or whole. Only one of the two is asked for."""

    def chunks(self) -> AsyncIterator[bytes]: ...

    def whole(self) -> Coroutine[Any, Any, Any]: ...


class AnswerSource(Protocol):
    """What computes an answer. `headers`: what it tells in the head of the answer."""

    @property
    def headers(self) -> Mapping[str, str]: ...

    def close(self) -> None:
        """End it, if it still runs."""


def dumps(value: Any) -> str:
    """A value as JSON on one line. ValueError for a number that JSON does not have."""
    return ENCODER.encode(value)


def sse(value: Any, event: str = "") -> bytes:
    """One server-sent event (HTML Standard, 9.2).

    >>> sse({"a": 1}), sse("[DONE]"), sse({}, "ping")
    (b'data: {"a":1}\\n\\n', b'data: [DONE]\\n\\n', b'event: ping\\ndata: {}\\n\\n')
    """
    data = value if isinstance(value, str) else dumps(value)
    return f"event: {event}\ndata: {data}\n\n".encode() if event else f"data: {data}\n\n".encode()


def ndjson(value: Any) -> bytes:
    """One line of newline-delimited JSON."""
    return dumps(value).encode() + b"\n"


def headers_of(refusal: Refusal) -> dict[str, str]:
    """When to try again; and the connection ends where the rest of a body was not read."""
    later = {"retry-after": str(refusal.retry_after)} if refusal.retry_after else {}
    return later | ({"connection": "close"} if refusal.status in (408, 413) else {})


class Reply:
    """An ASGI response that ends its work when the client goes away. `finish` is called once, whatever happens."""

    def __init__(self, finish: Callable[[], object], headers: Mapping[str, str] | None = None) -> None:
        self._finish = finish
        self._headers = dict(headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        work = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
        finally:
            watch.cancel()
            if not work.done():
                work.cancel()
            self._finish()
            await asyncio.gather(work, watch, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()) is not None:
            raise error

    async def _send(self, send: Send) -> None:
        raise NotImplementedError

    async def _start(self, send: Send, status: int, kind: str) -> None:
        headers = {"content-type": kind, **self._headers}
        raw = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})


class WholeReply(Reply):
    """One JSON value, or the bytes of one. `refused` makes the body of an error."""

    def __init__(
        self,
        value: Coroutine[Any, Any, Any],
        refused: ErrorBody,
        finish: Callable[[], object] = lambda: None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(finish, headers)
        self._value, self._refused = value, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._value.close()  # it may never have begun

    async def _send(self, send: Send) -> None:
        status = 200
        try:
            value = await self._value
            body = value if isinstance(value, bytes) else dumps(value).encode()
        except Exception as error:  # noqa: BLE001 - whatever broke it, the client gets an answer in its wire's shape
            refusal = logged_refusal(error)
            status, body = refusal.status, dumps(self._refused(refusal)).encode()
            self._headers |= headers_of(refusal)
        self._headers["content-length"] = str(len(body))
        await self._start(send, status, JSON)
        await send({"type": "http.response.body", "body": body})


class StreamReply(Reply):
    """Chunks as they come. The head is sent at once, before the prompt is computed.

    `refused` makes the last chunks of a stream that fails. A client that does not take a chunk within `patience_s` loses the
    connection.
    """

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        refused: Callable[[Refusal], bytes],
        finish: Callable[[], object],
        kind: str = SSE,
        headers: Mapping[str, str] | None = None,
        patience_s: float = 60.0,
    ) -> None:
        super().__init__(finish, {"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._chunks, self._refused, self._kind, self._patience_s = chunks, refused, kind, patience_s

    async def _send(self, send: Send) -> None:
        await self._start(send, 200, self._kind)
        try:
            async for chunk in self._chunks:
                await self._pass(send, chunk)
        except TimeoutError:
            return  # the client takes nothing: without an end, the connection is closed
        except Exception as error:  # noqa: BLE001 - the same
            await self._pass(send, self._refused(logged_refusal(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pass(self, send: Send, chunk: bytes) -> None:
        async with asyncio.timeout(self._patience_s):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
