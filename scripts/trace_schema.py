"""Writes docs/trace.schema.json from the classes of a trace: `python -m scripts.trace_schema`."""

from __future__ import annotations

import json
from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "trace.schema.json"


def main() -> None:
    from puna.glassbox.schema import trace_schema

    PATH.write_text(json.dumps(trace_schema(), indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
