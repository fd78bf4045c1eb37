"""Cuts the body of a function or a file into blocks that a person can take in one at a time."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from puna.explain.source.symbols import DefinitionNode

SHORT = 8  # lines; a longer compound statement gives its head and the parts of its body blocks of their own
LONGEST = 10  # lines of plain statements together
MAX_BLOCKS = 400  # of one function
MAX_DEPTH = 20
MAX_COMMENTS = 6  # lines right before a statement that belong to it; longer ones, such as licences, are left out


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """Some statements that stand together. heads: a compound statement of which only the first line is meant.

    first, last: the lines, comments before included; depth: inside how many compound statements; lead: the branch it begins,
    such as "Otherwise".
    """

    first: int
    last: int
    depth: int
    statements: tuple[ast.stmt, ...] = ()
    head: ast.stmt | None = None
    lead: str = ""


def blocks(body: Sequence[ast.stmt], lines: Sequence[str], after: int) -> list[CodeBlock]:
    """The blocks of a body; `after` is the last line before it.

    >>> text = "a = 1\\nb = 2\\n\\nfor x in y:\\n    c(x)"
    >>> [(one.first, one.last) for one in blocks(ast.parse(text).body, text.split("\\n"), 0)]
    [(1, 2), (4, 5)]
    """
    return list(islice(_blocks(body, lines, after, 0, ""), MAX_BLOCKS))


def _blocks(body: Sequence[ast.stmt], lines: Sequence[str], after: int, depth: int, lead: str) -> Iterator[CodeBlock]:
    together: list[ast.stmt] = []

    def gathered() -> Iterator[CodeBlock]:
        nonlocal after, lead
        if together:
            last = _end(together[-1])
            yield CodeBlock(_start(after, first_line(together[0]), lines), last, depth, tuple(together), lead=lead)
            after, lead = last, ""
            together.clear()

    for statement in body:
        if _is_long(statement) and depth < MAX_DEPTH:
            yield from gathered()
            yield from _parts(statement, lines, after, depth, lead)
            after, lead = _end(statement), ""
            continue
        if together and not _belongs(together, statement, lines):
            yield from gathered()
        together.append(statement)
        if not _is_plain(statement):
            yield from gathered()
    yield from gathered()


def _parts(statement: ast.stmt, lines: Sequence[str], after: int, depth: int, lead: str) -> Iterator[CodeBlock]:
    """A long compound statement: its head, then the blocks of each of its bodies."""
    bodies = list(_bodies(statement))
    first = _start(after, first_line(statement), lines)
    head_end = max(statement.lineno, first_line(bodies[0][1][0]) - 1)
    while head_end > statement.lineno and (_is_blank(lines[head_end - 1]) or lines[head_end - 1].lstrip().startswith("#")):
        head_end -= 1
    yield CodeBlock(first, head_end, depth, head=statement, lead=lead)
    at = head_end
    for number, (words, body) in enumerate(bodies):
        if number:
            at = max(at, _line_before(body[0], lines))
        yield from _blocks(body, lines, at - 1 if number else at, depth + 1, words)
        at = _end(body[-1])


def _bodies(statement: ast.stmt) -> Iterator[tuple[str, Sequence[ast.stmt]]]:
    """The bodies of a compound statement, and what each begins with in words. An elif is a body of its own."""
    yield "", statement.body  # type: ignore[attr-defined]
    for handler in getattr(statement, "handlers", ()):
        yield f"If that raises {'any exception' if handler.type is None else ast.unparse(handler.type)}:", handler.body
    while isinstance(statement, ast.If) and len(statement.orelse) == 1 and isinstance(statement.orelse[0], ast.If):
        statement = statement.orelse[0]
        yield f"Otherwise, if {' '.join(ast.unparse(statement.test).split())[:90]}:", statement.body
    if getattr(statement, "orelse", None):
        yield LEADS.get(type(statement), "Otherwise:"), statement.orelse  # type: ignore[attr-defined]
    if getattr(statement, "finalbody", None):
        yield "In any case, at the end:", statement.finalbody  # type: ignore[attr-defined]


LEADS = {
    **dict.fromkeys((ast.For, ast.While), "If no break has ended the loop:"),
    ast.Try: "If nothing was raised:",
}


def _belongs(together: Sequence[ast.stmt], statement: ast.stmt, lines: Sequence[str]) -> bool:
    """Whether a statement continues a block: nothing stands between, and the block stays short."""
    before = _end(together[-1])
    between = lines[before : first_line(statement) - 1]
    span = _end(statement) - first_line(together[0]) + 1
    is_import = all(isinstance(one, ast.Import | ast.ImportFrom) for one in (together[-1], statement))
    if any(_is_blank(line) or line.lstrip().startswith("#") for line in between) and not is_import:
        return False
    return is_import or (_is_plain(statement) and span <= LONGEST)


def _is_plain(statement: ast.stmt) -> bool:
    return not hasattr(statement, "body")


def _is_long(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Match) or _is_plain(statement):
        return False
    return _end(statement) - first_line(statement) + 1 > SHORT or isinstance(statement, DefinitionNode)


def first_line(statement: ast.stmt) -> int:
    """With its decorators."""
    decorators = statement.decorator_list if isinstance(statement, DefinitionNode) else []
    return min([statement.lineno, *(one.lineno for one in decorators)])


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno


def _start(after: int, first: int, lines: Sequence[str]) -> int:
    """The first line of a block: comments right before a statement belong to it."""
    least = max(after, first - 1 - MAX_COMMENTS)
    while first - 1 > least and lines[first - 2].strip().startswith(("#", "else", "elif", "except", "finally")):
        first -= 1
    return first


def _line_before(statement: ast.stmt, lines: Sequence[str]) -> int:
    """The line of the else, except or finally before a statement."""
    at = first_line(statement) - 1
    while at > 1 and not lines[at - 1].strip().startswith(("else", "elif", "except", "finally")):
        at -= 1
    return at


def _is_blank(line: str) -> bool:
    return not line.strip()
