"""Reads the calls in an answer, piece by piece, for every layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from puna.detokenize import longest_beginning
from puna.server.tools.base import AnswerParts, CallPart, TextPart
from puna.server.tools.layout import NAME, SPACES, CallLayout, any_of, named, up_to_name


class LayoutReader:
    """Reads an answer that follows a layout, or the beginning of one: text before calls, then calls.

    Spaces and line ends next to a call belong to its layout, not to the text. What does not follow the layout is text.
    `loose`: a layout without `begin` that the answer may follow from its start.
    """

    def __init__(self, layout: CallLayout, loose: CallLayout | None, names: Sequence[str]) -> None:
        self._begin = layout.begin
        self._usual = CallPatterns(layout, names)
        self._loose = None if loose is None else CallPatterns(loose, names)
        self._patterns = self._usual if self._loose is None else self._loose
        self._reading: Callable[[list[TextPart | CallPart]], bool] = self._text if loose is None else self._start
        self._held = ""  # not told yet
        self._unread = ""  # what stands before `_held` if no call follows
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
        rest = self._unread + self._held
        if self._reading == self._rest:
            rest = self._patterns.after_close(rest)
        elif self._patterns.is_cut_call(self._held, is_certain=self._reading == self._first_call):
            rest = ""
        return [TextPart(rest)] if rest else []

    # ---- what is being read: each tells what is certain, and whether it has given way to the next -----------------------

    def _start(self, parts: list[TextPart | CallPart]) -> bool:
        if self._first_call(parts):
            return True
        if self._patterns.may_begin(self._held):
            return False
        self._patterns, self._reading = self._usual, self._text
        return True

    def _text(self, parts: list[TextPart | CallPart]) -> bool:
        before, found, after = self._held.partition(self._begin)
        whole = before[: len(before) - (0 if found else longest_beginning(before, (self._begin,)))].rstrip()
        if whole:
            parts.append(TextPart(whole))
        if not found:
            self._held = before[len(whole) :]
            return False
        self._unread, self._held, self._reading = before[len(whole) :] + found, after, self._first_call
        return True

    def _first_call(self, parts: list[TextPart | CallPart]) -> bool:
        return self._begun(self._patterns.first, parts)

    def _begun(self, head: re.Pattern[str], parts: list[TextPart | CallPart]) -> bool:
        found = head.match(self._held)
        if not found:
            return False
        self._call += 1
        parts.append(CallPart(self._call, name=next(filter(None, found.groups()))))
        self._unread, self._held = "", self._held[found.end() :]
        self._reading, self._object = self._arguments, ObjectEnd()
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
        return self._begun(self._patterns.next, parts)


class CallPatterns:
    """The expressions of a layout's calls. Each ends before the arguments, and has the tool's name as a group."""

    def __init__(self, layout: CallLayout, names: Sequence[str]) -> None:
        self.first, self.next = _ending_before_arguments(layout.first, names), _ending_before_arguments(layout.next, names)
        self._beginnings = [_compact(one) for one in named([up_to_name(text) for text in layout.first], names)]
        self._first, self._next = ([_compact(one) for one in named(texts, names)] for texts in (layout.first, layout.next))
        self._closes = [layout.tail + layout.close + layout.after, layout.tail + layout.close]

    def may_begin(self, text: str) -> bool:
        """Whether a text may be the beginning of a first call."""
        compact = _compact(text)
        return any(one.startswith(compact) for one in self._first)

    def is_cut_call(self, text: str, is_certain: bool) -> bool:
        """Whether an answer that ends with this was cut before the arguments of its first call, so that it is no text.

        `is_certain`: it can be nothing else, from its first letter on.
        """
        compact = _compact(text)
        has_begun = is_certain or any(compact.startswith(one) for one in self._beginnings)
        return has_begun and any(one.startswith(compact) for one in self._first)

    def after_close(self, text: str) -> str:
        """What follows the close of the last call. The close may be cut, or the call after it."""
        if any(one.startswith(_compact(text)) for one in (*self._next, *map(_compact, self._closes))):
            return ""
        found = re.match(SPACES + any_of(self._closes), text)
        return text[found.end() if found else 0 :].lstrip()


def _compact(text: str) -> str:
    """A text without its spaces, of which a layout may have others."""
    return "".join(text.split())


def _ending_before_arguments(texts: Sequence[str], names: Sequence[str]) -> re.Pattern[str]:
    """The expression of any of these texts, with a tool's name."""
    name = "(" + "|".join(map(re.escape, names)) + ")"
    halves = [text.partition(NAME) for text in texts]
    return re.compile(SPACES + "(?:" + "|".join(any_of([a]) + name + any_of([b]) for a, _, b in halves) + r")(?=\{)")


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
