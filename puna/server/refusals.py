"""Errors of requests. Each wire writes them in its own shape (`Wire.error_body`); no text holds a path of the server."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from puna.errors import ContextLengthError, InsufficientMemoryError, ModelNotFoundError, PunaError, QueueFullError
from puna.server.failures import FAILURES
from puna.server.ids import request_id

log = logging.getLogger("puna.server")


class Refusal(Exception):
    """A request that is refused, or that failed.

    `field` names the part of the request that is wrong; `code` is the machine-readable kind, in OpenAI's words where it has one;
    `retry_after`: seconds after which the same request may be accepted.
    """

    def __init__(self, status: int, message: str, *, field: str = "", code: str = "", retry_after: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field = field
        self.code = code
        self.retry_after = retry_after


def invalid(field: str, message: str) -> Refusal:
    """400: a field has a value that is not allowed."""
    return Refusal(400, message, field=field, code="invalid_value")


@dataclass(frozen=True, slots=True)
class Kind:
    """How an error of puna is answered."""

    status: int
    code: str
    retry_after: int = 0


KINDS: dict[type[PunaError], Kind] = {
    ContextLengthError: Kind(400, "context_length_exceeded"),
    ModelNotFoundError: Kind(404, "model_not_found"),
    QueueFullError: Kind(429, "rate_limit_exceeded", retry_after=1),
    InsufficientMemoryError: Kind(503, "insufficient_memory"),
}


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error. A bug of puna becomes a 500 with the request's id; its text goes to the log only."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, PunaError):
        kind = next((kind for known, kind in KINDS.items() if isinstance(error, known)), None)
        if kind is not None:
            return Refusal(kind.status, error.line, code=kind.code, retry_after=kind.retry_after)
        if error.http_status < 500:
            return Refusal(error.http_status, error.line, field=getattr(error, "field", ""), code="invalid_value")
    return Refusal(500, f"the server failed; its log has the error under {request_id()}", code="internal_error")


def logged_refusal(error: Exception) -> Refusal:
    """The same; a bug is written to the log, with the id that the client gets, and kept to be explained (`diagnoses.py`)."""
    refusal = refusal_of(error)
    if refusal.status >= 500 and not isinstance(error, Refusal):
        log.error("%s", refusal.message, exc_info=error)
        FAILURES.remember(refusal.message, error)
    return refusal
