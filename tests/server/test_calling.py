"""Tool calls end to end: a server, a model that says what the test wants or nonsense, and OpenAI's chat completions."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from puna.config import EngineConfig
from puna.llm import LLM
from puna.server.models import ServedModel
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, random_checkpoint, tiny_config
from tests.schema_cases import fault, random_schema
from tests.server.serving import Answer, RunningServer, serving

PATH = "/v1/chat/completions"
ASKED = "assistant: "
HERMES = (
    "{# <tool_call> #}{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
    '<tool_call>{{ {"name": c.function.name, "arguments": c.function.arguments} | tojson }}</tool_call>{% endfor %}|'
    "{% endfor %}{% for t in tools or [] %}{{ t.function.name }} {% endfor %}" + ASKED
)


def model(template: str, says: str | None = None, tokenizer: ByteTokenizer | None = None) -> LLM:
    """A model that says this text as far as it may; None: nonsense, which differs with each prompt."""
    plan, tokenizer = make_plan(max_context=2048, num_pages=600), tokenizer or ByteTokenizer()
    script = None if says is None else [*tokenizer.encode(says, bos=False, special=True), EOS, EOS]

    def scripted(ids: list[int]) -> int:
        place = bytes(min(i, 255) for i in ids).rfind(ASKED.encode())
        num_said = len(ids) - place - len(ASKED)
        return script[min(num_said, len(script) - 1)] if script and place >= 0 else EOS

    checkpoint = random_checkpoint(tiny_config(vocab_size=VOCAB_SIZE, max_context=2048), seed=1)
    backend = FakeBackend(plan, None if says is None else scripted)
    made = LLM.from_parts(checkpoint, tokenizer, backend, plan, EngineConfig())
    made.chat_template = template
    return made


SAID: dict[str, str] = {
    "text": "It is <tool_callous> fine.",
    "call": 'Let me see.\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>',
    "calls": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Lima"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
    "untagged": '```json\n{\n  "name": "now",\n  "arguments": {}\n}\n```',
    "form": '{"ok": 1}',
    "wrong": '<tool_call>\n{"name": "get_weather", "arguments": {"town": "Lima"}}\n</tool_call>',
}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(*(ServedModel(name, None, model(HERMES, text)) for name, text in SAID.items())) as running:
        yield running


@pytest.fixture(scope="module")
def nonsense() -> Iterator[RunningServer]:
    with serving(ServedModel("nonsense", None, model(HERMES))) as running:
        yield running


CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}},
    {"type": "function", "function": {"name": "now", "strict": True}},
]
HI = [{"role": "user", "content": "hi"}]
NAMED = {"type": "function", "function": {"name": "now"}}


def asked(name: str = "", tools: Any = TOOLS, **more: Any) -> dict[str, Any]:
    return {"model": name, "messages": HI, "tools": tools, "max_tokens": 200, **more}


def message_of(answer: Answer) -> tuple[str | None, list[tuple[str, Any]], str]:
    """Content, calls, finish_reason."""
    assert answer.status == 200, answer.body
    choice = answer.json["choices"][0]
    calls = choice["message"].get("tool_calls", [])
    assert len({call["id"] for call in calls}) == len(calls) and all(call["type"] == "function" for call in calls)
    found = [(call["function"]["name"], call["function"]["arguments"]) for call in calls]
    return choice["message"]["content"], found, choice["finish_reason"]


def streamed(answer: Answer) -> tuple[str | None, list[tuple[str, Any]], str]:
    """The same of a stream. Each call has its id, type, index and name in its first chunk, and only there."""
    *chunks, done = answer.events
    assert done == "[DONE]"
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    calls: list[list[str]] = []
    for part in (one for delta in deltas for one in delta.get("tool_calls", [])):
        if "id" in part:
            assert part["index"] == len(calls) and part["type"] == "function"
            calls.append([part["function"]["name"], ""])
        else:
            assert set(part) == {"index", "function"} and set(part["function"]) == {"arguments"}
        calls[part["index"]][1] += part["function"]["arguments"]
    content = "".join(delta.get("content", "") for delta in deltas)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert set(reasons[:-1]) == {None}
    return content or (None if calls else ""), [(name, text) for name, text in calls], reasons[-1]


def both(server: RunningServer, body: dict[str, Any]) -> tuple[str | None, list[tuple[str, Any]], str]:
    """The answer, which is the same whole and streamed."""
    whole = message_of(server.post(PATH, body))
    assert streamed(server.post(PATH, {**body, "stream": True})) == whole
    return whole


LIMA, TIME = ("get_weather", '{"city": "Lima"}'), ("now", "{}")
EXPECTED: dict[str, tuple[dict[str, Any], tuple[str | None, list[tuple[str, str]], str]]] = {
    "text": ({}, ("It is <tool_callous> fine.", [], "stop")),
    "call": ({}, ("Let me see.", [LIMA], "tool_calls")),
    "calls": ({}, (None, [LIMA, TIME], "tool_calls")),
    "untagged": ({}, (None, [TIME], "tool_calls")),
    "calls, one at most": ({"parallel_tool_calls": False}, (None, [LIMA], "tool_calls")),
    "calls, required": ({"tool_choice": "required"}, (None, [LIMA, TIME], "tool_calls")),
    "calls, named": ({"tool_choice": NAMED}, (None, [TIME], "tool_calls")),
    "text, named": ({"tool_choice": NAMED}, (None, [TIME], "tool_calls")),
    "call, cut": ({"max_tokens": 70}, ("Let me see.", [("get_weather", '{"city": ')], "length")),
    "call, stopped": ({"stop": "Li"}, ("Let me see.", [("get_weather", '{"city": "')], "stop")),
    "text, stopped": ({"stop": ["fin"]}, ("It is <tool_callous> ", [], "stop")),
    "form, or a call": ({"response_format": {"type": "json_object"}}, ('{"ok": 1}', [], "stop")),
    "calls, or a form": ({"response_format": {"type": "json_object"}}, (None, [LIMA, TIME], "tool_calls")),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_answers_are_told_as_openai_tells_them(server: RunningServer, case: str) -> None:
    more, expected = EXPECTED[case]
    assert both(server, asked(case.partition(",")[0], **more)) == expected


def test_arguments_follow_the_schema_whatever_the_model_wants(server: RunningServer) -> None:
    _, [(name, arguments)], reason = both(server, asked("wrong"))
    assert name == "get_weather" and reason == "tool_calls" and list(json.loads(arguments)) == ["city"]


def test_none_hides_the_tools_from_a_model_that_has_not_called_any(server: RunningServer) -> None:
    answer = server.post(PATH, asked("call", tool_choice="none"))
    assert message_of(answer) == (SAID["call"], [], "stop")  # text: nobody has asked for a call
    assert answer.json["usage"]["prompt_tokens"] == len(server.llm.encode_chat(HI))


def test_none_lets_no_call_begin_where_others_were(server: RunningServer) -> None:
    called = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "now", "arguments": "{}"}}]}
    history = [*HI, called, {"role": "tool", "tool_call_id": "1", "content": "noon"}]
    content, calls, _ = both(server, asked("call", messages=history, tool_choice="none", max_tokens=40))
    assert calls == [] and content is not None and content.startswith("Let me see.\n<tool_call") and "<tool_call>" not in content


def schemas(count: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    for _ in range(count):
        value = random_schema(rng)
        definitions = value.pop("$defs")
        yield {"type": "object", "properties": {"value": value}, "required": ["value"], "$defs": definitions}


CHOICES: list[Callable[[str], Any]] = [
    lambda name: "required",
    lambda name: {"type": "function", "function": {"name": name}},
    lambda name: {"type": "function", "name": name},  # as the Responses API and some clients write it
]


def test_calls_of_a_model_that_says_nonsense_obey_their_schemas(nonsense: RunningServer) -> None:
    seed, num_whole = 11, 0
    print("seed", seed)
    for number, schema in enumerate(schemas(22, seed)):
        name = f"tool_{number}"
        tools = [{"type": "function", "function": {"name": name, "parameters": schema}}]
        body = asked(tools=tools, tool_choice=CHOICES[number % 3](name), parallel_tool_calls=False, seed=number, temperature=0.7)
        content, [(called, arguments)], reason = both(nonsense, {**body, "max_tokens": 250})
        assert content is None and called == name
        if reason == "tool_calls":
            num_whole += 1
            assert not fault(schema, arguments), (schema, arguments)
        else:
            assert reason == "length"
    assert num_whole > 16, "most calls are whole"


def test_calls_and_results_come_back_in_a_conversation(server: RunningServer) -> None:
    called = server.post(PATH, asked("call")).json["choices"][0]["message"]
    result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "21 degrees"}
    answer = server.post(PATH, asked("text", messages=[*HI, called, result]))
    assert message_of(answer)[0] == "It is <tool_callous> fine."
    ids = server.llm.encode_chat([*HI, called, result])
    prompt = ByteTokenizer().decode(ids)
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Lima"}}</tool_call>|tool: 21 degrees' in prompt


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a schema that cannot be enforced": (
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}]},
        "parameters of the tool 'f' has 'not'",
    ),
    "a schema that allows nothing": (
        {"tools": [TOOLS[1], {"type": "function", "function": {"name": "f", "parameters": {**CITY, "minProperties": 3}}}]},
        "parameters of the tool 'f'",
    ),
    "two tools of one name": ({"tools": TOOLS * 2}, "two tools are named 'get_weather'"),
    "a name with a space": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "named 'a b'"),
    "another constraint": ({"regex": "a+"}, "tools and regex together"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_done_is_refused_before_anything_is_generated(server: RunningServer, case: str) -> None:
    more, told = WRONG[case]
    for stream in (False, True):
        answer = server.post(PATH, {**asked("text"), **more, "stream": stream})
        assert answer.status == 400 and told in answer.json["error"]["message"], answer.body
        assert answer.json["error"]["param"] == "tools"


def test_every_wire_tells_the_same_calls(server: RunningServer) -> None:
    function = {"name": "get_weather", "parameters": CITY}
    anthropic = server.post(
        "/v1/messages",
        {"model": "call", "messages": HI, "max_tokens": 200, "tools": [{"name": "get_weather", "input_schema": CITY}]},
    ).json
    ollama = server.post(
        "/api/chat", {"model": "call", "messages": HI, "stream": False, "tools": [{"type": "function", "function": function}]}
    ).json
    responses = server.post("/v1/responses", {"model": "call", "input": "hi", "tools": [{"type": "function", **function}]}).json
    asked_for = {"city": "Lima"}
    assert [one["input"] for one in anthropic["content"] if one["type"] == "tool_use"] == [asked_for]
    assert anthropic["stop_reason"] == "tool_use"
    assert [call["function"]["arguments"] for call in ollama["message"]["tool_calls"]] == [asked_for]
    assert [json.loads(one["arguments"]) for one in responses["output"] if one["type"] == "function_call"] == [asked_for]


def test_each_sample_has_its_calls_and_each_token_its_logprob(server: RunningServer) -> None:
    whole = server.post(PATH, asked("calls", n=2, logprobs=True)).json
    calls = [choice["message"]["tool_calls"] for choice in whole["choices"]]
    assert [[call["function"]["name"] for call in one] for one in calls] == [["get_weather", "now"]] * 2
    assert len({call["id"] for one in calls for call in one}) == 4
    entries = [choice["logprobs"]["content"] for choice in whole["choices"]]
    assert sum(map(len, entries)) == whole["usage"]["completion_tokens"]
    chunks = server.post(PATH, asked("calls", logprobs=True, stream=True)).events[:-1]
    streamed = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for one in streamed if one for entry in one["content"]] == entries[0]


class WithMarkers(ByteTokenizer):
    """Bytes 1 and 2 are control tokens, as Mistral's vocabularies have them."""

    MARKERS = ("[TOOL_CALLS]", "[ARGS]")
    special_tokens = {**ByteTokenizer.special_tokens, "[TOOL_CALLS]": 1, "[ARGS]": 2}  # noqa: RUF012

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id in (1, 2) else super().token_bytes(token_id)

    def piece(self, token_id: int) -> str:
        return self.MARKERS[token_id - 1] if token_id in (1, 2) else super().piece(token_id)

    def encode(self, text: str, **settings: Any) -> list[int]:
        return super().encode(text.replace("[TOOL_CALLS]", "\x01").replace("[ARGS]", "\x02"), **settings)


