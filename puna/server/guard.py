"""Who may speak to the server: checks host, origin and key of every request, on every method and path, before routing.

A page in the user's browser can send requests to 127.0.0.1. Against a page of another origin: its `Origin` and `Sec-Fetch-Site`;
against one whose name was rebound to 127.0.0.1: its `Host` (RELIABILITY.md, rows 24 to 26).
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from puna.server.refusals import Refusal
from puna.server.settings import ServerSettings

Refuser = Callable[[Scope, Refusal], ASGIApp]
RawHeaders = list[tuple[bytes, bytes]]

# Who asks, where there are several keys: clients with different keys share no cached K and V, whose speed would tell what others
# have asked (CVE-2025-46570).
TENANT: ContextVar[str] = ContextVar("TENANT", default="")

OPEN = frozenset({"/health"})  # routes that need no key
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+?)\.?(?::(\d{1,5}))?", re.IGNORECASE)
KEY_HEADERS = (b"x-api-key", b"api-key")  # Anthropic's, and Azure's


class Guard:
    """ASGI middleware: refuses a request, or hands it on. `refuse` answers with an error in the wire's shape."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, refuse: Refuser, open_paths: Iterable[str] = OPEN) -> None:
        self._app = app
        self._refuse = refuse
        self._open = frozenset(open_paths)
        self._max_head = settings.max_head
        self._keys = [key.encode() for key in settings.api_keys]
        own = () if settings.host in ("0.0.0.0", "::", "") else (settings.host,)
        self._hosts = {host.lower() for host in (*LOOPBACK, *own, *settings.allowed_hosts)}
        self._takes_any_host = "*" in settings.allowed_hosts
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._require_allowed(scope)
        except Refusal as refusal:
            await self._refuse(scope, refusal)(scope, receive, send)
            return
        origin = next((value for name, value in scope["headers"] if name == b"origin"), b"")
        if origin.decode("latin-1").lower().rstrip("/") not in self._origins:
            await self._app(scope, receive, send)
        elif _is_preflight(scope):
            await _send_preflight(origin, scope, send)
        else:
            await self._app(scope, receive, lambda message: send(_with_cors(message, origin)))

    def _require_allowed(self, scope: Scope) -> None:
        headers: RawHeaders = scope["headers"]
        self._require_small_head(scope)
        _require_one_length(headers)
        self._require_host(_values(headers, b"host"))
        self._require_origin(_values(headers, b"origin"), _values(headers, b"host")[0])
        if not _values(headers, b"origin"):
            self._require_same_site(_values(headers, b"sec-fetch-site"))
        if self._keys and scope["path"] not in self._open and not _is_preflight(scope):
            self._require_key(headers)

    def _require_small_head(self, scope: Scope) -> None:
        """A head that arrives whole has passed the limit that `connection.py` sets to one that is still coming."""
        size = sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if size + len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"]) > self._max_head:
            raise Refusal(431, f"the head of the request has more than {self._max_head} bytes")

    def _require_host(self, given: list[bytes]) -> None:
        found = HOST.fullmatch(given[0].decode("latin-1")) if len(given) == 1 else None
        if found is None:
            raise Refusal(400, "the request needs one Host header with a host name", code="invalid_host")
        if not self._takes_any_host and found[1].lower() not in self._hosts:
            raise Refusal(403, "this host name is not served; --allowed-host NAME allows it", code="host_not_allowed")

    def _require_origin(self, given: list[bytes], host: bytes) -> None:
        for value in given:
            origin = value.decode("latin-1").lower().rstrip("/")
            if origin not in self._origins and origin != f"http://{host.decode('latin-1').lower()}":
                raise Refusal(403, "this origin is not allowed; --allowed-origin ORIGIN allows it", code="origin_not_allowed")

    def _require_same_site(self, given: list[bytes]) -> None:
        """A browser's request without an Origin must come from the page itself, or from the address line."""
        if any(value not in (b"same-origin", b"none") for value in given):
            raise Refusal(403, "requests from pages of other sites are not served", code="origin_not_allowed")

    def _require_key(self, headers: RawHeaders) -> None:
        given = [key for name, value in headers if (key := _key_in(name, value)) is not None]
        matches = [known for known in self._keys for key in given if hmac.compare_digest(key, known)]
        if len(self._keys) > 1 and matches:
            TENANT.set(hashlib.sha256(matches[0]).hexdigest()[:16])
        if not matches:
            what = "the API key is wrong" if given else "an API key is needed"
            raise Refusal(401, f"{what}: send Authorization: Bearer KEY, or x-api-key: KEY", code="invalid_api_key")


def _require_one_length(headers: RawHeaders) -> None:
    """Refuse two lengths of one body (RFC 9112, 6.1): a proxy may heed the other, and take its rest for another request."""
    if _values(headers, b"transfer-encoding") and _values(headers, b"content-length"):
        raise Refusal(400, "the request has both Content-Length and Transfer-Encoding; send one of them", code="ambiguous_length")


def _key_in(name: bytes, value: bytes) -> bytes | None:
    """The key that a header holds; None for any other header."""
    if name in KEY_HEADERS:
        return value
    scheme, _, key = value.partition(b" ")
    return key.strip() if name == b"authorization" and scheme.lower() == b"bearer" else None


def _values(headers: RawHeaders, name: bytes) -> list[bytes]:
    return [value for known, value in headers if known == name]


def _is_preflight(scope: Scope) -> bool:
    """Whether a browser asks what it may send to another origin (Fetch Standard, CORS-preflight); that carries no key."""
    return scope["method"] == "OPTIONS" and bool(_values(scope["headers"], b"access-control-request-method"))


async def _send_preflight(origin: bytes, scope: Scope, send: Send) -> None:
    headers = [
        (b"access-control-allow-methods", b"GET, POST, HEAD, DELETE"),
        (b"access-control-allow-headers", b", ".join(_values(scope["headers"], b"access-control-request-headers")) or b"*"),
        (b"access-control-max-age", b"600"),
    ]
    await send(_with_cors({"type": "http.response.start", "status": 204, "headers": headers}, origin))
    await send({"type": "http.response.body"})


def _with_cors(message: Message, origin: bytes) -> Message:
    """The beginning of an answer, which a page of `origin` may read."""
    if message["type"] != "http.response.start":
        return message
    allowed = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
    return {**message, "headers": [*message.get("headers", ()), *allowed]}
