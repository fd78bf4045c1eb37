"""Writes docs/wires.md from the tables of the server: `python -m scripts.wires`."""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "wires.md"


def main() -> None:
    from puna.server.field_classes import markdown

    PATH.write_text(markdown(), "utf-8")


if __name__ == "__main__":
    main()
