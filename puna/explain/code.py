"""The lines of puna that do something: found from the function object, so that no file and no number is typed by hand."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import puna
from puna.explain.parts import CodeLines

MOST_LINES = 24  # of a function that are shown
PACKAGE = Path(puna.__file__).parent


def code_of(function: Callable[..., Any] | type[Any], most: int = MOST_LINES) -> CodeLines:
    """A function, a method or a class of puna: its place and its first lines, without docstring and long lists of arguments.

    >>> from puna.filters import top_k
    >>> code = code_of(top_k)
    >>> code.file, code.name, code.lines[-1][1]
    ('puna/filters.py', 'top_k', '    return _only(logits, _top_k(logits, params))')
    """
    function = inspect.unwrap(function)
    path = Path(inspect.getsourcefile(function) or "")
    file = (Path(PACKAGE.name) / path.relative_to(PACKAGE)).as_posix()
    try:
        lines, first = inspect.getsourcelines(function)
    except OSError:  # only compiled files are here
        return CodeLines(function.__qualname__, file, 0, ())
    shown = list(_shown(textwrap.dedent("".join(lines)), first))
    return CodeLines(function.__qualname__, file, shown[0][0], tuple(shown[:most]), len(shown) > most)


def _shown(source: str, first: int) -> Iterator[tuple[int, str]]:
    """(number, line) of a definition: its first line, with "..." for arguments that do not fit it, and its body."""
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    lines, body = source.rstrip().split("\n"), node.body
    head = lines[node.lineno - 1]
    yield first + node.lineno - 1, head if head.endswith(":") else f"{head.rstrip('(')}(...):"
    if ast.get_docstring(node) is not None:
        body = body[1:]
    begin = body[0].lineno if body else len(lines) + 1
    before = lines[begin - 2].strip() if begin > 1 else ""
    if before.startswith("#"):
        begin -= 1
    yield from enumerate(lines[begin - 1 :], start=first + begin - 1)
