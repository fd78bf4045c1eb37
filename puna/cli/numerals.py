"""Numbers that a person types, in a flag or after /set: in ASCII digits and without spaces, as the variables PUNA_* have them.

Python reads more ("1_000", Arabic digits, a line's end), and forgets what was typed, which an error should show.
"""

from __future__ import annotations

import re

SIGN = "[+-]?"
WHOLE = re.compile(f"{SIGN}[0-9]+")
REAL = re.compile(rf"{SIGN}(([0-9]+(\.[0-9]*)?|\.[0-9]+)(e{SIGN}[0-9]+)?|inf|nan)", re.IGNORECASE)
MAX_DIGITS = 100  # more than any limit has: a number cut to them is refused all the same. Python reads 4300 at most


class TypedWhole(int):
    """A whole number; an error shows it as it was typed."""

    text: str

    def __repr__(self) -> str:
        return self.text


class TypedReal(float):
    """The same for a number with a fraction."""

    text: str

    def __repr__(self) -> str:
        return self.text


def typed_whole(text: str) -> TypedWhole | None:
    """The number that a text means; None if it means none.

    >>> typed_whole("+07"), typed_whole("1_0"), typed_whole("٥"), int(typed_whole("9" * 5000) or 0) > 1 << 64
    (+07, None, None, True)
    """
    if WHOLE.fullmatch(text) is None:
        return None
    sign = "-" if text.startswith("-") else ""
    number = TypedWhole(sign + (text.lstrip("+-0")[:MAX_DIGITS] or "0"))
    number.text = text
    return number


def typed_real(text: str) -> TypedReal | None:
    """The same with a fraction and an exponent. One that is too small for the machine, 1e-400, is none, because 0 means
    something else.

    >>> typed_real(".5e1"), typed_real("1e400"), typed_real("1e-400"), float(typed_real("-0") or 0)
    (.5e1, 1e400, None, 0.0)
    """
    if REAL.fullmatch(text) is None:
        return None
    number = TypedReal(float(text) + 0.0)  # 0, not -0
    number.text = text
    is_lost = not number and re.search("[1-9]", text.lower().partition("e")[0]) is not None
    return None if is_lost else number
