"""Stand-ins for wires that call tools or think: a way to write calls for a tiny random model, and a template with thoughts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from puna.messages import Messages
from puna.server.ids import new_id
from puna.server.tools.base import CallPart, ForTemplate, TextPart, Tool, ToolUse
from tests.server.serving import TEMPLATE

TAIL = "{% if add_generation_prompt %}assistant: {% endif %}"
THINKING = TEMPLATE.replace(
    TAIL, TAIL.replace("{% endif %}", "{% if enable_thinking %}<think>{% endif %}{% endif %}</think>"[:-8])
)
THINKING += "{# </think> #}"
WITH_TOOLS = (
    "{% for t in tools or [] %}{{ t.function.name }} {% endfor %}"
    "{% for m in messages %}{{ m.role }} {{ m.name }}: {{ m.reasoning_content }}"
    "{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n{% endfor %}" + TAIL
)
ENDED = re.compile(r"<call>(\w+)(\{.*?\})</call>")


@dataclass
class StandInFormat:
    """Answers are the given text, in which calls are written <call>NAME{...}</call>."""

    answer: str
    asked: list[ToolUse] = field(default_factory=list)

    def grammar(self, use: ToolUse, controls: Mapping[str, int]) -> str:
        self.asked.append(use)
        return f"start: {json.dumps(self.answer)}"

    def takes(self, tools: Sequence[Tool]) -> bool:
        return True

    def reader(self, tools: Sequence[Tool]) -> StandInReader:
        return StandInReader()

    def new_id(self) -> str:
        return new_id("call_")

    notice = ""

    def marks(self, controls: Mapping[str, int]) -> list[int]:
        return []

    def for_template(self, template: str | None, messages: Messages, tools: Sequence[Tool]) -> ForTemplate:
        return ForTemplate(messages, {"tools": [tool.in_openai_form() for tool in tools]} if tools else {})


class StandInReader:
    """Tells a call's name first, and its arguments in two parts."""

    def __init__(self) -> None:
        self._held, self._num = "", 0

    @property
    def is_inside(self) -> bool:
        return "<call>" in self._held

    def feed(self, text: str) -> list[TextPart | CallPart]:
        self._held += text
        parts: list[TextPart | CallPart] = []
        while found := ENDED.search(self._held):
            before, number, arguments = self._held[: found.start()], self._num, found[2]
            parts += [TextPart(before)] if before else []
            parts += [CallPart(number, name=found[1]), CallPart(number, arguments[:2]), CallPart(number, arguments[2:])]
            self._held, self._num = self._held[found.end() :], number + 1
        return parts

    def end(self) -> list[TextPart | CallPart]:
        return [TextPart(self._held)] if self._held else []


@contextmanager
def calling(answer: str) -> Iterator[StandInFormat]:
    """Models that answer so where tools are given."""
    made = StandInFormat(answer)
    places = ("puna.server.running_job.format_of", "puna.server.calling.format_of")
    with patch(places[0], lambda *_: made), patch(places[1], lambda *_: made):
        yield made
