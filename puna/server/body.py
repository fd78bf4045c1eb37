"""Reads the body of a request, within its limits."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect, Request

from puna.server import strict_json
from puna.server.refusals import Refusal
from puna.server.settings import ServerSettings

JSON, FORM = "application/json", "application/x-www-form-urlencoded"
LARGE = 256 << 10  # bytes; the largest body takes a second to parse, so others must not wait for it


async def read_json(request: Request, settings: ServerSettings) -> dict[str, Any]:
    """The JSON object of a body. Refusal: 415 for another type, 413 for too many bytes, 408 if it takes too long, else 400.

    The type is required because a page on another origin may send a form or plain text without asking, but not JSON. A program
    may leave it out (litellm does, to Ollama's routes): browsers give POST an Origin.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json") and not _is_of_program(request):
        what = f"the content type is {kind[:80] or 'missing'}; {JSON} is needed"
        raise Refusal(415, f"{what}: add -H 'content-type: {JSON}'", code="unsupported_media_type")
    if (encoding := request.headers.get("content-encoding", "identity").lower()) != "identity":
        raise Refusal(
            415, f"the content encoding is {encoding[:80]}; puna takes bodies as they are", code="unsupported_media_type"
        )
    body = await _read(request, settings)
    return await asyncio.to_thread(strict_json.parse, body) if len(body) > LARGE else strict_json.parse(body)


def _is_of_program(request: Request) -> bool:
    """Whether a body without JSON's type comes from no browser, which would say whose page asks. `curl -d` says it is a form."""
    named = request.headers.get("content-type", FORM).lower()
    return named == FORM and not any(name == "origin" or name.startswith("sec-") for name in request.headers)


async def _read(request: Request, settings: ServerSettings) -> bytes:
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared[:20]) > settings.max_body:
        raise _too_large(settings.max_body)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_s):
            async for part in request.stream():
                body += part
                if len(body) > settings.max_body:
                    raise _too_large(settings.max_body)
    except TimeoutError:
        raise Refusal(408, f"the body was not complete after {settings.body_s:g} s", code="timeout") from None
    except ClientDisconnect:
        raise Refusal(400, "the client went away", code="disconnected") from None
    return bytes(body)


def _too_large(max_body: int) -> Refusal:
    return Refusal(413, f"the body has more than {max_body} bytes, which is the limit", code="request_too_large")
