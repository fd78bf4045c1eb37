"""The official openai client: what it asks for arrives, and what it gets back is what the library makes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel

from tests.server.serving import RunningServer
from tests.server.standins import calling

openai = pytest.importorskip("openai")

HELLO = [{"role": "user", "content": "hello"}]
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
TOOLS = [{"type": "function", "function": LOOK}]
CALL = 'I see. <call>look{"at": "Lima"}</call>'


class Animal(BaseModel):
    legs: Literal["two", "four"]
    is_woolly: bool


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_chat_whole_and_streamed(server: RunningServer, client: Any) -> None:
    expected = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5)
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 9, "temperature": 0.7, "seed": 5}
    whole = client.chat.completions.create(**asked, metadata={"a": "b"})
    assert whole.choices[0].message.content == expected.text and whole.choices[0].finish_reason == expected.finish_reason
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(expected.prompt_ids), len(expected.token_ids))
    *chunks, last = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text
    assert last.choices == [] and last.usage.total_tokens == whole.usage.total_tokens


def test_log_probabilities_and_several_answers(server: RunningServer, client: Any) -> None:
    asked: dict[str, Any] = {"temperature": 1.0, "seed": 2, "max_tokens": 4}
    expected = server.llm.chat(HELLO, n=2, logprobs=2, **asked)
    found = client.chat.completions.create(model="tiny", messages=HELLO, n=2, logprobs=True, top_logprobs=2, **asked)
    assert [choice.message.content for choice in found.choices] == [one.text for one in expected.choices]
    given = [entry.logprob for entry in found.choices[1].logprobs.content]
    assert given == pytest.approx([entry.logprob for entry in expected.choices[1].logprobs])


def test_parse_gives_an_object_of_the_schema(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "response_format": Animal, "temperature": 1.0, "seed": 1}
    found = client.chat.completions.parse(**asked).choices[0].message
    assert isinstance(found.parsed, Animal)
    with client.chat.completions.stream(**asked) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == found.parsed


def test_tools_whole_and_streamed(client: Any) -> None:
    with calling(CALL):
        asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": TOOLS, "max_tokens": 60}
        choice = client.chat.completions.create(**asked).choices[0]
        with client.chat.completions.stream(**asked) as stream:
            streamed = stream.get_final_completion().choices[0]
    for one in (choice, streamed):
        assert one.finish_reason == "tool_calls" and one.message.content == "I see. "
        call = one.message.tool_calls[0]
        assert call.function.name == "look" and json.loads(call.function.arguments) == {"at": "Lima"}
    answer = {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "sunny"}
    turns = [*HELLO, choice.message.model_dump(exclude_none=True), answer]
    with calling("Sunny."):
        assert client.chat.completions.create(model="caller", messages=turns, tools=TOOLS).choices[0].message.content == "Sunny."


def test_responses_whole_streamed_and_continued(server: RunningServer, client: Any) -> None:
    expected = server.llm.chat(HELLO, max_tokens=9, temperature=0.7, seed=5)
    asked: dict[str, Any] = {"model": "tiny", "max_output_tokens": 9, "temperature": 0.7, "extra_body": {"seed": 5}}
    whole = client.responses.create(**asked, input="hello", include=["message.output_text.logprobs"])
    assert whole.output_text == expected.text
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (len(expected.prompt_ids), len(expected.token_ids))
    with client.responses.stream(**asked, input="hello") as stream:
        events = list(stream)
    assert events[-1].response.output_text == expected.text and events[-1].response.status == whole.status
    assert [event.sequence_number for event in events] == list(range(len(events)))
    turns = [*HELLO, {"role": "assistant", "content": expected.text}, {"role": "user", "content": "on"}]
    more = server.llm.chat(turns, max_tokens=9, temperature=0.7, seed=5).text
    assert client.responses.create(**asked, input="on", previous_response_id=whole.id).output_text == more
    assert client.responses.retrieve(whole.id).output_text == expected.text
    client.responses.delete(whole.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(whole.id)


def test_responses_with_tools_of_a_namespace(client: Any) -> None:
    space = {"type": "namespace", "name": "eyes", "description": "To see.", "tools": [{"type": "function", **LOOK}]}
    asked: dict[str, Any] = {"model": "caller", "input": HELLO, "tools": [space, {"type": "web_search"}], "max_output_tokens": 80}
    with calling(CALL.replace("look", "eyes__look")):
        whole = client.responses.create(**asked)
        with client.responses.stream(**asked) as stream:
            streamed = stream.get_final_response()
    for one in (whole, streamed):
        said, call = one.output
        assert said.content[0].text == "I see. " and (call.namespace, call.name) == ("eyes", "look")
        assert json.loads(call.arguments) == {"at": "Lima"} and one.status == "completed"
    turns = [*HELLO, *whole.output, {"type": "function_call_output", "call_id": whole.output[1].call_id, "output": "sunny"}]
    with calling("Sunny."):
        assert client.responses.create(**{**asked, "input": turns}).output_text == "Sunny."


def test_responses_give_an_object_of_the_schema(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "input": "hello", "text_format": Animal, "temperature": 1.0}
    assert isinstance(client.responses.parse(**asked).output_parsed, Animal)
    with client.responses.stream(**asked) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Animal)


def test_responses_that_do_not_fit_are_refused(client: Any) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="context holds") as refused:
            client.responses.create(model="tiny", input="x" * 999, stream=stream)
        assert refused.value.code == "context_length_exceeded"


def test_completions(server: RunningServer, client: Any) -> None:
    expected = server.llm.generate("once", max_tokens=16)
    whole = client.completions.create(model="tiny", prompt="once")
    assert whole.choices[0].text == expected.text
    streamed = list(client.completions.create(model="tiny", prompt="once", stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected.text
    echoed = client.completions.create(model="tiny", prompt="once", echo=True, logprobs=1, max_tokens=1)
    assert echoed.choices[0].text.startswith("once") and echoed.choices[0].logprobs.token_logprobs[0] is None
    ids = client.completions.create(model="tiny", prompt=[[111, 110], [99, 101]], max_tokens=3)
    assert [choice.text for choice in ids.choices] == [
        one.text for one in server.llm.generate([[111, 110], [99, 101]], max_tokens=3)
    ]


def test_embeddings(server: RunningServer, client: Any) -> None:
    expected = server.llm.embed(["a llama", "an alpaca"])
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):  # by itself it asks for base64
        found = client.embeddings.create(model="tiny", input=["a llama", "an alpaca"], **encoding)
        vectors = [one.embedding for one in found.data]
        if encoding.get("encoding_format") == "base64":
            vectors = [np.frombuffer(base64.b64decode(text), "<f4").tolist() for text in vectors]
        np.testing.assert_allclose(np.array(vectors, np.float32), expected, rtol=1e-6)


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "caller"]
    assert client.models.retrieve("tiny").max_model_len == 128


def test_errors_have_its_classes(client: Any) -> None:
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(model="nobody", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="top_p") as wrong:
        client.chat.completions.create(model="tiny", messages=HELLO, top_p=7)
    assert wrong.value.param == "top_p" and wrong.value.request_id.startswith("req_")
    with pytest.raises(openai.BadRequestError) as too_long:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 999}])
    assert too_long.value.code == "context_length_exceeded"
