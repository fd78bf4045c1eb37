"""Formats in which the arguments of a call are JSON: all that their layouts do not say is here."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from puna.messages import Messages
from puna.server.tools import conversation
from puna.server.tools.base import CallReader, ForTemplate, Tool, ToolUse
from puna.server.tools.grammar import grammar_of
from puna.server.tools.layout import CallLayout
from puna.server.tools.reader import LayoutReader

NOTICE = "the chat template has no way of calls that puna knows; a system message describes the tools"


def openai_id() -> str:
    return f"call_{secrets.token_hex(12)}"


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """A ToolFormat.

    `loose`: how an answer may also begin, without `layout.begin`. `is_native`: the chat template tells the model of this layout.
    `adapt`: what the template needs in a conversation.
    """

    layout: CallLayout
    loose: CallLayout | None = None
    is_native: bool = True
    new_id: Callable[[], str] = openai_id
    adapt: Callable[[Messages], Messages] = lambda messages: messages

    def grammar(self, use: ToolUse, controls: Mapping[str, int]) -> str:
        return grammar_of(self.layout, self.loose, use, controls)

    def reader(self, tools: Sequence[Tool]) -> CallReader:
        return LayoutReader(self.layout, self.loose, [tool.name for tool in tools])

    def marks(self, controls: Mapping[str, int]) -> list[int]:
        return [controls[mark] for mark in sorted(self.layout.marks) if mark in controls]

    def for_template(self, template: str | None, messages: Messages, tools: Sequence[Tool]) -> ForTemplate:
        return conversation.for_template(template, self.adapt(messages), tools, self.layout, knows=self.is_native)

    @property
    def notice(self) -> str:
        return "" if self.is_native else NOTICE
