"""Expressions in plain words: "the smallest of the number of items of t, for each t in prompt_tokens"."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from puna.explain.source.imports import dotted_name
from puna.explain.source.library import CALLS, CONSTANTS, METHODS, KnownCall

MAX_PHRASE = 240  # characters; of a longer phrase the source stands for itself
MAX_CODE = 90
ELLIPSIS = "..."
AXES = {
    "-1": "the last axis",
    "0": "the first axis",
    "1": "the second axis",
    "-2": "the last axis but one",
    "2": "the third axis",
}
AXIS_NAMES = ("dim", "dim0", "dim1", "axis")
COMPARED: Mapping[type[ast.cmpop], str] = {
    ast.Eq: "equals", ast.NotEq: "differs from", ast.Lt: "is less than", ast.LtE: "is at most", ast.Gt: "is greater than",
    ast.GtE: "is at least", ast.Is: "is", ast.IsNot: "is not", ast.In: "is in", ast.NotIn: "is not in",
}  # fmt: skip
OPERATORS: Mapping[type[ast.operator], str] = {
    ast.Add: "plus", ast.Sub: "minus", ast.Mult: "times", ast.Div: "divided by", ast.FloorDiv: "divided without remainder by",
    ast.Mod: "modulo", ast.Pow: "to the power of", ast.MatMult: "times the matrix", ast.BitAnd: "and", ast.BitOr: "or",
}  # fmt: skip
_SLOT = re.compile(r"\{(\w+)(?:\|([^}]*))?\}")
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


@dataclass(frozen=True, slots=True)
class Known:
    """What the words for an expression depend on: the imports of its file, and the functions that the file defines."""

    aliases: Mapping[str, str]
    functions: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class FoundCall:
    """A call of the table: the name to show, its row, and the source text of each argument."""

    name: str
    row: KnownCall
    node: ast.Call
    arguments: Mapping[str, ast.expr | str]


def code(node: ast.AST, most: int = MAX_CODE) -> str:
    """The source of a node on one line, shortened."""
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError):
        return ELLIPSIS
    return text if len(text) <= most else text[: most - len(ELLIPSIS)] + ELLIPSIS


def known_call(node: ast.Call, known: Known) -> FoundCall | None:
    """The table's row for a call; None if it is not there."""
    dotted = dotted_name(node.func, known.aliases)
    head = dotted.partition(".")[0]
    if dotted in CALLS and dotted not in known.functions:
        return FoundCall(dotted, CALLS[dotted], node, _bound(CALLS[dotted], None, node))
    if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS and head not in ("math", "numpy", "os", "re", "json"):
        row = METHODS[node.func.attr]
        is_module = head in ("torch",) and not isinstance(node.func.value, ast.Call)
        return None if is_module else FoundCall(f".{node.func.attr}", row, node, _bound(row, node.func.value, node))
    return None


def _bound(row: KnownCall, owner: ast.expr | None, node: ast.Call) -> dict[str, ast.expr | str]:
    """Each parameter's argument; several for one with a star become a text."""
    names, given = row.parameters.split(), [*([owner] if owner is not None else []), *node.args]
    bound: dict[str, ast.expr | str] = {}
    for at, name in enumerate(names):
        if name.startswith("*"):
            rest = given[at:]
            bound[name[1:]] = rest[0] if len(rest) == 1 else _listed(rest)
            break
        if at < len(given):
            bound[name] = given[at]
    bound |= {("dim" if one.arg == "axis" else one.arg): one.value for one in node.keywords if one.arg}
    return bound


def _listed(nodes: Sequence[ast.expr]) -> str:
    """Several arguments: a and b; of numbers, as they stand."""
    words = [code(one) for one in nodes]
    is_plain = all(isinstance(one, ast.Constant | ast.UnaryOp) for one in nodes)
    return ", ".join(words) if is_plain else f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def words_of(found: FoundCall, known: Known, template: str | None = None) -> str:
    """A row's words with the arguments put in.

    >>> call = ast.parse("len(rows)", mode="eval").body
    >>> words_of(known_call(call, Known({})), Known({}))
    'the number of items of rows'
    """
    if template is None:
        template = next(
            (words for name, source, words in found.row.when if _source(found.arguments.get(name)) == source), found.row.gives
        )

    def optional(part: re.Match[str]) -> str:
        return part[1] if all(slot[1] in found.arguments for slot in _SLOT.finditer(part[1])) else ""

    def fill(slot: re.Match[str]) -> str:
        argument = found.arguments.get(slot[1])
        if argument is None:
            return slot[2] or f"its {slot[1]}"
        if isinstance(argument, str):
            return argument
        if slot[1] in ("condition", "mask"):
            return condition(argument, known)
        if slot[1] == "tensors" and isinstance(argument, ast.Tuple | ast.List):
            return _listed(argument.elts)
        return AXES.get(code(argument), f"axis {code(argument)}") if slot[1] in AXIS_NAMES else phrase(argument, known)

    return _SLOT.sub(fill, _OPTIONAL.sub(optional, template))


