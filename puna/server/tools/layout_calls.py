"""Ways of calls that are told by a layout, and by a notation of arguments: all that these do not say is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from puna.messages import Messages
from puna.server.ids import new_id
from puna.server.tools import conversation
from puna.server.tools.base import CallReader, ForTemplate, Tool, ToolUse
from puna.server.tools.grammar import grammar_of
from puna.server.tools.layout import NAME, CallLayout
from puna.server.tools.notation import JSON, Notation
from puna.server.tools.reader import LayoutReader

NOTICE = "the chat template has no way of calls that puna knows; a system message describes the tools"


def openai_id() -> str:
    return new_id("call_")


@dataclass(frozen=True, slots=True)
class LayoutCalls:
    """A ToolFormat.

    `loose`: how an answer may also begin, without `layout.begin`. `is_native`: the chat template tells the model of this way.
    `adapt`: what the template needs in a conversation.
    """

    layout: CallLayout
    loose: CallLayout | None = None
    notation: Notation = JSON
    is_native: bool = True
    new_id: Callable[[], str] = openai_id
    adapt: Callable[[Messages], Messages] = lambda messages: messages

    def grammar(self, use: ToolUse, controls: Mapping[str, int]) -> str:
        return grammar_of(self.layout, self.loose, self.notation, use, controls)

    def reader(self, tools: Sequence[Tool]) -> CallReader:
        return LayoutReader(self.layout, self.loose, tools, self.notation)

    def marks(self, controls: Mapping[str, int]) -> list[int]:
        return [controls[mark] for mark in sorted(self.layout.marks | self.notation.marks) if mark in controls]

    def for_template(self, template: str | None, messages: Messages, tools: Sequence[Tool]) -> ForTemplate:
        return conversation.for_template(template, self.adapt(messages), tools, self.written, knows=self.is_native)

    def takes(self, tools: Sequence[Tool]) -> bool:
        return all(map(self.notation.takes, tools))

    def written(self, calls: Iterable[Mapping[str, Any]]) -> str:
        """Calls in OpenAI's form, as their model writes them."""
        functions = [one for call in calls if isinstance(one := call.get("function", call), Mapping)]
        layout, head = self.layout, self.layout.heads[0]
        texts = [head.replace(NAME, str(one.get("name"))) + self.notation.written(one.get("arguments")) for one in functions]
        return layout.begin + layout.opens[0] + (layout.tail + layout.between).join(texts) + layout.tail + layout.close

    @property
    def notice(self) -> str:
        return "" if self.is_native else NOTICE
