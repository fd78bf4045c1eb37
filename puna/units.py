"""Numbers in words."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "thread"), counted(2, "thread"), counted(0, "token")
    ('1 thread', '2 threads', '0 tokens')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def gb(num_bytes: int) -> str:
    """The size of a file.

    >>> gb(4_081_004_224), gb(385_000_000)
    ('4.1 GB', '385 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
