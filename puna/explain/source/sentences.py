"""Statements in plain sentences, made from the syntax tree alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from puna.explain.source.expressions import Known, code, condition, known_call, phrase, words_of
from puna.explain.source.imports import dotted_name
from puna.explain.source.library import DECORATORS

MAX_SENTENCE = 320
MAX_ELIFS = 200


class Sentence(NamedTuple):
    """What one statement does.

    line: 0 if it belongs to the next one; depth: how deep it stands inside the block's own statements.
    """

    line: int
    depth: int
    text: str


Told = Iterator[Sentence]
CHANGES: Mapping[type[ast.operator], str] = {
    ast.Add: "{x} grows by {y}.",
    ast.Sub: "{x} shrinks by {y}.",
    ast.Mult: "{x} is multiplied by {y}.",
    ast.Div: "{x} is divided by {y}.",
    ast.BitOr: "{x} becomes true also where {if_y}.",
    ast.BitAnd: "{x} stays true only where {if_y}.",
    ast.FloorDiv: "{x} is divided by {y}, without remainder.",
    ast.Mod: "{x} becomes its remainder by {y}.",
    ast.Pow: "{x} is raised to the power of {y}.",
}


def sentences(body: Sequence[ast.stmt], known: Known, depth: int = 0) -> list[Sentence]:
    """What each statement does, and the statements inside it, one level deeper.

    >>> source = ast.parse("for cur in range(low, high):\\n    x[cur] = 0")
    >>> [one.text for one in sentences(source.body, Known({}))]
    ['For each cur from low up to high, which is left out:', 'x[cur] is overwritten with 0.']
    """
    found: list[Sentence] = []
    for is_import, group in groupby(body, lambda one: isinstance(one, ast.Import | ast.ImportFrom)):
        statements = list(group)
        if is_import and len(statements) > 1:
            found.append(Sentence(statements[0].lineno, depth, _ended(f"Uses {'; '.join(map(_imported, statements))}.")))
        else:
            found += [one for statement in statements for one in statement_sentences(statement, known, depth)]
    return found


def _imported(node: ast.stmt) -> str:
    """What an import statement brings in."""
    names = [one.name + (f" as {one.asname}" if one.asname else "") for one in getattr(node, "names", ())]
    told = ", ".join("everything" if one == "*" else one for one in names)
    return f"{told} from {'.' * node.level}{node.module or ''}" if isinstance(node, ast.ImportFrom) else told


def statement_sentences(statement: ast.stmt, known: Known, depth: int = 0) -> list[Sentence]:
    """What a statement does; its source if the words would be endless."""
    told = _STATEMENTS.get(type(statement), _other)
    try:
        found = list(told(statement, known, depth))
    except RecursionError:
        return [Sentence(statement.lineno, depth, "This is nested too deeply to be put into words.")]
    return [one._replace(text=_ended(one.text)) for one in found]


def _ended(text: str) -> str:
    text = text[:1].upper() + text[1:] if text.partition(" ")[0].islower() and text.startswith(_OPENINGS) else text
    return text if len(text) <= MAX_SENTENCE else text[: MAX_SENTENCE - 3].rstrip() + "..."


_SENTENCE_END = re.compile(r"(?<=[^.\s]{2})\.\s+(?=[A-Z])")
_OPENINGS = ("if ", "for ", "the ", "as long ")


def header(statement: ast.stmt, known: Known, depth: int = 0) -> list[Sentence]:
    """Only the first sentence of a compound statement: its body is told elsewhere."""
    return statement_sentences(statement, known, depth)[:1]


# ---- plain statements -------------------------------------------------------------------------------------------------------


def _assign(node: ast.Assign, known: Known, depth: int) -> Told:
    *others, target = node.targets
    words = phrase(node.value, known)
    if others:
        yield Sentence(node.lineno, depth, f"{', '.join(code(one) for one in node.targets)} all become {words}.")
        return
    yield Sentence(node.lineno, depth, _becomes(target, node.value, words))


def _becomes(target: ast.expr, value: ast.expr, words: str) -> str:
    name = code(target)
    match target, value:
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values) and not _crosses(targets, values):
            pairs = zip(targets, values, strict=True)
            return ", ".join(f"{code(one)} is set to {code(other)}" for one, other in pairs) + "."
        case ast.Tuple(), _:
            return f"{name.strip('()')} become {words}."
        case ast.Subscript(), _:
            return f"{name} is overwritten with {words}."
        case _, ast.Constant():
            return f"{name} is set to {words}."
    return f"{name} becomes {words}."


def _crosses(targets: Sequence[ast.expr], values: Sequence[ast.expr]) -> bool:
    """Whether a, b = b, a: told together."""
    return bool({code(one) for one in targets} & {code(one) for one in values})


def _annotated(node: ast.AnnAssign, known: Known, depth: int) -> Told:
    kind = type_words(node.annotation)
    if node.value is None:
        yield Sentence(node.lineno, depth, f"{code(node.target)} is declared: {kind}.")
    else:
        text = _becomes(node.target, node.value, phrase(node.value, known)).removesuffix(".")
        yield Sentence(node.lineno, depth, f"{text} ({kind}).")


def _augmented(node: ast.AugAssign, known: Known, depth: int) -> Told:
    template = CHANGES.get(type(node.op))
    if template is None:
        yield Sentence(node.lineno, depth, f"{code(node.target)} is changed: {code(node)}.")
        return
    value = condition(node.value, known) if isinstance(node.op, ast.BitOr | ast.BitAnd) else phrase(node.value, known)
    clause = value.removeprefix("element by element, whether ")
    yield Sentence(node.lineno, depth, template.format(x=code(node.target), y=value, if_y=clause))


def _expression(node: ast.Expr, known: Known, depth: int) -> Told:
    value = node.value
    if isinstance(value, ast.Constant):
        if isinstance(value.value, str):
            yield Sentence(node.lineno, depth, f'Its author says: "{first_sentence(value.value)}"')
        return
    if isinstance(value, ast.Yield | ast.YieldFrom):
        given = "nothing" if value.value is None else phrase(value.value, known)
        yield Sentence(node.lineno, depth, f"Gives {given} to the caller, and waits until the next one is asked for.")
        return
    found = known_call(value, known) if isinstance(value, ast.Call) else None
    if found is not None and found.row.acts:
        text = words_of(found, known, found.row.acts)
    elif found is not None and found.row.gives != "nothing":
        text = f"Computes {words_of(found, known)}, and keeps nothing of it."
    else:
        text = f"Calls {code(value)}."
    yield Sentence(node.lineno, depth, text[:1].upper() + text[1:] if text.startswith(("the ", "an ")) else text)


def first_sentence(text: str) -> str:
    """The first sentence of a docstring, on one line."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    head = _SENTENCE_END.split(paragraph, maxsplit=1)[0].rstrip()
    return head if len(head) <= 200 else head[:197] + "..."


