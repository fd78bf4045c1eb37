"""Formats in which a call is a JSON object, or has one: all that their layout does not say is here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from puna.messages import Messages
from puna.server.tools.base import CallReader, ForTemplate, Tool, ToolUse
from puna.server.tools.grammar import grammar_of
from puna.server.tools.layout import CallLayout
from puna.server.tools.reader import LayoutReader


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """A ToolFormat of a layout, for a template that knows tools."""

    layout: CallLayout

    def grammar(self, use: ToolUse, controls: Mapping[str, int]) -> str:
        return grammar_of(self.layout, use, controls)

    def reader(self, tools: Sequence[Tool]) -> CallReader:
        return LayoutReader(self.layout)

    def new_id(self) -> str:
        return f"call_{secrets.token_hex(12)}"

    def for_template(self, messages: Messages, tools: Sequence[Tool]) -> ForTemplate:
        return ForTemplate(messages, [tool.in_openai_form() for tool in tools])
