"""The log: a row for each request, and no text unless it is asked for."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest

from tests.server.serving import SETTINGS, quick_model, serving

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