def _assert(node: ast.Assert, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"Stops with an AssertionError unless {condition(node.test, known)}.")


def _raise(node: ast.Raise, known: Known, depth: int) -> Told:
    match node.exc:
        case None:
            text = "Passes the same exception on."
        case ast.Call(func=func, args=[ast.Constant(value=str() as message), *_]):
            text = f'Stops with {code(func)}: "{first_sentence(message)}"'
        case ast.Call(func=func):
            text = f"Stops with {code(func)}."
        case other:
            text = f"Stops with {code(other)}."
    yield Sentence(node.lineno, depth, text)


def _return(node: ast.Return, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, "Ends the function." if node.value is None else f"Returns {phrase(node.value, known)}.")


def _delete(node: ast.Delete, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"Forgets {', '.join(code(one) for one in node.targets)}.")


def _import(node: ast.Import | ast.ImportFrom, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"Uses {_imported(node)}.")


def _scope(node: ast.Global | ast.Nonlocal, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"{', '.join(node.names)}: the names from outside this function, not new ones.")


def _fixed(text: str) -> Callable[[Any, Known, int], Told]:
    def told(node: ast.stmt, known: Known, depth: int) -> Told:
        yield Sentence(node.lineno, depth, text)

    return told


def _other(node: ast.stmt, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"{code(node)}: a statement that puna has no words for.")


# ---- compound statements ----------------------------------------------------------------------------------------------------


