"""Sizes as error texts write them."""

from __future__ import annotations

import re

GIB = 1 << 30
_SIZE = re.compile(r"(?P<number>\d{1,15}([.,]\d{1,6})?)\s?(?P<unit>[kmgt])?(i?b|bytes)?")
UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def num_bytes(text: str) -> int | None:
    """
    >>> num_bytes("86.00 MiB"), num_bytes("0 bytes"), num_bytes("1900,00 MiB"), num_bytes("4096"), num_bytes("much")
    (90177536, 0, 1992294400, 4096, None)
    """
    found = _SIZE.fullmatch(text.strip().lower())
    return int(float(found["number"].replace(",", ".")) * 1024 ** UNITS[found["unit"] or ""]) if found is not None else None


def shown(size: float) -> str:
    """
    >>> shown(90177536), shown(13476839424), shown(0)
    ('86.0 MiB', '12.55 GiB', '0 MiB')
    """
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / (1 << 20):.1f} MiB" if size else "0 MiB"
