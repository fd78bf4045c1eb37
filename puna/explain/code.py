"""The lines of puna that do something: found from the function object, so that no file and no number is typed by hand."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import puna
from puna.explain.parts import CodeLines

MOST_LINES = 24  # of a function that are shown
PACKAGE = Path(puna.__file__).parent


def code_of(function: Callable[..., Any] | type[Any], most: int = MOST_LINES) -> CodeLines:
    """A function, a method or a class of puna: its place and its first lines without the docstring.

    >>> from puna.filters import top_k
    >>> code = code_of(top_k)
    >>> code.file, code.name, code.lines[-1][1]
    ('puna/filters.py', 'top_k', '    return _only(logits, _top_k(logits, params))')
    """
    path = Path(inspect.getsourcefile(function) or "")
    file = (Path(PACKAGE.name) / path.relative_to(PACKAGE)).as_posix()
    try:
        lines, first = inspect.getsourcelines(function)
    except OSError:  # only compiled files are here
        return CodeLines(function.__qualname__, file, 0, ())
    shown = _without_docstring([line.rstrip() for line in lines], first)
    return CodeLines(function.__qualname__, file, first, tuple(shown[:most]), len(shown) > most)


def _without_docstring(lines: list[str], first: int) -> list[tuple[int, str]]:
    """(number, line) of each line but those of the docstring, and empty ones at its place."""
    dedented = textwrap.dedent("\n".join(lines))
    (node,) = ast.parse(dedented).body
    hidden: range = range(0)
    if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        end = node.body[0].end_lineno or 0
        hidden = range(node.body[0].lineno - 1, end + (end < len(lines) and not lines[end]))
    numbered = list(enumerate(dedented.split("\n"), start=first))
    return [one for index, one in enumerate(numbered) if index not in hidden]
