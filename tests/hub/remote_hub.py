"""A Hub on this machine: it tells of one repository, and serves ranges of its files from another port, as the real one does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SHA = "5" * 40
REPO = "o/r"
CHUNK = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository: its first bytes, then zeros up to its size, as of weights that nobody needs."""

    head: bytes
    size: int

    @classmethod
    def of(cls, data: bytes) -> RemoteFile:
        return cls(data, len(data))

    def read(self, begin: int, end: int) -> bytes:
        known = self.head[begin:end]
        return known + bytes(end - begin - len(known))


@dataclass
class Request:
    path: str
    range: tuple[int, int] | None
    authorization: str | None
    host: str  # "hub", "cdn"


@dataclass
class RemoteHub:
    """The served files, the faults of the server, and the requests received."""

    files: dict[str, RemoteFile] = field(default_factory=dict)
    announced: dict[str, Any] = field(default_factory=dict)  # keys of a file's entry in the listing, to be told instead
    ignores_ranges: bool = False
    statuses: list[int] = field(default_factory=list)  # answered to the first requests for bytes, instead
    cut_after: list[int] = field(default_factory=list)  # bytes after which the first answers are cut
    headers: dict[str, str] = field(default_factory=dict)  # of answers with bytes, instead
    error_code: str = ""  # of a repository that is refused: X-Error-Code
    raw: dict[str, Callable[[], Iterable[bytes]]] = field(default_factory=dict)  # sent instead of an answer, with its head
    while_sending: Callable[[], None] = lambda: None
    requests: list[Request] = field(default_factory=list)
    sent_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    servers: dict[str, ThreadingHTTPServer] = field(default_factory=dict)

    def start(self) -> None:
        for host in ("hub", "cdn"):
            handler = type("Handler", (_Handler,), {"hub": self, "host": host})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            self.servers[host] = server
            threading.Thread(target=lambda server=server: server.serve_forever(poll_interval=0.01), daemon=True).start()

    def stop(self) -> None:
        for server in self.servers.values():
            server.shutdown()
            server.server_close()

    def address(self, host: str) -> str:
        return f"http://127.0.0.1:{self.servers[host].server_address[1]}"

    @property
    def ranges(self) -> list[Request]:
        return [request for request in self.requests if request.host == "cdn"]

    def listing(self) -> dict[str, Any]:
        return {"id": REPO, "sha": SHA, "siblings": [self._entry(name, file) for name, file in self.files.items()]}

    def _entry(self, name: str, file: RemoteFile) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": file.size}
        if name.endswith((".gguf", ".safetensors", ".bin")):
            entry["lfs"] = {"sha256": "a" * 64, "size": file.size, "pointerSize": 1}  # of what is never fetched whole
        else:
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % file.size + file.head).hexdigest()
        return entry | self.announced


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: RemoteHub
    host: str

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        begin_end = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        asked = (int(begin_end[1]), int(begin_end[2]) + 1) if begin_end else None
        with self.hub.lock:
            self.hub.requests.append(Request(self.path, asked, self.headers.get("authorization"), self.host))
        kind = "listing" if self.path.startswith("/api/") else "redirect" if self.host == "hub" else "bytes"
        if kind in self.hub.raw:
            self._send_raw(self.hub.raw[kind]())
        elif kind == "listing":
            self._answer_listing()
        elif kind == "redirect":
            self._answer(302, {"location": self.hub.address("cdn") + self.path, "content-length": "0"})
        else:
            self._answer_bytes(asked)

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _send_raw(self, parts: Iterable[bytes]) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the other side went away
            for part in parts:
                self.wfile.write(part)

    def _answer_listing(self) -> None:
        if self.hub.error_code:
            self._answer(403, {"x-error-code": self.hub.error_code, "content-length": "0"})
            return
        body = json.dumps(self.hub.listing()).encode()
        self._answer(200, {"content-type": "application/json", "content-length": str(len(body))}, body)

    def _answer_bytes(self, asked: tuple[int, int] | None) -> None:
        with self.hub.lock:
            status = self.hub.statuses.pop(0) if self.hub.statuses else 0
            cut = self.hub.cut_after.pop(0) if self.hub.cut_after else None
        if status:
            self._answer(status, {"content-length": "0"})
            return
        file = self.hub.files[self.path.rpartition("/")[2]]
        part = None if self.hub.ignores_ranges else asked
        begin, end = (0, file.size) if part is None else part
        headers = {"content-length": str(end - begin)}
        if part is not None:
            headers["content-range"] = f"bytes {begin}-{end - 1}/{file.size}"
        self._answer(200 if part is None else 206, headers | self.hub.headers)
        self._send(file, begin, end if cut is None else min(end, begin + cut))
        self.close_connection = cut is not None

    def _send(self, file: RemoteFile, begin: int, end: int) -> None:
        try:
            for at in range(begin, end, CHUNK):
                self.hub.while_sending()
                sent = self.wfile.write(file.read(at, min(end, at + CHUNK)))
                with self.hub.lock:
                    self.hub.sent_bytes += sent
        except OSError:  # the other side went away
            self.close_connection = True
