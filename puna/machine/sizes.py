"""Bytes for people, and numbers out of the texts in which kernels tell them."""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20
MAX_DIGITS = 20  # a longer number is no count of anything here


def shown(num_bytes: float) -> str:
    """
    >>> shown(12.55 * GIB), shown(300 * MIB), shown(130.4 * GIB)
    ('12.6 GiB', '300 MiB', '130 GiB')
    """
    if num_bytes < GIB:
        return f"{num_bytes / MIB:.0f} MiB"
    return f"{num_bytes / GIB:.{1 if num_bytes < 100 * GIB else 0}f} GiB"


def whole(text: str | None) -> int | None:
    """
    >>> whole(" 42\\n"), whole("max"), whole(None), whole("-1"), whole("9" * 5000)
    (42, None, None, None, None)
    """
    text = (text or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS else None


def count_of_list(text: str | None) -> int | None:
    """How many numbers a list of the kernel's names; None where it is none.

    >>> count_of_list("0-3,8"), count_of_list("0"), count_of_list("x"), count_of_list("3-1"), count_of_list("")
    (5, 1, None, None, None)
    """
    total = 0
    for part in (text or "").strip().split(","):
        first, _, last = part.partition("-")
        low, high = whole(first), whole(last or first)
        if low is None or high is None or high < low:
            return None
        total += high - low + 1
    return total
