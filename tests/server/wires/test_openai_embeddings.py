"""OpenAI's embeddings in both encodings, and rerank."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.server.serving import WAIT_S, RunningServer

PATH = "/v1/embeddings"


def test_both_encodings_are_the_librarys_vectors(server: RunningServer) -> None:
    expected = server.llm.embed(["hello", "you"])
    floats = server.post(PATH, {"input": ["hello", "you"]}).json
    assert [entry["index"] for entry in floats["data"]] == [0, 1]
    assert np.array_equal(np.array([entry["embedding"] for entry in floats["data"]], np.float32), expected)
    coded = server.post(PATH, {"input": ["hello", "you"], "encoding_format": "base64"}).json["data"]
    assert np.array_equal([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in coded], expected)
    ids = [server.llm.encode(text) for text in ("hello", "you")]
    by_ids = server.post(PATH, {"input": ids, "dimensions": 8}).json
    assert np.array_equal(
        np.array([entry["embedding"] for entry in by_ids["data"]], np.float32), server.llm.embed(["hello", "you"], dimensions=8)
    )
    assert floats["usage"]["total_tokens"] == sum(map(len, ids))


@pytest.mark.parametrize(
    "changed",
    [{"input": []}, {"input": None}, {"input": [[]]}, {"input": "x" * 9999}, {"dimensions": 10**6}, {"encoding_format": "x"}],
)
def test_what_cannot_be_embedded_is_400(server: RunningServer, changed: dict[str, Any]) -> None:
    assert server.post(PATH, {"input": "hello", **changed}).status == 400


def test_rerank_sorts_as_the_library_does(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.rerank.answer_ids", lambda tokenizer: (65, 66))
    monkeypatch.setattr(server.llm, "chat_template", None)  # which is longer than this tiny context
    documents = ["one", "two", "three"]
    expected = server.llm.rerank("hello", documents)[:2]
    body = {"query": "hello", "documents": documents, "top_n": 2, "return_documents": True}
    for path in ("/v1/rerank", "/rerank"):
        found = server.post(path, body).json["results"]
        assert [(one["index"], one["relevance_score"]) for one in found] == [(one.index, one.score) for one in expected]
        assert [one["document"]["text"] for one in found] == [documents[one.index] for one in expected]


def test_a_client_that_leaves_ends_its_ranking(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.rerank.answer_ids", lambda tokenizer: (65, 66))
    monkeypatch.setattr(server.llm, "chat_template", None)
    scored: list[float] = []

    def probability(yes: float, no: float) -> float:
        scored.append(yes)
        return 0.5

    monkeypatch.setattr("puna.rerank.probability", probability)
    body = json.dumps({"query": "a", "documents": ["b" * 100] * 512}).encode()
    head = "POST /v1/rerank HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with server.connect() as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: scored)
    wait_until(lambda: server.llm.runner.is_idle)
    assert len(scored) < 512


def wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_embedding_and_ranking_wait_in_the_queue(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.service, "_num_begun", 10**6)
    for path, body in (
        (PATH, {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/api/embed", {"input": "a"}),
    ):
        answer = server.post(path, body)
        assert answer.status == 429 and answer.headers["retry-after"]


def test_a_model_that_cannot_rank_says_so(server: RunningServer) -> None:
    answer = server.post("/v1/rerank", {"query": "hello", "documents": ["one"]})
    assert answer.status == 400 and "ranking" in answer.json["error"]["message"]
