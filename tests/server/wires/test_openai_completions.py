"""OpenAI's completions: the library's texts and log-probabilities, for one prompt or several, whole or streamed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes import BOS
from tests.server.serving import RunningServer

PATH = "/v1/completions"


def body(**more: Any) -> dict[str, Any]:
    return {"prompt": "hello", "max_tokens": 8, "ignore_eos": True, **more}


@pytest.mark.parametrize("prompt", ["hello", ["hello", "you", ""], [BOS, 65, 66], [[BOS, 65], [66, 67, 68]]])
def test_texts_are_those_of_the_library(server: RunningServer, prompt: Any) -> None:
    several = isinstance(prompt, list) and not isinstance(prompt[0], int)
    expected = [server.llm.generate(one, max_tokens=8, ignore_eos=True).text for one in (prompt if several else [prompt])]
    whole = server.post(PATH, body(prompt=prompt)).json
    assert [choice["text"] for choice in whole["choices"]] == expected
    assert [choice["index"] for choice in whole["choices"]] == list(range(len(expected)))
    texts = [""] * len(expected)
    for chunk in server.post(PATH, body(prompt=prompt, stream=True)).events[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == expected


def test_the_form_that_is_asked_for_is_kept(server: RunningServer) -> None:
    expected = server.llm.generate("hello", max_tokens=20, json_object=True)
    kept = {"prompt": "hello", "max_tokens": 20, "response_format": {"type": "json_object"}}
    assert server.post(PATH, kept).json["choices"][0]["text"] == expected.text
    assert server.post(PATH, kept | {"response_format": {"type": "xml"}}).status == 400


def test_an_echo_has_the_logprobs_of_the_prompt(server: RunningServer) -> None:
    """As lm-eval asks for them: token ids, echo, no or one new token."""
    ids = [*b"hello"]
    for count in (0, 1):
        expected = server.llm.generate(ids, max_tokens=count, logprobs=1, prompt_logprobs=1, ignore_eos=True)
        answer = server.post(PATH, body(prompt=ids, echo=True, logprobs=1, max_tokens=count)).json["choices"][0]
        found = answer["logprobs"]
        entries = [*expected.prompt_logprobs, *expected.logprobs]
        assert found["token_logprobs"] == [None if entry is None else entry.logprob for entry in entries]
        assert len(found["tokens"]) == len(found["top_logprobs"]) == len(found["text_offset"]) == len(ids) + count
        assert answer["text"] == server.llm.decode(ids, skip_special=False) + expected.text
        assert "".join(found["tokens"]) == answer["text"]
        *chunks, done = server.post(PATH, body(prompt=ids, echo=True, logprobs=1, max_tokens=count, stream=True)).events
        parts = [chunk["choices"][0] for chunk in chunks]
        assert done == "[DONE]" and "".join(part["text"] for part in parts) == answer["text"]
        for name in found.keys() - {"text_offset"}:
            assert [value for part in parts if part["logprobs"] for value in part["logprobs"][name]] == found[name]


def test_best_of_gives_the_likeliest(server: RunningServer) -> None:
    given = body(n=2, best_of=4, temperature=1.0, seed=2)
    expected = server.llm.generate("hello", max_tokens=8, ignore_eos=True, n=2, best_of=4, temperature=1.0, seed=2).choices
    assert [choice["text"] for choice in server.post(PATH, given).json["choices"]] == [one.text for one in expected]
    assert server.post(PATH, {**given, "stream": True}).json["error"]["param"] == "best_of"


def test_sixteen_tokens_unless_the_client_says_otherwise(server: RunningServer) -> None:
    assert server.post(PATH, {"prompt": "hello", "ignore_eos": True}).json["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, ""),
        ({"prompt": [[], "a"]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [10**6]}, ""),
        ({"prompt": [-1]}, ""),
        ({"logprobs": 21}, "logprobs"),
        ({"best_of": 1, "n": 2}, ""),
        ({"echo": "yes"}, "echo"),
    ],
)
def test_wrong_fields_are_named(server: RunningServer, changed: dict[str, Any], field: str) -> None:
    answer = server.post(PATH, body(**changed))
    assert answer.status == 400
    assert (answer.json["error"]["param"] or "").startswith(field)
