"""A tool that a model may call, and the contract of a way to write calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


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


class CallReader(Protocol):
    """Reads the calls in one answer, piece by piece."""

    def feed(self, text: str) -> Sequence[TextPart | CallPart]:
        """What the next piece of the answer adds."""

    def end(self) -> Sequence[TextPart | CallPart]:
        """What was held back. Nothing follows."""


class ToolFormat(Protocol):
    """How a family of models writes calls."""

    def grammar(self, tools: Sequence[Tool], choice: str, is_parallel: bool) -> str:
        """llguidance's grammar (Lark) of an answer: text and calls for "auto", at least one call for "required", calls of one
        tool for its name. Arguments follow the tool's schema."""

    def reader(self) -> CallReader: ...
