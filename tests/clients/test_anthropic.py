"""The official anthropic client."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.serving import RunningServer
from tests.server.standins import calling

if importlib.util.find_spec("anthropic") is None:
    pytest.skip("anthropic is not installed", allow_module_level=True)

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]
CALL = 'I see. <call>look{"at": "Lima"}</call>'


@pytest.fixture(scope="module")
def anthropic() -> Any:
    """Imported where it is used: that takes longer than any test here."""
    return importlib.import_module("anthropic")


@pytest.fixture(scope="module")
def client(anthropic: Any, server: RunningServer) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{server.port}", api_key="none", max_retries=0) as made:
        yield made


def test_messages_whole_and_streamed(server: RunningServer, client: Any) -> None:
    expected = server.llm.chat([{"role": "system", "content": "be brief"}, *HELLO], max_tokens=9)
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "system": "be brief", "max_tokens": 9}
    whole = client.messages.create(**asked, metadata={"user_id": "u"})
    assert [block.text for block in whole.content] == [expected.text]
    used = whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert (used, whole.usage.output_tokens) == (len(expected.prompt_ids), len(expected.token_ids))
    assert whole.stop_reason == {"stop": "end_turn", "length": "max_tokens"}[expected.finish_reason]
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == expected.text
        assert [block.text for block in stream.get_final_message().content] == [expected.text]
        assert stream.get_final_message().usage.output_tokens == whole.usage.output_tokens


def test_a_stop_sequence_is_told(server: RunningServer, client: Any) -> None:
    text = server.llm.chat(HELLO, max_tokens=12).text
    found = client.messages.create(model="tiny", messages=HELLO, max_tokens=12, stop_sequences=[text[3:5]])
    assert found.stop_reason == "stop_sequence" and found.stop_sequence == text[3:5]
    assert "".join(block.text for block in found.content) == text[: text.index(text[3:5])]


def test_tools_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"model": "caller", "messages": HELLO, "tools": TOOLS, "max_tokens": 60}
    with calling(CALL):
        whole = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    for one in (whole, streamed):
        said, call = one.content
        assert said.text == "I see. " and (call.name, call.input) == ("look", {"at": "Lima"})
        assert one.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": "sunny"}
    blocks = [block.model_dump(exclude_none=True) for block in whole.content]
    turns = [*HELLO, {"role": "assistant", "content": blocks}, {"role": "user", "content": [result]}]
    with calling("Sunny."):
        assert client.messages.create(model="caller", messages=turns, tools=TOOLS, max_tokens=20).content[0].text == "Sunny."


def test_tokens_are_counted(server: RunningServer, client: Any) -> None:
    expected = len(server.llm.encode_chat(HELLO))
    assert client.messages.count_tokens(model="tiny", messages=HELLO).input_tokens == expected


def test_models_are_listed_page_by_page(client: Any) -> None:
    assert [model.id for model in client.models.list(limit=1)] == ["tiny", "caller"]
    assert client.models.retrieve("caller").max_input_tokens == 1024


def test_a_request_has_an_id(anthropic: Any, client: Any) -> None:
    assert client.messages.create(model="tiny", messages=HELLO, max_tokens=2)._request_id.startswith("req_")
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(model="nobody", messages=HELLO, max_tokens=2)
    assert missing.value.request_id == missing.value.body["request_id"]


def test_errors_have_its_classes(anthropic: Any, client: Any) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not served"):
        client.messages.create(model="nobody", messages=HELLO, max_tokens=3)
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: "):
        client.messages.create(model="tiny", messages=[{"role": "user", "content": "x" * 999}], max_tokens=3)
