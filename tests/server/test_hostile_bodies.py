"""RELIABILITY C2: hostile bodies on raw sockets get a 4xx in their wire's shape, quickly, and change nothing."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from puna.server.wires import wire_of
from tests.server.hostile_bodies import JSON, HostileBody, hostile_bodies
from tests.server.serving import SETTINGS, RunningServer, quick_model, serving

MAX_CPU_S = 0.25  # of client and server together
PATH_OF_A_MACHINE = re.compile(r"/(home|root|usr|tmp)/|\.py\b|Traceback")


def _of_openai(body: Any) -> str:
    error = body["error"]
    assert body.keys() == {"error"} and error.keys() == {"message", "type", "param", "code"}
    assert all(isinstance(error[name], str) for name in ("message", "type"))
    return str(error["message"])


def _of_anthropic(body: Any) -> str:
    assert body["type"] == "error" and body["error"].keys() == {"type", "message"} and body["request_id"].startswith("req_")
    return str(body["error"]["message"])


def _of_ollama(body: Any) -> str:
    assert body.keys() == {"error"} and isinstance(body["error"], str)
    return str(body["error"])


MESSAGES: Mapping[str, Callable[[Any], str]] = {"anthropic": _of_anthropic, "ollama": _of_ollama}  # the others are OpenAI's


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(quick_model(), settings=replace(SETTINGS, max_tokens=4)) as running:
        yield running


def sent(server: RunningServer, one: HostileBody) -> tuple[int, bytes]:
    """The status and the body of the answer on a raw connection."""
    given = {"content-type": JSON, **one.headers, "content-length": str(len(one.body))}
    lines = [f"{name}: {value}\r\n" for name, value in given.items() if value]
    head = f"POST {one.path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n{''.join(lines)}\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode() + one.body)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return int(answer.split(b" ", 2)[1]), answer.partition(b"\r\n\r\n")[2]


def require_refused(server: RunningServer, bodies: Sequence[HostileBody]) -> None:
    asked = {"prompt": "hello", "max_tokens": 4}
    known = server.post("/v1/completions", asked).json["choices"][0]["text"]
    for one in bodies:
        started = time.process_time()
        status, body = sent(server, one)
        took_s = time.process_time() - started
        assert 400 <= status < 500, (one.why, status, body)
        message = MESSAGES.get(wire_of(one.path).name, _of_openai)(json.loads(body))
        assert 0 < len(message) < 600 and not PATH_OF_A_MACHINE.search(message), (one.why, message)
        assert took_s <= MAX_CPU_S, (one.why, took_s)
    assert server.post("/v1/completions", asked).json["choices"][0]["text"] == known


def test_600_hostile_bodies_are_refused_and_change_nothing(server: RunningServer) -> None:
    chosen = random.Random(16).sample(list(hostile_bodies()), 600)
    assert len({one.path for one in chosen}) >= 17
    require_refused(server, chosen)


@pytest.mark.full
def test_all_hostile_bodies_are_refused_and_change_nothing(server: RunningServer) -> None:
    require_refused(server, list(hostile_bodies()))
