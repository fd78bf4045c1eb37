"""Predicted bytes against those that loading took, of the models that were loaded here: `cache folder/plans.jsonl`.

A line of JSON each, the newest last. Lines that are damaged are passed over; where the cache cannot be written, nothing is kept.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from puna.llm import LLM
from puna.paths import cache_dir

MOST_BYTES = 1 << 60  # no model takes more
KEPT_BYTES = 1 << 18  # some thousand lines; then the older half goes


@dataclass(frozen=True, slots=True)
class Entry:
    """One time that a model was loaded."""

    time: str  # ISO 8601, UTC
    model: str
    device: str
    weights: str  # as-is, int8, int4
    predicted_bytes: int
    actual_bytes: int

    @property
    def difference(self) -> float:
        """Of what was predicted: 0.01 is one hundredth more."""
        return self.actual_bytes / self.predicted_bytes - 1 if self.predicted_bytes else 0.0


def history_file() -> Path:
    """Where the lines lie."""
    return cache_dir() / "plans.jsonl"


def remember(llm: LLM) -> None:
    """Keep what loading this model took."""
    if llm.footprint is None:
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    taken = llm.footprint
    entry = Entry(now, llm.path.name, llm.backend.info.name, llm.plan.weights, taken.predicted_bytes, taken.actual_bytes)
    with suppress(OSError, UnicodeError):
        _append(json.dumps(asdict(entry)))


def entries() -> list[Entry]:
    """What was kept, the oldest first."""
    try:
        lines = _text(history_file()).splitlines()
    except OSError:
        return []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _text(file: Path) -> str:
    """The end of it. OSError where it is no regular file: opening another kind could wait for ever."""
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
        target.write(line + "\n")  # in one write: lines of several processes do not mix


def _shorten(file: Path) -> None:
    """Leave the newer half. Whole, or as it was."""
    lines = _text(file).splitlines()
    descriptor, partial = tempfile.mkstemp(dir=file.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as target:
        target.write("\n".join(lines[len(lines) // 2 :]) + "\n")
    Path(partial).replace(file)


def _entry(line: str) -> Entry | None:
    try:
        values: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    kinds = {field.name: int if field.name.endswith("_bytes") else str for field in fields(Entry)}
    if any(type(values.get(name)) is not kind for name, kind in kinds.items()):
        return None
    if any(abs(values[name]) > MOST_BYTES for name, kind in kinds.items() if kind is int):
        return None
    return Entry(**{name: values[name] for name in kinds})
