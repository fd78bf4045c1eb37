"""OpenAI's responses: the library's texts, whole and streamed; the events, errors and items that its clients rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from puna.server.reasoning import unpacked
from tests.server.serving import SETTINGS, Answer, RunningServer, serving, tiny_model
from tests.server.standins import THINKING, WITH_TOOLS, calling

PATH = "/v1/responses"
HELLO = [{"role": "user", "content": "hello"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
GET = {"type": "function", "name": "get", "description": "Get it.", "parameters": PARAMETERS, "strict": False}


@pytest.fixture(scope="module")
def several() -> Iterator[RunningServer]:
    """Models that think, and that take tools."""
    with serving(tiny_model("thinks", THINKING), tiny_model("calls", WITH_TOOLS)) as running:
        yield running


def body(**more: Any) -> dict[str, Any]:
    return {"input": "hello", "max_output_tokens": 12, "ignore_eos": True, **more}


def text_in(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def same(response: dict[str, Any]) -> dict[str, Any]:
    """A response without its ids and times, and without what came from the cache."""
    kept = {name: value for name, value in response.items() if name not in ("id", "created_at", "completed_at", "usage")}
    return {**kept, "output": [{k: v for k, v in item.items() if k not in ("id", "call_id")} for item in response["output"]]}


def response_in(answer: Answer) -> dict[str, Any]:
    """The response of a stream's last event, once the events before it are found to tell the same."""
    events = answer.events
    assert [event["type"] for event in events] == answer.event_names
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response: dict[str, Any] = events[-1]["response"]
    texts: dict[tuple[int, str], str] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            key = (event["output_index"], event["type"].removesuffix(".delta"))
            texts[key] = texts.get(key, "") + event["delta"]
    done = {
        (event["output_index"], event["type"].removesuffix(".done")): event.get("text", event.get("arguments"))
        for event in events
        if event["type"].endswith(".done") and ("text" in event or "arguments" in event)
    }
    assert {key: text for key, text in done.items() if text} == texts
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == response["output"]
    return response


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "seed": 3, "top_k": 9}])
def test_whole_and_streamed_responses_are_those_of_the_library(server: RunningServer, settings: dict[str, Any]) -> None:
    expected = server.llm.chat(HELLO, max_tokens=12, ignore_eos=True, **settings)
    whole = server.post(PATH, body(**settings)).json
    assert text_in(whole) == expected.text
    assert whole["status"] == "incomplete" and whole["incomplete_details"] == {"reason": "max_output_tokens"}
    assert whole["usage"]["input_tokens"] == len(expected.prompt_ids)
    assert whole["usage"]["output_tokens"] == len(expected.token_ids)
    assert same(response_in(server.post(PATH, body(stream=True, **settings)))) == same(whole)


def test_a_stream_has_the_events_of_openai(server: RunningServer) -> None:
    names = server.post(PATH, body(stream=True)).event_names
    short = [name.removeprefix("response.") for name in names if not name.endswith("output_text.delta")]
    assert short[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert short[4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]


def test_a_response_that_ends_by_itself_is_completed(server: RunningServer) -> None:
    whole = server.post(PATH, body(stop=["\ufffd"], temperature=1, seed=5)).json
    assert whole["status"] == "completed" and whole["incomplete_details"] is None and whole["completed_at"]


def test_progress_is_told_while_the_prompt_is_computed() -> None:
    with serving(settings=replace(SETTINGS, progress_s=0.02)) as running:
        step = running.llm.engine.step

        def slow() -> Any:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), running.loop).result()  # the server has had this time too
            return step()

        running.llm.engine.step = slow  # type: ignore[method-assign]
        answer = running.post(PATH, body(stream=True, max_output_tokens=2))
    names = answer.event_names
    assert names[0] == "response.created" and names[1:3] == ["response.in_progress"] * 2
    response_in(answer)


def test_items_and_instructions_become_a_conversation(server: RunningServer) -> None:
    items = [
        {
            "type": "message",
            "role": "developer",
            "content": [{"type": "input_text", "text": "be"}, {"type": "input_text", "text": "kind"}],
        },
        {"role": "user", "content": "hello"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "hi", "annotations": []}],
        },
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"role": "user", "content": "on"},
    ]
    plain = [
        *({"role": "system", "content": "first"}, {"role": "system", "content": "be\nkind"}, *HELLO),
        *({"role": "assistant", "content": "hi"}, {"role": "user", "content": "on"}),
    ]
    expected = server.llm.chat(plain, max_tokens=12, ignore_eos=True).text
    answer = server.post(PATH, body(instructions="first", input=items))
    assert text_in(answer.json) == expected
    assert answer.headers["x-puna-ignored"] == "input:web_search_call"


