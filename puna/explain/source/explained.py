"""A source file taken apart: the report that the command line shows, and its JSON."""

from __future__ import annotations

import ast
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from puna.explain.source.blocks import CodeBlock, blocks
from puna.explain.source.expressions import Known, brackets, code, known_call
from puna.explain.source.imports import aliases_of, dotted_name
from puna.explain.source.library import DECORATORS
from puna.explain.source.loops import Loop, Purpose, recognised
from puna.explain.source.reading import ParseProblem, SourceText
from puna.explain.source.sentences import Sentence, first_sentence, header, sentences, type_words
from puna.explain.source.settings import SettingNote, meaning_of, settings_of
from puna.explain.source.symbols import Definition, FunctionNode, constants_of, definitions, functions_of
from puna.explain.source.tracer.interpreter import Position, bound_names, position_of
from puna.explain.source.tracer.operations import DrawnPosition
from puna.explain.source.tracer.snapshots import Record, Records, Snapshot
from puna.explain.source.tracing import SourceRun, SourceScope

MAX_CALLS = 12  # of one block
MAX_LATER = 5  # rounds of a loop after the first


@dataclass(frozen=True, slots=True)
class NameNote:
    """A name that a block sets. what: its kind by the source alone; value: in the run, after the block's first execution."""

    name: str
    line: int
    what: str
    value: Snapshot | None = None
    later: tuple[Snapshot, ...] = ()  # in the next rounds of the loop around
    is_cold: bool = False  # measured only in a second run, at temperature 0


@dataclass(frozen=True, slots=True)
class CallNote:
    """A library call of a block: what it does, its rule for shapes, and in the run its first result and what it drew."""

    name: str
    line: int
    does: str
    shape: str
    value: Snapshot | None = None
    draws: tuple[DrawnPosition, ...] = ()


@dataclass(frozen=True, slots=True)
class SliceNote:
    """What brackets take of a tensor, and in the run the first such part; or a size of the model, which takes nothing."""

    code: str
    line: int
    takes: str
    value: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class ParameterNote:
    """A parameter: its annotation in words, its default, what it is for, and in the run what it was given."""

    name: str
    kind: str
    default: str | None
    meaning: str
    value: Snapshot | None = None


@dataclass(slots=True)
class BlockNote:
    """One block: its lines, what they do, and what they set. executions: None if there was no run."""

    first: int
    last: int
    depth: int
    lead: str
    lines: tuple[str, ...]
    sentences: list[Sentence]
    names: list[NameNote]
    calls: list[CallNote]
    slices: list[SliceNote]
    settings: list[SettingNote]
    executions: int | None = None
    is_reached: bool = False  # by the run; a loop may be reached and have no round
    is_cold: bool = False  # only by the second run, at temperature 0
    truths: tuple[bool, ...] = ()  # of the block's conditions, in the run's first round
    cell: int | None = None  # of a notebook
    prose: str | None = None  # a model's words; nothing that puna measured


@dataclass(slots=True)
class SourcePart:
    """A function, a class or the file's own level: its blocks."""

    name: str
    kind: str
    first: int
    last: int
    says: str  # its docstring's first sentence
    notes: list[str]
    parameters: list[ParameterNote]
    returns: str
    blocks: list[BlockNote]
    loop: Loop | None = None
    run: SourceRun | None = None


@dataclass(frozen=True, slots=True)
class OutlineRow:
    """A function or class of the file, in a line."""

    name: str
    kind: str
    first: int
    last: int
    says: str
    loop: str | None


