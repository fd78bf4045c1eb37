"""Ollama's routes about models, and its embeddings."""

from __future__ import annotations

import numpy as np

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
