"""What the names of a file's imports stand for: F is torch.nn.functional. Nothing is imported."""

from __future__ import annotations

import ast
from collections.abc import Mapping

# What usual names mean in a snippet that leaves its imports out.
USUAL: Mapping[str, str] = {
    "F": "torch.nn.functional",
    "nn": "torch.nn",
    "np": "numpy",
    "plt": "matplotlib.pyplot",
    "pd": "pandas",
}


def aliases_of(tree: ast.AST) -> dict[str, str]:
    """Each imported name, and the full name it stands for.

    >>> aliases_of(ast.parse("import numpy as np; from torch.nn import functional as F"))["F"]
    'torch.nn.functional'
    """
    found = dict(USUAL)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {one.asname: one.name for one in node.names if one.asname}
            found |= {head: head for one in node.names if not one.asname and (head := one.name.split(".")[0])}
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            found |= {one.asname or one.name: f"{prefix}.{one.name}".lstrip(".") for one in node.names if one.name != "*"}
    return found


def dotted_name(node: ast.AST, aliases: Mapping[str, str]) -> str:
    """The full name that an expression spells; "" if it is more than a name.

    >>> dotted_name(ast.parse("F.softmax", mode="eval").body, {"F": "torch.nn.functional"})
    'torch.nn.functional.softmax'
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])
