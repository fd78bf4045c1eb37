"""The functions and classes of a file, by the names that a person types: `generate`, `Llama.generate`."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from puna.errors import UsageError, did_you_mean

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
DefinitionNode = FunctionNode | ast.ClassDef
MAX_LISTED = 12
MAX_COMPARED = 2000  # names that are compared with a misspelt one: each takes some microseconds


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class. name: with those around it, `Class.method`; owner: the class of a method."""

    name: str
    node: DefinitionNode
    owner: ast.ClassDef | None = None

    @property
    def kind(self) -> str:
        if isinstance(self.node, ast.ClassDef):
            return "class"
        return "method" if self.owner is not None else "function"

    @property
    def first_line(self) -> int:
        """With its decorators."""
        return min([self.node.lineno, *(one.lineno for one in self.node.decorator_list)])


def definitions(tree: ast.Module) -> list[Definition]:
    """All functions and classes, in the order of the file.

    >>> [one.name for one in definitions(ast.parse("class A:\\n def f(self):\\n  def g(): 0"))]
    ['A', 'A.f', 'A.f.g']
    """
    return list(_inside(tree, "", None))


def _inside(node: ast.AST, prefix: str, owner: ast.ClassDef | None) -> Iterator[Definition]:
    waiting = _children(node)
    while waiting:  # no recursion: a chain of `elif` is as deep as it is long
        one = waiting.pop()
        if isinstance(one, DefinitionNode):
            name = f"{prefix}{one.name}"
            yield Definition(name, one, owner)
            yield from _inside(one, f"{name}.", one if isinstance(one, ast.ClassDef) else None)
        elif isinstance(one, ast.stmt | ast.ExceptHandler | ast.match_case):
            waiting += _children(one)


def _children(node: ast.AST) -> list[ast.AST]:
    """The first one last, as a stack has them."""
    return list(ast.iter_child_nodes(node))[::-1]


def find(known: Sequence[Definition], wanted: str, file: str) -> list[Definition]:
    """The definitions that a name means: all of exactly that name, else the one whose last names these are.

    UsageError if there is none, with similar names, or if several are meant.
    """
    exact = [one for one in known if one.name == wanted]
    if exact:
        return exact
    ending = [one for one in known if one.name.endswith(f".{wanted}")]
    names = list(dict.fromkeys(one.name for one in ending))
    if len(names) > 1:
        told = ", ".join(f"{one.name} (line {one.node.lineno})" for one in ending[:MAX_LISTED])
        raise UsageError(
            f"{file} has {len(ending)} of the name {wanted}: {told}", hint=f"Say which: puna explain {file}:{names[0]}"
        )
    if ending:
        return ending
    every = list(dict.fromkeys(one.name for one in known))
    similar = did_you_mean(wanted, every[:MAX_COMPARED]) or did_you_mean(
        wanted, [n.rpartition(".")[2] for n in every[:MAX_COMPARED]]
    )
    listed = ", ".join(every[:MAX_LISTED]) + (f" and {len(every) - MAX_LISTED} more" if len(every) > MAX_LISTED else "")
    hint = similar or (f"It has {listed}." if every else f"It has no functions: puna explain {file}")
    raise UsageError(f"{file} has no function or class {wanted}", hint=hint)


def functions_of(body: Sequence[ast.stmt]) -> dict[str, ast.FunctionDef]:
    """The functions of a module's or class's own level, by their names; of several with one name the last one counts."""
    return {one.name: one for one in body if isinstance(one, ast.FunctionDef)}


def constants_of(body: Sequence[ast.stmt]) -> Mapping[str, ast.expr]:
    """The names that a module sets once, at its own level, to an expression."""
    return {
        target.id: one.value
        for one in body
        if isinstance(one, ast.Assign)
        for target in one.targets
        if isinstance(target, ast.Name)
    }


def split_target(target: str) -> tuple[Path, str | None]:
    r"""A file, and the name of a function in it if one is given.

    >>> split_target("a.py:Llama.generate")[1], split_target("C:\\x.py")[1], split_target("a.py")[1]
    ('Llama.generate', None, None)
    """
    head, colon, tail = target.rpartition(":")
    is_symbol = bool(colon and head) and all(part.isidentifier() for part in tail.split(".")) and len(head) > 1
    return (Path(head), tail) if is_symbol else (Path(target), None)