@dataclass(slots=True)
class ExplainedSource:
    """The whole report. asked: who wrote the prose, if a model did; model: on which the runs were made."""

    file: str
    symbol: str | None
    num_lines: int
    outline: list[OutlineRow]
    parts: list[SourcePart] = field(default_factory=list)
    problem: ParseProblem | None = None
    model: str | None = None
    asked: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As a JSON object; what was measured stands apart from what a model said."""
        return {
            "file": self.file,
            "symbol": self.symbol,
            "num_lines": self.num_lines,
            "problem": None if self.problem is None else asdict(self.problem),
            "model": self.model,
            "prose_by": self.asked,
            "outline": [asdict(row) for row in self.outline],
            "parts": [_part_json(part) for part in self.parts],
        }


def _part_json(part: SourcePart) -> dict[str, Any]:
    return {
        "name": part.name, "kind": part.kind, "first": part.first, "last": part.last, "says": part.says, "notes": part.notes,
        "loop": None if part.loop is None else str(part.loop.kind), "returns": part.returns,
        "parameters": [_note_json(one) for one in part.parameters],
        "blocks": [_block_json(one) for one in part.blocks],
        "run": None if part.run is None else _run_json(part.run),
    }  # fmt: skip


def _note_json(note: NameNote | CallNote | SliceNote | ParameterNote) -> dict[str, Any]:
    told = {name: getattr(note, name) for name in note.__slots__ if name not in ("value", "later", "draws")}
    told["value"] = _snapshot_json(note.value)
    if isinstance(note, NameNote):
        told["later"] = [one.as_json() for one in note.later]
    if isinstance(note, CallNote):
        told["draws"] = [one._asdict() for one in note.draws]
    return told


def _snapshot_json(value: Snapshot | None) -> dict[str, Any] | None:
    return None if value is None else value.as_json()


def _block_json(block: BlockNote) -> dict[str, Any]:
    return {
        "first": block.first, "last": block.last, "depth": block.depth, "source": list(block.lines), "lead": block.lead,
        "sentences": [one._asdict() for one in block.sentences], "names": [_note_json(one) for one in block.names],
        "calls": [_note_json(one) for one in block.calls], "slices": [_note_json(one) for one in block.slices],
        "settings": [one._asdict() for one in block.settings], "executions": block.executions, "is_cold": block.is_cold,
        "cell": block.cell,
        "prose": block.prose,
    }  # fmt: skip


def _run_json(run: SourceRun) -> dict[str, Any]:
    return {
        "arguments": [{"name": one.name, "for": str(one.purpose), "value": one.value.as_json()} for one in run.arguments],
        "statements": [_records_json(position, records) for position, records in sorted(run.records.items())],
        "draws": [one._asdict() for one in run.draws],
        "num_model_calls": run.num_model_calls,
        "result": _snapshot_json(run.result),
        "stop": None if run.stop is None else asdict(run.stop),
    }


def _records_json(position: Position, records: Records) -> dict[str, Any]:
    return {"line": position[0], "executions": records.count, "first": [_record_json(one) for one in records.first]}


def _record_json(record: Record) -> dict[str, Any]:
    names = {name: value.as_json() for name, value in record.names.items()}
    return {"rounds": list(record.rounds), "truth": record.truth, "names": names}


# ---- taking apart -----------------------------------------------------------------------------------------------------------


class Dissection:
    """A parsed file, of which parts are asked for."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.definitions = definitions(source.tree)
        self.aliases = aliases_of(source.tree)
        self.functions = functions_of(source.tree.body)
        self._methods_of: dict[ast.ClassDef, dict[str, ast.FunctionDef]] = {}
        self.known = Known(self.aliases, {one.node.name for one in self.definitions})

    def loop_of(self, definition: Definition) -> Loop | None:
        """What puna recognises a function as."""
        if not isinstance(definition.node, ast.FunctionDef):
            return None
        return recognised(definition.node, ChainMap(self._methods(definition), self.functions), self.aliases)

    def scope(self, definition: Definition) -> SourceScope:
        """What a run of a function may use of the file."""
        return SourceScope(self.functions, constants_of(self.source.tree.body), self.aliases, self._methods(definition))

    def _methods(self, definition: Definition) -> dict[str, ast.FunctionDef]:
        owner = definition.owner
        if owner is None:
            return {}
        if owner not in self._methods_of:  # once for each class: a hostile one has ten thousand methods
            self._methods_of[owner] = functions_of(owner.body)
        return self._methods_of[owner]

    def outline(self) -> list[OutlineRow]:
        """All functions and classes, each in a line."""
        return [self._row(one) for one in self.definitions]

    def _row(self, one: Definition) -> OutlineRow:
        loop = self.loop_of(one)
        says = first_sentence(ast.get_docstring(one.node) or "")
        last = one.node.end_lineno or one.node.lineno
        return OutlineRow(one.name, one.kind, one.first_line, last, says, None if loop is None else str(loop.kind))

    def file_part(self) -> SourcePart | None:
        """The file's own level: imports, constants, what runs; without its functions and classes. None if there is nothing."""
        body = [one for one in self.source.tree.body if not isinstance(one, FunctionNode | ast.ClassDef)]
        if not body:
            return None
        says = first_sentence(ast.get_docstring(self.source.tree) or "")
        notes = self._blocks(_without_docstring(body), 0, None)
        if not notes and not says:
            return None
        return SourcePart("", "file", 1, len(self.source.lines), says, [], [], "", notes)

    def part(self, definition: Definition, run: SourceRun | None = None) -> SourcePart:
        """A function or class, block by block; of a class, its own level without its methods."""
        node = definition.node
        loop = self.loop_of(definition)
        body = _without_docstring(node.body)
        if isinstance(node, ast.ClassDef):
            body = [one for one in body if not isinstance(one, FunctionNode)]
        after = (
            (node.body[0].end_lineno or 0) if len(body) < len(node.body) and ast.get_docstring(node) else node.body[0].lineno - 1
        )
        return SourcePart(
            definition.name, definition.kind, definition.first_line, node.end_lineno or node.lineno,
            first_sentence(ast.get_docstring(node) or ""), list(self._notes(definition)),
            [] if isinstance(node, ast.ClassDef) else list(self._parameters(node, loop, run)),
            "" if isinstance(node, ast.ClassDef) else type_words(node.returns),
            self._blocks(body, after, run), loop, run,
        )  # fmt: skip

    def _notes(self, definition: Definition) -> Iterator[str]:
        node = definition.node
        for decorator in node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            words = DECORATORS.get(dotted_name(called, self.aliases))
            yield (
                f"@{code(decorator)}: {words}"
                if words
                else f"@{code(decorator)} changes what it does in a way puna does not know."
            )
        if isinstance(node, ast.ClassDef):
            if node.bases:
                yield f"It is a kind of {', '.join(code(one) for one in node.bases)}."
            methods = [one.name for one in node.body if isinstance(one, FunctionNode)]
            if methods:
                yield f"Its methods: {', '.join(methods)}."

    def _parameters(self, node: FunctionNode, loop: Loop | None, run: SourceRun | None) -> Iterator[ParameterNote]:
        spec = node.args
        positional = [*spec.posonlyargs, *spec.args]
        defaults: dict[str, ast.expr] = dict(
            zip((one.arg for one in positional[len(positional) - len(spec.defaults) :]), spec.defaults, strict=True)
        )
        defaults |= {one.arg: given for one, given in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if given is not None}
        given = {one.name: one.value for one in run.arguments} if run is not None else {}
        for one in (*positional, *spec.kwonlyargs):
            if one.arg in ("self", "cls"):
                continue
            default = code(defaults[one.arg]) if one.arg in defaults else None
            kind = type_words(one.annotation)
            yield ParameterNote(one.arg, kind, default, self._meaning(one.arg, loop), given.get(one.arg))
        for star, many in (
            (spec.vararg, "any further arguments, as a tuple"),
            (spec.kwarg, "any further keywords, as a dictionary"),
        ):
            if star is not None:
                yield ParameterNote(star.arg, type_words(star.annotation), None, many)

    @staticmethod
    def _meaning(name: str, loop: Loop | None) -> str:
        """What a parameter is for: by the loop that it belongs to; else by puna's own documentation of sampling."""
        purpose = loop.purposes.get(name, Purpose.UNKNOWN) if loop is not None else Purpose.UNKNOWN
        documented = meaning_of(name) if loop is not None or name in ("temperature", "top_p", "top_k", "max_new_tokens") else None
        if purpose is Purpose.SWITCH and name in SWITCHES:
            return SWITCHES[name]
        return documented if documented and purpose not in PLAIN else "" if purpose is Purpose.UNKNOWN else str(purpose)

    def _blocks(self, body: Sequence[ast.stmt], after: int, run: SourceRun | None) -> list[BlockNote]:
        seen: set[str] = set()
        return [self._block(one, run, seen) for one in blocks(body, self.source.lines, after)]

    def _block(self, block: CodeBlock, run: SourceRun | None, seen: set[str]) -> BlockNote:
        """`seen`: the library calls that blocks before have explained."""
        told = header(block.head, self.known) if block.head is not None else sentences(block.statements, self.known)
        nodes = list(_own_expressions(block))
        statements = [block.head] if block.head is not None else list(_all_statements(block.statements))
        records = [] if run is None else [run.records_of(position_of(one))[0] for one in statements if one is not None]
        is_cold = run is not None and not any(position_of(one) in run.records for one in statements if one is not None)
        happened = [one for one in records if one is not None]
        return BlockNote(
            block.first, block.last, block.depth, block.lead, tuple(self.source.lines[block.first - 1 : block.last]), told,
            _names(statements, run, self.known), self._calls(nodes, run, seen), _slices(nodes, run),
            [one for node in nodes if isinstance(node, ast.Call) for one in settings_of(node)],
            None if run is None else max((one.count for one in happened), default=0),
            cell=self.source.cell_of(block.first),
            is_reached=bool(happened),
            is_cold=is_cold and bool(happened),
            truths=tuple(one.first[0].truth for one in happened if one.first and one.first[0].truth is not None),
        )  # fmt: skip

    def _calls(self, nodes: Sequence[ast.expr], run: SourceRun | None, seen: set[str]) -> list[CallNote]:
        found: dict[str, CallNote] = {}
        for node in nodes:
            call = known_call(node, self.known) if isinstance(node, ast.Call) else None
            if call is None or (call.name in found and found[call.name].value is not None):
                continue
            value = None if run is None else run.value_at(position_of(node))
            drawn = () if run is None else run.drawn.get(position_of(node), ())
            is_new = call.name not in seen
            if is_new or value is not None or call.name in found:
                rule = "" if value is not None else _rule(call.row.shape, call.arguments)
                does = call.row.does if is_new else ""
                found[call.name] = CallNote(call.name.lstrip("."), node.lineno, does, rule, value, drawn)
        seen |= found.keys()
        return [one for one in found.values() if one.does or one.value is not None][:MAX_CALLS]


