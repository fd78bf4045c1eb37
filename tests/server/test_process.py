"""The process: it drains at a signal, says in one line why it cannot start, and listens on loopback only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import pytest

from tests.models import random_tensors, tiny_config, write_gguf

WAIT_S = 60.0
ENDLESS = {"prompt": "hello", "max_tokens": 100_000, "ignore_eos": True, "context_shift": True, "stream": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tiny_config()
    return write_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf", config, random_tensors(config, 1))


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "puna", "serve", "--device", "reference", "--cache-dir", "", "--json", *map(str, words)]


@contextmanager
def started(model: Path, *words: object) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with subprocess.Popen(
        command(model, "--port", 0, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["port"]
        finally:
            process.kill()


def stream(port: int, ends: list[bytes]) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(ENDLESS), {"content-type": "application/json"})
        ends.append(connection.getresponse().read()[-200:])


@pytest.mark.parametrize("trial", [1, *(pytest.param(trial, marks=pytest.mark.full) for trial in range(2, 21))])
def test_a_signal_drains_and_a_deadline_ends_what_runs(model: Path, trial: int) -> None:
    """B7: running streams get a last event; a client that never reads does not hold the server."""
    with started(model, "--drain", 1) as (process, port):
        ends: list[bytes] = []
        threads = [threading.Thread(target=stream, args=(port, ends)) for _ in range(8)]
        for thread in threads:
            thread.start()
        deaf = socket.create_connection(("127.0.0.1", port))
        body = json.dumps(ENDLESS)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        deaf.sendall(f"{head}\r\n\r\n{body}".encode())
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        signalled = time.monotonic()
        assert refused_within(port, 1.0)
        assert process.wait(WAIT_S) == 0
        assert time.monotonic() - signalled < 1 + 2 + 1.5  # drain, last words, and the interpreter's own end
        for thread in threads:
            thread.join(WAIT_S)
        assert len(ends) == 8 and all(end.endswith(b"data: [DONE]\n\n") for end in ends), ends
        deaf.close()


def refused_within(port: int, seconds: float) -> bool:
    """Whether the server takes no new connection, or answers 503."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=1.0)) as connection:
                connection.request("GET", "/health")
                if connection.getresponse().status == 503:
                    return True
        except (OSError, HTTPException):
            return True
        time.sleep(0.05)
    return False


def test_a_second_signal_ends_at_once(model: Path) -> None:
    with started(model, "--drain", 60) as (process, port):
        ends: list[bytes] = []
        thread = threading.Thread(target=stream, args=(port, ends))
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "it did not wait for the running request"
        process.send_signal(signal.SIGINT)
        process.wait(3.5)
        thread.join(WAIT_S)


def test_it_listens_on_loopback_only(model: Path) -> None:
    import psutil

    with started(model) as (process, port):
        listening = [one for one in psutil.Process(process.pid).net_connections() if one.status == psutil.CONN_LISTEN]
        assert [(one.laddr.ip, one.laddr.port) for one in listening] == [("127.0.0.1", port)]