def _source(argument: ast.expr | str | None) -> str:
    return "" if argument is None else argument if isinstance(argument, str) else code(argument)


def phrase(node: ast.expr, known: Known) -> str:
    """A noun phrase for an expression; its source, if the words would be long or none fit.

    >>> phrase(ast.parse("min(len(t) for t in rows)", mode="eval").body, Known({}))
    'the smallest of the number of items of t, for each t in rows'
    """
    try:
        words = _phrase(node, known)
    except RecursionError:
        return code(node)
    return words if len(words) <= MAX_PHRASE else code(node)


def _phrase(node: ast.expr, known: Known) -> str:
    match node:
        case ast.Call():
            return _call(node, known)
        case ast.Attribute():
            return CONSTANTS.get(dotted_name(node, known.aliases), code(node))
        case ast.BinOp():
            return _operation(node, known)
        case ast.Subscript(value=ast.Attribute(value=owner, attr="shape"), slice=ast.Constant() | ast.UnaryOp() as axis):
            return f"the length of {code(owner)} along {AXES.get(code(axis), f'axis {code(axis)}')}"
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return f"not {phrase(operand, known)}"
        case ast.UnaryOp(op=ast.USub(), operand=ast.Call() as operand):
            words = phrase(operand, known)
            return words.replace("the negative ", "the ", 1) if words.startswith("the negative ") else f"minus {words}"
        case ast.Compare() | ast.BoolOp():
            return f"whether {condition(node, known)}"
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return f"{phrase(body, known)} if {condition(test, known)}, else {phrase(orelse, known)}"
        case ast.ListComp(elt=elt, generators=generators):
            return f"a list of {phrase(elt, known)}, {_each(generators, known)}"
        case ast.GeneratorExp(elt=elt, generators=generators) | ast.SetComp(elt=elt, generators=generators):
            return f"{phrase(elt, known)}, {_each(generators, known)}"
        case ast.DictComp(key=key, value=value, generators=generators):
            return f"a dictionary from {phrase(key, known)} to {phrase(value, known)}, {_each(generators, known)}"
        case ast.List(elts=[]):
            return "an empty list"
        case ast.Dict(keys=[]):
            return "an empty dictionary"
        case ast.Tuple(elts=elts) if elts and any(isinstance(one, ast.Call | ast.ListComp) for one in elts):
            return " and ".join(phrase(one, known) for one in elts)
        case ast.Await(value=value):
            return f"{phrase(value, known)}, for which it waits"
        case ast.Starred(value=value):
            return f"the items of {phrase(value, known)}"
        case ast.NamedExpr(target=target, value=value):
            return f"{phrase(value, known)}, kept as {target.id}"
        case ast.Lambda():
            return f"a small function ({code(node)})"
        case ast.Constant(value=str() as text):
            return code(node) if text.strip() else "a text of spaces" if text else "an empty text"
    return code(node)


def _call(node: ast.Call, known: Known) -> str:
    name = code(node.func, 60)
    if name in EACH and len(node.args) == 1 and isinstance(node.args[0], ast.GeneratorExp):
        each = node.args[0]
        return f"whether {EACH[name]} {_each(each.generators, known)}: {condition(each.elt, known)}"
    found = known_call(node, known)
    if found is not None and found.row.gives != "nothing":
        return words_of(found, known)
    last = name.rpartition(".")[2]
    if name == "self" and node.args:
        return f"what the object, called as a model, gives for {phrase(node.args[0], known)}"
    if last[:1].isupper():
        return f"a new {name} object" + (f" made of {', '.join(code(one, 40) for one in node.args)}" if node.args else "")
    if last in known.functions:
        return f"what {code(node)} returns"
    return f"the result of {code(node)}"


EACH = {"any": "it holds at least once,", "all": "it always holds,"}


