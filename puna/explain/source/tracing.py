"""A call of a recognised loop: arguments that fit it, the run as data, and what it showed."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from puna.explain.source.loops import Loop, LoopKind, Purpose, purpose_of
from puna.explain.source.tracer.functions import SourceError
from puna.explain.source.tracer.interpreter import Interpreter, Position
from puna.explain.source.tracer.limits import BeyondError, LimitError
from puna.explain.source.tracer.operations import DrawnPosition
from puna.explain.source.tracer.snapshots import Records, Snapshot, TokenSpelling, snapshot
from puna.explain.source.tracer.tensors import IdList, TracedTensor
from puna.explain.source.tracer.values import (
    DEVICE,
    PAD_ID,
    LanguageModel,
    ModelSizes,
    ModelValue,
    SelfValue,
    TokenizerValue,
    Unknown,
    UserFunction,
)

# Two prompts and the most tokens that are taken of each: in any vocabulary, a ragged batch.
PROMPTS = (("The capital of Peru is", 10), ("One, two, three, four, five,", 16))
MAX_NEW = 6  # tokens
SEED = 20
TEMPERATURE, TOP_P, TOP_K, MIN_P, PENALTY = 0.6, 0.9, 50, 0.05, 1.2
# Attributes that objects of sampling classes hold, by their usual names.
SETTINGS: Mapping[str, Any] = {
    "temperature": TEMPERATURE,
    "top_p": TOP_P,
    "top_k": TOP_K,
    "min_p": MIN_P,
    "filter_value": -math.inf,
    "min_tokens_to_keep": 1,
    "penalty": PENALTY,
    "prompt_ignore_length": None,
}


@dataclass(frozen=True, slots=True)
class Argument:
    """What a parameter was given, and why."""

    name: str
    purpose: Purpose
    value: Snapshot


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run ended before its end, and why. is_own: the program itself raised an exception; is_limit: it cost too much."""

    line: int
    reason: str
    is_own: bool = False
    is_limit: bool = False


@dataclass(frozen=True, slots=True)
class SourceRun:
    """One call of a function, carried out as data."""

    function: str
    kind: LoopKind
    arguments: tuple[Argument, ...]
    records: Mapping[Position, Records]
    calls: Mapping[Position, Snapshot]
    draws: tuple[DrawnPosition, ...]
    drawn: Mapping[Position, tuple[DrawnPosition, ...]]  # what each call drew first
    num_model_calls: int
    result: Snapshot | None
    stop: Stop | None
    otherwise: SourceRun | None = None  # a second run, at temperature 0, for the lines that this one did not reach

    def records_of(self, position: Position) -> tuple[Records | None, bool]:
        """What a statement did; and whether only in the second run."""
        found = self.records.get(position)
        if (found is not None and found.count) or self.otherwise is None or position not in self.otherwise.records:
            return found, False
        return self.otherwise.records[position], True

    def value_at(self, position: Position) -> Snapshot | None:
        """The first result of a call or a slice."""
        other = None if self.otherwise is None else self.otherwise.calls.get(position)
        return self.calls.get(position, other)


@dataclass(frozen=True, slots=True)
class SourceScope:
    """What a run may use of a file: its functions, its constants, the names of its imports, the methods beside the function."""

    functions: Mapping[str, ast.FunctionDef]
    constants: Mapping[str, ast.expr]
    aliases: Mapping[str, str]
    methods: Mapping[str, ast.FunctionDef]


def run_loop(
    name: str,
    node: ast.FunctionDef,
    loop: Loop,
    scope: SourceScope,
    model: LanguageModel,
    chosen: Mapping[str, Any] = MappingProxyType({}),
) -> SourceRun:
    """Call a recognised loop with a two-prompt batch; if that does not fit it, with one prompt, and with a plain row.

    chosen: values of some parameters; puna chooses the others. The run that got furthest is returned.
    """
    best: SourceRun | None = None
    for shape in (_two_rows, _one_row, _plain_row, _as_list):
        done = _run_once(name, node, loop, scope, model, shape, chosen)
        if best is None or len(done.records) > len(best.records):
            best = done
        if done.stop is None or done.stop.is_limit:
            return done
    assert best is not None
    return best


