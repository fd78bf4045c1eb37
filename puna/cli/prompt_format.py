"""`--prompt-format`: the text around a message for a model without a chat template."""

from __future__ import annotations

import re
from dataclasses import dataclass

from puna.errors import UsageError

PLACEHOLDER = "{prompt}"
ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """The text before and after a message."""

    before: str
    after: str

    @staticmethod
    def parse(text: str) -> PromptFormat:
        r"""Read a text that has {prompt} once; \n, \t and \\ are escapes. UsageError for any other text.

        >>> PromptFormat.parse("Q: {prompt}\\nA:").fill("Why?")
        'Q: Why?\nA:'
        """
        if (count := text.count(PLACEHOLDER)) != 1:
            raise UsageError(
                f"--prompt-format is {text!r}, with {count} times {PLACEHOLDER}; it must have it once",
                hint=r'For example --prompt-format "Q: {prompt}\nA:"',
            )
        before, after = (re.sub(r"\\[nt\\]", lambda found: ESCAPES[found[0]], part) for part in text.split(PLACEHOLDER))
        return PromptFormat(before, after)

    def fill(self, message: str) -> str:
        """The prompt for a message; braces and backslashes in it are text."""
        return f"{self.before}{message}{self.after}"

    @property
    def stops(self) -> tuple[str, ...]:
        r"""Stop strings: after an answer a base model writes the next question, which begins like the last line before {prompt}.

        >>> PromptFormat.parse("Q: {prompt}\\nA:").stops
        ('\nQ:',)
        """
        lines = [line.strip() for line in self.before.splitlines() if line.strip()]
        return tuple(f"\n{line}" for line in lines[-1:])
