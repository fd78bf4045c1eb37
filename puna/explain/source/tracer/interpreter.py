"""Carries out a function of a stranger's source on numpy arrays, as data: Python itself never runs it.

Only the nodes, functions, methods and attributes of the tables here and beside are carried out, within the limits of `limits.py`;
anything else ends the run with a BeyondError. Nothing is imported, no file is opened, no attribute is looked up outside a table.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from puna.explain.source.tracer.functions import (
    BUILTINS,
    CONSTANTS,
    FUNCTIONS,
    KINDS,
    NO_GRADIENTS,
    KindName,
    SourceError,
    attribute_of,
    items_of,
    method_of,
)
from puna.explain.source.tracer.limits import MAX_DEPTH, BeyondError, RunBudget
from puna.explain.source.tracer.operations import DrawnPosition, read, write
from puna.explain.source.tracer.snapshots import Record, Records, Snapshot, TokenSpelling, snapshot
from puna.explain.source.tracer.tensors import IdList, NumberType, TracedTensor, arithmetic, compare, is_true, kind_of
from puna.explain.source.tracer.values import (
    DEVICE,
    GeneratorValue,
    ModelOutput,
    ModelSizes,
    ModelValue,
    SelfValue,
    TokenizerValue,
    Unknown,
    UserFunction,
    attribute_of_model,
)

Position = tuple[int, int, int, int]  # first line, column, last line, column: a node's name in the records
# A class of the source's exceptions -> the classes that also catch it.
CAUGHT_BY = {
    "ValueError": ("ValueError", "Exception"),
    "IndexError": ("IndexError", "LookupError", "Exception"),
    "KeyError": ("KeyError", "LookupError", "Exception"),
    "StopIteration": ("StopIteration", "Exception"),
}
HARMLESS = frozenset({*NO_GRADIENTS, "staticmethod", "classmethod", "torch.compile", "torch.jit.export", "typing.no_type_check"})
# Calls that only tell a person, or make what puna stands in for; of a name with a dot at its end, all beneath it.
SILENT = ("super().__init__", "print", "warnings.warn", "logger.", "logging.", "log.")


def position_of(node: ast.AST) -> Position:
    """A node's place in the text."""
    return tuple(getattr(node, name, 0) or 0 for name in ("lineno", "col_offset", "end_lineno", "end_col_offset"))  # type: ignore[return-value]


class _Leave(Exception):
    """return, break or continue."""


class _Return(_Leave):
    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(_Leave):
    pass


class _Continue(_Leave):
    pass


@dataclass(slots=True)
class Frame:
    """The names of one call, and of the loops in it the number of the round."""

    names: dict[str, Any]
    around: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)
    yielded: list[Any] | None = None


