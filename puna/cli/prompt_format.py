"""`--prompt-format`: what stands around a message for a model without a chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass

from puna.errors import UsageError

PLACE = "{prompt}"
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The text before and after a message."""

    before: str
    after: str

    @staticmethod
    def parse(text: str) -> PromptFormat:
        r"""Of a text with {prompt} in it once; \n, \t and \\ are escapes. UsageError otherwise.

        >>> PromptFormat.parse("Q: {prompt}\\nA:").fill("Why?")
        'Q: Why?\nA:'
        """
        if (count := text.count(PLACE)) != 1:
            raise UsageError(
                f"--prompt-format is {text!r}, with {count} times {PLACE}; it must stand there once",
                hint=r'For example --prompt-format "Q: {prompt}\nA:"',
            )
        before, after = (re.sub(r"\\[nt\\]", lambda found: ESCAPES[found[0]], part) for part in text.split(PLACE))
        return PromptFormat(before, after)

    def fill(self, message: str) -> str:
        """The prompt for a message; braces and backslashes in it are text."""
        return f"{self.before}{message}{self.after}"

    @property
    def stops(self) -> tuple[str, ...]:
        r"""Where an answer ends: a base model goes on with the next question, which begins as the last line before {prompt} does.

        >>> PromptFormat.parse("Q: {prompt}\\nA:").stops
        ('\nQ:',)
        """
        lines = [line.strip() for line in self.before.splitlines() if line.strip()]
        return tuple(f"\n{line}" for line in lines[-1:])
