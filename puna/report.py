"""The former name of `puna.progress`, for programs that import it."""

from __future__ import annotations

from puna.progress import SILENT, Reporter

__all__ = ["SILENT", "Reporter"]
