"""OpenAI's `/v1/responses` (https://platform.openai.com/docs/api-reference/responses), which Codex and the Agents SDK speak."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from puna.server.conversation import ConversationBuilder
from puna.server.fields import Fields
from puna.server.guard import TENANT
from puna.server.ids import new_id
from puna.server.job import Job
from puna.server.reasoning import Effort, ReasoningWish, hears
from puna.server.refusals import Refusal, invalid
from puna.server.replies import ReplyShape, sse
from puna.server.service import Endpoint, Service
from puna.server.stored_responses import StoredResponse
from puna.server.tools.base import Tool
from puna.server.wires.base import WireRoute
from puna.server.wires.openai_chat import constraint_of
from puna.server.wires.openai_shapes import SETTINGS, error_body
from puna.server.wires.openai_tools import checked_choice
from puna.server.wires.parts import Part, string_of, wrong
from puna.server.wires.responses_events import REASONING_TEXT, SUMMARY_TEXT, ResponseForm, ResponseWriter
from puna.server.wires.responses_items import ReadTools, joined_name, read_items, read_tools

UNSAYABLE = ("n", "max_tokens")  # settings of a chat that a response has no place for, or another name
SEALED, LOGPROBS = "reasoning.encrypted_content", "message.output_text.logprobs"  # what `include` can ask for here
# Things that OpenAI keeps for its clients, and puna does not.
NOT_KEPT = {
    "conversation": "this server keeps answers: continue one with previous_response_id, or send all items as input",
    "prompt": "this server keeps no prompts; send the text as input or instructions",
}


class ReasoningFields(Fields):
    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None  # its old name


class TextFields(Fields):
    format: dict[str, Any] | None = None


class ResponseFields(Fields):
    """The body of a response."""

    SETTINGS: ClassVar[Mapping[str, str]] = {
        **{name: own for name, own in SETTINGS.items() if own not in UNSAYABLE},
        "max_output_tokens": "max_tokens",
    }
    HINTS: ClassVar[frozenset[str]] = frozenset(
        {
            *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "client_metadata", "service_tier", "user"),
            *("safety_identifier", "context_management", "max_tool_calls", "truncation", "moderation", "stream_options", "image"),
            *("access_programs", "background_options"),
        }
    )
    REFUSED: ClassVar[Mapping[str, str]] = NOT_KEPT
    SKIPPED: ClassVar[Sequence[str]] = ("tools of another type than function, custom or namespace", "items of such tools")

    model: str = ""
    input: str | list[dict[str, Any]] = []
    instructions: str = ""
    stream: bool = False
    store: bool = True
    previous_response_id: str = ""
    tools: list[dict[str, Any]] = []
    tool_choice: str | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextFields = TextFields()
    reasoning: ReasoningFields = ReasoningFields()
    include: list[str] = []
    top_logprobs: int = Field(0, ge=0, le=20)
    metadata: dict[str, Any] = {}
    background: bool = False

    @property
    def items(self) -> list[dict[str, Any]]:
        """The input as items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input

    def read_input(self, earlier: Sequence[Part], items: Sequence[Part]) -> ConversationBuilder:
        """The conversation: instructions, the items of earlier responses, and those of the input."""
        made = ConversationBuilder()
        if self.instructions:
            made.say("system", self.instructions)
            made.end()
        read_items(made, earlier, "previous_response_id")
        read_items(made, items)
        if not made.messages:
            raise invalid("input", "input is empty; a response needs a text, or an item")
        return made

    def job(self, made: ConversationBuilder) -> Job:
        """The internal request. Refusal for what cannot be done."""
        if self.background:
            problem = "background is true: this server has no answers to come back for; ask for a stream, or leave it out"
            raise Refusal(400, problem, field="background", code="unsupported_parameter")
        tools, choice = self._chosen()
        return Job(
            wire="responses",
            model=self.model,
            messages=made.messages,
            settings={**self.settings, **self._own_settings()},
            defaults={"max_tokens": None},
            tools=tools,
            tool_choice=choice,
            has_parallel_calls=self.parallel_tool_calls,
            reasoning=ReasoningWish(effort=self.reasoning.effort),
        )

    def form(self) -> ResponseForm:
        thoughts = SUMMARY_TEXT if self.reasoning.summary or self.reasoning.generate_summary else REASONING_TEXT
        return ResponseForm(thoughts, SEALED in self.include, self._has_logprobs, self._tools.in_namespaces)

    def head(self, model: str, created_at: float) -> dict[str, Any]:
        """What a response repeats of its request."""
        return {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": created_at,
            "model": model,
            "background": False,
            "instructions": self.instructions or None,
            "max_output_tokens": self.settings.get("max_tokens"),
            "metadata": self.metadata,
            "parallel_tool_calls": self.parallel_tool_calls,
            "previous_response_id": self.previous_response_id or None,
            "reasoning": {"effort": self.reasoning.effort, "summary": self.reasoning.summary},
            "store": self.store,
            "temperature": self.settings.get("temperature"),
            "text": {"format": self.text.format or {"type": "text"}},
            "tool_choice": self.tool_choice,
            "tools": self.tools,
            "top_logprobs": self.top_logprobs,
            "top_p": self.settings.get("top_p"),
            "truncation": "disabled",
        }

    def unheeded(self, template: str | None, made: ConversationBuilder) -> list[str]:
        """Names of what changes nothing for the model of a chat template."""
        told = {"effort": self.reasoning.effort, "summary": self.reasoning.summary}
        thinking = [] if hears(template) else [f"reasoning.{name}" for name, value in told.items() if value is not None]
        nested = [f"{name}.{key}" for name in ("reasoning", "text") for key in getattr(self, name).ignored()]
        wanted = [f"include:{name[:60]}" for name in self.include if name not in (SEALED, LOGPROBS)]
        return [*self.ignored(), *thinking, *nested, *wanted, *self._tools.skipped, *made.skipped]

    @cached_property
    def _tools(self) -> ReadTools:
        return read_tools(self.tools)

    @property
    def _has_logprobs(self) -> bool:
        return LOGPROBS in self.include or self.top_logprobs > 0

    def _chosen(self) -> tuple[tuple[Tool, ...], str]:
        """The tools that may be called, and which must be."""
        tools, given = self._tools.tools, self.tool_choice
        if isinstance(given, dict) and given.get("type") == "allowed_tools":
            allowed = {joined_name(item) for item in given.get("tools") or () if isinstance(item, dict)}
            tools = tuple(tool for tool in tools if tool.name in allowed)
            given = str(given.get("mode"))
        elif isinstance(given, dict):
            given = {"name": joined_name(given)}
        return tools, checked_choice(given, tools)

    def _own_settings(self) -> dict[str, Any]:
        form = self.text.format or {}
        own = constraint_of({**form, "json_schema": form}, "text.format")
        return {**own, "logprobs": self.top_logprobs} if self._has_logprobs else own