def _if(node: ast.If, known: Known, depth: int) -> Told:
    """A chain of elif is walked as a list: it may be long."""
    word, count = "If", 0
    while True:
        if is_main_guard(node):
            yield Sentence(node.lineno, depth, "Only if this file is run as a program, not when it is imported:")
        else:
            yield Sentence(node.lineno, depth, f"{word} {condition(node.test, known)}:")
        yield from sentences(node.body, known, depth + 1)
        count += 1
        if len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If) and count < MAX_ELIFS:
            word, node = "Otherwise, if", node.orelse[0]
            continue
        break
    if node.orelse:
        yield Sentence(0, depth, "Otherwise:")
        yield from sentences(node.orelse[:1] if count == MAX_ELIFS else node.orelse, known, depth + 1)


def is_main_guard(node: ast.If) -> bool:
    return code(node.test).replace('"', "'") == "__name__ == '__main__'"


def _for(node: ast.For | ast.AsyncFor, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, _loop_words(node.target, node.iter, known))
    yield from sentences(node.body, known, depth + 1)
    if node.orelse:
        yield Sentence(node.orelse[0].lineno, depth, "If no break has ended the loop:")
        yield from sentences(node.orelse, known, depth + 1)


def _loop_words(target: ast.expr, items: ast.expr, known: Known) -> str:
    name = code(target).strip("()")
    match items:
        case ast.Call(func=ast.Name(id="range"), args=[end]):
            count = code(end)
            return f"{count} times:" if name == "_" else f"For each {name} from 0 up to {count}, which is left out:"
        case ast.Call(func=ast.Name(id="range"), args=[start, end]):
            return f"For each {name} from {code(start)} up to {code(end)}, which is left out:"
        case ast.Call(func=ast.Name(id="range"), args=[start, end, by]):
            return f"For each {name} from {code(start)} up to {code(end)}, which is left out, in steps of {code(by)}:"
        case ast.Call(func=ast.Name(id="enumerate"), args=[several, *_]) if (
            isinstance(target, ast.Tuple) and len(target.elts) == 2
        ):
            number, one = (code(part) for part in target.elts)
            return f"For each {one} of {phrase(several, known)}, with its number {number}:"
    return f"For each {name} of {phrase(items, known)}:"


def _while(node: ast.While, known: Known, depth: int) -> Told:
    is_endless = isinstance(node.test, ast.Constant) and bool(node.test.value)
    head = "Again and again, until a break or a return:" if is_endless else f"As long as {condition(node.test, known)}:"
    yield Sentence(node.lineno, depth, head)
    yield from sentences(node.body, known, depth + 1)


def _with(node: ast.With | ast.AsyncWith, known: Known, depth: int) -> Told:
    parts = []
    for item in node.items:
        called = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
        dotted = dotted_name(called, known.aliases)
        words = DECORATORS.get(dotted, "").removesuffix(".")
        named = f" as {code(item.optional_vars)}" if item.optional_vars is not None else ""
        parts.append(f"{words} ({code(item.context_expr)})" if words else f"With {phrase(item.context_expr, known)}{named}")
    yield Sentence(node.lineno, depth, "; ".join(parts) + ":")
    yield from sentences(node.body, known, depth + 1)


def _try(node: ast.Try, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, "Tries this:")
    yield from sentences(node.body, known, depth + 1)
    for handler in node.handlers:
        kind = "any exception" if handler.type is None else code(handler.type)
        yield Sentence(handler.lineno, depth, f"If that raises {kind}:")
        yield from sentences(handler.body, known, depth + 1)
    if node.orelse:
        yield Sentence(node.orelse[0].lineno, depth, "If nothing was raised:")
        yield from sentences(node.orelse, known, depth + 1)
    if node.finalbody:
        yield Sentence(node.finalbody[0].lineno, depth, "In any case, at the end:")
        yield from sentences(node.finalbody, known, depth + 1)


def _match(node: ast.Match, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"Depending on {phrase(node.subject, known)}:")
    for case in node.cases:
        yield Sentence(case.pattern.lineno, depth, f"If it is {code(case.pattern)}:")
        yield from sentences(case.body, known, depth + 1)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, known: Known, depth: int) -> Told:
    yield Sentence(node.lineno, depth, f"Defines the function {node.name}({code(node.args, 60)}).{_says(node)}")


