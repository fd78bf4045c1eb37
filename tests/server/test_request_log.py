"""The log: a row for each request, and no text unless it is asked for."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

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
