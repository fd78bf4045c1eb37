"""Ollama's routes about models, and its embeddings."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from puna.suggested import Suggested
from tests.server.serving import RunningServer


def test_tags_show_and_version_have_the_fields_that_clients_read(server: RunningServer) -> None:
    (listed,) = server.get("/api/tags").json["models"]
    assert {"name", "model", "modified_at", "size", "digest", "details"} <= listed.keys() and listed["name"] == "tiny:latest"
    for body in ({"model": "tiny"}, {"name": "tiny:latest"}):
        shown = server.post("/api/show", body).json
        assert shown["parameters"] == f"num_ctx {server.llm.plan.max_context}"
        assert "completion" in shown["capabilities"] and shown["details"]["parameter_size"].endswith("M")
        assert shown["model_info"]["general.architecture"] == "llama"
    assert server.get("/api/version").json["version"].count(".") == 2
    assert server.post("/api/show", {"model": "nobody"}).status == 404


def test_a_models_suggestions_are_among_its_parameters(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.llm, "suggested", Suggested({"temperature": 0.6, "repetition_penalty": 1.1, "stop": ("a", "b")}))
    lines = server.post("/api/show", {"model": "tiny"}).json["parameters"].split("\n")
    assert sorted(lines) == [
        f"num_ctx {server.llm.plan.max_context}",
        "repeat_penalty 1.1",
        'stop "a"',
        'stop "b"',
        "temperature 0.6",
    ]


@pytest.mark.parametrize(
    ("given", "kept_s"),
    [(30, 30.0), ("5m", 300.0), ("1h30m", 5400.0), ("90", 90.0), (-1, None), ("-1", None), ("-1m", None), (1e300, 1e300)],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [("/api/generate", {}), ("/api/embed", {"input": "x"}), ("/api/embeddings", {"prompt": "x"})],
)
def test_how_long_a_model_stays(path: str, body: dict[str, Any], given: Any, kept_s: float | None, server: RunningServer) -> None:
    model = server.service.models.default
    assert server.post(path, {"model": "tiny", **body, "keep_alive": given}).status == 200
    assert model.keep_alive_s == kept_s
    (running,) = server.get("/api/ps").json["models"]
    assert (
        datetime.fromisoformat(running["expires_at"]) > datetime.now(UTC)
        and running["context_length"] == server.llm.plan.max_context
    )
    model.keep_alive_s = None
    assert server.post(path, {"model": "tiny", **body, "keep_alive": "soon"}).status == 400


def test_options_change_no_embedding_and_are_named(server: RunningServer) -> None:
    answer = server.post("/api/embed", {"model": "tiny", "input": "x", "options": {"temperature": 1}})
    assert answer.headers["x-puna-ignored"] == "options.temperature"


def test_embeddings_are_the_librarys(server: RunningServer) -> None:
    expected = server.llm.embed(["hello", "you"])
    found = server.post("/api/embed", {"model": "tiny", "input": ["hello", "you"]}).json
    assert np.array_equal(np.array(found["embeddings"], np.float32), expected)
    assert found["prompt_eval_count"] == len(server.llm.encode("hello")) + len(server.llm.encode("you"))
    one = server.post("/api/embeddings", {"model": "tiny", "prompt": "hello"}).json["embedding"]
    assert np.array_equal(np.array(one, np.float32), expected[0])


def test_a_long_text_is_cut_unless_the_client_forbids_it(server: RunningServer) -> None:
    body = {"model": "tiny", "input": "x" * 5000}
    assert server.post("/api/embed", body).json["prompt_eval_count"] == server.llm.plan.max_context
    refused = server.post("/api/embed", {**body, "truncate": False})
    assert refused.status == 400 and str(server.llm.plan.max_context) in refused.json["error"]
