"""Which regular expressions from a file may run: those whose matching time is at most quadratic in a text's length.

The `tokenizers` library matches by backtracking (Oniguruma, Ruby's syntax), and nothing can interrupt a match: `(a*)*b` can take
for ever. This module estimates an expression's cost from its form. A part that may be retried, because something after it can
fail, multiplies the cost: by its number of ways if that is fixed, by the length of the text if it has no bound.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 4096  # characters; the longest of published tokenizers has 1,000
MAX_DEPTH = 16
MAX_WAYS = 4096  # to try at one position
MANY = 16  # a quantifier with a larger maximum counts as unbounded

ESCAPE = re.compile(
    r"\\(?:[pP]\{\^?[\w ]{1,40}\}|x\{[0-9A-Fa-f]{1,8}\}|x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|[A-JL-QST-WY-Za-fhi-or-wyz]|\W)"
)
NO_CHARACTER = frozenset("AzZbBY")  # escapes that match a position
REFUSED_ESCAPES = frozenset("GkgycCM")
REFUSED_IN_CLASS = frozenset("cCM")  # the character after them belongs to them
ODD_CLASS = re.compile(r"\[(?:\^?\]|:(?!\^?[a-z]{1,9}:\]))")  # "]" first is itself; a broken [:name:] is not a class within
QUANTIFIER = re.compile(r"(?:([?*+])|\{(\d{0,5})(,?)(\d{0,5})\})([?+]?)")
FLAG_I = re.compile(r"\(\?[a-z]*i")
GROUP = re.compile(r"\(\?(?:(:|=|!|>|<=|<!)|([imsa]{0,4}(?:-[ims]{1,3})?)(:|\)))")


class TooCostly(ValueError):
    """The message says what the expression holds."""


@dataclass(frozen=True, slots=True)
class PatternPart:
    """The cost of a part of an expression."""

    can_fail: bool = True
    ways: int = 1  # at a position where what follows can fail
    power: int = 0  # the cost at a position grows with the text's length to this power
    quiet_power: int = 0  # the same, if nothing that follows can fail
    is_fixed: bool = True  # one way and one length: no alternatives, no quantifiers with a range
    shortest: int = 1  # characters of the shortest match


def require_tame(expression: str) -> None:
    """TooCostly for an expression that may take more than quadratic time, or whose syntax is not known here."""
    whole = _read(expression)
    if whole.quiet_power > 1 or whole.ways > MAX_WAYS:
        raise TooCostly("an expression that can take very long")


def shortest_match(expression: str) -> int:
    """Bytes of the shortest match, at least. Without regard to case, one character can match several: "ß" is "ss"."""
    shortest = _read(expression).shortest
    return min(shortest, 1) if FLAG_I.search(expression) else shortest


def _read(expression: str) -> PatternPart:
    if len(expression) > MAX_LENGTH:
        raise TooCostly(f"an expression of {len(expression)} characters")
    reader = _Reader(expression)
    whole = reader.alternatives(0)
    if reader.at < len(expression):
        raise TooCostly("a bracket without its pair")
    return whole


class _Reader:
    """Reads one expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def alternatives(self, depth: int) -> PatternPart:
        if depth > MAX_DEPTH:
            raise TooCostly("brackets nested too deeply")
        branches = [self._sequence(depth)]
        while self._takes("|"):
            branches.append(self._sequence(depth))
        if len(branches) == 1:
            return branches[0]
        return PatternPart(
            can_fail=all(branch.can_fail for branch in branches),
            ways=sum(branch.ways for branch in branches),
            power=max(branch.power for branch in branches),
            quiet_power=max(branch.quiet_power for branch in branches),
            is_fixed=False,
            shortest=min(branch.shortest for branch in branches),
        )

    def _sequence(self, depth: int) -> PatternPart:
        parts = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self._quantified(self._atom(depth)))
        return _joined(parts)

    def _atom(self, depth: int) -> PatternPart:
        letter = self.text[self.at]
        if letter == "(":
            return self._group(depth)
        if letter == "[":
            self._skip_class()
            return PatternPart()
        if letter == "\\":
            return self._escape()
        if letter in "?*+":
            raise TooCostly(f"a {letter} with nothing to repeat")
        self.at += 1
        return PatternPart(shortest=int(letter not in "^$"))

    def _group(self, depth: int) -> PatternPart:
        kind = ":"
        if self.text.startswith("(?", self.at):
            found = GROUP.match(self.text, self.at)
            if found is None:
                raise TooCostly(f"the group {self.text[self.at : self.at + 8]}")
            self.at = found.end()
            if found[3] == ")":
                return self._flags(found)
            kind = found[1] or ":"
        else:
            self.at += 1
        inner = self.alternatives(depth + 1)
        if not self._takes(")"):
            raise TooCostly("an unmatched bracket")
        if kind in (":", ">"):
            return inner
        # A lookaround is read again at each position: an unbounded part costs the text's length.
        return PatternPart(
            ways=inner.ways,
            power=inner.quiet_power,
            quiet_power=inner.quiet_power if inner.is_fixed else max(1, inner.quiet_power),
            shortest=0,
        )

    def _flags(self, found: re.Match[str]) -> PatternPart:
        """Flags for what follows. In Ruby's syntax they make a group of all of it: a(?i)b|c is a(?i:b|c)."""
        if found.start() > 0:
            raise TooCostly(f"{found[0]} that is not at its beginning")
        return PatternPart(can_fail=False, shortest=0)

    def _escape(self) -> PatternPart:
        found = ESCAPE.match(self.text, self.at)
        if found is None or found[0][1] in REFUSED_ESCAPES:
            raise TooCostly(f"the escape {self.text[self.at : self.at + 2]}")
        self.at = found.end()
        return PatternPart(shortest=int(found[0][1] not in NO_CHARACTER))

    def _skip_class(self) -> None:
        """Skip a class of characters, which may hold others."""
        depth, start = 0, self.at
        while self.at < len(self.text):
            letter = self.text[self.at]
            if ODD_CLASS.match(self.text, self.at) or (
                letter == "\\" and self.text[self.at + 1 : self.at + 2] in REFUSED_IN_CLASS
            ):
                raise TooCostly(f"the class {self.text[start : self.at + 3]}")
            self.at += 2 if letter == "\\" else 1
            depth += (letter == "[") - (letter == "]")
            if letter == "[" and depth > MAX_DEPTH:
                break
            if depth == 0:
                return
        raise TooCostly(f"the class {self.text[start : start + 8]}, which does not end")

    def _quantified(self, part: PatternPart) -> PatternPart:
        while (found := QUANTIFIER.match(self.text, self.at)) and found[0] != "{}" and found[0] != "{,}":
            self.at = found.end()
            sign, least, comma, most, suffix = found.groups()
            if sign is None and (suffix == "+" or (suffix and not comma)):  # in Ruby's syntax, another quantifier
                self.at -= 1
            low, high = _bounds(sign, least, comma, most)
            part = _repeated(part, low, high)
        return part

    def _takes(self, letter: str) -> bool:
        if not self.text.startswith(letter, self.at):
            return False
        self.at += 1
        return True


