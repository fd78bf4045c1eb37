"""Predicted bytes against bytes that loading took, for models loaded on this machine: `cache folder/plans.jsonl`.

One line of JSON per load, the newest last. Damaged lines are skipped; if the cache is not writable, nothing is kept.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from puna.files import write_whole
from puna.llm import LLM
from puna.paths import cache_dir

MOST_BYTES = 1 << 60  # more than any model takes
KEPT_BYTES = 1 << 18  # some thousand lines; then the older half is deleted


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One load of a model."""

    time: str  # ISO 8601, UTC
    model: str
    device: str
    weights: str  # as-is, int8, int4
    predicted_bytes: int
    actual_bytes: int

    @property
    def difference(self) -> float:
        """Relative to the prediction: 0.01 is 1 % more."""
        return self.actual_bytes / self.predicted_bytes - 1 if self.predicted_bytes else 0.0


def history_file() -> Path:
    """The path of the file."""
    return cache_dir() / "plans.jsonl"


def remember(llm: LLM) -> None:
    """Keep what loading this model took."""
    if llm.footprint is None:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    taken = llm.footprint
    entry = LoadRecord(now, llm.path.name, llm.backend.info.name, llm.plan.weights, taken.predicted_bytes, taken.actual_bytes)
    with suppress(OSError, UnicodeError):
        _append(json.dumps(asdict(entry)))


def entries() -> list[LoadRecord]:
    """The records, oldest first."""
    try:
        lines = _text(history_file()).splitlines()
    except OSError:
        return []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _text(file: Path) -> str:
    """The end of the file. OSError for anything but a regular file, which could block forever."""
    if not stat.S_ISREG(file.lstat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(file))
    with file.open("rb") as source:
        source.seek(max(0, file.stat().st_size - 2 * KEPT_BYTES))
        return source.read(2 * KEPT_BYTES).decode("utf-8", "replace")


def _append(line: str) -> None:
    file = history_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(file) and len(_text(file)) > KEPT_BYTES:
        _shorten(file)
    with file.open("a", encoding="utf-8") as target:
        target.write(line + "\n")  # in one write, so that lines of several processes do not mix


def _shorten(file: Path) -> None:
    """Delete the older half, atomically."""
    lines = _text(file).splitlines()
    write_whole(file, ("\n".join(lines[len(lines) // 2 :]) + "\n").encode())


def _entry(line: str) -> LoadRecord | None:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    kinds = {field.name: int if field.name.endswith("_bytes") else str for field in fields(LoadRecord)}
    if any(type(values.get(name)) is not kind for name, kind in kinds.items()):
        return None
    if any(abs(values[name]) > MOST_BYTES for name, kind in kinds.items() if kind is int):
        return None
    return LoadRecord(**{name: values[name] for name in kinds})
