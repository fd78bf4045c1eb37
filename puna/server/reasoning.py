"""How much a client wants the model to think -> the settings and the template variables by which this model does so."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Literal

from puna.chat import unread_args
from puna.thinking import SWITCHES, tags_of

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORT = "reasoning_effort"  # the variable of templates that know levels (gpt-oss and others)
# Tokens of thought for a level, where a template has no levels. From "high" on the model ends its thoughts when it likes.
BUDGETS = {"minimal": 256, "low": 1024, "medium": 4096}
MARK = "puna1:"  # begins what `packed` makes


@dataclass(frozen=True, slots=True)
class ReasoningWish:
    """What a client says of thinking. None: nothing. `budget` is a number of tokens."""

    is_on: bool | None = None
    budget: int | None = None
    effort: Effort | None = None

    def settings(self, template: str | None) -> dict[str, Any]:
        """Fields of SamplingParams for the model of a chat template."""
        if tags_of(template) is None:
            return {}
        budget = self.budget
        if budget is None and self.effort is not None and not _reads(EFFORT, template):
            budget = BUDGETS.get(self.effort)
        if self._turns_on is False and not _switches(template):
            budget = 0
        return {} if budget is None else {"thinking_budget": budget}

    def template_args(self, template: str | None) -> dict[str, Any]:
        """Variables of a chat template. It gets those that it reads."""
        args: dict[str, Any] = {} if self._turns_on is None else dict.fromkeys(_switches(template), self._turns_on)
        if self.effort is not None and self.effort != "none" and _reads(EFFORT, template):
            args[EFFORT] = self.effort
        return args

    @property
    def _turns_on(self) -> bool | None:
        """A level asks for thinking, unless something else is said; "none" is one, too."""
        if self.effort == "none" or self.is_on is not None:
            return False if self.effort == "none" else self.is_on
        return None if self.effort is None else True


def hears(template: str | None) -> bool:
    """Whether a wish changes anything for the model of a chat template."""
    return tags_of(template) is not None or bool(_switches(template)) or _reads(EFFORT, template)


def _switches(template: str | None) -> list[str]:
    """The first variable of a template that turns thinking on and off; none if it has none."""
    unread = unread_args(SWITCHES, template)
    return [name for name in SWITCHES if name not in unread][:1]


def _reads(name: str, template: str | None) -> bool:
    return not unread_args([name], template)


def packed(thoughts: str) -> str:
    """Thoughts in a form that a client carries and returns without reading it, such as a signature.

    >>> unpacked(packed("Llamas hum.")), unpacked("something else"), unpacked(MARK + "x")
    ('Llamas hum.', '', '')
    """
    return MARK + base64.b64encode(thoughts.encode("utf-8", "replace")).decode()


def unpacked(text: str) -> str:
    """The thoughts in what `packed` made; "" for anything else."""
    if not text.startswith(MARK):
        return ""
    try:
        return base64.b64decode(text.removeprefix(MARK), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
