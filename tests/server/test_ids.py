"""Every answer has the id of its request in its head, errors too; a bug is logged under it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.server.serving import SETTINGS, RunningServer, serving

HELLO = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", HELLO, 200),
        ("POST", "/v1/chat/completions", {**HELLO, "stream": True}, 200),
        ("POST", "/v1/chat/completions", {**HELLO, "top_p": 7}, 400),
        ("POST", "/v1/messages", {**HELLO, "model": "nobody"}, 404),
        ("POST", "/api/chat", b"{", 400),
        ("PUT", "/v1/models", None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/", None, 200),
        ("GET", "/health", None, 200),
    ],
)
def test_every_answer_has_an_id(server: RunningServer, method: str, path: str, body: object, status: int) -> None:
    answers = [server.request(method, path, body) for _ in range(2)]
    assert [answer.status for answer in answers] == [status] * 2
    ids = [answer.headers["request-id"] for answer in answers]
    assert ids == [answer.headers["x-request-id"] for answer in answers]
    assert all(one.startswith("req_") for one in ids) and len(set(ids)) == 2


def test_an_error_of_anthropics_has_the_id_of_its_head(server: RunningServer) -> None:
    answer = server.post("/v1/messages", {**HELLO, "max_tokens": "x"})
    assert answer.status == 400 and answer.json["request_id"] == answer.headers["request-id"]


def test_who_is_refused_at_the_door_gets_one_too() -> None:
    with serving(settings=replace(SETTINGS, api_keys=("one",), max_head=1024)) as running:
        assert running.get("/v1/models").headers["request-id"].startswith("req_")
        with running.connect() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX-Much: " + b"y" * 4000)
            answer = connection.recv(65536)
        assert b" 431 " in answer and b"\r\nrequest-id: req_" in answer


def test_a_bug_is_logged_under_the_id(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("puna.server.running_job.RunningJob._events_of", broken)
    with caplog.at_level("ERROR", "puna.server"):
        answer = server.post("/v1/chat/completions", HELLO)
    assert answer.status == 500 and answer.headers["request-id"] in answer.json["error"]["message"]
    (record,) = caplog.records
    assert answer.headers["request-id"] in record.message and record.exc_info is not None
