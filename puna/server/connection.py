"""One connection: uvicorn's HTTP/1.1 protocol with absolute limits on the head of a request.

uvicorn's own timer starts anew with every byte, so a client that sends a byte now and then holds a connection for ever
(RELIABILITY.md, row 30). `body.py` limits the body.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from puna.server.ids import id_headers, request_id
from puna.server.refusals import Refusal
from puna.server.settings import ServerSettings
from puna.server.wires.openai_shapes import error_body


def protocol_of(settings: ServerSettings) -> type[asyncio.Protocol]:
    """The protocol class, with the limits of `settings`."""

    class LimitedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None
        _num_head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._is_in_head:
                self._num_head_bytes += len(data)
                if self._deadline is None:
                    self._await_head()
            super().data_received(data)
            if not self._is_in_head:
                self._forget_deadline()
            elif self._num_head_bytes > settings.max_head and not self.transport.is_closing():
                self._refuse(Refusal(431, f"the head of the request has more than {settings.max_head} bytes"))

        def send_400_response(self, msg: str) -> None:
            has_head = self.cycle is not None and not self.cycle.response_complete
            too_large = not has_head and self._num_head_bytes > settings.max_head
            self._refuse(Refusal(431 if too_large else 400, "the request's head is too large" if too_large else msg))

        @property
        def _is_in_head(self) -> bool:
            """Whether the next bytes belong to the head of a request."""
            return self.conn.their_state is h11.IDLE

        def _await_head(self) -> None:
            self._deadline = self.loop.call_later(settings.head_s, self._give_up)

        def _forget_deadline(self) -> None:
            self._num_head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            if not self.transport.is_closing():
                self._refuse(Refusal(408, f"the head of the request was not complete after {settings.head_s:g} s"))

        def _refuse(self, refusal: Refusal) -> None:
            """Answer without the application, and close."""
            body = json.dumps(error_body(refusal)).encode()
            headers = [
                (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), (b"connection", b"close"),
                *id_headers(request_id()),
            ]  # fmt: skip
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                parts: tuple[Any, ...] = (
                    h11.Response(status_code=refusal.status, headers=headers), h11.Data(data=body), h11.EndOfMessage()
                )  # fmt: skip
                for part in parts:
                    self.transport.write(self.conn.send(part) or b"")
            if self.cycle is not None:  # the application has nobody left to answer
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            self.transport.close()

    return LimitedProtocol
