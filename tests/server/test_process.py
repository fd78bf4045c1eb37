"""The process: it drains at a signal, says in one line why it cannot start, and listens on loopback only."""

from __future__ import annotations

import asyncio
import errno
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

from puna.server.process import LoopProblems
from tests.models import random_tensors, tiny_config, write_gguf

WAIT_S = 60.0
SPIN_S = 0.05
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


def stream(port: int, begun: threading.Semaphore, ends: list[bytes]) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=WAIT_S)) as connection:
        connection.request("POST", "/v1/completions", json.dumps(ENDLESS), {"content-type": "application/json"})
        answer = connection.getresponse()
        begun.release()
        ends.append(answer.read()[-200:])


def streaming(port: int, count: int, ends: list[bytes]) -> list[threading.Thread]:
    """Clients that have the heads of their answers; the texts of some may wait until others have ended.

    The last bytes of each stand in `ends` when it has ended.
    """
    begun = threading.Semaphore(0)
    threads = [threading.Thread(target=stream, args=(port, begun, ends)) for _ in range(count)]
    for thread in threads:
        thread.start()
    assert all(begun.acquire(timeout=WAIT_S) for _ in threads)
    return threads


def deaf_client(port: int) -> socket.socket:
    """A client whose stream has begun, and who reads nothing."""
    deaf, body = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S), json.dumps(ENDLESS)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    deaf.sendall(f"{head}\r\n\r\n{body}".encode())
    assert deaf.recv(1, socket.MSG_PEEK)
    return deaf


@pytest.mark.parametrize("trial", [1, *(pytest.param(trial, marks=pytest.mark.full) for trial in range(2, 21))])
def test_a_signal_drains_and_a_deadline_ends_what_runs(model: Path, trial: int) -> None:
    """B7: running streams get a last event; a client that never reads does not hold the server."""
    with started(model, "--drain", 1) as (process, port):
        ends: list[bytes] = []
        threads = streaming(port, 8, ends)
        with deaf_client(port):
            process.send_signal(signal.SIGTERM)
            signalled = time.monotonic()
            assert refused_within(port, 1.0 * slowness())
            assert process.wait(WAIT_S) == 0
            took_s = time.monotonic() - signalled
            assert took_s < 1 + 2 + 1.5 * slowness()  # drain, last words, and the interpreter's own end
        for thread in threads:
            thread.join(WAIT_S)
        assert len(ends) == 8 and all(end.endswith(b"data: [DONE]\n\n") for end in ends), ends


def slowness() -> float:
    """How long a second of work takes here and now: 1.0 where no other program wants the CPU."""
    started, used = time.perf_counter(), time.thread_time()
    while time.thread_time() - used < SPIN_S:
        pass
    return max(1.0, (time.perf_counter() - started) / SPIN_S)


def refused_within(port: int, seconds: float) -> bool:
    """Whether the server takes no new connection, or answers 503."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with closing(HTTPConnection("127.0.0.1", port, timeout=1.0)) as connection:
                connection.request("GET", "/health")
                if connection.getresponse().status == 503:
                    return True
        except TimeoutError:
            continue  # it was slow
        except (OSError, HTTPException):
            return True
        time.sleep(0.05)
    return False


def test_a_second_signal_ends_at_once(model: Path) -> None:
    with started(model, "--drain", 60) as (process, port):
        (thread,) = streaming(port, 1, [])
        process.send_signal(signal.SIGINT)
        assert refused_within(port, WAIT_S)  # the signal was heard: two at once would be one
        time.sleep(0.3)
        assert process.poll() is None, "it did not wait for the running request"
        process.send_signal(signal.SIGINT)
        process.wait(2 + 1.5 * slowness())
        thread.join(WAIT_S)
        assert process.stderr is not None and "1 request may run 60 s more; a second Ctrl-C" in process.stderr.read()


def test_it_listens_on_loopback_only(model: Path) -> None:
    import psutil

    with started(model) as (process, port):
        listening = [one for one in psutil.Process(process.pid).net_connections() if one.status == psutil.CONN_LISTEN]
        assert [(one.laddr.ip, one.laddr.port) for one in listening] == [("127.0.0.1", port)]


def test_connections_beyond_the_open_files_are_one_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio tells of 2,048 failures in a row, each with a traceback."""
    told: list[str] = []
    loop = asyncio.new_event_loop()
    loop.default_exception_handler = lambda context: told.append(context["message"])  # type: ignore[method-assign]
    problems = LoopProblems()
    for number in (errno.EMFILE, errno.ENFILE) * 1000:
        problems(loop, {"message": "socket.accept() out of system resource", "exception": OSError(number, "Too many open files")})
    problems(loop, {"message": "another", "exception": ValueError()})
    loop.close()
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["no further connection can be accepted"]
    assert told == ["another"]