def _operation(node: ast.BinOp, known: Known) -> str:
    """Arithmetic: its source if it is short and plain, else in words."""
    is_plain = not any(isinstance(one, ast.Call | ast.Compare | ast.IfExp) for one in ast.walk(node))
    if isinstance(node.op, ast.BitAnd | ast.BitOr):
        sides = " and ".join(condition(one, known) for one in (node.left, node.right))
        word = "both" if isinstance(node.op, ast.BitAnd) else "either"
        return f"element by element, whether {word} {sides if word == 'both' else sides.replace(' and ', ' or ', 1)}"
    if isinstance(node.op, ast.Mult) and isinstance(node.left, ast.List):
        return f"a list of {phrase(node.right, known)} times {', '.join(code(one) for one in node.left.elts)}"
    if (is_plain and len(code(node)) <= 60) or type(node.op) not in OPERATORS:
        return code(node)
    return f"{phrase(node.left, known)} {OPERATORS[type(node.op)]} {phrase(node.right, known)}"


def _each(generators: Sequence[ast.comprehension], known: Known) -> str:
    parts = []
    for one in generators:
        where = " and ".join(condition(test, known) for test in one.ifs)
        parts.append(f"for each {code(one.target)} in {phrase(one.iter, known)}" + (f" where {where}" if where else ""))
    return ", ".join(parts)


def condition(node: ast.expr, known: Known) -> str:
    """A condition as a clause.

    >>> condition(ast.parse("temperature > 0 and not echo", mode="eval").body, Known({}))
    'temperature is greater than 0 and echo is not true'
    """
    match node:
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            words = phrase(left, known)
            for kind, right in zip(ops, comparators, strict=True):
                words += f" {COMPARED[type(kind)]} {phrase(right, known)}"
            return words
        case ast.BoolOp(op=op, values=values):
            return (" and " if isinstance(op, ast.And) else " or ").join(condition(one, known) for one in values)
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=operand):
            return (
                f"{phrase(operand, known)} is not true"
                if isinstance(operand, ast.Name | ast.Attribute | ast.Subscript)
                else (f"it is not true that {condition(operand, known)}")
            )
        case ast.Call():
            words = phrase(node, known)
            return words.removeprefix("whether ") if words.startswith("whether ") else f"{words} is true"
        case ast.Constant(value=True):
            return "always"
    words = phrase(node, known)
    return f"{words} is true" if not words.startswith("element by element") else words


# ---- brackets ---------------------------------------------------------------------------------------------------------------


def brackets(node: ast.Subscript) -> str | None:
    """What a slice of a tensor takes, axis by axis; None for a plain index.

    >>> brackets(ast.parse("tokens[:, prev:cur]", mode="eval").body)
    'of all rows, the positions from prev up to cur, which is left out'
    """
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if len(parts) == 1 and not isinstance(parts[0], ast.Slice):
        return None
    names = ("row", "position", "value") if len(parts) > 1 else ("item",)
    words = [_axis_words(one, names[min(at, len(names) - 1)]) for at, one in enumerate(parts)]
    told = [one for one in words if one]
    return f"of {told[0]}, {' and '.join(told[1:])}" if len(told) > 1 else told[0] if told else None


def _axis_words(part: ast.expr, name: str) -> str:
    match part:
        case ast.Slice(lower=None, upper=None):
            return f"all {name}s"
        case ast.Slice(lower=None, upper=ast.UnaryOp(op=ast.USub(), operand=upper)):
            return f"all {name}s but the last {'one' if code(upper) == '1' else code(upper)}"
        case ast.Slice(lower=None, upper=upper) if upper is not None:
            return f"the first {code(upper)} {name}s"
        case ast.Slice(lower=ast.UnaryOp(op=ast.USub(), operand=lower), upper=None):
            return f"the last {code(lower)} {name}s"
        case ast.Slice(lower=lower, upper=None) if lower is not None:
            return f"the {name}s from {code(lower)} on"
        case ast.Slice(lower=lower, upper=upper) if lower is not None and upper is not None:
            return f"the {name}s from {code(lower)} up to {code(upper)}, which is left out"
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1)):
            return f"the last {name}"
        case ast.Constant(value=None):
            return "a new axis"
        case ast.Constant(value=value) if value is Ellipsis:
            return "all axes before"
        case ast.List():
            return f"the {name}s {code(part)}, kept as an axis"
    return f"{name} {code(part)}"
