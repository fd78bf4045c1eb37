"""Limits of heads and bodies in bytes and in time, on raw connections."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from tests.server.serving import SETTINGS, WAIT_S, RunningServer, serving

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    with serving(settings=replace(SETTINGS, head_s=0.4, body_s=0.4, max_body=1000, max_head=2000)) as running:
        yield running


def exchange(server: RunningServer, *parts: bytes) -> bytes:
    """What comes back until the server closes."""
    with server.connect() as connection:
        for part in parts:
            connection.sendall(part)
        return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    got = b""
    while part := _read(connection):
        got += part
    return got


def _read(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_head_beyond_its_limit_is_431(strict: RunningServer) -> None:
    for head in (b"X-Long: " + b"a" * 5000 + b"\r\n", b"".join(b"X-%d: a\r\n" % i for i in range(500))):
        assert status(exchange(strict, HEAD + head)) == 431


def test_a_head_that_arrives_whole_is_limited_too(strict: RunningServer) -> None:
    for line, more in ((b"/", b"X-Long: " + b"a" * 3000 + b"\r\n"), (b"/" + b"a" * 3000, b""), (b"/?" + b"a" * 3000, b"")):
        assert status(exchange(strict, b"GET " + line + b" HTTP/1.1\r\nHost: localhost\r\n" + more + b"\r\n")) == 431


def test_a_body_of_two_lengths_is_refused_and_its_rest_is_no_request(strict: RunningServer) -> None:
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = exchange(strict, HEAD + both + b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(answer) == 400 and answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("declared", [True, False], ids=["content-length", "chunked"])
def test_a_body_beyond_its_limit_is_413(strict: RunningServer, declared: bool) -> None:
    body = b'{"prompt": "' + b"a" * 2000
    chunk = b"%x\r\n" % len(body) + body + b"\r\n"
    framed = b"Content-Length: 5000\r\n\r\n" + body if declared else b"Transfer-Encoding: chunked\r\n\r\n" + chunk
    assert status(exchange(strict, HEAD + framed)) == 413


def test_a_slow_head_and_a_slow_body_end_at_their_deadlines(strict: RunningServer) -> None:
    """A byte now and then does not start the time anew."""
    for begun, more in ((b"POST /v1/comp", b"l"), (HEAD + b"Content-Length: 100\r\n\r\n", b" "), (b"", b"")):
        started = time.monotonic()
        with strict.connect() as connection:
            connection.sendall(begun)
            connection.settimeout(0.1)
            got = b""
            while time.monotonic() - started < WAIT_S:
                try:
                    if more:
                        connection.sendall(more)
                    if not (part := connection.recv(4096)):
                        break
                    got += part
                except TimeoutError:
                    continue
                except (ConnectionResetError, BrokenPipeError):
                    break
        assert 0.3 < time.monotonic() - started < 2.5
        assert not got or status(got) == 408


def test_what_is_no_http_is_400(strict: RunningServer) -> None:
    assert status(exchange(strict, b"hello\r\n\r\n")) == 400


def test_another_type_or_encoding_is_415(server: RunningServer) -> None:
    for headers in (
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"},
        {"content-type": "multipart/form-data"},
        {"content-type": ""},
        {"content-encoding": "gzip"},
    ):
        answer = server.request("POST", "/v1/completions", b'{"prompt": "x"}', headers)
        assert answer.status == 415, headers
    for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded"):  # the second is curl's
        assert server.request("POST", "/v1/completions", b'{"prompt": "x"}', {"content-type": kind}).status == 200


def test_two_requests_on_one_connection(server: RunningServer) -> None:
    with server.connect() as connection:
        for _ in range(3):
            connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
            got = b""
            while not got.endswith(b"}]}"):
                got += connection.recv(65536)
            assert got.startswith(b"HTTP/1.1 200")


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(server: RunningServer) -> None:
    """Head and body are written apart. Without TCP_NODELAY the second waits 40 ms on a connection that is used again."""
    connection, times = HTTPConnection("127.0.0.1", server.port, timeout=10), []
    for _ in range(12):
        started = time.perf_counter()
        connection.request("POST", "/detokenize", b'{"tokens": [97]}', {"content-type": "application/json"})
        connection.getresponse().read()
        times.append(time.perf_counter() - started)
    connection.close()
    assert min(times[2:]) < 0.03
