"""RELIABILITY D1 and D12: thousands of requests of every kind against a server process leave nothing behind.

Short here; whole with `-m full` (400 clients, 2,000 requests) and `-m soak` (10,000 requests).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import psutil
import pytest

from tests.models import random_tensors, tiny_config, write_gguf

WAIT_S, LINGER_S = 60.0, 2.0
NUM_CLIENTS = 64
MB = 1e6
CHAT = {"messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "one", "schema": SCHEMA}}}
KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("POST", "/v1/completions", {"prompt": "hello"}),
    ("POST", "/v1/completions", {"prompt": "hello " * 14, "n": 2, "temperature": 1, "seed": 4}),
    ("POST", "/v1/completions", {"prompt": "hello", "logprobs": 2, "stop": ["a"]}),
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", CHAT | FORMAT),
    ("POST", "/v1/responses", {"input": "hello"}),
    ("POST", "/v1/messages", CHAT),
    ("POST", "/api/chat", CHAT),
    ("POST", "/api/generate", {"prompt": "hello"}),
    ("POST", "/v1/embeddings", {"input": ["hello", "you"]}),
    ("POST", "/tokenize", {"content": "hello"}),
    ("POST", "/v1/completions", {"prompt": 7}),  # refused
    ("POST", "/v1/chat/completions", {"messages": "hello"}),  # refused
    ("GET", "/v1/models", {}),
    ("GET", "/health", {}),
)
LIMITS = {"/v1/responses": "max_output_tokens"}
NO_LIMIT = ("/v1/embeddings", "/tokenize", "/api/chat", "/api/generate")
CUTS = ("before the first byte", "in the prompt", "in the answer", "never", "never", "never")


@dataclass
class Server:
    """A process that serves a tiny random model, as an operator sees it."""

    port: int
    process: psutil.Process

    def get(self, path: str) -> str:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    @property
    def is_at_rest(self) -> bool:
        """Nothing runs, nothing waits, and every page is free."""
        told = dict(re.findall(r"^puna_(num_requests_\w+|kv_cache_usage_perc) ([\d.]+)$", self.get("/metrics"), re.M))
        return len(told) == 3 and not any(map(float, told.values()))

    @property
    def rss(self) -> int:
        return int(self.process.memory_info().rss)

    @property
    def handles(self) -> tuple[int, int]:
        """Open files and threads."""
        return self.process.num_fds(), self.process.num_threads()

    def within(self, seconds: float, is_so: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    config = tiny_config()
    path = write_gguf(tmp_path_factory.mktemp("soak") / "tiny.gguf", config, random_tensors(config, 1))
    words = ["--device", "reference", "--port", "0", "--json", "--cache-dir", "", "--max-queue", str(NUM_CLIENTS)]
    command = [sys.executable, "-m", "puna", "serve", str(path), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ) as process:
        try:
            assert process.stdout is not None
            yield Server(json.loads(process.stdout.readline())["port"], psutil.Process(process.pid))
        finally:
            process.kill()


@dataclass
class Found:
    """What a run of requests met."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    num_cut: int = 0


