"""OpenAI's chat completions: whole and streamed answers are the library's, byte for byte."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from puna.errors import UsageError
from tests.server.serving import RunningServer, quick_model, serving
from tests.server.standins import WITH_TOOLS

PATH = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


def body(**more: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 12, "ignore_eos": True, **more}


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "seed": 3}, {"stop": ["e"], "temperature": 2, "seed": 1}])
def test_whole_and_streamed_answers_are_those_of_the_library(server: RunningServer, settings: dict[str, Any]) -> None:
    expected = server.llm.chat(HELLO, max_tokens=12, ignore_eos=True, **settings)
    whole = server.post(PATH, body(**settings)).json
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": expected.text}
    assert whole["choices"][0]["finish_reason"] == expected.finish_reason
    assert whole["usage"]["prompt_tokens"] == len(expected.prompt_ids)
    assert whole["usage"]["completion_tokens"] == len(expected.token_ids)
    streamed = server.post(PATH, body(stream=True, stream_options={"include_usage": True}, **settings))
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = streamed.events
    assert done == "[DONE]" and usage["choices"] == []
    assert {name: usage["usage"][name] for name in ("prompt_tokens", "completion_tokens")} == {
        name: whole["usage"][name] for name in ("prompt_tokens", "completion_tokens")
    }
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected.text


def test_a_stream_has_the_order_of_openai(server: RunningServer) -> None:
    *chunks, done = server.post(PATH, body(stream=True)).events
    choices = [chunk["choices"][0] for chunk in chunks]
    assert done == "[DONE]"
    assert [("role" in choice["delta"]) for choice in choices] == [True] + [False] * (len(choices) - 1)
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[-1]["delta"] == {}
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1


def test_samples_have_their_indexes(server: RunningServer) -> None:
    given = body(n=3, temperature=1.0, seed=5)
    expected = server.llm.chat(HELLO, max_tokens=12, ignore_eos=True, n=3, temperature=1.0, seed=5).choices
    choices = server.post(PATH, given).json["choices"]
    assert [choice["message"]["content"] for choice in choices] == [one.text for one in expected]
    texts = {0: "", 1: "", 2: ""}
    for chunk in server.post(PATH, {**given, "stream": True}).events[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert list(texts.values()) == [one.text for one in expected]


def test_logprobs_are_those_of_the_library(server: RunningServer) -> None:
    expected = server.llm.chat(HELLO, max_tokens=4, ignore_eos=True, logprobs=2).logprobs
    found = server.post(PATH, body(max_tokens=4, logprobs=True, top_logprobs=2)).json["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"] for entry in found] == [entry.logprob for entry in expected]
    assert [bytes(entry["bytes"]) for entry in found] == [entry.bytes for entry in expected]
    assert [len(entry["top_logprobs"]) for entry in found] == [2] * 4


WRONG = {
    "no messages": ({"messages": []}, "messages"),
    "messages is a text": ({"messages": "hi"}, "messages"),
    "an unknown role": ({"messages": [{"role": "llama", "content": "x"}]}, ""),
    "a misspelled field": ({"max_token": 3}, "max_token"),
    "a text for a number": ({"temperature": "1"}, "temperature"),
    "a number beyond its range": ({"temperature": -1}, "temperature"),
    "a bool for a number": ({"max_tokens": True}, "max_tokens"),
    "too many samples": ({"n": 1000000000}, "n"),
    "too many top tokens": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    "a huge seed": ({"seed": 2**80}, "seed"),
    "an empty stop": ({"stop": ""}, "stop"),
    "an unknown format": ({"response_format": {"type": "xml"}}, "response_format"),
    "an unknown model": ({"model": "gpt"}, "model"),
    "sound": ({"modalities": ["audio"]}, "modalities.0"),
    "a named tool without tools": ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    "a bias of a word": ({"logit_bias": {"the": 1}}, "logit_bias"),
    "a bias beyond the vocabulary": ({"logit_bias": {"99999": 1}}, ""),
}


@pytest.mark.parametrize(("changed", "field"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fields_are_named(server: RunningServer, changed: dict[str, Any], field: str) -> None:
    for stream in (False, True):
        answer = server.post(PATH, body(stream=stream, **changed))
        error = answer.json["error"]
        assert answer.status == (404 if field == "model" else 400)
        assert (error["param"] or "") == field
        assert error["type"] and len(error["message"]) < 400


def test_hints_are_accepted_and_named(server: RunningServer) -> None:
    answer = server.post(PATH, body(metadata={"a": "b"}, store=False, x_unknown=1))
    assert answer.status == 200
    assert answer.headers["x-puna-ignored"] == "metadata, store, x_unknown"


def test_an_overlong_prompt_is_told_with_both_numbers(server: RunningServer) -> None:
    answer = server.post(PATH, body(messages=[{"role": "user", "content": "x" * 5000}]))
    assert answer.status == 400 and answer.json["error"]["code"] == "context_length_exceeded"
    assert str(server.llm.plan.max_context) in answer.json["error"]["message"]


def test_null_is_absence(server: RunningServer) -> None:
    nothing = dict.fromkeys(("temperature", "stop", "tools", "logprobs", "stream", "response_format", "user", "n", "seed"))
    assert server.post(PATH, body(**nothing)).json["choices"] == server.post(PATH, body()).json["choices"]


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_token_ids_come_if_they_are_asked_for(server: RunningServer, path: str) -> None:
    """vLLM's `return_token_ids`; the end tells what `puna run --server` shows of an answer."""
    expected = server.llm.chat(HELLO, max_tokens=6, ignore_eos=True, seed=3, temperature=0.5)
    given = {"seed": 3, "temperature": 0.5, "return_token_ids": True, "stream": True, "max_tokens": 6, "ignore_eos": True}
    prompt = {"messages": HELLO} if path == PATH else {"prompt": list(expected.prompt_ids)}
    first, *chunks, done = server.post(path, {**prompt, **given}).events
    assert done == "[DONE]"
    assert first.get("prompt_token_ids", first["choices"][0].get("prompt_token_ids")) == list(expected.prompt_ids)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [token for choice in choices for token in choice.get("token_ids", ())] == list(expected.token_ids)
    facts = choices[-1]["puna"]
    assert (facts["finish_reason"], facts["seed"], choices[-1]["stop_reason"]) == ("length", 3, None)
    assert facts["timing"]["num_generated"] == 6


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
def test_receipts_come_if_they_are_asked_for(server: RunningServer, path: str) -> None:
    """Of each sample, whole or streamed, without a path and without what a server makes of a key."""
    settings: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "seed": 3, "temperature": 0.5, "n": 2}
    ids = server.llm.encode_chat(HELLO)
    done = server.llm.chat(HELLO, **settings) if path == PATH else server.llm.generate(ids, **settings)
    expected = [replace(server.llm.receipt(one), model="tiny").as_json() for one in done.choices]
    prompt = {"messages": HELLO} if path == PATH else {"prompt": ids}
    given = {**settings, "cache_salt": "secret", **prompt}
    whole = server.post(path, {**given, "return_receipt": True})
    assert whole.json["puna_receipts"] == json.loads(json.dumps(expected)) and "secret" not in whole.body.decode()
    *_, last, end = server.post(path, {**given, "return_receipt": True, "stream": True}).events
    assert (last["choices"], last["puna_receipts"], end) == ([], whole.json["puna_receipts"], "[DONE]")
    assert "puna_receipts" not in server.post(path, given).json


