"""The HTTP side of --server: requests to a running `puna serve`, and what is said when it does not answer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import SplitResult, urlsplit

from puna.errors import ContextLengthError, ModelNotFoundError, PunaError, QueueFullError, UsageError, first_line

WAIT_S = 600.0  # a server may load a model first; while it computes a prompt, its streams say so every few seconds
CONNECTIONS = {"http": HTTPConnection, "https": HTTPSConnection}
# Code of OpenAI's errors -> the error that the library raises for the same.
KINDS = {
    "context_length_exceeded": ContextLengthError,
    "model_not_found": ModelNotFoundError,
    "rate_limit_exceeded": QueueFullError,
}
KEY_HINT = "Give its key: --api-key KEY, or the variable PUNA_API_KEY."
ADDRESS_HINT = "Give it as `puna serve` prints it, without a path: --server http://127.0.0.1:8000"


MAX_ANSWER = 256 << 20  # bytes of an answer that is not a stream: the embeddings of very many texts


class ServerError(PunaError):
    """A server that does not answer, or not as `puna serve` does."""


class ServerLink:
    """A server's address and key. Each request has a connection of its own."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._parts = _checked(self.url)
        self._headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}

    def get(self, path: str) -> Any:
        """The JSON that the server answers. PunaError for an error status, or for no answer."""
        return self._whole("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The same, for a request with a body."""
        return self._whole("POST", path, body)

    def stream(self, path: str, body: dict[str, Any]) -> EventStream:
        """The events that the server answers, as they come. PunaError if it refuses the request."""
        connection, response = self._opened("POST", path, body)
        return EventStream(connection, response)

    def _whole(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection, response = self._opened(method, path, body)
        try:
            return _json(self._body(response))
        except OSError as error:
            raise self._unreachable(error) from None
        finally:
            connection.close()

    def _opened(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[HTTPConnection, HTTPResponse]:
        connection = CONNECTIONS[self._parts.scheme](self._parts.hostname or "", self._parts.port, timeout=WAIT_S)
        sent = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, self._parts.path + path, sent, self._headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refused(response.status, self._body(response))
        except (OSError, HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from None
        except PunaError:
            connection.close()
            raise
        return connection, response

    def _body(self, response: HTTPResponse) -> bytes:
        """What the server answers. ServerError if it is too much to be an answer."""
        body = response.read(MAX_ANSWER + 1)
        if len(body) > MAX_ANSWER:
            raise ServerError(
                f"{self.url} answers with more than {MAX_ANSWER >> 20} MiB", hint="Is that a `puna serve`? Check --server."
            )
        return body

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, ConnectionRefusedError):
            return ServerError(f"no server listens at {self.url}", hint="Start one with `puna serve`, or leave --server out.")
        if isinstance(error, socket.gaierror):
            return ServerError(f"{self.url}: there is no host of that name", hint="Check the address of --server.")
        return ServerError(f"{self.url} does not answer: {first_line(error)}", hint="Is that a `puna serve`? Check --server.")

    def _refused(self, status: int, body: bytes) -> PunaError:
        """The error that an answer with another status than 200 tells of."""
        error = _json(body)
        error = error.get("error") if isinstance(error, dict) else None
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            return ServerError(f"{self.url} answers with status {status}", hint="Is that a `puna serve`? Check --server.")
        if status == 401:
            return ServerError(f"{self.url}: {error['message']}", hint=KEY_HINT)
        if error.get("code") == "not_found":
            return UsageError(f"{self.url} is no address of a puna server: {error['message']}", hint=ADDRESS_HINT)
        return error_of(error, UsageError if status < 500 else ServerError)


def error_of(told: dict[str, Any], otherwise: type[PunaError] = ServerError) -> PunaError:
    """The error that a server tells of in OpenAI's form: what is wrong, then what to do.

    >>> error_of({"code": "context_length_exceeded", "message": "the prompt is long. Shorten it."}).hint
    'Shorten it.'
    """
    message, _, hint = str(told.get("message", "it failed")).partition(". ")
    return KINDS.get(str(told.get("code")), otherwise)(message.removesuffix("."), hint=hint)


class EventStream(Iterator[dict[str, Any]]):
    """The JSON of server-sent events, until "[DONE]". ServerError if the server breaks off before it."""

    def __init__(self, connection: HTTPConnection, response: HTTPResponse) -> None:
        self._connection, self._response = connection, response

    def __next__(self) -> dict[str, Any]:
        while line := self._line():
            data = line.strip().removeprefix(b"data: ")
            if data == b"[DONE]":
                raise StopIteration
            if line.startswith(b"data: "):
                return _object(data)
        raise ServerError("the server broke off the answer")

    def _line(self) -> bytes:
        try:
            return self._response.readline()
        except (OSError, HTTPException, ValueError) as error:
            raise ServerError(f"the server broke off the answer: {first_line(error)}") from None

    def close(self) -> None:
        """Close the connection: the server ends the request. Idempotent."""
        self._response.close()
        self._connection.close()


def _object(data: bytes) -> dict[str, Any]:
    found = _json(data)
    if not isinstance(found, dict):
        raise ServerError(f"the server sent an event that is no JSON object: {data[:60]!a}")
    return found


def _json(data: bytes) -> Any:
    """A JSON value; None for what is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _checked(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in CONNECTIONS and parts.hostname and parts.port != 0 and not (parts.query or parts.fragment)
    except ValueError:  # a port that is none
        is_fine = False
    if not is_fine:
        raise UsageError(f"--server is {url!r}; a URL is needed", hint="For example: --server http://127.0.0.1:8000")
    return parts
