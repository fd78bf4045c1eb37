"""langchain-openai: a chat, a stream, structured output, tools and embeddings."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel

from tests.server.serving import RunningServer
from tests.server.standins import calling

langchain_openai = pytest.importorskip("langchain_openai")


class Animal(BaseModel):
    """An animal."""

    legs: Literal["two", "four"]


def chat_model(server: RunningServer, model: str, **more: Any) -> Any:
    return langchain_openai.ChatOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", model=model, **more)


def test_chat_whole_and_streamed(server: RunningServer) -> None:
    expected = server.llm.chat("hello", max_tokens=9)
    model = chat_model(server, "tiny", max_tokens=9)
    assert model.invoke("hello").content == expected.text
    assert "".join(chunk.content for chunk in model.stream("hello")) == expected.text


def test_structured_output(server: RunningServer) -> None:
    assert isinstance(chat_model(server, "caller").with_structured_output(Animal).invoke("hello"), Animal)


def test_tools(server: RunningServer) -> None:
    def look(at: str) -> str:
        """Look at a place."""
        return at

    with calling('<call>look{"at": "Lima"}</call>'):
        (call,) = chat_model(server, "caller").bind_tools([look]).invoke("hello").tool_calls
    assert (call["name"], call["args"]) == ("look", {"at": "Lima"})


def test_embeddings(server: RunningServer) -> None:
    made = langchain_openai.OpenAIEmbeddings(
        base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(made.embed_documents(["a llama"]), server.llm.embed(["a llama"]), rtol=1e-6)