def earlier_items(service: Service, response_id: str) -> Sequence[Part]:
    """The items of the conversation that a response ends. Refusal if it is not stored (any more)."""
    if not response_id:
        return []
    found = service.responses.get(response_id, TENANT.get())
    if found is None:
        raise Refusal(
            400, f"the previous response {response_id[:80]!r} is not stored; send the whole conversation as input",
            field="previous_response_id", code="previous_response_not_found",
        )  # fmt: skip
    return found.items


def with_references(service: Service, items: Sequence[Part]) -> list[Part]:
    """The input, with the items of stored answers in place of references to them. Refusal for one that is not stored."""
    return [_referenced(service, f"input.{number}", item) if _is_reference(item) else item for number, item in enumerate(items)]


def _is_reference(item: Part) -> bool:
    return item.get("type", "item_reference") in ("item_reference", None) and "id" in item and "role" not in item


def _referenced(service: Service, name: str, reference: Part) -> Part:
    item_id = string_of(name, reference, "id")
    found = service.responses.item(item_id, TENANT.get())
    if found is None:
        raise wrong(name, f"refers to the item {item_id[:80]!r}, which is not stored (any more); send the item itself")
    return found


def failed(refusal: Refusal) -> bytes:
    """The last event of a stream that broke outside of its job."""
    return sse({"type": "error", "code": refusal.code, "message": refusal.message, "param": None, "sequence_number": 0}, "error")


SHAPE = ReplyShape(error_body, failed)


def create(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = ResponseFields.read(await service.read_json(request))
        earlier = earlier_items(service, fields.previous_response_id)
        items = with_references(service, fields.items)
        made = fields.read_input(earlier, items)
        keep = partial(_keep, service, TENANT.get(), [*earlier, *items]) if fields.store else _forget
        head = fields.head(service.models.named(fields.model).name, time.time())
        form = fields.form()
        run = await service.begin(fields.job(made))
        run.ignored = fields.unheeded(run.llm.chat_template, made)
        return service.reply(ResponseWriter(run, head, form, keep), SHAPE, fields.stream, run)

    return service.answered(answer, error_body)


def _keep(service: Service, tenant: str, items: Sequence[Part], response: dict[str, Any]) -> None:
    service.responses.put(response["id"], StoredResponse(response, [*items, *response["output"]], tenant))


def _forget(response: dict[str, Any]) -> None:
    """A client that keeps the conversation itself."""


def input_tokens(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        fields = ResponseFields.read(await service.read_json(request))
        earlier, items = earlier_items(service, fields.previous_response_id), with_references(service, fields.items)
        made = fields.read_input(earlier, items)
        num_tokens, _ = await service.measured(fields.job(made))
        return JSONResponse({"object": "response.input_tokens", "input_tokens": num_tokens})

    return service.answered(answer, error_body)


def get(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        found = service.responses.get(request.path_params["id"], TENANT.get())
        if found is None:
            raise _unknown(request.path_params["id"])
        return JSONResponse(found.body)

    return service.answered(answer, error_body)


def delete(service: Service) -> Endpoint:
    async def answer(request: Request) -> ASGIApp:
        response_id = request.path_params["id"]
        if not service.responses.remove(response_id, TENANT.get()):
            raise _unknown(response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    return service.answered(answer, error_body)


def _unknown(response_id: str) -> Refusal:
    return Refusal(404, f"the response {response_id[:80]!r} is not stored", field="id", code="not_found")


ROUTES = (
    WireRoute("/v1/responses", create, fields=ResponseFields),
    WireRoute("/v1/responses/input_tokens", input_tokens, fields=ResponseFields),
    WireRoute("/v1/responses/{id}", get, "GET"),
    WireRoute("/v1/responses/{id}", delete, "DELETE"),
)
