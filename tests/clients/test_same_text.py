"""RELIABILITY C8: a prompt has one answer, whole or streamed, from the library and on every wire: text, tokens, finish reason."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from puna.completion import Completion
from tests.server.serving import RunningServer, quick_model, serving, tiny_model

openai = pytest.importorskip("openai")

NUM_PROMPTS = 200
WORDS = ["llama", "alpaca", "vicuña", "山", "hay", "🦙", "\n", "12", "wool?", "A", "quick", "<b>", "{x}", "\\n", "Über"]
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.9, "seed": 7},
    {"temperature": 1.2, "top_p": 0.8, "seed": 3},
    {"stop": ["a", "\n"], "temperature": 1.0, "seed": 11},
)


class Told(NamedTuple):
    """What a wire tells of an answer. `reason` is OpenAI's word."""

    text: str
    num_prompt: int
    num_output: int
    reason: str


class Prompt(NamedTuple):
    text: str
    max_tokens: int
    settings: Mapping[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]

    @property
    def body(self) -> dict[str, Any]:
        """The fields of OpenAI's wires."""
        return {"model": "tiny", "max_tokens": self.max_tokens, **self.settings}


def prompts(number: int) -> list[Prompt]:
    rng = random.Random(8)
    return [
        Prompt(" ".join(rng.choices(WORDS, k=rng.randrange(1, 5))), rng.randrange(1, 9), SETTINGS[i % len(SETTINGS)])
        for i in range(number)
    ]


@contextmanager
def client_of(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as made:
        yield made


def of_library(one: Completion) -> Told:
    return Told(one.text, len(one.prompt_ids), len(one.token_ids), str(one.finish_reason))


def by_openai(client: Any, one: Prompt) -> Iterator[Told]:
    """The official client, whole and streamed."""
    whole = client.chat.completions.create(messages=one.messages, **one.body)
    choice, usage = whole.choices[0], whole.usage
    yield Told(choice.message.content, usage.prompt_tokens, usage.completion_tokens, choice.finish_reason)
    chunks = list(
        client.chat.completions.create(messages=one.messages, **one.body, stream=True, stream_options={"include_usage": True})
    )
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    usage = chunks[-1].usage
    yield Told(text, usage.prompt_tokens, usage.completion_tokens, choices[-1].finish_reason)


def by_responses(client: Any, one: Prompt) -> Iterator[Told]:
    asked = {"model": "tiny", "input": one.text, "max_output_tokens": one.max_tokens, "extra_body": dict(one.settings)}
    yield _of_response(client.responses.create(**asked))
    with client.responses.create(**asked, stream=True) as events:
        *deltas, last = list(events)
    told = _of_response(last.response)
    assert "".join(event.delta for event in deltas if event.type == "response.output_text.delta") == told.text
    yield told


def _of_response(response: Any) -> Told:
    reason = {"completed": "stop", "incomplete": "length"}[response.status]
    return Told(response.output_text, response.usage.input_tokens, response.usage.output_tokens, reason)


def by_anthropic(server: RunningServer, one: Prompt) -> Iterator[Told]:
    settings = {"stop_sequences" if name == "stop" else name: value for name, value in one.settings.items()}
    body = {"model": "tiny", "max_tokens": one.max_tokens, "messages": one.messages, **settings}
    whole = server.post("/v1/messages", body).json
    yield _of_message("".join(block["text"] for block in whole["content"]), whole["usage"], whole["stop_reason"])
    events = server.post("/v1/messages", {**body, "stream": True}).events
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    end = next(event for event in events if event["type"] == "message_delta")
    begin = next(event for event in events if event["type"] == "message_start")
    yield _of_message(text, {**begin["message"]["usage"], **end["usage"]}, end["delta"]["stop_reason"])


def _of_message(text: str, usage: Mapping[str, int], reason: str) -> Told:
    reason = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length"}[reason]
    return Told(text, usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"], reason)


def by_ollama(server: RunningServer, one: Prompt) -> Iterator[Told]:
    options = {"num_predict": one.max_tokens, **one.settings}
    for path, asked in (("/api/chat", {"messages": one.messages}), ("/api/generate", {"prompt": one.text})):
        for streams in (False, True):
            lines = server.post(path, {"model": "tiny", "options": options, "stream": streams, **asked}).lines
            text = "".join(line["message"]["content"] if path == "/api/chat" else line["response"] for line in lines)
            last = lines[-1]
            yield Told(text, last["prompt_eval_count"], last["eval_count"], last["done_reason"])


def by_completions(client: Any, one: Prompt) -> Iterator[Told]:
    whole = client.completions.create(prompt=one.text, **one.body)
    yield Told(whole.choices[0].text, whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.choices[0].finish_reason)
    chunks = list(client.completions.create(prompt=one.text, **one.body, stream=True, stream_options={"include_usage": True}))
    choices, usage = [chunk.choices[0] for chunk in chunks if chunk.choices], chunks[-1].usage
    text = "".join(choice.text for choice in choices)
    yield Told(text, usage.prompt_tokens, usage.completion_tokens, choices[-1].finish_reason)


def by_llama_server(server: RunningServer, one: Prompt) -> Iterator[Told]:
    body = {"prompt": one.text, "n_predict": one.max_tokens, **one.settings}
    whole = server.post("/completion", body).json
    streamed = server.post("/completion", {**body, "stream": True}).events
    for text, end in ((whole["content"], whole), ("".join(event["content"] for event in streamed), streamed[-1])):
        reason = {"limit": "length"}.get(end["stop_type"], "stop")
        yield Told(text, end["tokens_evaluated"], end["tokens_predicted"], reason)


def require_same(expected: Told, found: Iterator[Told], one: Prompt) -> int:
    answers = list(found)
    assert answers == [expected] * len(answers), one
    return len(answers)


def require_one_answer(server: RunningServer, client: Any, chosen: list[Prompt]) -> int:
    """The number of answers that were compared with the library's."""
    ways: list[Callable[[Prompt], Iterator[Told]]] = [
        lambda one: by_openai(client, one),
        lambda one: by_responses(client, one),
        lambda one: by_anthropic(server, one),
        lambda one: by_ollama(server, one),
    ]
    raw: list[Callable[[Prompt], Iterator[Told]]] = [
        lambda one: by_completions(client, one),
        lambda one: by_llama_server(server, one),
    ]
    number = 0
    for one in chosen:
        settings = {"max_tokens": one.max_tokens, **one.settings}
        number += sum(require_same(of_library(server.llm.chat(one.messages, **settings)), way(one), one) for way in ways)
        number += sum(require_same(of_library(server.llm.generate(one.text, **settings)), way(one), one) for way in raw)
    return number


def test_8_prompts_have_one_answer() -> None:
    with serving(quick_model("tiny")) as server, client_of(server) as client:
        assert require_one_answer(server, client, prompts(8)) == 8 * 14


@pytest.mark.full
def test_200_prompts_have_one_answer() -> None:
    with serving(tiny_model()) as server, client_of(server) as client:
        assert require_one_answer(server, client, prompts(NUM_PROMPTS)) == NUM_PROMPTS * 14


def test_prompts_differ() -> None:
    assert len({json.dumps(one) for one in prompts(NUM_PROMPTS)}) > 190