def test_stored_responses_are_continued_found_and_forgotten(server: RunningServer) -> None:
    few: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True}

    def body(**more: Any) -> dict[str, Any]:
        return {"input": "hello", "max_output_tokens": 4, "ignore_eos": True, **more}

    first = server.post(PATH, body(instructions="be kind")).json
    second = server.post(PATH, body(input="more", previous_response_id=first["id"], stream=True))
    plain = [*HELLO, {"role": "assistant", "content": text_in(first)}, {"role": "user", "content": "more"}]
    third = [*plain, {"role": "assistant", "content": text_in(response_in(second))}, {"role": "user", "content": "and?"}]
    assert text_in(response_in(second)) == server.llm.chat(plain, **few).text
    last = server.post(PATH, body(input="and?", previous_response_id=response_in(second)["id"], store=False)).json
    assert text_in(last) == server.llm.chat(third, **few).text
    assert server.get(f"{PATH}/{first['id']}").json == first
    assert server.get(f"{PATH}/{last['id']}").status == 404
    assert server.request("DELETE", f"{PATH}/{first['id']}").json["deleted"]
    for method in ("GET", "DELETE"):
        assert server.request(method, f"{PATH}/{first['id']}").status == 404
    gone = server.post(PATH, body(previous_response_id=first["id"]))
    assert gone.status == 400 and gone.json["error"]["code"] == "previous_response_not_found"


def test_a_reference_stands_for_an_item_of_a_stored_response(server: RunningServer) -> None:
    """As the AI SDK sends a conversation whose answers are stored."""
    first = server.post(PATH, body(max_output_tokens=4)).json
    (item,) = first["output"]
    turns = [*HELLO, {"role": "assistant", "content": text_in(first)}, {"role": "user", "content": "more"}]
    expected = server.llm.chat(turns, max_tokens=4, ignore_eos=True).text
    for reference in ({"type": "item_reference", "id": item["id"]}, {"id": item["id"]}):
        second = server.post(PATH, body(input=[*HELLO, reference, turns[-1]], max_output_tokens=4)).json
        assert text_in(second) == expected
    server.request("DELETE", f"{PATH}/{first['id']}")
    gone = server.post(PATH, body(input=[*HELLO, {"type": "item_reference", "id": item["id"]}, turns[-1]]))
    assert gone.status == 400 and "send the item itself" in gone.json["error"]["message"]
    third = server.post(PATH, body(input="and?", previous_response_id=second["id"], max_output_tokens=4)).json
    assert third["status"] == "incomplete", "what was stored holds the item, no reference"


def test_another_key_finds_no_response() -> None:
    with serving(settings=replace(SETTINGS, api_keys=("one", "two"))) as running:
        response = running.post(PATH, body(), {"x-api-key": "one"}).json
        made, referenced = response["id"], {"input": [*HELLO, {"type": "item_reference", "id": response["output"][0]["id"]}]}
        assert running.post(PATH, body(**referenced), {"x-api-key": "two"}).status == 400
        assert running.get(f"{PATH}/{made}", {"x-api-key": "one"}).status == 200
        assert running.get(f"{PATH}/{made}", {"x-api-key": "two"}).status == 404
        assert running.post(PATH, body(previous_response_id=made), {"x-api-key": "two"}).status == 400


WRONG = {
    "no input": ({"input": []}, "input"),
    "a number for input": ({"input": 3}, "input"),
    "an unknown role": ({"input": [{"role": "llama", "content": "x"}]}, "input.0.role"),
    "an image": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
    "no content": ({"input": [{"role": "user"}]}, "input.0.content"),
    "a reference": ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0"),
    "a reference without an id": ({"input": [{"type": "item_reference"}]}, "input.0"),
    "a reference to no id": ({"input": [{"type": "item_reference", "id": 3}]}, "input.0.id"),
    "a conversation that is kept": ({"conversation": "conv_1"}, "conversation"),
    "an item that is none": ({"input": [{}]}, "input.0"),
    "an output without a call": ({"input": [{"type": "function_call_output", "output": "x"}]}, "input.0.call_id"),
    "a prompt that is kept": ({"prompt": {"id": "p"}}, "prompt"),
    "work in the background": ({"background": True}, "background"),
    "a misspelled field": ({"max_tokens": 3}, "max_tokens"),
    "a text for a number": ({"max_output_tokens": "3"}, "max_output_tokens"),
    "an unknown format": ({"text": {"format": {"type": "xml"}}}, "text.format"),
    "an unknown effort": ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
    "too many top tokens": ({"top_logprobs": 21}, "top_logprobs"),
    "a tool without a name": ({"tools": [{"type": "function"}]}, "tools.0"),
    "a tool that is not there": ({"tool_choice": {"type": "function", "name": "get"}}, "tool_choice"),
    "a foreign tool is required": ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice"),
    "an unknown model": ({"model": "gpt"}, "model"),
}


