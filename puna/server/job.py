"""The one internal request that every wire makes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from puna.server.reasoning import ReasoningWish
from puna.server.tools.base import Tool

ToolChoice = Literal["auto", "none", "required"] | str  # or the name of the tool that must be called


@dataclass(frozen=True, slots=True)
class JobOpening:
    """What an answer opens with, whatever the model would say: a text, or token ids. `field`: where the client gave it.

    `traced_from`: the first of the ids whose step is traced.
    """

    given: str | Sequence[int] = ()
    field: str = "opening"
    traced_from: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to generate. It has either a `prompt` or `messages`.

    `settings` are fields of SamplingParams that the client has set; the model's suggestions fill the rest. `defaults` are a
    wire's own, which count where neither has set them.
    """

    wire: str
    model: str = ""  # a name, or "": the first model
    prompt: str | Sequence[int] | None = None
    messages: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    template_args: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    has_parallel_calls: bool = True
    reasoning: ReasoningWish = field(default_factory=ReasoningWish)
    opening: JobOpening = field(default_factory=JobOpening)
    suffix: str | None = None  # fill in between `prompt` and this
    shows_progress: bool = False  # a person watches how far the prompt is

    @property
    def may_call(self) -> bool:
        """Whether the answer may call tools."""
        return bool(self.tools) and self.tool_choice != "none"
