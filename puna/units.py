"""Numbers in words."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "thread"), counted(2, "thread"), counted(0, "token")
    ('1 thread', '2 threads', '0 tokens')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
