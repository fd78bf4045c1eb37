"""Writes docs/variables.md from the program: `python -m scripts.variables`."""

from __future__ import annotations

from pathlib import Path

PATH = Path(__file__).parents[1] / "docs" / "variables.md"


def main() -> None:
    from puna.variables import markdown

    PATH.write_text(markdown(), "utf-8")


if __name__ == "__main__":
    main()