MISTRAL = (
    "{# [TOOL_CALLS][ARGS] #}{{ tools }}{% for m in messages %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[TOOL_CALLS]{{ c.function.name }}{{ c.id }}{% endfor %}{% endfor %}" + ASKED
)


def test_markers_that_are_control_tokens() -> None:
    says = 'Well [ARG [TOOL_CALLS]get_weather[ARGS]{"city": "Lima"}[TOOL_CALLS]now[ARGS]{}'
    with serving(ServedModel("m", None, model(MISTRAL, says, WithMarkers()))) as server:
        body = asked(tools=TOOLS)
        assert both(server, body) == ("Well [ARG", [LIMA, TIME], "tool_calls")
        text, [(name, _)], reason = both(server, {**body, "tool_choice": "required", "parallel_tool_calls": False})
        assert text is None and name in ("get_weather", "now") and reason == "tool_calls"
        calls = server.post(PATH, body).json["choices"][0]["message"]["tool_calls"]
        assert all(len(call["id"]) == 9 and call["id"].isalnum() for call in calls)
        answers = [{"role": "tool", "tool_call_id": call["id"], "content": "x"} for call in calls]
        told = server.post(PATH, {**body, "messages": [*HI, {"role": "assistant", "tool_calls": calls}, *answers]})
        assert told.status == 200 and "x-puna-notice" not in told.headers


