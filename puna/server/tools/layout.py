"""How calls are written, as data: the texts around names and arguments. Grammar and reader follow from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NAME = "NAME"  # where a tool's name stands in the head of a call
MARKS = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
SPACES = r"[ \n\r\t]{0,9}"


@dataclass(frozen=True, slots=True)
class CallLayout:
    """Calls are: `begin`, one of `opens`, a call, any number of (`between`, call), `close`. `begin` occurs in no text.

    A call is: one of `heads`, the arguments as a JSON object, `tail`. Of several texts the first is the usual one. `after`:
    what models write behind all calls, and what means nothing. `needs_begin`: calls that must come have `begin` too.
    """

    begin: str
    opens: tuple[str, ...]
    heads: tuple[str, ...]
    tail: str
    between: str
    close: str
    after: str = ""
    needs_begin: bool = True

    @property
    def marks(self) -> set[str]:
        """Words that may be control tokens of a vocabulary."""
        texts = (self.begin, *self.opens, *self.heads, self.tail, self.between, self.close, self.after)
        return {mark for text in texts for mark in MARKS.findall(text)}

    @property
    def first(self) -> list[str]:
        """What stands between `begin` and the arguments of the first call."""
        return [opened + head for opened in self.opens for head in self.heads]

    @property
    def next(self) -> list[str]:
        """What stands between the arguments of a call and those of the next one."""
        return [self.tail + self.between + head for head in self.heads]


def named(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Each text with each tool's name."""
    return [text.replace(NAME, name) for name in names for text in texts]


def up_to_name(text: str) -> str:
    """The beginning of a text, up to what ends the tool's name.

    >>> up_to_name('{"name": "NAME", "arguments": ')
    '{"name": "NAME"'
    """
    before, name, after = text.partition(NAME)
    return before + name + after[:1]


def any_of(texts: Iterable[str]) -> str:
    """An expression, for llguidance and for Python, of any of these texts. Where one has a space there may be nine, or none.

    >>> any_of(["a b", ":"])
    '(?:a[ \\\\n\\\\r\\\\t]{0,9}b|\\\\x3a)'
    """
    return "(?:" + "|".join(SPACES.join(map(literal, re.split(r"\s+", text))) for text in texts) + ")"


def literal(text: str) -> str:
    """The expression of a text as it is."""
    return "".join(c if c.isalnum() else f"\\x{ord(c):02x}" for c in text)