class Interpreter:
    """One run. `records` holds what each statement did, `calls` what each call first returned."""

    def __init__(
        self,
        module: Mapping[str, Any],
        aliases: Mapping[str, str],
        spelling: TokenSpelling,
        uniforms: Iterator[float],
        budget: RunBudget | None = None,
    ) -> None:
        """module: its functions and constants; aliases: of imported names; uniforms: the random numbers of the run."""
        self.budget = RunBudget() if budget is None else budget
        self.vocab_size = spelling.vocab_size
        self.draws: list[DrawnPosition] = []
        self.records: dict[Position, Records] = {}
        self.calls: dict[Position, Snapshot] = {}
        self.drawn: dict[Position, tuple[DrawnPosition, ...]] = {}
        self._module, self._aliases, self._spelling, self._uniforms = module, aliases, spelling, uniforms
        self._depth = 0

    def uniform(self) -> float:
        return next(self._uniforms)

    def call_function(self, function: UserFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What a function of the source returns; of a generator, the list of what it yields."""
        node = function.node
        self._depth += 1
        try:
            if self._depth > MAX_DEPTH:
                raise BeyondError(f"calls are nested more than {MAX_DEPTH} deep")
            frame = Frame(self._bound(function, args, kwargs), function.scope)
            if isinstance(node, ast.Lambda):
                return self._value(frame, node.body)
            if self._depth > 1:  # the function that is explained is run as it stands, whatever stands around it
                self._require_plain(node)
            if any(isinstance(one, ast.Yield) for one in _own_nodes(node)):
                frame.yielded = []
            try:
                self._run(frame, node.body)
            except _Return as left:
                return left.value if frame.yielded is None else frame.yielded
            return frame.yielded
        finally:
            self._depth -= 1

    def _require_plain(self, node: ast.FunctionDef) -> None:
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if self._dotted(called) not in HARMLESS:
                raise BeyondError(f"the decorator {ast.unparse(decorator)[:60]} may change what the function does", node.lineno)

    def _bound(self, function: UserFunction, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a call's parameters. BeyondError if they do not fit."""
        given, spec = [*([function.owner] if function.owner else []), *args], function.node.args
        if isinstance(function.node, ast.FunctionDef) and function.owner and _is_static(function.node):
            given = list(args)
        positional = [*spec.posonlyargs, *spec.args]
        names: dict[str, Any] = {one.arg: value for one, value in zip(positional, given)}
        if len(given) > len(positional):
            if spec.vararg is None:
                raise BeyondError("a function is called with more arguments than it has")
            names[spec.vararg.arg] = tuple(given[len(positional) :])
        elif spec.vararg is not None:
            names[spec.vararg.arg] = ()
        known = {one.arg for one in (*positional, *spec.kwonlyargs)}
        extra = {name: value for name, value in kwargs.items() if name not in known}
        if extra and spec.kwarg is None:
            raise BeyondError(f"a function is called with {next(iter(extra))}, which it does not have")
        if spec.kwarg is not None:
            names[spec.kwarg.arg] = extra
        names |= {name: value for name, value in kwargs.items() if name in known}
        outside = Frame({}, function.scope)
        defaults = zip(positional[len(positional) - len(spec.defaults) :], spec.defaults)
        for one, default in (*defaults, *((o, d) for o, d in zip(spec.kwonlyargs, spec.kw_defaults) if d is not None)):
            if one.arg not in names:
                names[one.arg] = self._value(outside, default)
        missing = known - names.keys()
        if missing:
            raise BeyondError(f"a function is called without {min(missing)}")
        return names

    # ---- statements -----------------------------------------------------------------------------------------------------

    def _run(self, frame: Frame, body: Sequence[ast.stmt]) -> None:
        for statement in body:
            try:
                self.budget.step(statement)
                _of_table(STATEMENTS, statement)(self, frame, statement)
            except BeyondError as beyond:
                beyond.line = beyond.line or statement.lineno
                raise

    def _record(self, frame: Frame, node: ast.stmt, names: Sequence[str], truth: bool | None = None) -> None:
        def made() -> Record:
            taken = {name: snapshot(value, self._spelling) for name in names if (value := self._known(frame, name)) is not self}
            return Record(taken, tuple(frame.rounds), truth)

        self.records.setdefault(position_of(node), Records()).add(made)

    def _known(self, frame: Frame, name: str) -> Any:
        """A local name's value; `self`, the interpreter, if there is none."""
        head, _, rest = name.partition(".")
        value = frame.names.get(head, self)
        if rest and isinstance(value, SelfValue):
            return value.attributes.get(rest, self)
        return value

    def _assign(self, frame: Frame, node: ast.Assign) -> None:
        value = self._value(frame, node.value)
        for target in node.targets:
            self._bind(frame, target, value)
        self._record(frame, node, [name for target in node.targets for name in bound_names(target)])

    def _annotated(self, frame: Frame, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self._bind(frame, node.target, self._value(frame, node.value))
        self._record(frame, node, bound_names(node.target))

    def _augmented(self, frame: Frame, node: ast.AugAssign) -> None:
        """x += y: a tensor changes in place, as PyTorch's does."""
        as_read = _loaded(node.target)
        before, change = self._value(frame, as_read), self._value(frame, node.value)
        after = arithmetic(type(node.op), before, change, self.budget)
        if isinstance(before, TracedTensor):
            if not isinstance(after, TracedTensor) or after.shape != before.shape:
                raise BeyondError("a tensor cannot take another shape in place")
            write(self.budget, before, (...,), after)
            after = before
        elif isinstance(before, list):
            before[:] = after
            after = before
        self._bind(frame, node.target, after)
        self._record(frame, node, bound_names(node.target))

    def _bind(self, frame: Frame, target: ast.expr, value: Any) -> None:
        match target:
            case ast.Name():
                frame.names[target.id] = value
            case ast.Tuple() | ast.List():
                self._unpack(frame, target.elts, value)
            case ast.Subscript():
                self._set_item(frame, target, value)
            case ast.Attribute(value=ast.Name()) if isinstance(self._value(frame, target.value), SelfValue):
                self._value(frame, target.value).attributes[target.attr] = value
            case _:
                raise BeyondError(f"{ast.unparse(target)[:60]} cannot be assigned to here", target.lineno)

    def _unpack(self, frame: Frame, targets: Sequence[ast.expr], value: Any) -> None:
        items = items_of(self, value)
        starred = [at for at, one in enumerate(targets) if isinstance(one, ast.Starred)]
        if starred:
            at, after = starred[0], len(targets) - starred[0] - 1
            items = [*items[:at], items[at : len(items) - after], *items[len(items) - after :]]
        if len(items) != len(targets):
            raise BeyondError(f"{len(items)} values are given to {len(targets)} names")
        for target, one in zip(targets, items, strict=True):
            self._bind(frame, target.value if isinstance(target, ast.Starred) else target, one)

    def _set_item(self, frame: Frame, target: ast.Subscript, value: Any) -> None:
        owner, index = self._value(frame, target.value), self._index(frame, target.slice)
        if isinstance(owner, TracedTensor):
            write(self.budget, owner, index, value)
        elif isinstance(owner, list) and type(index) is int and -len(owner) <= index < len(owner):
            owner[index] = value
        elif isinstance(owner, dict) and isinstance(index, str | int):
            self.budget.make_list(len(owner) + 1)
            owner[index] = value
        else:
            raise BeyondError(f"{ast.unparse(target)[:60]} cannot be assigned to here", target.lineno)

    def _expression(self, frame: Frame, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return
        if isinstance(node.value, ast.Call) and self._is_silent(frame, node.value.func):
            return
        self._value(frame, node.value)
        self._record(frame, node, changed_names(node.value))

    def _is_silent(self, frame: Frame, function: ast.expr) -> bool:
        name = ast.unparse(function)
        is_told = any(name == one or (one.endswith(".") and name.startswith(one)) for one in SILENT)
        return is_told and not (isinstance(function, ast.Name) and self._is_local(frame, function))

    def _if(self, frame: Frame, node: ast.If) -> None:
        while True:  # no recursion: a chain of `elif` is as deep as it is long
            with _at(node):
                truth = is_true(self._value(frame, node.test))
            self._record(frame, node, [], truth)
            if truth or not _is_chained(node):
                break
            node = cast(ast.If, node.orelse[0])
            self.budget.step(node)
        self._run(frame, node.body if truth else node.orelse)

    def _for(self, frame: Frame, node: ast.For) -> None:
        found = self._value(frame, node.iter)
        items: Any = found if isinstance(found, range) else items_of(self, found)
        self.records.setdefault(position_of(node), Records())  # also for a loop without a round
        frame.rounds.append(0)
        try:
            for one in items:
                self.budget.step(node)
                frame.rounds[-1] += 1
                self._bind(frame, node.target, one)
                self._record(frame, node, bound_names(node.target))
                try:
                    self._run(frame, node.body)
                except _Continue:
                    continue
            frame.rounds.pop()
        except _Break:
            frame.rounds.pop()
            return
        self._run(frame, node.orelse)

    def _while(self, frame: Frame, node: ast.While) -> None:
        frame.rounds.append(0)
        try:
            while True:
                self.budget.step(node)
                truth = is_true(self._value(frame, node.test))
                frame.rounds[-1] += 1
                self._record(frame, node, [], truth)
                if not truth:
                    break
                try:
                    self._run(frame, node.body)
                except _Continue:
                    continue
        except _Break:
            frame.rounds.pop()
            return
        frame.rounds.pop()
        self._run(frame, node.orelse)

    def _with(self, frame: Frame, node: ast.With) -> None:
        for item in node.items:
            called = item.context_expr.func if isinstance(item.context_expr, ast.Call) else item.context_expr
            if self._dotted(called) not in NO_GRADIENTS or item.optional_vars is not None:
                raise BeyondError(f"with {ast.unparse(item.context_expr)[:60]}", node.lineno)
        self._run(frame, node.body)

    def _try(self, frame: Frame, node: ast.Try) -> None:
        try:
            self._run(frame, node.body)
        except SourceError as error:
            for handler in node.handlers:
                if self._catches(handler, error):
                    self._run(frame, handler.body)
                    break
            else:
                raise
        else:
            self._run(frame, node.orelse)
        self._run(frame, node.finalbody)

    def _catches(self, handler: ast.ExceptHandler, error: SourceError) -> bool:
        if handler.type is None:
            return True
        names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        return any(self._dotted(name) in CAUGHT_BY.get(error.name, (error.name, "Exception")) for name in names)

    def _assert(self, frame: Frame, node: ast.Assert) -> None:
        truth = is_true(self._value(frame, node.test))
        self._record(frame, node, [], truth)
        if not truth:
            raise SourceError("AssertionError", ast.unparse(node.test)[:80])

    def _raise(self, frame: Frame, node: ast.Raise) -> None:
        raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        raise SourceError(self._dotted(raised) if raised is not None else "the same exception", "")

    def _return(self, frame: Frame, node: ast.Return) -> None:
        value = None if node.value is None else self._value(frame, node.value)
        frame.names["return"] = value
        self._record(frame, node, ["return"])
        raise _Return(value)

    def _function(self, frame: Frame, node: ast.FunctionDef) -> None:
        frame.names[node.name] = UserFunction(node, _Scope(frame.names, frame.around))

    def _nothing(self, frame: Frame, node: ast.stmt) -> None:
        """pass, and imports: the tables know what the names mean."""

    def _break(self, frame: Frame, node: ast.Break) -> None:
        self._record(frame, node, [])
        raise _Break

    def _continue(self, frame: Frame, node: ast.Continue) -> None:
        raise _Continue

    # ---- expressions ----------------------------------------------------------------------------------------------------

    def _value(self, frame: Frame, node: ast.expr) -> Any:
        self.budget.step(node)
        value = _of_table(EXPRESSIONS, node)(self, frame, node)
        if isinstance(node, ast.Call | ast.Subscript | ast.BinOp) and isinstance(value, TracedTensor):
            self.calls.setdefault(position_of(node), snapshot(value, self._spelling))
        return value

    def _constant(self, frame: Frame, node: ast.Constant) -> Any:
        if node.value is None or node.value is Ellipsis or isinstance(node.value, bool | int | float | str):
            if isinstance(node.value, int) and node.value.bit_length() > 256:
                raise BeyondError("a number is too large", node.lineno)
            return node.value
        raise BeyondError(f"{kind_of(node.value)} is not computed here", node.lineno)

    def _name(self, frame: Frame, node: ast.Name) -> Any:
        for names in (frame.names, frame.around, self._module):
            if node.id in names:
                value = names[node.id]
                if isinstance(value, Unknown):
                    raise BeyondError(f"there is no value for {node.id}", node.lineno)
                return value
        if node.id in KINDS:
            return (
                NumberType({"int": "int64", "float": "float32"}.get(node.id, node.id)) if node.id in CASTS else KindName(node.id)
            )
        raise BeyondError(f"{node.id} is not known here", node.lineno)

    def _dotted(self, node: ast.AST | None) -> str:
        """The full name that an expression spells, by the file's imports: F.softmax is torch.nn.functional.softmax; or ""."""
        spoken = self._spoken(node)
        head, dot, rest = spoken.partition(".")
        return self._aliases.get(head, head) + dot + rest if spoken else ""

    @staticmethod
    def _spoken(node: ast.AST | None) -> str:
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""

    def _is_local(self, frame: Frame, node: ast.AST) -> bool:
        """Whether the first name of a dotted one is the program's own."""
        head = self._spoken(node).partition(".")[0]
        return any(head in names for names in (frame.names, frame.around, self._module))

    def _attribute(self, frame: Frame, node: ast.Attribute) -> Any:
        if not self._is_local(frame, node) and (dotted := self._dotted(node)) in CONSTANTS:
            return CONSTANTS[dotted]
        owner = self._value(frame, node.value)
        match owner:
            case SelfValue() if node.attr in owner.methods:
                return UserFunction(owner.methods[node.attr], self._module, owner)
            case SelfValue() | ModelSizes() | TokenizerValue():
                found = owner.attribute(node.attr)
                if isinstance(found, int | float | list):
                    self.calls.setdefault(position_of(node), snapshot(found, self._spelling))
                return found
            case ModelValue():
                return attribute_of_model(owner, node.attr)
        return attribute_of(owner, node.attr)

    def _subscript(self, frame: Frame, node: ast.Subscript) -> Any:
        owner, index = self._value(frame, node.value), self._index(frame, node.slice)
        if isinstance(owner, ModelOutput):
            owner = tuple(owner) if type(index) is int else owner.logits
        if isinstance(owner, TracedTensor):
            return read(self.budget, owner, index)
        if isinstance(owner, dict):
            if isinstance(index, str | int) and index in owner:
                return owner[index]
            raise SourceError("KeyError", str(index)[:40])
        if not isinstance(owner, list | tuple | str | range) or not isinstance(index, int | slice):
            raise BeyondError(f"{kind_of(owner)} has no [{ast.unparse(node.slice)[:40]}] here", node.lineno)
        try:
            found: Any = owner[index]
        except (IndexError, ValueError, TypeError) as error:
            raise SourceError(type(error).__name__, str(error)) from None
        if isinstance(index, slice) and not isinstance(owner, range):
            self.budget.make_list(len(found))
        return IdList(found) if isinstance(owner, IdList) and isinstance(found, list) else found

    def _index(self, frame: Frame, node: ast.expr) -> Any:
        """What stands between brackets, for numpy: numbers, slices, arrays."""
        if isinstance(node, ast.Tuple):
            return tuple(self._index(frame, one) for one in node.elts)
        if isinstance(node, ast.Slice):
            ends = (None if one is None else self._whole(self._value(frame, one)) for one in (node.lower, node.upper, node.step))
            return slice(*ends)
        value = self._value(frame, node)
        if isinstance(value, TracedTensor):
            return int(value.array) if value.array.ndim == 0 and value.array.dtype.kind == "i" else value.array
        if isinstance(value, list) and not all(isinstance(one, int) for one in value):
            raise BeyondError("an index is a number, a range of them, or a tensor", node.lineno)
        return value

    @staticmethod
    def _whole(value: Any) -> Any:
        found = value.array.item() if isinstance(value, TracedTensor) and value.array.size == 1 else value
        if found is not None and not isinstance(found, int):
            raise BeyondError(f"{kind_of(found)} ends no range")
        return found

    def _binary(self, frame: Frame, node: ast.BinOp) -> Any:
        """A chain such as a + b + c is walked without recursion: a hostile one is long."""
        chain = [node]
        while isinstance(chain[-1].left, ast.BinOp):
            chain.append(chain[-1].left)
        value = self._plain(self._value(frame, chain[-1].left))
        for one in reversed(chain):
            self.budget.step(one)
            value = arithmetic(type(one.op), value, self._plain(self._value(frame, one.right)), self.budget)
            if isinstance(value, TracedTensor):
                self.calls.setdefault(position_of(one), snapshot(value, self._spelling))
        return value

    @staticmethod
    def _plain(value: Any) -> Any:
        return value.logits if isinstance(value, ModelOutput) else value

    def _unary(self, frame: Frame, node: ast.UnaryOp) -> Any:
        value = self._plain(self._value(frame, node.operand))
        if isinstance(node.op, ast.Not):
            return not is_true(value)
        if isinstance(value, TracedTensor):
            self.budget.make(value.shape)
            made = np.invert(value.array) if isinstance(node.op, ast.Invert) else -value.array
            return TracedTensor(value.array if isinstance(node.op, ast.UAdd) else made)
        if not isinstance(value, bool | int | float) or (isinstance(node.op, ast.Invert) and isinstance(value, float)):
            raise BeyondError(f"{ast.unparse(node)[:60]} is not computed here", node.lineno)
        return -value if isinstance(node.op, ast.USub) else +value if isinstance(node.op, ast.UAdd) else ~int(value)

    def _bool(self, frame: Frame, node: ast.BoolOp) -> Any:
        value: Any = None
        for one in node.values:
            value = self._value(frame, one)
            if is_true(value) == isinstance(node.op, ast.Or):
                return value
        return value

    def _compare(self, frame: Frame, node: ast.Compare) -> Any:
        left, result = self._plain(self._value(frame, node.left)), True
        for kind, right_node in zip(node.ops, node.comparators, strict=True):
            right = self._plain(self._value(frame, right_node))
            result = compare(type(kind), left, right, self.budget)
            if len(node.ops) > 1 and not is_true(result):
                return False
            left = right
        return result

    def _choice(self, frame: Frame, node: ast.IfExp) -> Any:
        return self._value(frame, node.body if is_true(self._value(frame, node.test)) else node.orelse)

    def _tuple(self, frame: Frame, node: ast.Tuple | ast.List) -> Any:
        made: list[Any] = []
        for one in node.elts:
            made += items_of(self, self._value(frame, one.value)) if isinstance(one, ast.Starred) else [self._value(frame, one)]
        return tuple(made) if isinstance(node, ast.Tuple) else made

    def _dict(self, frame: Frame, node: ast.Dict) -> dict[Any, Any]:
        if any(key is None for key in node.keys):
            raise BeyondError("a dictionary with ** in it", node.lineno)
        keys = [self._value(frame, key) for key in node.keys if key is not None]
        if not all(isinstance(key, str | int) for key in keys):
            raise BeyondError("a dictionary whose keys are no texts or numbers", node.lineno)
        return dict(zip(keys, (self._value(frame, one) for one in node.values), strict=True))

    def _comprehension(self, frame: Frame, node: ast.ListComp | ast.GeneratorExp | ast.SetComp) -> Any:
        inner = Frame(dict(frame.names), frame.around, list(frame.rounds))
        made: list[Any] = []
        self._generate(inner, node.generators, lambda: made.append(self._value(inner, node.elt)))
        self.budget.make_list(len(made))
        return set(made) if isinstance(node, ast.SetComp) and all(isinstance(one, int | str) for one in made) else made

    def _generate(self, frame: Frame, generators: Sequence[ast.comprehension], make: Callable[[], None]) -> None:
        if not generators:
            make()
            return
        first, *rest = generators
        found = self._value(frame, first.iter)
        for one in found if isinstance(found, range) else items_of(self, found):
            self._bind(frame, first.target, one)
            if all(is_true(self._value(frame, condition)) for condition in first.ifs):
                self._generate(frame, rest, make)

    def _text(self, frame: Frame, node: ast.JoinedStr) -> str:
        """An f-string; formats are left out, because a hostile one asks for a gigabyte of spaces."""
        parts: list[str] = []
        for one in node.values:
            if isinstance(one, ast.Constant):
                parts.append(str(one.value))
            elif isinstance(one, ast.FormattedValue):
                value = self._value(frame, one.value)
                parts.append(str(value) if isinstance(value, bool | int | float | str) else kind_of(value))
        self.budget.make_list(sum(map(len, parts)))
        return "".join(parts)

    def _walrus(self, frame: Frame, node: ast.NamedExpr) -> Any:
        frame.names[node.target.id] = value = self._value(frame, node.value)
        return value

    def _lambda(self, frame: Frame, node: ast.Lambda) -> UserFunction:
        return UserFunction(node, _Scope(frame.names, frame.around))

    def _yield(self, frame: Frame, node: ast.Yield) -> None:
        value = None if node.value is None else self._value(frame, node.value)
        if frame.yielded is None:
            raise BeyondError("yield outside a function", node.lineno)
        self.budget.make_list(len(frame.yielded) + 1)
        frame.yielded.append(value)

    # ---- calls ----------------------------------------------------------------------------------------------------------

    def _call(self, frame: Frame, node: ast.Call) -> Any:
        args, kwargs = self._arguments(frame, node)
        dotted = "" if self._is_local(frame, node.func) else self._dotted(node.func)
        if dotted in BUILTINS or dotted in FUNCTIONS:
            return self._library(node, (BUILTINS.get(dotted) or FUNCTIONS[dotted]), args, kwargs)
        if dotted and self._spoken(node.func).partition(".")[0] in self._aliases:
            raise BeyondError(f"{self._spoken(node.func)}(...) is not in the tables of the run", node.lineno)
        if isinstance(node.func, ast.Attribute):
            with _at(node):
                return self._method(frame, node, node.func, args, kwargs)
        function = self._value(frame, node.func)
        return self._own(node, function, args, kwargs)

    def _arguments(self, frame: Frame, node: ast.Call) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        for one in node.args:
            if isinstance(one, ast.Starred):
                args += items_of(self, self._value(frame, one.value))
            else:
                args.append(self._plain(self._value(frame, one)))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self._value(frame, keyword.value)
            if keyword.arg is None and not (isinstance(value, dict) and all(isinstance(key, str) for key in value)):
                raise BeyondError("** needs a dictionary with texts as keys", node.lineno)
            kwargs |= value if keyword.arg is None else {keyword.arg: self._plain(value)}
        return args, kwargs

    def _method(self, frame: Frame, node: ast.Call, func: ast.Attribute, args: list[Any], kwargs: dict[str, Any]) -> Any:
        owner, name = self._value(frame, func.value), func.attr
        owner = owner.logits if isinstance(owner, ModelOutput) and name not in ("logits", "past_key_values") else owner
        if isinstance(owner, ModelValue) and name in ("forward", "__call__"):
            return owner.call(args, kwargs, self.budget)
        if isinstance(owner, GeneratorValue) and name == "manual_seed":
            return owner
        if isinstance(owner, ModelValue | SelfValue) and name == "get_device" and name not in getattr(owner, "methods", ()):
            return DEVICE
        if isinstance(owner, ModelValue | SelfValue) and name in ("eval", "train", "to", "float", "half", "cuda", "cpu"):
            return owner
        if isinstance(owner, SelfValue) and name in ("forward", "__call__") and name not in owner.methods:
            return owner.model.call(args, kwargs, self.budget)
        if isinstance(owner, SelfValue) and name == "forward":
            return owner.model.call(args, kwargs, self.budget)
        if isinstance(owner, SelfValue | ModelSizes) and (name in getattr(owner, "methods", ()) or isinstance(owner, SelfValue)):
            return self._own(node, self._attribute(frame, func), args, kwargs)
        if isinstance(owner, TokenizerValue):
            return owner.call(name, args, kwargs)
        function = method_of(owner, name)
        if function is None:
            raise BeyondError(f"{self._spoken(func) or ast.unparse(func)[:60]}(...) is not in the tables of the run", node.lineno)
        return self._library(node, function, [owner, *args], kwargs)

    def _library(self, node: ast.Call, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        before = len(self.draws)
        with _at(node):
            try:
                made = function(self, *args, **kwargs)
            except TypeError:
                raise BeyondError(f"{ast.unparse(node)[:60]} has arguments that the run does not take") from None
        if len(self.draws) > before:
            self.drawn.setdefault(position_of(node), tuple(self.draws[before:]))
        return made

    def _own(self, node: ast.Call, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        match function:
            case UserFunction():
                return self.call_function(function, args, kwargs)
            case TokenizerValue():
                return function.call("", args, kwargs)
            case ModelValue() | SelfValue():
                model = function if isinstance(function, ModelValue) else function.model
                with _at(node):
                    return model.call(args, kwargs, self.budget)
        raise BeyondError(f"{ast.unparse(node.func)[:60]}(...) is not in the tables of the run", node.lineno)


class _Scope(Mapping[str, Any]):
    """The names around a function that is defined in another: those of the outer call, as they are when it is called."""

    def __init__(self, names: Mapping[str, Any], around: Mapping[str, Any]) -> None:
        self._names, self._around = names, around

    def __getitem__(self, name: str) -> Any:
        return self._names[name] if name in self._names else self._around[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._around, **self._names})

    def __len__(self) -> int:
        return len({**self._around, **self._names})


CASTS = frozenset({"int", "float", "bool"})  # as types of numbers: x.to(int)


@contextmanager
def _at(node: ast.AST) -> Iterator[None]:
    """Gives a BeyondError the line of this node, if it has none yet."""
    try:
        yield
    except BeyondError as beyond:
        beyond.line = beyond.line or getattr(node, "lineno", 0)
        raise


def _of_table(table: Mapping[type, Any], node: ast.AST) -> Any:
    if type(node) not in table:
        raise BeyondError(
            f"{NODE_WORDS.get(type(node), type(node).__name__)} is not in the tables of the run", getattr(node, "lineno", 0)
        )
    return table[type(node)]


def _is_chained(node: ast.If) -> bool:
    """Whether an `elif` follows, or an `else` with nothing but an `if` in it."""
    return len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If)


def _is_static(node: ast.FunctionDef) -> bool:
    return any(isinstance(one, ast.Name) and one.id == "staticmethod" for one in node.decorator_list)


def _own_nodes(node: ast.FunctionDef) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        one = waiting.pop()
        yield one
        if not isinstance(one, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(one)


def bound_names(target: ast.expr) -> list[str]:
    """The names that an assignment changes: of x[0] = y, x.

    >>> bound_names(ast.parse("(a, b[0], *c.d) = e").body[0].targets[0])
    ['a', 'b', 'c.d']
    """
    match target:
        case ast.Name():
            return [target.id]
        case ast.Tuple() | ast.List():
            return [name for one in target.elts for name in bound_names(one)]
        case ast.Starred() | ast.Subscript():
            return bound_names(target.value)
        case ast.Attribute(value=ast.Name(id=owner)):
            return [f"{owner}.{target.attr}"]
    return []


def changed_names(node: ast.expr) -> list[str]:
    """The names whose values a call may have changed: of x.append(y), x."""
    while isinstance(node, ast.Call):
        node = node.func
        while isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
            if isinstance(node, ast.Call):
                break
    return [node.id] if isinstance(node, ast.Name) else []


def _loaded(target: ast.expr) -> ast.expr:
    """The expression that reads what an assignment's target names."""
    match target:
        case ast.Subscript():
            return ast.copy_location(ast.Subscript(target.value, target.slice, ast.Load()), target)
        case ast.Attribute():
            return ast.copy_location(ast.Attribute(target.value, target.attr, ast.Load()), target)
    return target


STATEMENTS: Mapping[type, Any] = {
    ast.Assign: Interpreter._assign, ast.AnnAssign: Interpreter._annotated, ast.AugAssign: Interpreter._augmented,
    ast.Expr: Interpreter._expression, ast.If: Interpreter._if, ast.For: Interpreter._for, ast.While: Interpreter._while,
    ast.With: Interpreter._with, ast.Try: Interpreter._try, ast.Assert: Interpreter._assert, ast.Raise: Interpreter._raise,
    ast.Return: Interpreter._return, ast.FunctionDef: Interpreter._function, ast.Pass: Interpreter._nothing,
    ast.Import: Interpreter._nothing, ast.ImportFrom: Interpreter._nothing, ast.Break: Interpreter._break,
    ast.Continue: Interpreter._continue,
}  # fmt: skip
EXPRESSIONS: Mapping[type, Any] = {
    ast.Constant: Interpreter._constant, ast.Name: Interpreter._name, ast.Attribute: Interpreter._attribute,
    ast.Subscript: Interpreter._subscript, ast.BinOp: Interpreter._binary, ast.UnaryOp: Interpreter._unary,
    ast.BoolOp: Interpreter._bool, ast.Compare: Interpreter._compare, ast.IfExp: Interpreter._choice,
    ast.Tuple: Interpreter._tuple,
    ast.List: Interpreter._tuple, ast.Dict: Interpreter._dict, ast.ListComp: Interpreter._comprehension,
    ast.GeneratorExp: Interpreter._comprehension, ast.SetComp: Interpreter._comprehension, ast.JoinedStr: Interpreter._text,
    ast.NamedExpr: Interpreter._walrus, ast.Lambda: Interpreter._lambda, ast.Call: Interpreter._call,
    ast.Yield: Interpreter._yield,
}  # fmt: skip
NODE_WORDS = {
    ast.ClassDef: "a class inside a function", ast.AsyncFor: "async", ast.AsyncWith: "async", ast.Await: "await",
    ast.Global: "global names", ast.Nonlocal: "names of an outer function", ast.Delete: "del", ast.YieldFrom: "yield from",
    ast.AsyncFunctionDef: "async functions", ast.DictComp: "a dictionary in one expression", ast.Match: "match",
}  # fmt: skip
