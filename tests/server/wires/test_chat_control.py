"""The thinking of a chat completion that runs is ended by the client that began it, and by nobody else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from puna.server.settings import ServerSettings
from tests.server.scripted import scripted_model
from tests.server.serving import TEMPLATE, RunningServer, serving

CHAT, CONTROL = "/v1/chat/completions", "/v1/chat/completions/control"
KEYS = ("anna", "luis")
ANNA, LUIS = ({"authorization": f"Bearer {key}"} for key in KEYS)
THINKING = f"{TEMPLATE}{{# <think> </think> #}}"
LONG = f"<think>{'so ' * 600}</think>Seven."


@pytest.fixture(scope="module")
def thinker() -> Iterator[RunningServer]:
    models = scripted_model(lambda prompt: LONG, "thinker", 0.002, THINKING), scripted_model(lambda prompt: "No.", "plain", 0.002)
    with serving(*models, settings=ServerSettings(port=0, api_keys=KEYS)) as running:
        yield running


@contextmanager
def streaming(server: RunningServer, headers: dict[str, str], **more: Any) -> Iterator[Iterator[Any]]:
    """The events of a streamed chat, as they come."""
    body = json.dumps({"messages": [{"role": "user", "content": "How many?"}], "stream": True, **more})
    head = f"POST {CHAT} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with server.connect() as connection:
        connection.sendall(f"{head}\r\n{body}".encode())
        yield events_of(connection)


def events_of(connection: socket.socket) -> Iterator[Any]:
    with connection.makefile("rb") as lines:
        for line in lines:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


def delta(event: Any) -> dict[str, str]:
    found: dict[str, str] = event["choices"][0]["delta"]
    return found


def told(server: RunningServer, name: str, headers: dict[str, str], action: str = "reasoning_end") -> Any:
    return server.post(CONTROL, {"id": name, "action": action}, headers)


def begun(events: Iterator[Any]) -> tuple[str, str]:
    """The id of a completion that has begun to think, and its first thoughts."""
    thinking = next(event for event in events if delta(event).get("reasoning_content"))
    return thinking["id"], delta(thinking)["reasoning_content"]


def test_the_thinking_ends_and_the_answer_follows(thinker: RunningServer) -> None:
    with streaming(thinker, ANNA) as events:
        name, thoughts = begun(events)
        answer = told(thinker, name, ANNA)
        assert (answer.status, answer.json) == (200, {"id": name, "success": True})
        rest = list(events)
    thoughts += "".join(delta(event).get("reasoning_content", "") for event in rest)
    assert ("so " * 600).startswith(thoughts) and len(thoughts) < 1000
    assert "".join(delta(event).get("content", "") for event in rest) == "Seven."
    assert rest[-1]["choices"][0]["finish_reason"] == "stop"


def test_nobody_else_can_end_it_and_no_other_thing_can_be_told(thinker: RunningServer) -> None:
    with streaming(thinker, ANNA) as events:
        name, _ = begun(events)
        others, unknown = told(thinker, name, LUIS), told(thinker, "chatcmpl-0", LUIS)
        assert others.status == unknown.status == 404
        assert others.json["error"]["message"].replace(name, "") == unknown.json["error"]["message"].replace("chatcmpl-0", "")
        assert told(thinker, name, {}).status == 401
        wrong = told(thinker, name, ANNA, "stop").json["error"]
        assert wrong["param"] == "action" and "reasoning_end" in wrong["message"]
        assert delta(next(events))  # it goes on
        assert told(thinker, name, ANNA).status == 200
        assert list(events)
    assert told(thinker, name, ANNA).status == 404  # it has ended


def test_a_model_that_does_not_think_has_nothing_to_end(thinker: RunningServer) -> None:
    with streaming(thinker, ANNA, model="plain") as events:
        refused = told(thinker, next(events)["id"], ANNA)
        assert refused.status == 400 and "does not think" in refused.json["error"]["message"]
        assert "".join(delta(event).get("content", "") for event in events) == "No."


def test_samples_end_their_thinking_together(thinker: RunningServer) -> None:
    with streaming(thinker, ANNA, n=2) as events:
        assert told(thinker, begun(events)[0], ANNA).status == 200
        ends = [event["choices"][0] for event in events]
    texts = ["".join(one["delta"].get("content", "") for one in ends if one["index"] == index) for index in (0, 1)]
    assert texts == ["Seven.", "Seven."]