@pytest.mark.parametrize(("changed", "field"), WRONG.values(), ids=WRONG.keys())
def test_wrong_fields_are_named(server: RunningServer, changed: dict[str, Any], field: str) -> None:
    for stream in (False, True):
        answer = server.post(PATH, body(stream=stream, **changed))
        error = answer.json["error"]
        assert answer.status == (404 if field == "model" else 400)
        assert str(error["param"]).startswith(field) and 10 < len(error["message"]) < 400


def test_an_overflow_is_told_before_a_stream_begins(server: RunningServer) -> None:
    for stream in (False, True):
        answer = server.post(PATH, body(input="x" * 3000, stream=stream))
        assert answer.status == 400 and answer.json["error"]["code"] == "context_length_exceeded"
        assert str(server.llm.plan.max_context) in answer.json["error"]["message"]


def test_an_answer_that_fills_the_context_has_failed_and_is_there(server: RunningServer) -> None:
    given = body(max_output_tokens=None)
    whole = server.post(PATH, given).json
    assert whole["status"] == "failed" and whole["error"]["code"] == "context_length_exceeded"
    assert text_in(whole) == server.llm.chat(HELLO, max_tokens=None, ignore_eos=True).text
    assert same(response_in(server.post(PATH, {**given, "stream": True}))) == same(whole)
    assert whole["output"][0]["status"] == "incomplete"