class Soak:
    """Random requests, so many at a time; the seed decides each of them, not the clock."""

    def __init__(self, server: Server, seed: int) -> None:
        self.server, self.seed, self.found, self.whole = server, seed, Found(), dict[str, str]()

    def run(self, first: int, count: int) -> None:
        async def all_of_them() -> None:
            places = asyncio.Semaphore(NUM_CLIENTS)
            await asyncio.gather(*(self.client(places, first + number) for number in range(count)))

        asyncio.run(all_of_them())

    async def client(self, places: asyncio.Semaphore, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        method, path, fields = rng.choice(KINDS)
        limit = rng.randint(1, 12)
        extra: dict[str, Any] = {} if path in NO_LIMIT else {LIMITS.get(path, "max_tokens"): limit, "stream": rng.random() < 0.6}
        if path.startswith("/api/"):
            extra = {"stream": rng.random() < 0.6, "options": {"num_predict": limit}}
        body = b"" if method == "GET" else json.dumps({"model": "tiny", **fields, **extra}).encode()
        async with places:
            await self.one(rng, method, path, body)

    async def one(self, rng: random.Random, method: str, path: str, body: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        try:
            if (cut := rng.choice(CUTS)) == "never":
                self.take(path, body, await asyncio.wait_for(reader.read(), WAIT_S))
                return
            self.found.num_cut += 1
            if cut == "in the answer":
                await asyncio.wait_for(reader.read(rng.randint(1, 600)), WAIT_S)
            elif cut == "in the prompt":
                await asyncio.sleep(rng.random() * 0.02)
            if rng.random() < 0.5:  # a reset in place of an orderly end
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            writer.close()

    def take(self, path: str, body: bytes, raw: bytes) -> None:
        """The same request has the same answer, whatever ran beside it; ids and times are its own."""
        status = int(raw[9:12] or 0)
        self.found.statuses[status] += 1
        key, answer = f"{path} {body.decode()}", lasting(raw.partition(b"\r\n\r\n")[2].decode())
        if status == 200 and (before := self.whole.setdefault(key, answer)) != answer:
            pairs = zip(before.split("\n\n"), answer.split("\n\n"))
            self.found.wrong.append(f"{key}: {next((pair for pair in pairs if pair[0] != pair[1]), 'one is shorter')}")


# What differs from answer to answer: ids, times, what the cache had (and Anthropic's input without it), sizes of chunks.
VOLATILE = (
    r'"(\w*id|created|created_at|completed_at|\w*_duration|cached_tokens|cache_\w+|input_tokens|modified_at|sequence_number)": ?'
    r'("[^"]*"|[\d.]+|null),?'
    r"|\b[0-9a-f]+\r\n|\r\n"
)
PROGRESS = ("prompt_progress", "event: ping", "event: response.in_progress")  # told only if an answer takes its time


def lasting(answer: str) -> str:
    """What the same request must be answered each time."""
    events = re.sub(VOLATILE, "", answer).split("\n\n")
    return "\n\n".join(event for event in events if not any(mark in event for mark in PROGRESS))


def test_a_soak(server: Server) -> None:
    soak = Soak(server, seed=12)
    soak.run(0, 120)
    require_calm(server, soak)


@pytest.mark.full
def test_a_storm_of_400_clients(server: Server) -> None:
    """D1: 64 at a time, cut at any moment by FIN or RST. 2 s later there is no slot, page, task or file more than before."""
    Soak(server, seed=1).run(0, 400)  # threads and caches are made once
    assert server.within(LINGER_S, lambda: server.is_at_rest)
    handles, rss, soak = server.handles, server.rss, Soak(server, seed=2)
    soak.run(0, 400)
    require_calm(server, soak)
    assert server.within(LINGER_S, lambda: server.handles <= handles), (server.handles, handles)
    assert server.rss <= 1.05 * rss, (server.rss / MB, rss / MB)


@pytest.mark.soak
def test_ten_thousand_requests(server: Server) -> None:
    """D12: no 5xx, and after the first 2,000 memory grows by less than a megabyte for a thousand requests."""
    soak, sizes = Soak(server, seed=3), []
    for first in range(0, 10_000, 500):
        soak.run(first, 500)
        assert server.within(LINGER_S, lambda: server.is_at_rest)
        sizes.append(server.rss / MB)
        print(f"{first + 500} requests, {sizes[-1]:.1f} MB, {server.handles[0]} files")
    require_calm(server, soak)
    late = sizes[3:]
    slope = (
        2
        * sum((i - (len(late) - 1) / 2) * size for i, size in enumerate(late))
        / sum((i - (len(late) - 1) / 2) ** 2 for i in range(len(late)))
    )
    print(f"{slope:.3f} MB for a thousand requests")
    assert slope < 1


def require_calm(server: Server, soak: Soak) -> None:
    found = soak.found
    print(f"seed {soak.seed}: {dict(found.statuses)}, {found.num_cut} cut, {len(soak.whole)} different requests")
    assert server.within(LINGER_S, lambda: server.is_at_rest)
    assert set(found.statuses) <= {200, 400, 429} and found.statuses[200] and found.wrong == []
