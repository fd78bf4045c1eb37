"""Anthropic's `/v1/messages`, as of the versions 2023-06-01 and 2026-10-21 (https://platform.claude.com/docs/en/api/messages).

The versions differ in what they refuse; puna takes what either of them has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.errors import ContextLengthError
from puna.server.conversation import ConversationBuilder
from puna.server.fields import Fields, ignored_header
from puna.server.job import Job, ToolChoice
from puna.server.reasoning import Effort, ReasoningWish, hears
from puna.server.refusals import Refusal, invalid
from puna.server.running_job import RunningJob
from puna.server.service import Endpoint, Service
from puna.server.tools.base import Tool
from puna.server.wires.anthropic_blocks import read_conversation, read_tools
from puna.server.wires.anthropic_events import SHAPE, MessageWriter, error_body
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_shapes import SETTINGS

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
UNSAYABLE = ("n", "stop", "max_tokens")  # settings of OpenAI's that a message has no place for, or another name


class ThinkingFields(Fields):
    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    budget_tokens: int | None = Field(None, ge=0)
    display: Literal["summarized", "omitted"] | None = None


class OutputFormat(Fields):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field({}, alias="schema")


class OutputConfig(Fields):
    effort: Effort | None = None
    format: OutputFormat | None = None


class ToolChoiceFields(Fields):
    type: Literal["auto", "any", "tool", "none"] = "auto"
    name: str = ""
    disable_parallel_tool_use: bool = False


class CountFields(Fields):
    """The body of a request to count the tokens of a message."""

    SETTINGS: ClassVar[Mapping[str, str]] = {}
    HINTS: ClassVar[frozenset[str]] = frozenset(
        {
            *("cache_control", "metadata", "context_management", "betas", "service_tier", "container", "inference_geo", "speed"),
            *(
                "diagnostics",
                "anthropic_version",
                "anthropic_beta",
                "user_profile_id",
                "workspace_id",
                "mcp_servers",
                "fallbacks",
            ),
            *("billing_policy", "compaction", "fallback_credit_token", "thread"),
        }
    )

    SKIPPED: ClassVar[Sequence[str]] = (
        "tools of another type than custom",
        "tools with defer_loading that no search has found",
        "blocks of other servers' tools, and redacted_thinking",
    )

    messages: list[dict[str, Any]] = Field(min_length=1)
    model: str = ""
    system: str | list[dict[str, Any]] = ""
    prefill: str | list[dict[str, Any]] = ""
    tools: list[dict[str, Any]] = []
    tool_choice: ToolChoiceFields = ToolChoiceFields()
    thinking: ThinkingFields | None = None
    output_config: OutputConfig = OutputConfig()
    output_format: OutputFormat | None = None

    def job(self) -> Job:
        """The internal request. Refusal for what cannot be done."""
        return Job(
            wire="anthropic",
            model=self.model,
            messages=self._conversation.messages,
            settings={**self.settings, **self._constraint()},
            tools=self._tools[0],
            tool_choice=self._choice(),
            has_parallel_calls=not self.tool_choice.disable_parallel_tool_use,
            reasoning=self._wish(),
        )

    def unheeded(self, template: str | None) -> list[str]:
        """Names of what changes nothing for the model of a chat template."""
        heard = hears(template)
        thinking = ["thinking"] if self.thinking is not None and not heard else []
        if self.output_config.effort is not None and (not heard or self._wish().effort is None):
            thinking.append("output_config.effort")
        nested = [f"output_config.{name}" for name in self.output_config.ignored()]
        return [*self.ignored(), *thinking, *nested, *self._tools[1], *self._conversation.skipped]

    @cached_property
    def _conversation(self) -> ConversationBuilder:
        return read_conversation(self.system, self.messages, self.prefill)

    @cached_property
    def _tools(self) -> tuple[tuple[Tool, ...], list[str]]:
        return read_tools(self.tools, self.messages)

    def _wish(self) -> ReasoningWish:
        """Without `thinking` the model does as its template has it; `effort` alone says nothing of thoughts."""
        given = self.thinking
        if given is None or given.type == "disabled":
            return ReasoningWish(None if given is None else False)
        return ReasoningWish(True, given.budget_tokens, self.output_config.effort)

    def _constraint(self) -> dict[str, Any]:
        form = self.output_config.format or self.output_format
        return {} if form is None else {"json_schema": form.json_schema}

    def _choice(self) -> ToolChoice:
        asked, (tools, skipped) = self.tool_choice, self._tools
        if asked.type in ("auto", "none") or (asked.type == "any" and tools):
            return CHOICES[asked.type]
        if any(tool.name == asked.name for tool in tools) and asked.type == "tool":
            return asked.name
        foreign = [f"Input tag '{kind.removeprefix('tools:')}' is none of this server's tools" for kind in skipped[:1]]
        offered = f"tools that can be called: {', '.join(tool.name for tool in tools[:20]) or 'none'}"
        what = f"the tool {asked.name[:80]!r}" if asked.type == "tool" else "any tool"
        problem = "; ".join([f"tool_choice asks for {what}", *foreign, offered])
        raise invalid("tool_choice", problem)


class MessageFields(CountFields):
    """The body of a message."""

    SETTINGS: ClassVar[Mapping[str, str]] = {
        **{name: own for name, own in SETTINGS.items() if own not in UNSAYABLE},
        "stop_sequences": "stop",
        "max_tokens": "max_tokens",
    }

    max_tokens: int
    stream: bool = False


def too_long(num_tokens: int, limit: int) -> Refusal:
    """Claude Code compacts its conversation if it reads these words."""
    return Refusal(400, f"prompt is too long: {num_tokens} tokens > {limit} maximum", code="context_length_exceeded")


async def begin(service: Service, job: Job) -> RunningJob:
    try:
        return await service.begin(job)
    except ContextLengthError:
        raise too_long(*await service.measured(job)) from None


def messages(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = MessageFields.read(await service.read_json(request))
        run = await begin(service, fields.job())
        run.ignored = fields.unheeded(run.llm.chat_template)
        hides = fields.thinking is not None and fields.thinking.display == "omitted"
        writer = MessageWriter(run, service.models.named(fields.model).name, hides)
        return service.reply(writer, SHAPE, fields.stream, run)

    return service.answered(answer, error_body)


def count_tokens(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = CountFields.read(await service.read_json(request))
        num_tokens, _ = await service.measured(fields.job())
        return JSONResponse({"input_tokens": num_tokens}, headers=ignored_header(fields.ignored()))

    return service.answered(answer, error_body)


ROUTES = (
    WireRoute("/v1/messages", messages, fields=MessageFields),
    WireRoute("/v1/messages/count_tokens", count_tokens, fields=CountFields),
)