def test_a_run_that_no_receipt_can_hold_says_why(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(completion: object) -> None:
        raise UsageError("somebody ended the thinking of the run")

    monkeypatch.setattr(server.llm, "receipt", refuse)
    told = server.post(PATH, body(return_receipt=True)).json
    assert told["puna_receipts"] == [{"problem": "somebody ended the thinking of the run"}] and told["choices"]


def test_log_probabilities_name_the_ids(server: RunningServer) -> None:
    expected = server.llm.chat(HELLO, max_tokens=2, ignore_eos=True, logprobs=2).logprobs
    found = server.post(PATH, body(max_tokens=2, logprobs=True, top_logprobs=2)).json["choices"][0]["logprobs"]["content"]
    assert [entry["id"] for entry in found] == [entry.token_id for entry in expected]
    assert [[one["id"] for one in entry["top_logprobs"]] for entry in found] == [[i for i, _ in entry.top] for entry in expected]


def test_an_answer_is_continued_if_it_is_asked_for(server: RunningServer) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "We"}]
    expected = server.llm.chat(begun, max_tokens=12, ignore_eos=True)
    more = {"continue_final_message": True, "add_generation_prompt": False}
    assert server.post(PATH, {**body(**more), "messages": begun}).json["choices"][0]["message"]["content"] == expected.text
    for wrong, named in [
        ({"continue_final_message": False}, "continue_final_message"),
        ({"add_generation_prompt": False}, "add_"),
    ]:
        answer = server.post(PATH, {**body(**wrong), "messages": begun})
        assert answer.status == 400 and named in answer.json["error"]["message"]


def test_fields_of_the_past_are_refused_by_name(server: RunningServer) -> None:
    answer = server.post(PATH, body(functions=[{"name": "look"}]))
    assert answer.status == 400
    assert answer.json["error"]["param"] == "functions" and "send tools" in answer.json["error"]["message"]


def test_arguments_of_any_depth_are_no_bug() -> None:
    """They are JSON in a text, which the parser of bodies does not look into."""
    with serving(quick_model(template=WITH_TOOLS)) as server:
        for depth in (90, 500, 990, 5000, 100_000):
            for text in ("[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth):
                call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
                told = [{"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c", "content": "x"}]
                answer = server.post(PATH, {"messages": [*HELLO, *told], "max_tokens": 1})
                assert answer.status in (200, 400), (depth, text[:5], answer.body)


def test_a_megabyte_as_a_name_is_compared_with_none(server: RunningServer) -> None:
    started = time.process_time()
    server.post(PATH, {"messages": HELLO, "max_tokens": 1, "a" * 1_000_000: 1})
    assert server.post(PATH, {"messages": HELLO, "model": "a" * 1_000_000}).status == 404
    assert time.process_time() - started < 2
