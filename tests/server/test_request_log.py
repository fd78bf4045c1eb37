"""The log: a row for each request, and no text unless it is asked for."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from http.client import HTTPConnection

import pytest

from tests.server.scripted import scripted_model
from tests.server.serving import SETTINGS, quick_model, serving

Caplog = pytest.LogCaptureFixture
BODY = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 3, "store": True}


def test_a_row_has_no_text_unless_the_settings_ask_for_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "puna.server.requests")
    for logs in (False, True):
        caplog.clear()
        with serving(quick_model(), settings=replace(SETTINGS, log_prompts=logs)) as server:
            answer = server.post("/v1/chat/completions", BODY).json["choices"][0]["message"]["content"]
        row, *texts = [record.getMessage() for record in caplog.records]
        facts = dict(part.split("=", 1) for part in row.split(" "))
        assert facts["wire"] == "openai" and facts["out"] == "3" and facts["end"] == "length" and facts["ignored"] == "store"
        assert "secret" not in row and len(texts) == logs
        for text in texts:
            told = json.loads(text)
            assert "a secret" in told["prompt"] and told["answers"] == [answer]


EVIL = "x\n01:00:00 wire=openai end=stop\x1b[2J\x9b\u202e\u2028\x85 out=9 "


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", BODY | {EVIL: 1}),
        ("/v1/completions", {"prompt": "a", "max_tokens": 2, EVIL: 1}),
        ("/v1/messages", {"messages": BODY["messages"], "max_tokens": 2, EVIL: 1}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 2, "include": [EVIL], EVIL: 1}),
        ("/api/chat", {"messages": BODY["messages"], "options": {"num_predict": 2, EVIL: 1}}),
        ("/api/generate", {"prompt": "a", "options": {"num_predict": 2, EVIL: 1}, "stream": False}),
        ("/completion", {"prompt": "a", "n_predict": 2, EVIL: 1}),
    ],
)
def test_no_text_of_a_client_forges_the_log_or_breaks_the_head(path: str, body: dict[str, object], caplog: Caplog) -> None:
    caplog.set_level(logging.INFO, "puna.server.requests")
    with serving(quick_model(), aliases=("*",)) as server:
        assert server.post(path, body | {"model": EVIL}).status == 200
    (row,) = [record.getMessage() for record in caplog.records]
    names = [part.partition("=")[0] for part in row.split(" ")]
    assert row.isprintable() and len(set(names)) == len(names) and names[0] == "wire"


def test_the_row_of_a_client_that_left_has_the_rate_until_then(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "puna.server.requests")
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
    with serving(scripted_model(lambda _: "one " * 400, pause_s=0.02)) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        response = connection.getresponse()
        while b'"content":"n' not in response.readline():
            pass
        response.close()
        connection.close()
        until = time.monotonic() + 30
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
    facts = dict(part.split("=", 1) for part in caplog.records[0].getMessage().split(" "))
    assert facts["end"] == "gone" and int(facts["out"]) > 1
    assert 0 < float(facts["rate"].removesuffix("/s")) < 1000


def test_the_row_of_an_answer_with_an_opening_counts_it_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Its K and V can be in the cache as those of the prompt: the share is of both."""
    caplog.set_level(logging.INFO, "puna.server.requests")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    with serving(quick_model()) as server:
        ids = server.post("/trace", body | {"last": 60, "top": 1, "ignore_eos": True}).json["token_ids"]
        for more in (0, 3):
            asked = body | {"token_ids": ids, "top": 1, "last": len(ids) + more, "first": len(ids) - 1, "ignore_eos": True}
            assert server.post("/trace", asked).status == 200
    rows = [dict(part.split("=", 1) for part in record.getMessage().split(" ")) for record in caplog.records]
    assert len(ids) == 60 and "opening" not in rows[0] and float(rows[0]["rate"].removesuffix("/s")) > 0
    assert [(row["opening"], row["out"]) for row in rows[1:]] == [("60", "0"), ("60", "3")]
    assert all(0 < int(row["cached"].removesuffix("%")) < 100 for row in rows[1:])
    assert rows[1]["rate"] == "-" and float(rows[2]["rate"].removesuffix("/s")) > 0
