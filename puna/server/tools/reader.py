"""Reads the calls in an answer, piece by piece, for every layout."""

from __future__ import annotations

import re
from collections.abc import Callable

from puna.detokenize import longest_beginning
from puna.server.tools.base import AnswerParts, CallPart, TextPart
from puna.server.tools.layout import NAME, CallLayout


class LayoutReader:
    """Reads an answer that follows a layout, or the beginning of one: text before calls, then calls.

    Spaces and line ends next to a call belong to its layout, not to the text. What does not follow the layout is text.
    """

    def __init__(self, layout: CallLayout) -> None:
        self._begin = layout.begin
        self._first, self._head = pattern_of(layout.open + layout.head + "{"), pattern_of(layout.head + "{")
        self._more = pattern_of(layout.tail + layout.between)
        self._close, self._closed = layout.tail + layout.close, "".join((layout.tail + layout.close).split())
        self._reading: Callable[[list[TextPart | CallPart]], bool] = self._text
        self._held = ""  # not told yet
        self._unread = ""  # what stands before `_held` if it turns out to be no call
        self._object = ObjectEnd()
        self._call = -1

    @property
    def is_inside(self) -> bool:
        return self._reading == self._arguments

    def feed(self, text: str) -> AnswerParts:
        self._held += text
        parts: list[TextPart | CallPart] = []
        while self._reading(parts):
            pass
        return parts

    def end(self) -> AnswerParts:
        rest, self._held = self._unread + self._held, ""
        if self._reading == self._rest and self._closed.startswith("".join(rest.split())):
            return []
        return [TextPart(rest)] if rest else []

    # ---- what is being read: each tells what is certain, and whether it has given way to the next -----------------------

    def _text(self, parts: list[TextPart | CallPart]) -> bool:
        before, found, after = self._held.partition(self._begin)
        whole = before[: len(before) - (0 if found else longest_beginning(before, (self._begin,)))].rstrip()
        if whole:
            parts.append(TextPart(whole))
        if not found:
            self._held = before[len(whole) :]
            return False
        self._unread, self._held, self._reading = before[len(whole) :] + found, after, self._name
        return True

    def _name(self, parts: list[TextPart | CallPart]) -> bool:
        found = (self._first if self._call < 0 else self._head).match(self._held)
        if not found:
            return False
        self._call += 1
        parts.append(CallPart(self._call, name=found["name"]))
        self._unread, self._held, self._reading, self._object = "", self._held[found.end() - 1 :], self._arguments, ObjectEnd()
        return True

    def _arguments(self, parts: list[TextPart | CallPart]) -> bool:
        end = self._object.find(self._held)
        told, self._held = self._held[:end], self._held[len(self._held) if end is None else end :]
        if told:
            parts.append(CallPart(self._call, told))
        if end is None:
            return False
        self._reading = self._rest
        return True

    def _rest(self, parts: list[TextPart | CallPart]) -> bool:
        """What follows the arguments: another call, or the end of the layout."""
        found = self._more.match(self._held)
        if not found:
            return False
        self._unread, self._held = found[0].removeprefix(self._close).lstrip(), self._held[found.end() :]
        self._reading = self._name
        return True


def pattern_of(text: str) -> re.Pattern[str]:
    """The expression of a layout's text. Where it has spaces there may be others or none; NAME is the group `name`.

    >>> pattern_of('{"name": "NAME", ').match('{"name":"f",')["name"]
    'f'
    """
    pieces = (re.escape(piece).replace(NAME, r"(?P<name>[^\s\"\[\]{}<>,]+)") for piece in re.split(r"\s+", text))
    return re.compile(r"\s*" + r"\s*".join(pieces))


class ObjectEnd:
    """Finds the end of a JSON object that comes in pieces.

    >>> end = ObjectEnd()
    >>> end.find('{"a": "}'), end.find('{"}, ')
    (None, 3)
    """

    MARKS = re.compile(r'[{}"\\]')

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._is_escaped = False

    def find(self, text: str) -> int | None:
        """How much of the next piece belongs to the object; None: all of it, and it goes on."""
        at = 0
        if self._is_escaped and text:
            at, self._is_escaped = 1, False
        while found := self.MARKS.search(text, at):
            at = found.end()
            if found[0] == "\\":
                self._is_escaped = at == len(text)
                at += 1
            elif found[0] == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if found[0] == "{" else -1
                if self._depth <= 0:
                    return at
        return None