def test_a_job_that_breaks_ends_its_stream_with_a_failure(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("a bug at /secret/path")

    monkeypatch.setattr("puna.server.running_job.RunningJob._events_of", broken)
    events = server.post(PATH, body(stream=True)).events
    assert events[-1]["type"] == "response.failed" and events[-1]["response"]["error"]["code"] == "server_error"
    whole = server.post(PATH, body())
    assert whole.status == 500 and "secret" not in whole.body.decode() + str(events)


def test_tokens_are_counted(server: RunningServer) -> None:
    expected = len(server.llm.encode_chat(HELLO))
    assert server.post(f"{PATH}/input_tokens", {"input": "hello"}).json == {
        "object": "response.input_tokens",
        "input_tokens": expected,
    }


def test_hints_and_foreign_tools_are_accepted_and_named(server: RunningServer) -> None:
    """What a coding agent sends at first."""
    given = body(
        store=False, include=["reasoning.encrypted_content", "file_search_call.results"], prompt_cache_key="k",
        reasoning={"summary": "auto", "effort": "high", "context": "auto"}, text={"verbosity": "low"},
        tools=[{"type": "web_search", "external_web_access": False}], x_new=1, client_metadata={},
    )  # fmt: skip
    answer = server.post(PATH, given)
    assert answer.status == 200
    assert sorted(answer.headers["x-puna-ignored"].split(", ")) == sorted(
        [
            *("prompt_cache_key", "client_metadata", "x_new", "reasoning.summary", "reasoning.effort", "reasoning.context"),
            *("text.verbosity", "include:file_search_call.results", "tools:web_search"),
        ]
    )


def test_a_response_repeats_what_was_asked(server: RunningServer) -> None:
    given = body(metadata={"a": "b"}, temperature=0.5, instructions="be", parallel_tool_calls=False)
    response = server.post(PATH, given).json
    for name in ("metadata", "temperature", "instructions", "parallel_tool_calls", "max_output_tokens"):
        assert response[name] == given[name]
    assert response["object"] == "response" and response["tools"] == [] and response["tool_choice"] == "auto"


def test_an_answer_follows_a_schema(server: RunningServer) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    expected = server.llm.chat(HELLO, max_tokens=40, json_schema=schema).text
    form = {"type": "json_schema", "name": "a", "schema": schema, "strict": True}
    response = server.post(PATH, body(max_output_tokens=40, ignore_eos=False, text={"format": form})).json
    assert text_in(response) == expected and response["status"] == "completed"


def test_logprobs_are_those_of_the_library(server: RunningServer) -> None:
    expected = server.llm.chat(HELLO, max_tokens=6, ignore_eos=True, logprobs=2).logprobs
    given = body(max_output_tokens=6, include=["message.output_text.logprobs"], top_logprobs=2)
    found = server.post(PATH, given).json["output"][0]["content"][0]["logprobs"]
    assert [entry["logprob"] for entry in found] == [entry.logprob for entry in expected]
    assert [len(entry["top_logprobs"]) for entry in found] == [2] * 6
    assert same(response_in(server.post(PATH, {**given, "stream": True}))) == same(server.post(PATH, given).json)


# ---- thinking and tools ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("summary", "place"), [(None, "content"), ("auto", "summary")])
def test_thoughts_are_items_of_their_own(several: RunningServer, summary: str | None, place: str) -> None:
    expected = several.llm.chat(HELLO, max_tokens=30, ignore_eos=True, thinking_budget=5, template_args={"enable_thinking": True})
    given = body(
        model="thinks", max_output_tokens=30, thinking_budget=5, reasoning={"effort": "low", "summary": summary},
        include=["reasoning.encrypted_content"], instructions="",
    )  # fmt: skip
    whole = several.post(PATH, given).json
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message"]
    thoughts = whole["output"][0]
    assert [part["text"] for part in thoughts[place]] == [expected.reasoning]
    assert unpacked(thoughts["encrypted_content"]) == expected.reasoning and text_in(whole) == expected.text
    assert whole["usage"]["output_tokens_details"]["reasoning_tokens"] == expected.num_reasoning_tokens
    assert same(response_in(several.post(PATH, {**given, "stream": True}))) == same(whole)
    off = several.post(PATH, {**given, "thinking_budget": None, "reasoning": {"effort": "none"}}).json
    assert [item["type"] for item in off["output"]] == ["message"]


TWO_CALLS = 'Hm.<call>get{"a": 1}</call><call>agents__spawn{"a": 2}</call>'


def test_calls_are_items_and_namespaces_are_told_apart(several: RunningServer) -> None:
    space = {"type": "namespace", "name": "agents", "description": "Helpers.", "tools": [{**GET, "name": "spawn"}]}
    given = {"model": "calls", "input": "hello", "max_output_tokens": 70, "tools": [GET, space, {"type": "web_search"}]}
    with calling(TWO_CALLS) as asked:
        whole = several.post(PATH, given).json
        streamed = several.post(PATH, {**given, "stream": True})
    message, first, second = whole["output"]
    assert message["content"][0]["text"] == "Hm." and whole["status"] == "completed"
    assert (first["name"], first["arguments"], first.get("namespace")) == ("get", '{"a": 1}', None)
    assert (second["name"], second["arguments"], second["namespace"]) == ("spawn", '{"a": 2}', "agents")
    assert first["call_id"] != second["call_id"]
    assert same(response_in(streamed)) == same(whole)
    tools = asked.asked[0].tools
    assert [(tool.name, tool.description) for tool in tools] == [("get", "Get it."), ("agents__spawn", "Helpers.\n\nGet it.")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tool_choice": "required", "parallel_tool_calls": False}, (["get", "put"], "required", False)),
        ({"tool_choice": {"type": "function", "name": "put"}}, (["get", "put"], "put", True)),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "put"}]}},
         (["put"], "auto", True)),
    ],
)  # fmt: skip
def test_a_choice_of_tools_is_handed_on(several: RunningServer, given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    with calling("x") as asked:
        several.post(PATH, body(model="calls", max_output_tokens=4, tools=[GET, {**GET, "name": "put"}], **given))
    use = asked.asked[0]
    assert ([tool.name for tool in use.tools], use.choice, use.is_parallel) == expected


def test_calls_thoughts_and_results_come_back(several: RunningServer) -> None:
    """Results as lists with images; the prompt is that of the same conversation in OpenAI's older form."""
    items = [
        *HELLO,
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "1", "name": "spawn", "namespace": "agents", "arguments": '{"a": 1}'},
        {"type": "custom_tool_call", "call_id": "2", "name": "patch", "input": "+a"},
        {
            "type": "function_call_output",
            "call_id": "1",
            "output": [{"type": "input_text", "text": "x"}, {"type": "input_image"}],
        },
        {"type": "custom_tool_call_output", "call_id": "2", "output": "done"},
    ]
    calls = [
        {"id": "1", "type": "function", "function": {"name": "agents__spawn", "arguments": {"a": 1}}},
        {"id": "2", "type": "function", "function": {"name": "patch", "arguments": {"input": "+a"}}},
    ]
    plain = [
        *HELLO,
        {"role": "assistant", "content": "Hm.", "reasoning_content": "so", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "1", "content": "x\n[An image was here. This model reads text only.]"},
        {"role": "tool", "tool_call_id": "2", "content": "done"},
    ]
    expected = several.post("/apply-template", {"model": "calls", "messages": plain}).json["prompt"]
    counted = several.post(f"{PATH}/input_tokens", {"model": "calls", "input": items}).json["input_tokens"]
    assert counted == len(expected.encode().removeprefix(b"<s>")) + 1
