"""litellm by OpenAI's wire and by Ollama's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import RunningServer

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.filterwarnings("ignore")  # its own
@pytest.mark.parametrize(("model", "path"), [("openai/tiny", "/v1"), ("ollama_chat/tiny", "")])
def test_chat_whole_and_streamed(server: RunningServer, monkeypatch: pytest.MonkeyPatch, model: str, path: str) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # otherwise it fetches one
    litellm: Any = pytest.importorskip("litellm")
    expected = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5)
    asked: dict[str, Any] = {"model": model, "messages": HELLO, "max_tokens": 9, "temperature": 0.7, "seed": 5}
    asked |= {"api_base": f"http://127.0.0.1:{server.port}{path}", "api_key": "none"}
    assert litellm.completion(**asked).choices[0].message.content == expected.text
    chunks = list(litellm.completion(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
