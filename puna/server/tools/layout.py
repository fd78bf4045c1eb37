"""How calls are written, as data: the texts around names and arguments. Grammar and reader follow from it."""

from __future__ import annotations

from dataclasses import dataclass

NAME = "NAME"  # where a tool's name stands in the head of a call


@dataclass(frozen=True, slots=True)
class CallLayout:
    """An answer that calls tools is: text, `begin`, `open`, call, any number of (`between`, call), `close`.

    A call is: `head`, the arguments as a JSON object, `tail`. `begin` occurs in no text. `marks`: the words in these that may be
    control tokens of a vocabulary. Spaces and line ends may differ when an answer is read.
    """

    begin: str
    open: str
    head: str
    tail: str
    between: str
    close: str
    marks: tuple[str, ...]

    def head_of(self, name: str) -> str:
        return self.head.replace(NAME, name)
