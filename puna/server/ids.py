"""Ids: of requests, of answers and of what is in them. A request's id is in the head of its answer, and in the log of a bug."""

from __future__ import annotations

import secrets
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = (b"request-id", b"x-request-id")  # where Anthropic's clients, and OpenAI's, look for it
_REQUEST_ID: ContextVar[str] = ContextVar("REQUEST_ID", default="")


def new_id(prefix: str) -> str:
    """An id that no other has.

    >>> new_id("chatcmpl-")[:9], len(new_id("req_"))
    ('chatcmpl-', 28)
    """
    return prefix + secrets.token_hex(12)


def request_id() -> str:
    """The id of the request that is being answered; a new one outside of requests."""
    return _REQUEST_ID.get() or new_id("req_")


def id_headers(given: str) -> list[tuple[bytes, bytes]]:
    """The headers that tell a request's id."""
    return [(name, given.encode()) for name in HEADERS]


class Identified:
    """ASGI middleware: gives each request an id, and each answer, an error too, the headers that tell it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _REQUEST_ID.set(new_id("req_"))
        headers = id_headers(request_id())

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        await self._app(scope, receive, send_identified)
