"""The calls of Continue and of Zed, as their sources have them: both speak Ollama's API, and Continue llama-server's too."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.server.serving import RunningServer
from tests.server.standins import calling

CONTINUES_PARAMETER = re.compile(r'(\S+)\s+("[^\n]*"|\S+)')  # Continue stops reading at a line of another form
ZEDS_OPTIONS: dict[str, Any] = {"num_ctx": 4096, "num_predict": None, "stop": [], "temperature": 1.0, "top_p": None}
LOOK = {"name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": LOOK}]
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<call>look{"at": "Lima"}</call>'


# ---- Continue ------------------------------------------------------------------------------------------------------


def test_continue_learns_the_context_of_a_model(server: RunningServer) -> None:
    shown = server.post("/api/show", {"name": "tiny"}).json
    found = [CONTINUES_PARAMETER.fullmatch(line) for line in shown["parameters"].split("\n")]
    assert {one[1]: one[2] for one in found if one}["num_ctx"] == "128" and None not in found
    assert ".Suffix" not in shown["template"], "this model cannot fill in"


def test_continue_chats(server: RunningServer) -> None:
    options = {"temperature": 0.7, "seed": 3, "num_predict": 9, "num_ctx": 128, "num_thread": 4, "use_mmap": True, "stop": ["zz"]}
    body = {"model": "tiny", "messages": HELLO, "options": options, "keep_alive": 1800, "stream": True}
    answer = server.post("/api/chat", body)
    expected = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=3, stop=["zz"]).text
    assert "".join(line["message"]["content"] for line in answer.lines) == expected
    assert {line["message"]["role"] for line in answer.lines} == {"assistant"}
    assert answer.headers["x-puna-ignored"] == "options.num_ctx, options.num_thread, options.use_mmap"


def test_continue_calls_tools_without_a_stream(server: RunningServer) -> None:
    with calling(CALL):
        answer = server.post(
            "/api/chat", {"model": "caller", "messages": HELLO, "tools": TOOLS, "keep_alive": 1800, "stream": False}
        )
    (call,) = answer.json["message"]["tool_calls"]
    assert json.dumps(call["function"]["arguments"]) == '{"at": "Lima"}' and call["function"]["name"] == "look"


def test_continue_fills_in(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a model that has markers for it; it knows one by its template. The others say by name what they lack."""
    body = {"model": "tiny", "prompt": "def a(", "suffix": "\n", "raw": True, "options": {"num_predict": 4}, "keep_alive": 1800}
    refused = server.post("/api/generate", {**body, "stream": True})
    assert refused.status == 400 and "infill" in refused.json["error"]
    marks = {1: "<PRE>", 2: "<SUF>", 3: "<MID>"}
    monkeypatch.setattr(server.llm.tokenizer, "piece", lambda token_id: marks.get(token_id, ""))
    infill = server.llm.encode_infill("def a(", "\n")
    expected = server.llm.generate(infill.token_ids, stop_ids=infill.stop_ids, max_tokens=4).text
    lines = server.post("/api/generate", {**body, "stream": True}).lines
    assert "".join(line["response"] for line in lines) == expected and lines[-1]["done"]
    assert ".Suffix" in server.post("/api/show", {"name": "tiny"}).json["template"]


def test_continue_completes_by_llama_servers_route(server: RunningServer) -> None:
    body = {"prompt": "once", "stream": True, "n_predict": 9, "stop": ["zz"], "temperature": 0}
    events = server.post("/completion", body, {"authorization": "Bearer none"}).events
    assert "".join(event["content"] for event in events) == server.llm.generate("once", max_tokens=9, stop=["zz"]).text


# ---- Zed -----------------------------------------------------------------------------------------------------------


def test_zed_lists_models_and_what_they_can_do(server: RunningServer) -> None:
    for listed in server.get("/api/tags").json["models"]:
        assert isinstance(listed["size"], int) and all(
            isinstance(listed[name], str) for name in ("name", "modified_at", "digest")
        )
        needed = {"format", "family", "families", "parameter_size", "quantization_level"}
        assert needed <= listed["details"].keys()
    assert server.post("/api/show", {"model": "caller:latest"}).json["capabilities"] == ["completion", "tools"]


def zeds(model: str, messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    fixed = {"stream": True, "keep_alive": -1, "options": ZEDS_OPTIONS, "tools": [], "think": None}
    return {"model": model, "messages": messages, **fixed, **more}


def test_zed_chats(server: RunningServer) -> None:
    turns: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": "hi", "tool_calls": None, "thinking": None},
        {"role": "user", "content": "on"},
    ]
    options = {**ZEDS_OPTIONS, "num_predict": 9, "temperature": 0.0}
    answer = server.post("/api/chat", zeds("tiny:latest", turns, options=options))
    plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    assert "".join(line["message"]["content"] for line in answer.lines) == server.llm.chat(plain, max_tokens=9).text
    for line in answer.lines:
        assert isinstance(line["model"], str) and isinstance(line["created_at"], str) and isinstance(line["done"], bool)
    assert isinstance(answer.lines[-1]["prompt_eval_count"], int) and isinstance(answer.lines[-1]["eval_count"], int)
    assert server.service.models.default.keep_alive_s is None, "-1: for ever"


def test_zed_calls_a_tool_and_tells_its_result_by_the_tools_name(server: RunningServer) -> None:
    with calling(CALL):
        lines = server.post("/api/chat", zeds("caller:latest", HELLO, tools=TOOLS)).lines
    (call,) = [call for line in lines for call in line["message"].get("tool_calls", ())]
    assert call["function"]["arguments"] == {"at": "Lima"}, "an object, no text"
    asked: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [{"function": call["function"]}], "thinking": None}
    with calling("Sunny."):
        turns = [*HELLO, asked, {"role": "tool", "tool_name": "look", "content": "sunny"}]
        answer = server.post("/api/chat", zeds("caller:latest", turns, tools=TOOLS))
    assert "".join(line["message"]["content"] for line in answer.lines) == "Sunny."
