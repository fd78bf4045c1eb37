"""llama-server's own routes: tokens, templates and completions are the library's."""

from __future__ import annotations

from typing import Any

import pytest

from puna.server.models import ServedModel
from tests.fakes import BOS
from tests.server.serving import RunningServer, serving


def test_a_completion_is_the_librarys(server: RunningServer) -> None:
    expected = server.llm.generate("hello", max_tokens=9, ignore_eos=True)
    body = {"prompt": "hello", "n_predict": 9, "ignore_eos": True}
    whole = server.post("/completion", body).json
    assert whole["content"] == expected.text and whole["stop"] and whole["stop_type"] == "limit"
    assert whole["tokens"] == list(expected.token_ids) and whole["tokens_evaluated"] == len(expected.prompt_ids)
    *parts, last = server.post("/completion", {**body, "stream": True}).events
    assert "".join(part["content"] for part in parts) == expected.text and last["stop"] and not last["content"]


def test_tokens_go_and_come_back(server: RunningServer) -> None:
    text = "Grüße, 你好 🦙"
    ids = list(text.encode())
    assert server.post("/tokenize", {"content": text}).json["tokens"] == ids
    assert server.post("/tokenize", {"content": text, "add_special": True}).json["tokens"] == [BOS, *ids]
    evaluated = server.post("/tokenize", {"prompt": text, "add_special_tokens": False, "model": "tiny"}).json
    assert evaluated["tokens"] == ids and evaluated["count"] == len(ids)
    back = server.post("/detokenize", {"tokens": ids}).json
    assert back["content"] == back["prompt"] == text
    pieces = server.post("/tokenize", {"content": "aß", "with_pieces": True}).json["tokens"]
    assert pieces == [{"id": 97, "piece": "a"}, {"id": 0xC3, "piece": [0xC3]}, {"id": 0x9F, "piece": [0x9F]}]


def test_the_tokens_of_a_conversation_are_the_librarys(server: RunningServer) -> None:
    messages = [{"role": "user", "content": "hello"}]
    found = server.post("/tokenize", {"messages": messages}).json
    assert found["tokens"] == server.llm.encode_chat(messages) and found["count"] == len(found["tokens"])
    without = server.post("/tokenize", {"messages": messages, "add_generation_prompt": False}).json["tokens"]
    assert without == server.llm.encode_chat(messages, add_generation_prompt=False)


def test_a_template_is_applied(server: RunningServer) -> None:
    body = {"messages": [{"role": "user", "content": "hello"}]}
    assert server.post("/apply-template", body).json["prompt"].endswith("user: hello\nassistant: ")
    assert server.post("/apply-template", {**body, "add_generation_prompt": False}).json["prompt"].endswith("user: hello\n")


def test_what_clients_probe(server: RunningServer) -> None:
    info = server.get("/tokenizer_info").json
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>") and info["chat_template"]
    found = server.get("/props").json
    assert found["default_generation_settings"]["n_ctx"] == server.llm.plan.max_context
    assert found["default_generation_settings"]["params"] == dict(server.llm.suggested.settings)
    assert server.get("/props?model=tiny").json == found and server.get("/props?model=gpt").status == 404
    assert "/" not in str({**found, "chat_template": "", "eos_token": ""}), "no path of the server"
    assert (found["bos_token"], found["eos_token"]) == ("<s>", "</s>")
    slots = server.get("/slots").json
    assert len(slots) == found["total_slots"] and not any(slot["is_processing"] for slot in slots)
    assert slots[0]["n_ctx"] == server.llm.plan.max_context


def test_who_watches_does_not_load_a_model() -> None:
    with serving(ServedModel("asleep", "nowhere")) as running:
        assert running.get("/slots").json == [] and running.service.models.default.llm is None


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
        ("/infill", {"input_prefix": "a"}),
        ("/detokenize", {"tokens": [10**6]}),
        ("/detokenize", {"tokens": ["a"]}),
        ("/tokenize", {"content": 3}),
        ("/apply-template", {"messages": []}),
        ("/completion", {"prompt": {}}),
        ("/completion", {"prompt": []}),
    ],
)
def test_what_cannot_be_done_is_400(server: RunningServer, path: str, body: dict[str, Any]) -> None:
    assert server.post(path, body).status == 400
