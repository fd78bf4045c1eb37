"""The web page of the server: a chat for a person with a browser. HTML, CSS and ES modules of our own, served from memory.

`main.js` puts the page together. Nothing is built, and nothing is fetched from elsewhere: the browser enforces it by the policy
below. Files are read once, so a request reads no path, and a range is never computed (RELIABILITY.md, row 31).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from puna.glassbox.report.bundle import views

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
START = "index.html"
SHARED = "report"  # the folder of what this page has in common with the report of a trace (`puna/glassbox/report`)
VIEWS = ("explain", "step_view", "token_strip", "prompt", "kept", "overview", "timeline", "german", "chinese")

# What the page may do. Scripts, styles and connections: of this server only; no markup from text (`trusted-types 'none'`).
POLICY = "; ".join(
    (
        "default-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # a browser asks each time, and the ETag spares the body
}
# Chromium asks for the icons each time that it draws a new one: from its cache, they are there while no server answers, too.
CACHES = {KINDS[".svg"]: {"cache-control": "max-age=60, stale-while-revalidate=86400"}}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page."""

    body: bytes
    kind: str
    etag: str

    def reply(self, request: Request) -> Response:
        """The file, or 304 if the browser has it."""
        headers = {**HEADERS, **CACHES.get(self.kind, {}), "etag": self.etag}
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        if self.etag in known:
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers={**headers, "content-type": self.kind})


def assets() -> Mapping[str, Asset]:
    """The files by their paths on the server; `/` is the page."""
    found = {f"/page/{name}": _asset(name, file.read_bytes()) for name, file in _files(files(__name__), "")}
    found |= {f"/page/{SHARED}/{name}": _asset(name, text.encode()) for name, text in views(VIEWS).items()}
    found["/"] = found.pop(f"/page/{START}")
    return found


def _files(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{prefix}{entry.name}/")
        elif _ending(entry.name) in KINDS:
            yield prefix + entry.name, entry


def _asset(name: str, body: bytes) -> Asset:
    return Asset(body, KINDS[_ending(name)], f'"{hashlib.sha256(body).hexdigest()[:32]}"')


def _ending(name: str) -> str:
    return name[name.rfind(".") :]


def routes(found: Mapping[str, Asset]) -> list[Route]:
    """A route for each file, for GET and HEAD."""
    return [Route(path, _endpoint(asset), methods=["GET"]) for path, asset in found.items()]


def _endpoint(asset: Asset) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return asset.reply(request)

    return answer
