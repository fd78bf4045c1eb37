"""Anthropic's messages: the library's texts, whole and streamed; the events, errors and counts that its clients rely on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from puna.chat import encode_chat
from puna.errors import QueueFullError
from puna.server.models import ServedModel
from tests.server.serving import SETTINGS, Answer, RunningServer, serving, tiny_model
from tests.server.standins import THINKING, WITH_TOOLS, calling

PATH = "/v1/messages"
HELLO = [{"role": "user", "content": "hello"}]
GET = {"name": "get", "description": "Get it.", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}


@pytest.fixture(scope="module")
def several() -> Iterator[RunningServer]:
    """Models that think, and that take tools."""
    with serving(tiny_model("thinks", THINKING), tiny_model("calls", WITH_TOOLS)) as running:
        yield running


def body(**more: Any) -> dict[str, Any]:
    return {"messages": HELLO, "max_tokens": 12, "ignore_eos": True, **more}


def folded(answer: Answer) -> dict[str, Any]:
    """The message that a client makes of a stream, as the SDK does."""
    message: dict[str, Any] = {}
    for event in answer.events:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"].append({**event["content_block"], "json": ""})
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                name = {"input_json_delta": "json"}.get(delta["type"], delta["type"].removesuffix("_delta"))
                block[name] += delta["partial_json" if name == "json" else name]
            case "message_delta":
                message |= {**event["delta"], "usage": event["usage"]}
    return message


def contents(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: value for key, value in block.items() if key not in ("json", "id", "input")} for block in message["content"]]


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.8, "seed": 3, "top_k": 9}, {"stop": ["e"], "temperature": 2, "seed": 1}]
)
def test_whole_and_streamed_messages_are_those_of_the_library(server: RunningServer, settings: dict[str, Any]) -> None:
    expected = server.llm.chat(HELLO, max_tokens=12, ignore_eos=True, **settings)
    own = {("stop_sequences" if name == "stop" else name): value for name, value in settings.items()}
    whole = server.post(f"{PATH}?beta=true", body(**own)).json
    assert contents(whole) == ([{"type": "text", "text": expected.text}] if expected.text else [])
    assert whole["stop_reason"] == ("stop_sequence" if expected.stop_reason else "max_tokens")
    assert whole["stop_sequence"] == expected.stop_reason
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == len(expected.prompt_ids)
    assert usage["output_tokens"] == len(expected.token_ids)
    streamed = folded(server.post(PATH, body(stream=True, **own)))
    assert contents(streamed) == contents(whole)
    assert {**streamed, "id": "", "content": [], "usage": {}} == {**whole, "id": "", "content": [], "usage": {}}


def test_a_stream_has_the_events_of_anthropic(server: RunningServer) -> None:
    answer = server.post(PATH, body(stream=True))
    names = [name for name in answer.event_names if name not in ("ping", "content_block_delta")]
    assert names == ["message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop"]
    assert [event["type"] for event in answer.events] == answer.event_names
    start = answer.events[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == len(server.llm.encode_chat(HELLO))
    assert answer.headers["request-id"].startswith("req_") and start["id"].startswith("msg_")


def test_pings_come_while_the_prompt_is_computed() -> None:
    with serving(settings=replace(SETTINGS, progress_s=0.02)) as running:
        step = running.llm.engine.step

        def slow() -> Any:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.1), running.loop).result()  # the server has had this time too
            return step()

        running.llm.engine.step = slow  # type: ignore[method-assign]
        names = running.post(PATH, body(stream=True, max_tokens=2)).event_names
    assert names[:2] == ["message_start", "ping"] and names[-1] == "message_stop"
    assert "ping" not in names[names.index("content_block_start") :]


def test_system_texts_and_blocks_come_first(server: RunningServer) -> None:
    plain = [{"role": "system", "content": "be brief\nbe kind"}, *HELLO, {"role": "system", "content": "late"}]
    blocks = [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "be kind"}]
    given = body(system=blocks, messages=[*HELLO, {"role": "system", "content": "late"}])
    assert server.post(PATH, given).json["content"][0]["text"] == server.llm.chat(plain, max_tokens=12, ignore_eos=True).text
    volatile = {"type": "text", "text": "x-anthropic-billing-header: 123"}
    answer = server.post(PATH, {**given, "system": [volatile, *blocks]})
    assert answer.json["content"] == server.post(PATH, given).json["content"]
    assert answer.headers["x-puna-ignored"] == "system:x-anthropic-billing-header"


def test_a_beginning_of_the_answer_is_continued(server: RunningServer) -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well"}]
    expected = server.llm.chat(begun, max_tokens=12, ignore_eos=True).text
    assert server.post(PATH, body(messages=begun)).json["content"][0]["text"] == expected
    assert server.post(PATH, body(prefill="Well")).json["content"][0]["text"] == expected


def test_tokens_are_counted_also_those_of_a_long_prompt(server: RunningServer) -> None:
    for text in ("hello", "x" * 3000):
        messages = [{"role": "user", "content": text}]
        expected = len(b"user: ") + len(text) + len(b"\nassistant: ") + 1
        assert server.post(f"{PATH}/count_tokens", {"messages": messages}).json == {"input_tokens": expected}


def test_an_overflow_has_the_words_that_agents_act_on(server: RunningServer) -> None:
    messages = [{"role": "user", "content": "x" * 3000}]
    size = server.post(f"{PATH}/count_tokens", {"messages": messages}).json["input_tokens"]
    for stream in (False, True):
        answer = server.post(PATH, body(messages=messages, stream=stream))
        assert answer.status == 400 and answer.json["error"]["type"] == "invalid_request_error"
        limit = server.llm.plan.max_context - 1
        assert answer.json["error"]["message"] == f"prompt is too long: {size} tokens > {limit} maximum"


def test_a_full_context_is_no_limit_of_the_client(server: RunningServer) -> None:
    assert server.post(PATH, body(max_tokens=1000)).json["stop_reason"] == "model_context_window_exceeded"


WRONG = {
    "no messages": ({"messages": []}, 400),
    "no max_tokens": ({"max_tokens": None}, 400),
    "a text for a number": ({"max_tokens": "3"}, 400),
    "an unknown role": ({"messages": [{"role": "tool", "content": "x"}]}, 400),
    "an image": ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400),
    "a file": ({"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]}, 400),
    "a block without text": ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400),
    "blocks that are none": ({"messages": [{"role": "user", "content": [1]}]}, 400),
    "an unknown model": ({"model": "gpt"}, 404),
    "a misspelled field": ({"max_token": 3}, 400),
    "an unknown way to think": ({"thinking": {"type": "deep"}}, 400),
    "an unknown format": ({"output_config": {"format": {"type": "xml"}}}, 400),
    "a schema that is none": ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 3}}}}, 400),
    "a tool without a name": ({"tools": [{"input_schema": {}}]}, 400),
    "a tool that is not there": ({"tool_choice": {"type": "tool", "name": "get"}}, 400),
    "any tool of none": ({"tool_choice": {"type": "any"}}, 400),
    "arguments that are none": ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]}, 400),
}


@pytest.mark.parametrize(("changed", "status"), WRONG.values(), ids=WRONG.keys())
def test_wrong_requests_get_errors_in_anthropics_shape(server: RunningServer, changed: dict[str, Any], status: int) -> None:
    kinds = {400: "invalid_request_error", 404: "not_found_error"}
    for stream in (False, True):
        answer = server.post(PATH, body(stream=stream, **changed))
        assert answer.status == status and answer.json["type"] == "error"
        assert answer.json["error"]["type"] == kinds[status]
        assert 10 < len(answer.json["error"]["message"]) < 400 and answer.json["request_id"].startswith("req_")


def test_other_errors_have_the_shape_too(server: RunningServer) -> None:
    assert server.get(PATH).json["error"]["type"] == "invalid_request_error"
    assert server.post(f"{PATH}/batches").json["error"]["type"] == "not_found_error"
    with serving(settings=replace(SETTINGS, api_keys=("k",))) as running:
        assert running.post(PATH, body()).json["error"]["type"] == "authentication_error"
        for header in ({"x-api-key": "k"}, {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}):
            assert running.post(PATH, body(), header).status == 200
        running.service.is_draining = True
        busy = running.post(PATH, body(), {"x-api-key": "k"})
        assert busy.status == 503 and busy.json["error"]["type"] == "overloaded_error" and busy.headers["retry-after"]


def test_a_full_queue_is_told_when_to_come_back(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(max_sequences: int) -> None:
        raise QueueFullError.of(64)

    monkeypatch.setattr(server.service, "_require_room", full)
    answer = server.post(PATH, body())
    assert answer.status == 429 and answer.json["error"]["type"] == "rate_limit_error" and answer.headers["retry-after"] == "1"


def test_hints_and_foreign_tools_are_accepted_and_named(server: RunningServer) -> None:
    given = body(
        metadata={"user_id": "{}"}, context_management={}, service_tier="auto", x_new=1, diagnostics={}, cache_control={},
        thinking={"type": "adaptive", "display": "omitted"}, output_config={"effort": "high", "task_budget": 3},
        tools=[{"type": "web_search_20250305", "name": "web_search"}, {**GET, "defer_loading": True}],
    )  # fmt: skip
    answer = server.post(PATH, given)
    assert answer.status == 200
    assert sorted(answer.headers["x-puna-ignored"].split(", ")) == sorted(
        [
            *("metadata", "context_management", "service_tier", "x_new", "diagnostics", "cache_control", "thinking"),
            *("output_config.effort", "output_config.task_budget", "tools:web_search_20250305", "tools:get (defer_loading)"),
        ]
    )
    forced = server.post(PATH, {**given, "tool_choice": {"type": "tool", "name": "web_search"}})
    assert forced.status == 400 and "Input tag 'web_search_20250305'" in forced.json["error"]["message"]


def test_names_in_headers_are_made_harmless(server: RunningServer) -> None:
    answer = server.post(PATH, body(**{"a\r\nb: c": 1, "ü" * 5000: 2}))
    assert answer.status == 200 and answer.headers["x-puna-ignored"].startswith("a??b: c, ????")
    assert len(answer.headers["x-puna-ignored"]) == 2000


def test_an_answer_follows_a_schema(server: RunningServer) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    expected = server.llm.chat(HELLO, max_tokens=40, json_schema=schema).text
    for given in ({"output_config": {"format": {"type": "json_schema", "schema": schema}}},):
        message = server.post(PATH, body(max_tokens=40, ignore_eos=False, **given)).json
        assert message["content"][0]["text"] == expected and message["stop_reason"] == "end_turn"


# ---- thinking --------------------------------------------------------------------------------------------------------------


def thought(server: RunningServer, **more: Any) -> dict[str, Any]:
    given = body(model="thinks", thinking={"type": "enabled", "budget_tokens": 5}, max_tokens=30, **more)
    whole: dict[str, Any] = server.post(PATH, given).json
    streamed = server.post(PATH, {**given, "stream": True})
    assert contents(folded(streamed)) == contents(whole)
    deltas = [event["delta"]["type"] for event in streamed.events if event["type"] == "content_block_delta"]
    assert deltas.index("signature_delta") < deltas.index("text_delta")
    return whole


def test_thoughts_are_blocks_of_their_own(several: RunningServer) -> None:
    expected = several.llm.chat(HELLO, max_tokens=30, ignore_eos=True, thinking_budget=5, template_args={"enable_thinking": True})
    message = thought(several)
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["content"][0]["thinking"] == expected.reasoning
    assert message["content"][1]["text"] == expected.text
    assert message["usage"]["output_tokens_details"]["thinking_tokens"] == expected.num_reasoning_tokens
    off = several.post(PATH, body(model="thinks", thinking={"type": "disabled"})).json
    assert [block["type"] for block in off["content"]] == ["text"]


def test_hidden_thoughts_come_back_in_their_signature(several: RunningServer) -> None:
    shown = thought(several)["content"]
    given = body(model="thinks", thinking={"type": "enabled", "budget_tokens": 5, "display": "omitted"}, max_tokens=30)
    hidden = several.post(PATH, given).json["content"]
    streamed = folded(several.post(PATH, {**given, "stream": True}))
    assert contents(streamed) == contents({"content": hidden})
    assert hidden[0]["thinking"] == "" and hidden[1] == shown[1]
    counts = [
        several.post(f"{PATH}/count_tokens", {"model": "calls", "messages": [*HELLO, {"role": "assistant", "content": content}]})
        for content in (shown, hidden, shown[1:])
    ]
    assert counts[0].json == counts[1].json != counts[2].json


# ---- tools -----------------------------------------------------------------------------------------------------------------

TWO_CALLS = 'Hm.<call>get{"a": 1}</call><call>get{"a": 2}</call>'


def test_calls_are_blocks_with_arguments_in_parts(several: RunningServer) -> None:
    given = {"model": "calls", "messages": HELLO, "max_tokens": 60, "tools": [GET]}
    with calling(TWO_CALLS) as asked:
        message = several.post(PATH, given).json
        streamed = several.post(PATH, {**given, "stream": True})
    assert [block["type"] for block in message["content"]] == ["text", "tool_use", "tool_use"]
    assert [block["input"] for block in message["content"][1:]] == [{"a": 1}, {"a": 2}]
    assert message["stop_reason"] == "tool_use"
    assert len({block["id"] for block in message["content"][1:]}) == 2
    assert contents(folded(streamed)) == contents(message)
    assert [block["json"] for block in folded(streamed)["content"][1:]] == ['{"a": 1}', '{"a": 2}']
    use = asked.asked[0]
    assert [tool.name for tool in use.tools] == ["get"] and use.choice == "auto" and use.is_parallel
    assert use.tools[0].parameters == GET["input_schema"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "any"}, ("required", True)),
        ({"type": "tool", "name": "get", "disable_parallel_tool_use": True}, ("get", False)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ("auto", False)),
    ],
)
def test_a_choice_of_tools_is_handed_on(several: RunningServer, given: dict[str, Any], expected: tuple[str, bool]) -> None:
    with calling("x") as asked:
        several.post(PATH, {"model": "calls", "messages": HELLO, "max_tokens": 4, "tools": [GET], "tool_choice": given})
    assert (asked.asked[0].choice, asked.asked[0].is_parallel) == expected


def test_calls_and_their_results_come_back(several: RunningServer) -> None:
    """With errors, images and references to tools; the prompt is that of the same conversation in OpenAI's form."""
    result = [{"type": "text", "text": "x"}, {"type": "image", "source": {}}, {"type": "tool_reference", "tool_name": "late"}]
    messages = [
        *HELLO,
        {"role": "assistant", "content": [{"type": "text", "text": "Hm."}, {"type": "redacted_thinking", "data": "x"},
                                          {"type": "tool_use", "id": "t1", "name": "get", "input": {"a": 1}},
                                          {"type": "tool_use", "id": "t2", "name": "get", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": result},
                                     {"type": "tool_result", "tool_use_id": "t2", "content": "bad", "is_error": True},
                                     {"type": "text", "text": "go on"}]},
    ]  # fmt: skip
    call = [
        {"id": i, "type": "function", "function": {"name": "get", "arguments": args}}
        for i, args in (("t1", {"a": 1}), ("t2", {}))
    ]
    note = "x\n[An image was here. This model reads text only.]\nTool found: late"
    plain: list[dict[str, Any]] = [
        *HELLO,
        {"role": "assistant", "content": "Hm.", "tool_calls": call},
        {"role": "tool", "tool_call_id": "t1", "name": "get", "content": note},
        {"role": "tool", "tool_call_id": "t2", "name": "get", "content": "Error: bad"},
        {"role": "user", "content": "go on"},
    ]
    tools = [
        {**GET, "name": "early"},
        {**GET, "name": "late", "defer_loading": True},
        {**GET, "name": "never", "defer_loading": True},
    ]
    given = {"model": "calls", "messages": messages, "tools": tools, "max_tokens": 4}
    with calling("x"):
        counted = several.post(f"{PATH}/count_tokens", {name: given[name] for name in ("model", "messages", "tools")}).json
    llm = model_named(several, "calls").llm
    assert llm is not None
    schemas = [
        {"type": "function", "function": {"name": name, "description": "Get it.", "parameters": GET["input_schema"]}}
        for name in ("early", "late")
    ]
    assert llm.tokenizer is not None
    assert counted["input_tokens"] == len(encode_chat(plain, llm.tokenizer, WITH_TOOLS, template_args={"tools": schemas}))


def model_named(server: RunningServer, name: str) -> ServedModel:
    return server.service.models.named(name)
