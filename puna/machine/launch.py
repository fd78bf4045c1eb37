"""The first file of a child of this Python: runs a module of the puna that it lies in, installed or not.

    python -P .../puna/machine/launch.py puna.machine.facts storage

A child does not look into the folder that a person stands in, and another puna may be installed. Imports nothing of puna itself.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def run(module: str) -> None:
    """Run a module of this puna as the main one; what it imports besides comes from where it always does."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, root)
    import puna  # noqa: F401 - from here on its parts are found by its own path

    sys.path.remove(root)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.argv[0]
    run(sys.argv[0])