SWITCHES = {
    "logprobs": "whether the log-probability of each token is returned, too",
    "echo": "whether the prompt is returned, too",
    "do_sample": "whether tokens are drawn; if not, the likeliest is taken",
    "sample": "whether tokens are drawn; if not, the likeliest is taken",
}
PLAIN = (Purpose.PROMPTS, Purpose.IDS, Purpose.LOGITS, Purpose.ALL_LOGITS, Purpose.PROBABILITIES, Purpose.MODEL, Purpose.SWITCH)


def _rule(shape: str, arguments: Mapping[str, ast.expr | str]) -> str:
    """A row's rule for shapes, with the arguments' source put in."""
    for name, argument in arguments.items():
        shape = shape.replace("{" + name + "}", argument if isinstance(argument, str) else code(argument, 50))
    return "" if "{" in shape else shape


def _without_docstring(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    return list(body[1:] if is_text else body)


def _own_expressions(block: CodeBlock) -> Iterator[ast.expr]:
    """The expression nodes of a block, in the order of the text; of a head, without its bodies."""
    roots: list[ast.AST] = list(block.statements)
    if block.head is not None:
        roots = [
            one for name, given in ast.iter_fields(block.head) if name not in BODIES
            for one in (given if isinstance(given, list) else [given]) if isinstance(one, ast.AST)
        ]  # fmt: skip
    found = [one for root in roots for one in ast.walk(root) if isinstance(one, ast.Call | ast.Subscript | ast.Attribute)]
    return iter(sorted(found, key=lambda one: (one.lineno, one.col_offset)))


BODIES = ("body", "orelse", "handlers", "finalbody", "cases")


def _all_statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    waiting: list[Any] = list(body)[::-1]
    while waiting:  # no recursion: a chain of `elif` is as deep as it is long
        one = waiting.pop()
        if isinstance(one, ast.stmt):
            yield one
        waiting += [part for name in BODIES for part in getattr(one, name, [])][::-1]


def _names(statements: Sequence[ast.stmt], run: SourceRun | None, known: Known) -> list[NameNote]:
    """The names that statements set: in a run, each after each statement; else each once."""
    found: dict[tuple[str, int], NameNote] = {}
    for statement in statements:
        records, is_cold = (None, False) if run is None else run.records_of(position_of(statement))
        rounds = [one.names for one in records.first] if records is not None else []
        values = rounds[0] if rounds else {}
        for name in dict.fromkeys(one for one in [*_targets(statement), *values] if one != "_"):
            what = _kind(statement, name, known)
            later = tuple(names[name] for names in rounds[1 : 1 + MAX_LATER] if name in names)
            key = (name, statement.lineno if name in values else 0)
            if name in values or key not in found:
                found[key] = NameNote(name, statement.lineno, what, values.get(name), later, is_cold)
    return [one for one in found.values() if one.what or one.value is not None]


def _targets(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Assign(targets=targets):
            return [name for one in targets for name in bound_names(one)]
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target) | ast.For(target=target):
            return bound_names(target)
        case ast.With(items=items):
            return [name for one in items if one.optional_vars is not None for name in bound_names(one.optional_vars)]
    return []


def _kind(statement: ast.stmt, name: str, known: Known) -> str:
    """The kind of a name's value, as far as the source alone tells it."""
    match statement:
        case ast.AnnAssign(annotation=annotation):
            return type_words(annotation)
        case ast.Assign(targets=[ast.Name()], value=value):
            return kind_words(value, known)
        case ast.For(target=ast.Name(), iter=ast.Call(func=ast.Name(id="range"))):
            return "a whole number"
    return ""


def kind_words(value: ast.expr, known: Known) -> str:
    """The kind of an expression's value, as far as its syntax tells it; "" if it does not.

    >>> kind_words(ast.parse("torch.zeros(2, 3)", mode="eval").body, Known({}))
    'a tensor of shape 2, 3'
    """
    match value:
        case ast.Constant(value=None):
            return ""
        case ast.Constant(value=constant):
            return CONSTANT_KINDS.get(type(constant), "")
        case ast.List() | ast.ListComp():
            return "a list"
        case ast.Dict() | ast.DictComp():
            return "a dictionary"
        case ast.Tuple():
            return "a tuple"
        case ast.JoinedStr():
            return "a text"
        case ast.BoolOp(op=ast.And()):
            return ""
        case ast.Lambda():
            return "a function"
        case ast.Call():
            return _call_kind(value, known)
    return ""


def _call_kind(value: ast.Call, known: Known) -> str:
    found = known_call(value, known)
    if found is None:
        last = code(value.func, 60).rpartition(".")[2]
        return f"an object of {code(value.func, 60)}" if last[:1].isupper() else ""
    if found.name in PYTHON_KINDS:
        return PYTHON_KINDS[found.name]
    rule = _rule(found.row.shape, found.arguments)
    return (
        f"a tensor of shape {rule.strip('()')}"
        if found.name.startswith("torch.") and found.row.shape[:1] == "{"
        else (f"a tensor, {rule}" if found.name.startswith("torch.") and rule else "")
    )


CONSTANT_KINDS: Mapping[type, str] = {int: "a whole number", float: "a real number", str: "a text", bool: "True or False"}
PYTHON_KINDS: Mapping[str, str] = {
    "len": "a whole number", "int": "a whole number", "float": "a real number", "str": "a text", "bool": "True or False",
    "list": "a list", "tuple": "a tuple", "dict": "a dictionary", "set": "a set", "sorted": "a list", ".tolist": "a list",
    ".item": "a number", "isinstance": "True or False",
}  # fmt: skip


def _slices(nodes: Sequence[ast.expr], run: SourceRun | None) -> list[SliceNote]:
    found: dict[str, SliceNote] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and run is not None and (fact := run.value_at(position_of(node))) is not None:
            found.setdefault(code(node), SliceNote(code(node), node.lineno, "", fact))
        takes = brackets(node) if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name | ast.Attribute) else None
        if takes is not None and isinstance(node, ast.Subscript):
            value = None if run is None else run.value_at(position_of(node))
            found.setdefault(code(node), SliceNote(code(node), node.lineno, takes, value))
    return list(found.values())[:MAX_CALLS]
