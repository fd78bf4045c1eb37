"""Renders a chat template of a model file: foreign code, run within limits. Only this module uses Jinja2.

Jinja2's sandbox hides Python's internals from a template; its documentation says that it does not limit time and memory.
This module limits them: a list says what a template may contain, another what it may call, and each operation that can loop,
copy or build is counted before or while it happens. Nothing here starts a process or a thread.
"""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from itertools import islice
from types import CodeType
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from puna.errors import TemplateError

MAX_SOURCE = 64_000  # characters; the longest templates in use have 20,000
MAX_TOKENS = 12_000  # Jinja2 tokens: half a second to compile (2 cores, 2026-11); the longest in use have half as many
MAX_STEPS = 1_000_000  # turns of loops, calls, filters, operations
MAX_SECONDS = 0.75  # of this thread's CPU time, including compilation
MAX_DEPTH = 64  # macros that call macros
MAX_ITEMS = 100_000  # of a list that is built
MAX_VALUE = 1_000_000  # characters of a value, in addition to four times the input
MAX_TOTAL = 8_000_000  # characters of all values, in addition to sixteen times the input
MAX_BITS = 4096  # of a whole number

NODES = {
    *("Template", "Output", "TemplateData", "For", "If", "Macro", "CallBlock", "FilterBlock", "With"),
    *("Assign", "AssignBlock", "Break", "Continue", "Name", "NSRef", "Const", "Tuple", "List", "Dict", "Pair"),
    *("Keyword", "CondExpr", "Filter", "Test", "Call", "Getitem", "Getattr", "Slice", "Concat", "Compare", "Operand"),
    *("And", "Or", "Not", "Neg", "Pos", "Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"),
}
KEPT_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items", "last"),
    *("length", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort"),
    *("string", "title", "trim", "unique", "upper"),
)
KEPT_TESTS = (
    *("boolean", "callable", "defined", "divisibleby", "eq", "==", "equalto", "even", "false", "float", "ge", "gt", "in"),
    *("integer", "iterable", "le", "lower", "lt", "mapping", "ne", "!=", "none", "number", "odd", "sameas", "sequence"),
    *("string", "true", "undefined", "upper", ">", ">=", "<", "<="),
)
STR_METHODS = (
    *("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isdecimal", "isdigit"),
    *("islower", "isnumeric", "isspace", "istitle", "isupper", "join", "lower", "lstrip", "partition"),
    *("removeprefix", "removesuffix", "replace", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split"),
    *("splitlines", "startswith", "strip", "swapcase", "title", "upper"),
)
LOOP_ATTRIBUTES = (
    *("changed", "cycle", "depth", "depth0", "first", "index", "index0", "last", "length", "nextitem", "previtem"),
    *("revindex", "revindex0"),
)
METHODS: dict[type, tuple[str, ...]] = {
    str: STR_METHODS,
    dict: ("get", "items", "keys", "values"),
    list: ("count", "index"),
    tuple: ("count", "index"),
    LoopContext: LOOP_ATTRIBUTES,
}
FUNCTIONS = ("range", "dict", "namespace", "raise_exception", "strftime_now")  # a template may call these by name
COUNTED, CHARGED, CHAINED = "counted!", "charged!", "chained!"  # our filters: names that no template can write

# Exceptions that a faulty template can raise.
FAILURES = (
    *(jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, MemoryError, NotImplementedError, RuntimeError),
    *(SyntaxError, TypeError, ValueError),
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The names and texts in a template: anything else has no effect on what it writes."""

    variables: frozenset[str]  # names that it reads, including its own
    texts: frozenset[str]  # its string constants and attribute names


def vocabulary(source: str) -> Vocabulary:
    """What a template reads. TemplateError if `source` is not a template.

    >>> vocabulary("{% if thinking and m.role == 'tool' %}{% endif %}") == Vocabulary(
    ...     frozenset({"thinking", "m"}), frozenset({"role", "tool"}))
    True
    """
    try:
        return _vocabulary(source)
    except FAILURES as error:
        raise TemplateError(f"the chat template failed: {str(error)[:500]}", hint=_HINT) from error


def render_template(source: str, variables: Mapping[str, Any], *, now: datetime | None = None) -> str:
    """Render `source` with `variables`. `now` is the time of `strftime_now` (None: the current time).

    TemplateError if the template is wrong, forbidden, beyond its limits, or refuses the messages (`raise_exception`).
    """
    sandbox = _Sandbox(Budget(size_of(variables, 1 << 40)), now)
    try:
        code = sandbox.code(source)
        return jinja2.Template.from_code(sandbox, code, sandbox.globals).render(variables)
    except FAILURES as error:
        reason = str(error)[:500] or type(error).__name__
        raise TemplateError(f"the chat template failed: {reason}", hint=_HINT) from error


_HINT = "Use --template with a built-in name, or --raw for plain continuation."


class Budget:
    """The budget that one rendering has left. Every method raises TemplateError when it is used up."""

    def __init__(self, input_chars: int) -> None:
        self.steps = MAX_STEPS
        self.depth = 0
        self.value_limit = MAX_VALUE + 4 * input_chars
        self.chars = MAX_TOTAL + 16 * input_chars
        self.deadline = time.thread_time() + MAX_SECONDS

    def step(self, count: int = 1) -> None:
        self.steps -= count
        if self.steps < 0:
            exceed(f"takes more than {MAX_STEPS} steps")
        if time.thread_time() > self.deadline:
            exceed(f"takes longer than {MAX_SECONDS} s")

    def expect(self, chars: int) -> None:
        """Charge a value of that many characters before it is built."""
        self.step()
        if chars > self.value_limit:
            exceed(f"builds a value of more than {self.value_limit} characters")

    def charge(self, value: Any) -> Any:
        """Charge `value` after it was built, and return it."""
        self.expect(size_of(value, self.value_limit))
        self.chars -= 16 + (len(value) if isinstance(value, str) else 8 * len(value) if hasattr(value, "__len__") else 0)
        if self.chars < 0:
            exceed("builds too many values")
        return value

    def items(self, values: Iterable[Any]) -> list[Any]:
        """`values` as a list; each costs one step."""
        items = list(islice(values, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            exceed(f"builds a list of more than {MAX_ITEMS} items")
        self.step(len(items))
        return items


def exceed(problem: str) -> NoReturn:
    raise TemplateError(f"the chat template {problem}, which is more than puna allows", hint=_HINT)


def size_of(value: Any, room: int) -> int:
    """Roughly the characters of `value` written out. An element that occurs twice counts twice. Stops beyond `room`.

    >>> pair = ["ab", "ab"]
    >>> size_of([pair, pair], 1000) - 2 * size_of(pair, 1000)
    16
    """
    total = 0
    pending: list[Any] = [value]
    while pending and total <= room:
        item = pending.pop()
        total += 16
        if isinstance(item, str):
            total += len(item)
        elif isinstance(item, int):
            total += item.bit_length() // 3
        elif isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, _CONTAINERS):
            pending.extend(item)
    return total


_CONTAINERS: Any = (list, tuple, set, frozenset, type({}.keys()), type({}.values()), type({}.items()))


class _Namespace(Namespace):
    """Jinja2's namespace without its repr, which would never end for one that contains itself twice."""

    def __repr__(self) -> str:
        return "<namespace>"


class _Sandbox(ImmutableSandboxedEnvironment):
    """One rendering's environment. No other code makes an environment."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, budget: Budget, now: datetime | None = None) -> None:
        extensions: list[type[Extension]] = [loopcontrols, _GenerationTag]
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=extensions, cache_size=0)
        self.budget = budget
        self.finalize = jinja2.pass_context(lambda _, value: self._written(value))  # with a context: never folded
        functions = (safe_range, dict, _Namespace, _raise_exception, lambda form: _strftime(now or datetime.now(), form))
        self.globals = dict(zip(FUNCTIONS, functions, strict=True))
        bounded: dict[str, Callable[..., Any]] = {
            "list": budget.items,
            "join": self._join,
            "replace": self._replace,
            "indent": self._indent,
        }
        more: dict[str, Callable[..., Any]] = {"tojson": _tojson, "format": self._format, "round": _round}
        kept: dict[str, Callable[..., Any]] = {name: FILTERS[name] for name in KEPT_FILTERS}
        self.filters = {name: self._limited(function) for name, function in (kept | bounded | more).items()}
        self.filters |= {COUNTED: budget.items, CHARGED: budget.charge, CHAINED: self._concat}
        self.tests = {name: TESTS[name] for name in KEPT_TESTS}

    def code(self, source: str) -> CodeType:
        code = _compiled(source)
        self.budget.step()
        return code

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, Namespace):
            return not attr.startswith("_")
        return attr in METHODS.get(type(obj), ())

    def wrap_str_format(self, value: Any) -> None:
        if getattr(value, "__name__", "") in ("format", "format_map"):  # its widths may come from anywhere
            raise TemplateError("the chat template calls str.format, which puna does not allow", hint=_HINT)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.budget.expect(_BINOP_SIZES[operator](left, right))
        return self.budget.charge(super().call_binop(context, operator, left, right))

    # Two underscores, as in Jinja2: a template may name an argument `self`.
    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = __self.budget
        budget.step()
        __self._expect_of_method(__obj, args, kwargs)
        if budget.depth >= MAX_DEPTH:
            exceed(f"nests calls deeper than {MAX_DEPTH}")
        budget.depth += 1
        try:
            return budget.charge(super().call(__context, __obj, *args, **kwargs))
        finally:
            budget.depth -= 1

    def concat(self, pieces: Iterable[str]) -> str:
        """Join what a template, a macro or a block has written."""
        parts, chars = [], 0
        for piece in pieces:
            parts.append(piece)
            chars += len(piece)
            if chars > self.budget.value_limit:
                exceed(f"writes more than {self.budget.value_limit} characters")
        self.budget.step()
        return str(self.budget.charge("".join(parts)))

    def _limited(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.budget.step()
            return self.budget.charge(function(*args, **kwargs))

        return limited

    def _written(self, value: Any) -> Any:
        self.budget.expect(size_of(value, self.budget.value_limit))
        return value

    def _concat(self, values: list[Any]) -> str:
        return self.concat(str(self._written(value)) for value in values)

    def _expect_of_method(self, method: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
        if isinstance(text, str):
            if name == "replace":
                self.budget.expect(_replaced(text, *args))
            elif name == "join":
                self.budget.expect(size_of(args, self.budget.value_limit) + len(text) * _length(args))
            elif name in ("split", "rsplit", "splitlines"):
                self._expect_pieces(text, args, kwargs)

    def _expect_pieces(self, text: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        separator = kwargs.get("sep", args[0] if args else None)
        if (text.count(separator) if isinstance(separator, str) and separator else len(text) // 2) > MAX_ITEMS:
            exceed(f"cuts a text into more than {MAX_ITEMS} pieces")

    def _join(self, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        items = self.budget.items(values)
        if attribute is not None:
            items = [self.getitem(item, attribute) for item in items]
        texts = [str(self._written(item)) for item in items]
        self.budget.expect(sum(map(len, texts)) + len(str(d)) * len(texts))
        return str(d).join(texts)

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text = str(self._written(text))
        self.budget.expect(_replaced(text, str(old), str(new)))
        return str(text).replace(str(old), str(new), count)

    def _indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(self._written(text))
        columns = len(width) if isinstance(width, str) else int(width)
        self.budget.expect(len(text) + columns * (text.count("\n") + 1))
        return str(FILTERS["indent"](text, width, first, blank))

    def _format(self, form: Any, *args: Any, **kwargs: Any) -> str:
        values: Any = kwargs or args
        self.budget.expect(_formatted(str(form), values))
        written: str = str(form) % values
        return written


class _GenerationTag(Extension):
    """`{% generation %}` marks assistant text for training. puna renders only its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Guarded(NodeTransformer):
    """Refuses nodes that are not in NODES, and inserts our filters where a template loops, copies, compares or builds."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        kind = type(node).__name__
        if kind not in NODES:
            raise TemplateError(f"the chat template uses {kind} at line {node.lineno}, which puna does not allow", hint=_HINT)
        return super().generic_visit(node, *args, **kwargs)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateError(f"the chat template uses a recursive loop at line {node.lineno}, which puna does not allow")
        self.generic_visit(node)
        node.iter = _filtered(node.iter, COUNTED)
        return node

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name in ("varargs", "kwargs"):  # these lists could not be counted
            raise TemplateError(f"the chat template uses {node.name} at line {node.lineno}, which puna does not allow")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), CHAINED)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, CHARGED) if isinstance(node.arg, nodes.Slice) else node

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, CHARGED) if node.ctx == "load" else node

    def _charged(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, CHARGED)

    visit_List = visit_Dict = visit_Compare = _charged


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


@lru_cache(maxsize=16)
def _compiled(source: str) -> CodeType:
    sandbox = _Sandbox(Budget(0))
    tree = _Guarded().visit(_parsed(source, sandbox))
    tree.set_environment(sandbox)
    return sandbox.compile(tree)


@lru_cache(maxsize=16)
def _vocabulary(source: str) -> Vocabulary:
    tree = _parsed(source, _Sandbox(Budget(0)))
    variables = {node.name for node in tree.find_all(nodes.Name) if node.ctx == "load"}
    texts = {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return Vocabulary(frozenset(variables), frozenset(texts | {node.attr for node in tree.find_all(nodes.Getattr)}))


def _parsed(source: str, sandbox: _Sandbox) -> nodes.Template:
    if len(source) > MAX_SOURCE:
        exceed(f"has more than {MAX_SOURCE} characters")
    if next(islice(sandbox.lex(source), MAX_TOKENS, None), None) is not None:
        exceed(f"has more than {MAX_TOKENS} tokens")
    return sandbox.parse(source)


# An upper bound of a result's size, from the operands alone.


def _added(left: Any, right: Any) -> int:
    return len(left) + len(right) if isinstance(left, str) and isinstance(right, str) else 0


def _times(left: Any, right: Any) -> int:
    if isinstance(left, int) and isinstance(right, int):
        return _require_bits(left.bit_length() + right.bit_length())
    value, count = (right, left) if isinstance(left, int) else (left, right)
    return size_of(value, MAX_VALUE << 8) * max(count, 1) if isinstance(count, int) else 0


def _powered(left: Any, right: Any) -> int:
    both_whole = isinstance(left, int) and isinstance(right, int)
    return _require_bits(left.bit_length() * max(right, 0)) if both_whole else 0


def _require_bits(bits: int) -> int:
    if bits > MAX_BITS:
        exceed(f"computes a number of more than {MAX_BITS} bits")
    return bits


def _formatted(form: Any, values: Any) -> int:
    """The size of `form % values`: each conversion may write all values once."""
    if not isinstance(form, str):
        return 0
    if re.search(r"%(\([^)]*\))?[-+ #0]*(\*|\d{4}|\d*\.(\*|\d{4}))", form):
        exceed("formats with a width above 999")
    return len(form) + form.count("%") * (999 + size_of(values, MAX_VALUE << 8))


_BINOP_SIZES: dict[str, Callable[[Any, Any], int]] = {"+": _added, "*": _times, "**": _powered, "%": _formatted}


def _replaced(text: str, old: Any = "", new: Any = "", count: Any = -1) -> int:
    return len(text) + (text.count(old) * len(new) if isinstance(old, str) and isinstance(new, str) else 0)


def _length(args: tuple[Any, ...]) -> int:
    return len(args[0]) if args and hasattr(args[0], "__len__") else MAX_ITEMS


# Functions and filters that Hugging Face's templates expect in addition to Jinja2's.


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(f"the chat template refuses these messages: {str(message)[:500]}")


def _strftime(now: datetime, form: str) -> str:
    if len(form) > 100 or not re.fullmatch(r"([^%]|%-?[A-Za-z%])*", form):  # %1000000d would pad
        raise TemplateError(f"the chat template asks for the time as {form[:100]!r}, which puna does not allow")
    return now.strftime(form)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without HTML escapes, unlike Jinja2's filter."""
    if indent is not None and not 0 <= indent <= 8:
        exceed(f"indents JSON by {indent}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not 0 <= precision <= 20:
        exceed(f"rounds to {precision} digits")
    return float(FILTERS["round"](value, precision, method))
