"""Bytes for people."""

from __future__ import annotations

GIB = 1 << 30
MIB = 1 << 20


def shown(num_bytes: float) -> str:
    """
    >>> shown(12.55 * GIB), shown(300 * MIB), shown(130.4 * GIB)
    ('12.6 GiB', '300 MiB', '130 GiB')
    """
    if num_bytes < GIB:
        return f"{num_bytes / MIB:.0f} MiB"
    return f"{num_bytes / GIB:.{1 if num_bytes < 100 * GIB else 0}f} GiB"
