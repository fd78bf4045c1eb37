"""Predicted bytes against those that loading took, of the models that were loaded here: `cache folder/plans.jsonl`.

A line of JSON each, the newest last. Lines that are damaged are passed over; where the cache cannot be written, nothing is kept.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from puna.llm import LLM
from puna.paths import cache_dir

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
        lines = history_file().read_text("utf-8", "replace")[-2 * KEPT_BYTES :].splitlines()
    except OSError:
        return []
    return [entry for line in lines if (entry := _entry(line)) is not None]


def _append(line: str) -> None:
    file = history_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and file.stat().st_size > KEPT_BYTES:
        _shorten(file)
    with file.open("a", encoding="utf-8") as target:
        target.write(line + "\n")  # in one write: lines of several processes do not mix


def _shorten(file: Path) -> None:
    """Leave the newer half. Whole, or as it was."""
    lines = file.read_text("utf-8", "replace").splitlines()
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
    return Entry(**{name: values[name] for name in kinds})
