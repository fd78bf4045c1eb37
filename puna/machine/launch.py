"""The start script of a child: runs a module of the puna that contains this file, installed or not.

    python -P .../puna/machine/launch.py puna.machine.facts storage

A child does not import from the current folder, and another puna may be installed. This file imports nothing of puna itself.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def run(module: str) -> None:
    """Run a module of this puna as `__main__`; its other imports are found as usual."""
    root = str(Path(__file__).resolve().parents[2])
    sys.path.insert(0, root)
    import puna  # noqa: F401 - afterwards submodules are found by puna's own path

    sys.path.remove(root)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    del sys.argv[0]
    run(sys.argv[0])
