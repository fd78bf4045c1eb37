"""What a running job is given besides its request."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.server.serving import SETTINGS, quick_model, serving

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("asked", "given"), [({}, 3), ({"max_tokens": 50}, 3), ({"max_tokens": 2}, 2), ({"max_tokens": None}, 3)]
)
def test_the_server_caps_every_answer(asked: dict[str, Any], given: int) -> None:
    with serving(quick_model(), settings=replace(SETTINGS, max_tokens=3)) as server:
        answer = server.post("/v1/chat/completions", {"messages": HELLO, "ignore_eos": True, **asked}).json
    assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == given
