"""Highest measured rates of this machine's devices, kept in the cache for the plan: `cache folder/machine.json`.

A measurement belongs to one CPU with its number of threads, or to one card. A missing, damaged or hostile file counts as no
measurement, not as an error.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from puna.backends.base import Roofline
from puna.cores import choose_threads
from puna.files import read_small, write_whole
from puna.machine.host import Host, ThisHost
from puna.machine.processor import processor
from puna.paths import cache_dir
from puna.units import counted

VERSION = 2  # 1: the int8 rate was that of an older tile
MAX_FILE_BYTES = 1 << 16
MAX_DEVICES = 64
PLAUSIBLE = (1e6, 1e17)  # bytes and operations per second


def remembered(device: str, host: Host | None = None) -> Roofline | None:
    """The highest measured rates of "cpu" or of a card by name; None if not measured."""
    return roofline_of(_read().get(_key(device, host)))


def remember(device: str, roofline: Roofline, host: Host | None = None) -> None:
    """Store the higher of each rate and the one known, atomically: other programs slow a measurement down, and nothing makes it
    faster than the device is. Do nothing if the cache is not writable."""
    key, entries = _key(device, host), _read()
    before = roofline_of(entries.get(key)) or roofline
    highest = {name: max(rate, getattr(before, name)) for name, rate in asdict(roofline).items()}
    known = dict(list(entries.items())[-MAX_DEVICES:]) | {key: highest}
    with suppress(OSError):
        _write(json.dumps({"version": VERSION, "limits": known}, indent=1))


def machine_file() -> Path:
    """The path of the measurements."""
    return cache_dir() / "machine.json"


def _key(device: str, host: Host | None) -> str:
    if device != "cpu":
        return device
    host = host or ThisHost()
    found = processor(host)
    name, present = (found.name, found.threads) if found else ("CPU", 1)
    return f"cpu: {name}, {counted(choose_threads(0, host, present).start, 'thread')}"


def _read() -> dict[str, Any]:
    """Key -> unchecked value."""
    try:
        content = json.loads(read_small(machine_file(), MAX_FILE_BYTES) or b"")
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        return {}
    limits = content.get("limits")
    return limits if isinstance(limits, dict) else {}


def roofline_of(entry: Any) -> Roofline | None:
    """A measurement from its JSON value; None if invalid."""
    names = [field.name for field in fields(Roofline)]
    if not isinstance(entry, dict) or not all(_is_plausible(entry.get(name)) for name in names):
        return None
    return Roofline(**{name: float(entry[name]) for name in names})


def _is_plausible(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and PLAUSIBLE[0] <= value <= PLAUSIBLE[1]


def _write(text: str) -> None:
    file = machine_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, text.encode())
