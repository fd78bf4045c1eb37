"""Stand-ins for wires that call tools or think: a way to write calls for a tiny random model, and a template with thoughts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

from puna.server.tools.base import CallPart, TextPart, Tool
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
    asked: list[tuple[Sequence[Tool], str, bool]] = field(default_factory=list)

    def grammar(self, tools: Sequence[Tool], choice: str, is_parallel: bool) -> str:
        self.asked.append((tools, choice, is_parallel))
        return f"start: {json.dumps(self.answer)}"

    def reader(self) -> StandInReader:
        return StandInReader()


class StandInReader:
    """Tells a call's name first, and its arguments in two parts."""

    def __init__(self) -> None:
        self._held, self._num = "", 0

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
    with patch("puna.server.running_job.format_of", lambda template: made):
        yield made
