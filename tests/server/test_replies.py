"""Clients that go away end their work within two seconds; those that read nothing lose the connection."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.server.serving import SETTINGS, WAIT_S, Answer, RunningServer, quick_llm, quick_model, serving

ENDLESS = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4000, "ignore_eos": True, "context_shift": True}
ROOM = quick_llm().plan.max_sequences
LINGER_S = 2.0  # until the pages of a client that went away are free


@pytest.fixture(scope="module")
def busy() -> Iterator[RunningServer]:
    with serving(quick_model(), settings=replace(SETTINGS, stream_s=0.5)) as running:
        yield running


def begin(server: RunningServer, stream: bool, path: str = "/v1/chat/completions") -> socket.socket:
    body = json.dumps({**ENDLESS, "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(WAIT_S)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(head.encode() + body)
    return connection


def within(seconds: float, is_so: Callable[[], object]) -> bool:
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_at_rest(server: RunningServer) -> bool:
    engine = server.llm.engine
    is_free = engine.num_free_pages == server.llm.plan.num_pages and server.llm.runner.is_idle
    return is_free and not server.service.running and server.service.models.default.num_users == 0


@pytest.mark.parametrize("is_reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_client_that_goes_away_ends_its_work(busy: RunningServer, stream: bool, is_reset: bool) -> None:
    connection = begin(busy, stream)
    assert within(WAIT_S, lambda: busy.service.running)
    if stream:
        connection.recv(64)
    if is_reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert within(LINGER_S, lambda: is_at_rest(busy))


def test_a_storm_of_clients_leaves_nothing_behind(busy: RunningServer) -> None:
    """D1 in short: cut before the first byte, in the middle, or never; those that stay have the text of a lone request."""
    asked = {"prompt": "hello", "max_tokens": 24, "ignore_eos": True}
    alone = busy.post("/v1/completions", asked).json["choices"][0]["text"]
    rng, texts = random.Random(5), []

    def client(seed: int) -> None:
        kind = random.Random(seed).choice(["before", "mid", "never"])
        if kind == "never":
            texts.append(busy.post("/v1/completions", asked).json["choices"][0]["text"])
            return
        with begin(busy, random.Random(seed).random() < 0.8) as connection:
            if kind == "mid":
                connection.recv(64)

    threads = [threading.Thread(target=client, args=(rng.getrandbits(32),)) for _ in range(48)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert within(LINGER_S, lambda: is_at_rest(busy))
    assert texts and set(texts) == {alone}


def test_a_client_that_reads_nothing_loses_the_connection(busy: RunningServer) -> None:
    connection = begin(busy, stream=True)
    assert within(WAIT_S, lambda: busy.service.running)
    assert within(WAIT_S, lambda: is_at_rest(busy)), "it still runs"
    connection.close()


def test_the_queue_is_bounded() -> None:
    with serving(quick_model(), settings=replace(SETTINGS, max_queue=1)) as server:
        room = server.llm.plan.max_sequences + 1
        held = [begin(server, stream=True) for _ in range(room)]
        assert within(WAIT_S, lambda: len(server.service.running) == room)
        answer = server.post("/v1/chat/completions", ENDLESS)
        assert answer.status == 429 and answer.headers["retry-after"] == "1"
        assert answer.json["error"]["type"] == "rate_limit_error"
        for connection in held:
            connection.close()
        assert within(LINGER_S, lambda: is_at_rest(server))
        assert server.post("/v1/completions", {"prompt": "hello"}).status == 200


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "hello", "timeout": 0.05}),
        ("/v1/chat/completions", ENDLESS | {"timeout": 0.05}),
    ],
)
def test_an_answer_that_was_cut_does_not_say_that_it_is_whole(busy: RunningServer, path: str, asked: dict[str, object]) -> None:
    answer = busy.post(path, {"max_tokens": 4000, "ignore_eos": True, "context_shift": True, **asked})
    assert answer.json["choices"][0]["finish_reason"] == "length"


def test_a_hundred_at_once_with_room_for_forty() -> None:
    """D13: those for whom there is no room are told to come back in a second, all others finish with the text of a lone one."""
    with serving(quick_model(), settings=replace(SETTINGS, max_queue=40 - ROOM)) as server:
        asked = {"prompt": "hello", "max_tokens": 100, "ignore_eos": True}
        alone = server.post("/v1/completions", asked).json["choices"][0]["text"]
        step, gate = server.llm.engine.step, threading.Event()

        def held() -> object:
            gate.wait(WAIT_S)
            return step()

        server.llm.engine.step = held  # type: ignore[method-assign, assignment]
        answers: list[Answer] = []
        clients = [threading.Thread(target=lambda: answers.append(server.post("/v1/completions", asked))) for _ in range(100)]
        for client in clients:
            client.start()
        assert within(WAIT_S, lambda: len(answers) == 60), "those refused need no step"
        assert {(one.status, one.headers["retry-after"]) for one in answers} == {(429, "1")}
        gate.set()
        for client in clients:
            client.join(WAIT_S)
        assert [one.status for one in answers[60:]] == [200] * 40
        assert {one.json["choices"][0]["text"] for one in answers[60:]} == {alone}
        assert within(LINGER_S, lambda: is_at_rest(server))


def test_a_stream_opens_before_the_prompt_is_computed() -> None:
    """The head comes while the engine is held; progress is told by events."""
    with serving(quick_model(), settings=replace(SETTINGS, progress_s=0.05)) as server:
        step, gate = server.llm.engine.step, threading.Event()

        def held() -> object:
            gate.wait(WAIT_S)
            return step()

        server.llm.engine.step = held  # type: ignore[method-assign, assignment]
        with begin(server, stream=True) as connection:
            got = b""
            while got.count(b"prompt_progress") < 3:
                got += connection.recv(4096)
            assert got.startswith(b"HTTP/1.1 200")
            gate.set()
            while not got.endswith(b"0\r\n\r\n") and b'"content":"' not in got.split(b"prompt_progress")[-1]:
                got += connection.recv(4096)
        server.llm.engine.step = step  # type: ignore[method-assign]
        assert within(LINGER_S, lambda: is_at_rest(server))
