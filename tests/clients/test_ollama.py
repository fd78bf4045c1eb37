"""The official ollama client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.server.serving import RunningServer
from tests.server.standins import calling

ollama = pytest.importorskip("ollama")

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}}
]


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with ollama.Client(host=f"http://127.0.0.1:{server.port}") as made:
        yield made


def test_chat_whole_and_streamed(server: RunningServer, client: Any) -> None:
    expected = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5)
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "options": {"num_predict": 9, "temperature": 0.7, "seed": 5}}
    whole = client.chat(**asked)
    assert whole.message.content == expected.text and whole.done_reason == expected.finish_reason
    assert (whole.prompt_eval_count, whole.eval_count) == (len(expected.prompt_ids), len(expected.token_ids))
    lines = list(client.chat(**asked, stream=True))
    assert "".join(line.message.content for line in lines) == expected.text and lines[-1].eval_count == whole.eval_count


def test_generate_whole_streamed_and_raw(server: RunningServer, client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "hello", "options": {"num_predict": 9}}
    expected = server.llm.chat("hello", max_tokens=9)
    assert client.generate(**asked).response == expected.text
    assert "".join(line.response for line in client.generate(**asked, stream=True)) == expected.text
    assert client.generate(**asked, raw=True).response == server.llm.generate("hello", max_tokens=9).text


def test_tools(client: Any) -> None:
    with calling('I see. <call>look{"at": "Lima"}</call>'):
        whole = client.chat("caller", HELLO, tools=TOOLS)
        lines = list(client.chat("caller", HELLO, tools=TOOLS, stream=True))
    (streamed,) = [call for line in lines for call in line.message.tool_calls or ()]
    for call in (whole.message.tool_calls[0], streamed):
        assert (call.function.name, call.function.arguments) == ("look", {"at": "Lima"})
    turns = [*HELLO, whole.message, {"role": "tool", "tool_name": "look", "content": "sunny"}]
    with calling("Sunny."):
        assert client.chat("caller", turns, tools=TOOLS).message.content == "Sunny."


def test_embed(server: RunningServer, client: Any) -> None:
    expected = server.llm.embed(["a llama", "an alpaca"])
    np.testing.assert_allclose(client.embed("tiny", ["a llama", "an alpaca"]).embeddings, expected, rtol=1e-6)
    np.testing.assert_allclose(client.embeddings("tiny", "a llama").embedding, expected[0], rtol=1e-6)


def test_models(client: Any) -> None:
    assert [model.model for model in client.list().models] == ["tiny:latest", "caller:latest"]
    assert client.ps().models[0].context_length == 128
    shown = client.show("tiny")
    assert shown.capabilities == ["completion"] and shown.modelinfo["general.architecture"] == shown.details.family


def test_errors_have_its_classes(client: Any) -> None:
    with pytest.raises(ollama.ResponseError, match="not served") as missing:
        client.chat("nobody", HELLO)
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="top_p"):
        client.chat("tiny", HELLO, options={"top_p": 7})
    with pytest.raises(ollama.ResponseError, match="puna pull"):
        client.pull("llama3")
