"""Runs the page's modules in Node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puna.server import page
from tests import node
from tests.node import needs_node as needs_node

FOLDER = Path(page.__file__).parent


def evaluated(module: str, names: str, expression: str, given: Any = None, timeout_s: float = 60.0) -> Any:
    """The value of a JavaScript expression that sees the `names` of a `module` of the page, and `given`."""
    return node.evaluated(FOLDER / module, names, expression, given, timeout_s)
