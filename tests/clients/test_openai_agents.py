"""openai-agents, which speaks `/v1/responses`: a turn, and a turn with a tool."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.server.serving import RunningServer
from tests.server.standins import calling

agents = pytest.importorskip("agents")
pytestmark = pytest.mark.filterwarnings("ignore")  # its own


@pytest.fixture
def model(server: RunningServer) -> Any:
    from openai import AsyncOpenAI

    agents.set_tracing_disabled(True)
    client = AsyncOpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0)
    return agents.OpenAIResponsesModel(model="caller", openai_client=client)


def test_a_turn(model: Any) -> None:
    """It takes an answer that was cut for an error, so the form of this one ends it."""
    settings = agents.ModelSettings(extra_body={"regex": "[a-z]{5}"})
    agent = agents.Agent(name="a", instructions="be brief", model=model, model_settings=settings)
    assert re.fullmatch("[a-z]{5}", agents.Runner.run_sync(agent, "hello").final_output)


def test_a_turn_that_calls_a_tool(model: Any) -> None:
    asked: list[str] = []

    @agents.function_tool  # type: ignore[untyped-decorator]
    def look(at: str) -> str:
        """Look at a place."""
        asked.append(at)
        return "sunny"

    agent = agents.Agent(name="a", model=model, tools=[look], tool_use_behavior="stop_on_first_tool")
    with calling('<call>look{"at": "Lima"}</call>'):
        assert agents.Runner.run_sync(agent, "hello").final_output == "sunny"
    assert asked == ["Lima"]
