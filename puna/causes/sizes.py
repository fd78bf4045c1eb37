"""Sizes as error texts write them."""

from __future__ import annotations

GIB = 1 << 30
UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def num_bytes(text: str) -> int | None:
    """
    >>> num_bytes("86.00 MiB"), num_bytes("0 bytes"), num_bytes("1900,00 MiB"), num_bytes("4096"), num_bytes("much")
    (90177536, 0, 1992294400, 4096, None)
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(number) :].strip().lower().removesuffix("bytes").removesuffix("b").removesuffix("i")
    try:
        return int(float(number.replace(",", ".")) * 1024 ** UNITS[unit])
    except (ValueError, KeyError, OverflowError):
        return None


def shown(size: float) -> str:
    """
    >>> shown(90177536), shown(13476839424), shown(0)
    ('86.0 MiB', '12.55 GiB', '0 MiB')
    """
    if size >= GIB:
        return f"{size / GIB:.2f} GiB"
    return f"{size / (1 << 20):.1f} MiB" if size else "0 MiB"
