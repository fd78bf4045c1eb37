"""Writes docs/trace.schema.json and docs/diff.schema.json from the classes of traces: `python -m scripts.trace_schema`."""

from __future__ import annotations

import json
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PATH, DIFF_PATH = DOCS / "trace.schema.json", DOCS / "diff.schema.json"


def main() -> None:
    from puna.glassbox.schema import diff_schema, trace_schema

    for path, schema in ((PATH, trace_schema()), (DIFF_PATH, diff_schema())):
        path.write_text(json.dumps(schema, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