def run_both_ways(name: str, node: ast.FunctionDef, loop: Loop, scope: SourceScope, model: LanguageModel) -> SourceRun:
    """`run_loop`; and at temperature 0 too, if the loop has a temperature: many take another way then."""
    first = run_loop(name, node, loop, scope, model)
    cold = {one: 0.0 for one, purpose in loop.purposes.items() if purpose is Purpose.TEMPERATURE}
    return replace(first, otherwise=run_loop(name, node, loop, scope, model, cold)) if cold and first.stop is None else first


def _run_once(
    name: str,
    node: ast.FunctionDef,
    loop: Loop,
    scope: SourceScope,
    model: LanguageModel,
    shape: RowShape,
    chosen: Mapping[str, Any],
) -> SourceRun:
    value = ModelValue(model)
    given = {one: _argument(purpose, one, model, value, shape) for one, purpose in loop.purposes.items()}
    given |= chosen
    given = {one: found for one, found in given.items() if not (isinstance(found, Unknown) and one in _with_default(node))}
    spelling = TokenSpelling(model.vocab_size, model.piece)
    module: dict[str, Any] = {}
    interpreter = Interpreter(module, scope.aliases, spelling, uniforms(SEED))
    module |= {one: UserFunction(function, module) for one, function in scope.functions.items()}
    module |= _constants(scope.constants)
    owner = _owner(node, value, scope, module, spelling)
    result, stop = None, None
    try:
        made = interpreter.call_function(UserFunction(node, module, owner), [], given)
        result = snapshot(made, spelling)
    except BeyondError as beyond:
        stop = Stop(beyond.line or node.lineno, beyond.reason, is_limit=isinstance(beyond, LimitError))
    except SourceError as error:
        stop = Stop(_last_line(interpreter.records, node), f"the program itself ends here with {error}", is_own=True)
    except FAILURES as error:
        stop = Stop(_last_line(interpreter.records, node), f"an operation failed ({type(error).__name__})")
    arguments = tuple(Argument(one, loop.purposes[one], snapshot(found, spelling)) for one, found in given.items())
    draws = tuple(interpreter.draws)
    return SourceRun(
        name,
        loop.kind,
        arguments,
        interpreter.records,
        interpreter.calls,
        draws,
        interpreter.drawn,
        value.num_calls,
        result,
        stop,
    )


def uniforms(seed: int) -> Iterator[float]:
    """The random numbers of a run, always the same."""
    made = np.random.Generator(np.random.PCG64(seed))
    while True:
        yield float(made.random())


def _last_line(records: Mapping[Position, Records], node: ast.FunctionDef) -> int:
    return list(records)[-1][0] if records else node.lineno


def _with_default(node: ast.FunctionDef) -> set[str]:
    """The parameters that have a default."""
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    own = {one.arg for one in positional[len(positional) - len(spec.defaults) :]}
    return own | {one.arg for one, default in zip(spec.kwonlyargs, spec.kw_defaults) if default is not None}


FAILURES = (RecursionError, MemoryError, ArithmeticError, LookupError, AttributeError, ValueError, TypeError)


def _owner(
    node: ast.FunctionDef, value: ModelValue, scope: SourceScope, module: Mapping[str, Any], spelling: TokenSpelling
) -> SelfValue | None:
    """`self`, for a method: it holds what the class's own __init__ sets, as far as that can be carried out."""
    first = next((one.arg for one in (*node.args.posonlyargs, *node.args.args)), "")
    if first not in ("self", "cls"):
        return None
    owner = SelfValue(value, scope.methods, dict(SETTINGS))
    made = scope.methods.get("__init__")
    if made is not None and made is not node:
        names = [one.arg for one in (*made.args.args, *made.args.kwonlyargs)][1:]
        given = {one: _argument(purpose_of(one, made), one, value.model, value, _two_rows) for one in names}
        given = {one: found for one, found in given.items() if not (isinstance(found, Unknown) and one in _with_default(made))}
        interpreter = Interpreter(module, scope.aliases, spelling, uniforms(SEED))
        with suppress(BeyondError, SourceError, *FAILURES):
            interpreter.call_function(UserFunction(made, module, owner), [], given)
    return owner


