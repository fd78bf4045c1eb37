"""The error texts of the data files."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def texts(name: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = tomllib.loads((HERE / f"{name}.toml").read_text("utf-8"))["text"]
    return entries
