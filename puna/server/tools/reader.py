"""Reads the calls in an answer, piece by piece, for every layout."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from puna.detokenize import longest_beginning
from puna.server.tools.base import AnswerParts, CallPart, TextPart, Tool
from puna.server.tools.layout import NAME, SPACES, CallLayout, any_of, named, up_to_name
from puna.server.tools.notation import Notation


class LayoutReader:
    """Reads an answer that follows a layout, or the beginning of one: text before calls, then calls.

    Spaces and line ends next to a call belong to its layout, not to the text. What does not follow the layout is text.
    `loose`: a layout without `begin` that the answer may follow from its start.
    """

    def __init__(self, layout: CallLayout, loose: CallLayout | None, tools: Sequence[Tool], notation: Notation) -> None:
        self._begin, self._tools, self._notation = layout.begin, {tool.name: tool for tool in tools}, notation
        self._usual = CallPatterns(layout, [*self._tools], notation.opening)
        self._loose = None if loose is None else CallPatterns(loose, [*self._tools], notation.opening)
        self._patterns = self._usual if self._loose is None else self._loose
        self._reading: Callable[[list[TextPart | CallPart]], bool] = self._text if loose is None else self._start
        self._held = ""  # not told yet
        self._unread = ""  # what stands before `_held` if no call follows
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
        if self.is_inside:
            rest = ""
        elif self._reading == self._rest:
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
        name = next(filter(None, found.groups()))
        self._call += 1
        parts.append(CallPart(self._call, name=name))
        self._unread, self._held = "", self._held[found.end() :]
        self._reading, self._of_call = self._arguments, self._notation.reader(self._tools[name])
        return True

    def _arguments(self, parts: list[TextPart | CallPart]) -> bool:
        told, self._held, is_over = self._of_call.read(self._held)
        if told:
            parts.append(CallPart(self._call, told))
        if is_over:
            self._reading = self._rest
        return is_over

    def _rest(self, parts: list[TextPart | CallPart]) -> bool:
        """What follows the arguments: another call, or the end of the layout."""
        return self._begun(self._patterns.next, parts)


class CallPatterns:
    """The expressions of a layout's calls. Each ends before the arguments, and has the tool's name as a group."""

    def __init__(self, layout: CallLayout, names: Sequence[str], opening: str) -> None:
        self.first, self.next = (_ending_before(opening, texts, names) for texts in (layout.first, layout.next))
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


def _ending_before(opening: str, texts: Sequence[str], names: Sequence[str]) -> re.Pattern[str]:
    """The expression of any of these texts, with a tool's name, where arguments follow."""
    name = "(" + "|".join(map(re.escape, names)) + ")"
    halves = [text.partition(NAME) for text in texts]
    return re.compile(SPACES + "(?:" + "|".join(any_of([a]) + name + any_of([b]) for a, _, b in halves) + f")(?={opening})")