def _bounds(sign: str | None, least: str, comma: str, most: str) -> tuple[int, int | None]:
    if sign is not None:
        return (1 if sign == "+" else 0), (1 if sign == "?" else None)
    low = int(least or 0)
    high = int(most) if most else (None if comma else low)
    low, high = (low, high) if high is None or low <= high else (high, low)  # as Ruby's syntax has it
    return low, high if high is None or high <= MANY or high == low else None


def _repeated(part: PatternPart, low: int, high: int | None) -> PatternPart:
    """`part` repeated. Backtracking into a loop over several ways is exponential; it never happens if nothing after the loop
    can fail."""
    can_fail = part.can_fail and low > 0
    if high == low:
        count = min(low, MANY)
        return PatternPart(
            can_fail, part.ways**count, part.power * count, part.quiet_power * count, part.is_fixed, part.shortest * count
        )
    is_loop = high is None or high > 1
    ways = part.ways + 1 if not is_loop else (1 if high is None else high - low + 1)
    power = part.power + (high is None)
    if is_loop and not part.is_fixed:
        power = 99
    return PatternPart(can_fail, ways, power, part.quiet_power, is_fixed=False, shortest=part.shortest * min(low, MANY))


def _joined(parts: list[PatternPart]) -> PatternPart:
    """Parts in sequence. A part is retried when a later one fails."""
    ways, power, quiet_ways, quiet_power, fails_later = 1, 0, 1, 0, False
    for part in reversed(parts):
        ways, power = min(ways * part.ways, 1 << 20), power + part.power
        quiet_ways = min(quiet_ways * part.ways, 1 << 20) if fails_later else max(quiet_ways, part.ways)
        quiet_power += part.power if fails_later else part.quiet_power
        fails_later = fails_later or part.can_fail
    is_fixed = all(part.is_fixed for part in parts)
    return PatternPart(fails_later, ways, power, quiet_power, is_fixed, sum(part.shortest for part in parts))