THINKING = HERMES.replace("{# <tool_call> #}", "{# <tool_call> </think> #}")


def test_calls_come_after_thoughts() -> None:
    says = "<think>\nI see <tool_call>.\n</think>\n\n" + SAID["call"]
    with serving(ServedModel("m", None, model(THINKING, says))) as server:
        for choice in ("auto", "required"):
            whole = server.post(PATH, asked(tool_choice=choice))
            assert whole.json["choices"][0]["message"]["reasoning_content"] == "I see <tool_call>."
            content, calls, reason = both(server, asked(tool_choice=choice))
            assert content == ("Let me see." if choice == "auto" else None) and reason == "tool_calls"
            assert choice == "required" or calls == [LIMA]


def test_a_template_without_tools_has_them_described_and_says_so() -> None:
    plain = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}" + ASKED
    with serving(ServedModel("m", None, model(plain, SAID["call"]))) as server:
        answer = server.post(PATH, asked())
        assert message_of(answer) == ("Let me see.", [LIMA], "tool_calls")
        assert "system message" in answer.headers["x-puna-notice"]
        assert "x-puna-notice" not in server.post(PATH, {"messages": HI, "max_tokens": 1}).headers
        called = answer.json["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "21 degrees"}
        assert server.post(PATH, {"messages": [*HI, called, result], "max_tokens": 1}).status == 200


# ---- real models -----------------------------------------------------------------------------------------------------------

QWEN = "qwen2.5-coder-0.5b-instruct.gguf"
CITIES = {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}}
REAL_TOOLS = [
    {"type": "function", "function": {"name": name, "description": text, "parameters": schema}}
    for name, text, schema in (
        ("get_weather", "Get the weather of a city", {"type": "object", "properties": CITIES, "required": ["city"]}),
        ("get_time", "Get the local time of a city", {"type": "object", "properties": {"city": {"type": "string"}}}),
    )
]


def test_qwen_asks_for_the_weather_in_lima() -> None:
    path = Path(os.environ.get("PUNA_REAL_MODELS", ".")) / QWEN
    if not path.is_file():
        pytest.skip(f"{QWEN} is not here; PUNA_REAL_MODELS may name its folder")
    messages = [{"role": "user", "content": "What is the weather in Lima?"}]
    with LLM(str(path), device="cpu", max_context=1024) as llm, serving(ServedModel("qwen", None, llm)) as server:
        body = {"messages": messages, "tools": REAL_TOOLS, "max_tokens": 80}
        for choice in ("auto", "required"):
            _, [(name, arguments)], reason = both(server, {**body, "tool_choice": choice})
            assert (name, json.loads(arguments)["city"], reason) == ("get_weather", "Lima", "tool_calls")
        called = server.post(PATH, body).json["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": "21 degrees"}
        prompt = llm.decode(llm.encode_chat([*messages, called, result]))
        assert '<tool_call>\n{"name": "get_weather", "arguments": ' in prompt and "<tool_response>\n21 degrees" in prompt