def _class(node: ast.ClassDef, known: Known, depth: int) -> Told:
    bases = f", a kind of {', '.join(code(one) for one in node.bases)}" if node.bases else ""
    yield Sentence(node.lineno, depth, f"Defines the class {node.name}{bases}.{_says(node)}")


def _says(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> str:
    text = ast.get_docstring(node)
    return f' Its author says: "{first_sentence(text)}"' if text else ""


_STATEMENTS: Mapping[type, Callable[[Any, Known, int], Told]] = {
    ast.Assign: _assign,
    ast.AnnAssign: _annotated,
    ast.AugAssign: _augmented,
    ast.Expr: _expression,
    ast.Assert: _assert,
    ast.Raise: _raise,
    ast.Return: _return,
    ast.Delete: _delete,
    ast.Import: _import,
    ast.ImportFrom: _import,
    ast.Global: _scope,
    ast.Nonlocal: _scope,
    ast.Pass: _fixed("Does nothing."),
    ast.Break: _fixed("Ends the loop here."),
    ast.Continue: _fixed("Goes on with the next round of the loop."),
    ast.If: _if,
    ast.For: _for,
    ast.AsyncFor: _for,
    ast.While: _while,
    ast.With: _with,
    ast.AsyncWith: _with,
    ast.Try: _try,
    ast.TryStar: _try,
    ast.Match: _match,
    ast.FunctionDef: _function,
    ast.AsyncFunctionDef: _function,
    ast.ClassDef: _class,
}
# ---- types ------------------------------------------------------------------------------------------------------------------

TYPES: Mapping[str, str] = {
    "int": "a whole number",
    "float": "a real number",
    "str": "a text",
    "bool": "True or False",
    "bytes": "bytes",
    "None": "nothing",
    "list": "a list",
    "dict": "a dictionary",
    "tuple": "a tuple",
    "set": "a set",
    "Any": "anything",
    "object": "anything",
    "Tensor": "a tensor",
    "LongTensor": "a tensor of whole numbers",
    "FloatTensor": "a tensor of real numbers",
    "BoolTensor": "a tensor of true and false",
    "ndarray": "an array",
    "Callable": "a function",
    "Path": "a path",
    "Module": "a model",
}
PLURALS: Mapping[str, str] = {
    "a whole number": "whole numbers",
    "a real number": "real numbers",
    "a text": "texts",
    "a tensor": "tensors",
    "a list": "lists",
    "a dictionary": "dictionaries",
    "True or False": "truth values",
    "anything": "anything",
}


def type_words(annotation: ast.expr | None) -> str:
    """A type in words; its source if puna has none.

    >>> type_words(ast.parse("List[List[int]]", mode="eval").body), type_words(ast.parse("Optional[int]", mode="eval").body)
    ('a list of lists of whole numbers', 'a whole number, or None')
    """
    match annotation:
        case None:
            return ""
        case ast.Constant(value=None):
            return "nothing"
        case ast.Constant(value=str() as text) if len(text) < 200:
            try:
                return type_words(ast.parse(text, mode="eval").body)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return text
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return TYPES.get(name, code(annotation))
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return f"{type_words(left)}, or {type_words(right)}".replace(", or nothing", ", or None")
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            return _generic_words(name, inner, annotation)
    return code(annotation)


def _generic_words(name: str, inner: ast.expr, annotation: ast.expr) -> str:
    parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    words = [type_words(one) for one in parts]
    match name.lower():
        case "optional":
            return f"{words[0]}, or None"
        case "union":
            return ", or ".join(words).replace("nothing", "None")
        case "list" | "sequence" | "iterable" | "iterator" | "generator" | "collection":
            return f"a list of {_plural(words[0])}" if name.lower() != "iterator" else f"one after the other, {_plural(words[0])}"
        case "dict" | "mapping" if len(words) == 2:
            return f"a dictionary from {_plural(words[0])} to {_plural(words[1])}"
        case "tuple":
            return f"a tuple of {' and '.join(words)}"
        case "literal":
            return f"one of {', '.join(code(one) for one in parts)}"
    return code(annotation)


def _plural(words: str) -> str:
    if ", or " in words:
        return ", or ".join(map(_plural, words.split(", or ")))
    if words.startswith("a list of "):
        return f"lists of {words.removeprefix('a list of ')}"
    return PLURALS.get(words, words)
