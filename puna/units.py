"""Numbers and bytes in words; bytes and times read from words.

MB and GB are powers of 1000, for files; MiB and GiB are powers of 1024, for memory.
"""

from __future__ import annotations

import math
import re

MIB, GIB = 1 << 20, 1 << 30
POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}  # first letter of a unit -> power of its base
BYTES = r"[0-9]{1,18}|[0-9]{1,6}(\.[0-9]{1,3})? ?(K|M|G|T)i?B?"  # the texts that `parse_bytes` reads
_FOREIGN = re.compile(r"(\d{1,15}(?:[.,]\d{1,6})?)\s?([KMGT]?)(?:I?B|BYTES)?")


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "thread"), counted(2, "thread"), counted(0, "token")
    ('1 thread', '2 threads', '0 tokens')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def short_count(number: int) -> str:
    """A large number, such as a model's weights.

    >>> short_count(6_738_415_616), short_count(134_515_008)
    ('6.74 B', '134.5 M')
    """
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def two_digits(rate: float) -> str:
    """A rate of an estimate: more digits would claim more than puna knows.

    >>> two_digits(1234.5), two_digits(8.26), two_digits(71.3)
    ('1200', '8.3', '71')
    """
    return f"{float(f'{rate:.2g}'):g}" if rate < 1000 else f"{int(float(f'{rate:.2g}'))}"


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)"


def parse_duration(text: str) -> float | None:
    """Seconds in a text: a number, or one with units; `math.inf` for any below 0, as Ollama has it; None for another text.

    >>> parse_duration("90"), parse_duration("1h30m"), parse_duration("-1"), parse_duration("soon")
    (90.0, 5400.0, inf, None)
    """
    number = text.strip().removeprefix("-")
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", number):
        total = float(number)
    elif re.fullmatch(f"({_PART})+", number):
        total = sum(float(count) * _SECONDS[unit] for count, unit in re.findall(_PART, number))
    else:
        return None
    return math.inf if text.strip().startswith("-") else total


# ---- bytes ----------------------------------------------------------------------------------------------------------


def parse_bytes(text: str) -> int:
    """
    >>> parse_bytes("12GiB"), parse_bytes("1.5Gi"), parse_bytes("12GB"), parse_bytes("64")
    (12884901888, 1610612736, 12000000000, 64)
    """
    number = text.rstrip("KMGTiB ")
    unit = text[len(number) :].strip()
    base = 1000 if unit.endswith("B") and not unit.endswith("iB") else 1024
    return int(float(number) * base ** POWERS.get(unit[:1], 0))


def foreign_bytes(text: str) -> int | None:
    """Bytes as another program wrote them, whose units are powers of 1024 whatever their names; None for another text.

    >>> foreign_bytes("86.00 MiB"), foreign_bytes("1900,00 MB"), foreign_bytes("64m"), foreign_bytes("much")
    (90177536, 1992294400, 67108864, None)
    """
    found = _FOREIGN.fullmatch(text.strip().upper())
    return int(float(found[1].replace(",", ".")) * float(1024 ** POWERS[found[2]])) if found is not None else None


def gib(num_bytes: int) -> str:
    """Memory in GiB; in MiB where two digits of a GiB would say little.

    >>> gib(13_476_831_232), gib(100 << 20)
    ('12.55 GiB', '100.0 MiB')
    """
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= 0.1 * GIB else f"{num_bytes / MIB:.1f} MiB"


def exact_gib(num_bytes: int) -> str:
    """
    >>> exact_gib(13_476_831_232)
    '12.55 GiB (13476831232 bytes)'
    """
    return f"{gib(num_bytes)} ({num_bytes} bytes)"


def mib_or_gib(num_bytes: float) -> str:
    """Memory in the unit of PyTorch's messages: MiB below one GiB.

    >>> mib_or_gib(90177536), mib_or_gib(13476839424), mib_or_gib(0)
    ('86.0 MiB', '12.55 GiB', '0 MiB')
    """
    if num_bytes >= GIB:
        return f"{num_bytes / GIB:.2f} GiB"
    return f"{num_bytes / MIB:.1f} MiB" if num_bytes else "0 MiB"


def rough_gib(num_bytes: float) -> str:
    """What a machine has, where more digits would distract.

    >>> rough_gib(12.55 * GIB), rough_gib(300 * MIB), rough_gib(130.4 * GIB)
    ('12.6 GiB', '300 MiB', '130 GiB')
    """
    if num_bytes < GIB:
        return f"{num_bytes / MIB:.0f} MiB"
    return f"{num_bytes / GIB:.{1 if num_bytes < 100 * GIB else 0}f} GiB"


def kib(num_bytes: int) -> str:
    """
    >>> kib(16384), kib(1056)
    ('16 KiB', '1.03125 KiB')
    """
    return f"{num_bytes / 1024:g} KiB"


def gb(num_bytes: int) -> str:
    """The size of a file.

    >>> gb(4_081_004_224), gb(385_000_000)
    ('4.1 GB', '385 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else megabytes(num_bytes)


def kilobytes(num_bytes: int) -> str:
    """The size of a small file.

    >>> kilobytes(128942), kilobytes(90)
    ('129 kB', '1 kB')
    """
    return f"{max(1, round(num_bytes / 1000))} kB"


def megabytes(num_bytes: int, digits: int = 0) -> str:
    """Always in MB, to compare two sizes.

    >>> megabytes(4_081_004_224), megabytes(98_304_000, 1)
    ('4081 MB', '98.3 MB')
    """
    return f"{num_bytes / 1e6:.{digits}f} MB"
