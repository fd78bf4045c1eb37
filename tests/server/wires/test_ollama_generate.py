"""Ollama's chat and generate: lines of JSON with the library's text, counts and durations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.server.serving import RunningServer, serving, tiny_model

HELLO = [{"role": "user", "content": "hello"}]
OPTIONS = {"num_predict": 12}


def chat(server: RunningServer, **more: Any) -> Any:
    return server.post("/api/chat", {"model": "tiny", "messages": HELLO, "options": OPTIONS, **more})


def test_a_chat_is_the_librarys(server: RunningServer) -> None:
    expected = server.llm.chat(HELLO, max_tokens=12)
    *lines, last = chat(server).lines
    assert "".join(line["message"]["content"] for line in lines) == expected.text
    assert not any(line["done"] for line in lines) and last["done"] and last["message"]["content"] == ""
    assert last["done_reason"] == expected.finish_reason
    assert (last["prompt_eval_count"], last["eval_count"]) == (len(expected.prompt_ids), len(expected.token_ids))
    assert last["total_duration"] >= last["prompt_eval_duration"] + last["eval_duration"] > 0
    whole = chat(server, stream=False).json
    assert whole["message"] == {"role": "assistant", "content": expected.text} and whole["done"]


@pytest.mark.parametrize("name", ["tiny", "tiny:latest"])
def test_generate_uses_the_template_unless_raw(server: RunningServer, name: str) -> None:
    body = {"model": name, "prompt": "hello", "stream": False, "options": OPTIONS}
    assert server.post("/api/generate", body).json["response"] == server.llm.chat("hello", max_tokens=12).text
    assert (
        server.post("/api/generate", {**body, "raw": True}).json["response"] == server.llm.generate("hello", max_tokens=12).text
    )
    system = server.llm.chat([{"role": "system", "content": "be brief"}, *HELLO], max_tokens=12).text
    assert server.post("/api/generate", {**body, "system": "be brief"}).json["response"] == system


def test_options_mean_what_they_say(server: RunningServer) -> None:
    options = {"num_predict": 8, "temperature": 0.9, "seed": 4, "top_k": 20, "repeat_penalty": 1.2, "stop": ["q"], "num_ctx": 8}
    expected = server.llm.chat(HELLO, max_tokens=8, temperature=0.9, seed=4, top_k=20, repetition_penalty=1.2, stop=["q"])
    answer = chat(server, options=options, stream=False)
    assert answer.json["message"]["content"] == expected.text
    assert answer.headers["x-puna-ignored"] == "options.num_ctx"


def test_a_format_is_enforced(server: RunningServer) -> None:
    import json

    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"], "additionalProperties": False}
    answer = chat(server, format=schema, stream=False, options={"num_predict": 60, "temperature": 1, "seed": 1}).json
    assert json.loads(answer["message"]["content"])["a"] in ("x", "y")


def test_an_empty_request_loads_and_keep_alive_0_unloads() -> None:
    with serving(tiny_model()) as server:
        assert server.post("/api/generate", {"model": "tiny"}).json["done_reason"] == "load"
        assert [one["name"] for one in server.get("/api/ps").json["models"]] == ["tiny:latest"]
        assert server.post("/api/chat", {"model": "tiny", "messages": [], "keep_alive": 0}).json["done_reason"] == "unload"
        assert server.get("/api/ps").json["models"] == []


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/chat", {"model": "nobody", "messages": HELLO}, 404),
        ("/api/chat", {"model": "tiny", "messages": "hi"}, 400),
        ("/api/chat", {"model": "tiny", "messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, 400),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "options": {"temperature": "hot"}}, 400),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "format": "xml"}, 400),
        ("/api/chat", {"model": "tiny", "messages": HELLO, "keep_alive": "soon"}, 400),
        ("/api/generate", {"model": "tiny", "prompt": 3}, 400),
        ("/api/generate", {"model": "tiny", "prompt": "x" * 5000}, 400),
        ("/api/pull", {"model": "x"}, 403),
        ("/api/nothing", {}, 404),
    ],
)
def test_errors_have_ollamas_shape(server: RunningServer, path: str, body: dict[str, Any], status: int) -> None:
    answer = server.post(path, body)
    assert answer.status == status and list(answer.json) == ["error"] and isinstance(answer.json["error"], str)
