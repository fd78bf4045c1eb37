"""A tool that a model may call, and the contract of a way to write calls."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from puna.errors import UsageError
from puna.messages import Messages
from puna.schemas import JsonSchema
from puna.server.refusals import Refusal, invalid

NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")  # OpenAI allows fewer; programs that pass on other servers' tools need these
NOT_NAMES = ("auto", "none", "required")  # words of `tool_choice`


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the client offers. `parameters` is the JSON schema of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool = False

    def in_openai_form(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def schema(self) -> dict[str, Any]:
        """The schema of its arguments, unchecked: an object; `"properties": {}` allows none."""
        closed = {"additionalProperties": False} if self.parameters.get("properties") == {} else {}
        return {"type": "object", **closed, **self.parameters}

    def arguments(self) -> JsonSchema:
        """The schema of its arguments. Refusal if puna cannot enforce it."""
        schema = self.schema()
        if schema["type"] != "object":
            raise self.refused(f"have the type {str(schema['type'])[:40]!r}; arguments are an object")
        try:
            return JsonSchema.of(f"parameters of the tool {self.name!r}", schema)
        except UsageError as error:
            raise invalid("tools", error.line) from None

    def refused(self, problem: str) -> Refusal:
        """What is wrong with its parameters."""
        return invalid("tools", f"parameters of the tool {self.name!r} {problem}")


def require_callable(tools: Sequence[Tool]) -> None:
    """Refusal for names that no call can have, or that two tools share."""
    seen = set[str]()
    for name in (tool.name for tool in tools):
        if not NAME.fullmatch(name) or name in NOT_NAMES:
            raise invalid(
                "tools",
                f"a tool is named {name[:140]!r}; a name has 1 to 128 letters, digits, and _ . : / -, and is no tool_choice",
            )
        if name in seen:
            raise invalid("tools", f"two tools are named {name!r}; rename one")
        seen.add(name)


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text of an answer that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A part of a call. `name` comes with its first part; `arguments` is JSON text, to be joined. `call` counts them."""

    call: int
    arguments: str = ""
    name: str = ""


AnswerParts = Sequence[TextPart | CallPart]


class CallReader(Protocol):
    """Reads the calls in one answer, piece by piece."""

    @property
    def is_inside(self) -> bool:
        """Whether the text so far ends within a call."""

    def feed(self, text: str) -> AnswerParts:
        """What the next piece of the answer adds."""

    def end(self) -> AnswerParts:
        """What was held back. Nothing follows."""


class ForTemplate(NamedTuple):
    """What a chat template is given: the conversation, and the variables that hold the tools."""

    messages: Messages
    args: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """How an answer may call tools.

    `choice`: "auto": text, then calls or none; "required": at least one call; a tool's name: exactly one call of it; "none": text
    without one. `is_parallel`: several calls may come. `answer`: the schema of an answer that calls nothing, in place of text.
    """

    tools: Sequence[Tool]
    choice: str = "auto"
    is_parallel: bool = True
    answer: JsonSchema | None = None

    @property
    def callable_tools(self) -> list[Tool]:
        return [tool for tool in self.tools if self.choice in (*NOT_NAMES, tool.name)]

    @property
    def is_forced(self) -> bool:
        """Whether a call must come."""
        return self.choice not in ("auto", "none")

    @property
    def may_repeat(self) -> bool:
        """Whether a call may follow a call."""
        return self.is_parallel and self.choice in ("auto", "required")


class ToolFormat(Protocol):
    """How a family of models writes calls."""

    def grammar(self, use: ToolUse, controls: Mapping[str, int]) -> str:
        """llguidance's grammar (Lark) of an answer. `controls`: the vocabulary's control tokens.

        Arguments follow the tool's schema. A Refusal names the tool whose schema puna cannot enforce.
        """

    def takes(self, tools: Sequence[Tool]) -> bool:
        """Whether calls of these tools can be written so, and be held to their schemas."""

    def reader(self, tools: Sequence[Tool]) -> CallReader: ...

    def new_id(self) -> str:
        """An id for a call, of the kind that the chat template takes back."""

    def marks(self, controls: Mapping[str, int]) -> list[int]:
        """The control tokens of the vocabulary that the reader must see."""

    def for_template(self, template: str | None, messages: Messages, tools: Sequence[Tool]) -> ForTemplate:
        """How the chat template learns of the tools, of earlier calls, and of their results."""

    @property
    def notice(self) -> str:
        """What a user should know of this way; "" if it is the model's own."""