def _constants(constants: Mapping[str, ast.expr]) -> dict[str, Any]:
    """The file's own constants, of which puna takes the literal ones."""
    found: dict[str, Any] = {}
    for name, node in constants.items():
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
            found[name] = node.value
    return found


# ---- arguments --------------------------------------------------------------------------------------------------------------


def prompts_of(model: LanguageModel) -> list[list[int]]:
    """The token ids of the two prompts."""
    return [model.encode(text)[:most] or [0] for text, most in PROMPTS]


RowShape = Callable[[Any], Any]


def _two_rows(array: Any) -> Any:
    return array


def _one_row(array: Any) -> Any:
    return array[:1]


def _plain_row(array: Any) -> Any:
    return array[0]


def _as_list(array: Any) -> Any:
    """For programs that take a Python list."""
    return array[0].tolist()


def _argument(purpose: Purpose, name: str, model: LanguageModel, value: ModelValue, shape: RowShape) -> Any:
    """A value for a parameter."""
    made = VALUES.get(purpose)
    if purpose is Purpose.PROMPTS:
        return [IdList(ids) for ids in prompts_of(model)]
    if purpose is Purpose.IDS:
        ids = shape(_even(model))
        return IdList(ids) if isinstance(ids, list) else TracedTensor(ids, is_ids=True)
    if purpose in ROWS:
        return TracedTensor(np.array(shape(ROWS[purpose](model))))
    if purpose is Purpose.MODEL:
        return value
    if made is None:
        return Unknown(name)
    return made(model)


def _even(model: LanguageModel) -> Any:
    """The two prompts, cut to one length: a plain loop takes no ragged batch."""
    prompts = prompts_of(model)
    length = min(map(len, prompts))
    return np.array([ids[:length] for ids in prompts], np.int64)


def _last_logits(model: LanguageModel) -> Any:
    return np.stack([model.logits(ids)[-1] for ids in prompts_of(model)])


def _all_logits(model: LanguageModel) -> Any:
    return np.stack([model.logits(row) for row in _even(model).tolist()])


def _probabilities(model: LanguageModel, temperature: float = TEMPERATURE) -> Any:
    logits = _last_logits(model) / np.float32(temperature)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


ROWS: Mapping[Purpose, Callable[[LanguageModel], Any]] = {
    Purpose.LOGITS: _last_logits,
    Purpose.ALL_LOGITS: _all_logits,
    Purpose.PROBABILITIES: _probabilities,
}
VALUES: Mapping[Purpose, Callable[[LanguageModel], Any]] = {
    Purpose.TOKENIZER: TokenizerValue,
    Purpose.SIZES: ModelSizes,
    Purpose.TEXT: lambda model: PROMPTS[0][0],
    Purpose.COUNT: lambda model: MAX_NEW,
    Purpose.LENGTH: lambda model: model.max_context,
    Purpose.TEMPERATURE: lambda model: TEMPERATURE,
    Purpose.TOP_P: lambda model: TOP_P,
    Purpose.TOP_K: lambda model: TOP_K,
    Purpose.MIN_P: lambda model: MIN_P,
    Purpose.SWITCH: lambda model: True,
    Purpose.END_ID: lambda model: model.eos_id,
    Purpose.PAD_ID: lambda model: PAD_ID,
    Purpose.DEVICE: lambda model: DEVICE,
    Purpose.SEED: lambda model: SEED,
    Purpose.FILTER_VALUE: lambda model: -math.inf,
    Purpose.LEAST_KEPT: lambda model: 1,
    Purpose.START: lambda model: 0,
    Purpose.GENERATOR: lambda model: None,
}
