"""Tensors as PyTorch has them, computed by numpy: its types, its rules for mixing them, its views."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.explain.source.tracer.limits import MAX_BITS, MAX_MULTIPLICATIONS, BeyondError, RunBudget

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class NumberType:
    """One of PyTorch's types of numbers, by its name."""

    name: str


NUMPY_TYPES: dict[str, Any] = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
    "float16": np.float16,
    "float32": np.float32,
    "float64": np.float64,
}
TYPE_NAMES = {
    **{name: name for name in NUMPY_TYPES},
    "long": "int64",
    "int": "int32",
    "half": "float16",
    "float": "float32",
    "double": "float64",
}
CATEGORIES = {"b": 0, "u": 1, "i": 1, "f": 2}  # numpy's kind of a type -> torch's rank: truth, whole number, real number
DEFAULTS = (np.bool_, np.int64, np.float32)  # torch's type for a Python value of each category


@dataclass(eq=False, slots=True)
class TracedTensor:
    """An array with PyTorch's behaviour.

    is_ids: its whole numbers are token ids; is_ranked: its last axis is in the order of a sort, so positions on it are ranks.
    """

    array: Array
    is_ids: bool = False
    is_ranked: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> NumberType:
        return NumberType(self.array.dtype.name)


class IdList(list[Any]):
    """A list of token ids: tensors made of it know that they hold ids."""


def numpy_type(given: object) -> Any:
    """numpy's type for a type of the source: torch.long, or Python's int, float and bool. BeyondError for others."""
    if isinstance(given, NumberType) and given.name in NUMPY_TYPES:
        return NUMPY_TYPES[given.name]
    raise BeyondError(f"there are no tensors of type {getattr(given, 'name', given)} here")


def array_of(value: object) -> Array:
    """The array of a tensor, or of a number. BeyondError for anything else."""
    if isinstance(value, TracedTensor):
        return value.array
    if isinstance(value, bool | int | float):
        return quietly(np.asarray, value, DEFAULTS[_python_category(value)])
    raise BeyondError(f"a tensor is needed here, not {kind_of(value)}")


def kind_of(value: object) -> str:
    """The kind of a value in a word, for messages.

    >>> kind_of(None), kind_of([1]), kind_of(0.5)
    ('None', 'a list', 'a float')
    """
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _python_category(value: bool | int | float) -> int:
    return 0 if isinstance(value, bool) else 1 if isinstance(value, int) else 2


def common_type(values: Sequence[object]) -> Any:
    """The type of a result, by PyTorch's promotion: a tensor with axes outranks one without, and both outrank a number.

    >>> common_type([TracedTensor(np.zeros(2, np.float32)), TracedTensor(np.zeros(2, np.int64))]).__name__
    'float32'
    >>> common_type([TracedTensor(np.zeros(2, np.int64)), 0.5]).__name__
    'float32'
    """
    ranked: tuple[list[Any], list[Any], list[Any]] = ([], [], [])  # with axes, without, numbers
    for value in values:
        if isinstance(value, TracedTensor):
            ranked[0 if value.array.ndim else 1].append(value.array.dtype)
        else:
            ranked[2].append(np.dtype(DEFAULTS[_python_category(value)] if isinstance(value, bool | int | float) else np.float32))
    found, category = None, -1
    for types in ranked:
        highest = max((CATEGORIES.get(one.kind, 2) for one in types), default=-1)
        if highest > category:
            found = np.result_type(*(one for one in types if CATEGORIES.get(one.kind, 2) == highest))
            category = highest
    return np.dtype(found).type


# ---- operators --------------------------------------------------------------------------------------------------------------

ARITHMETIC: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Any]] = {
    ast.Add: (operator.add, np.add),
    ast.Sub: (operator.sub, np.subtract),
    ast.Mult: (operator.mul, np.multiply),
    ast.Div: (operator.truediv, np.true_divide),
    ast.FloorDiv: (operator.floordiv, np.floor_divide),
    ast.Mod: (operator.mod, np.remainder),
    ast.Pow: (operator.pow, np.power),
    ast.BitAnd: (operator.and_, np.bitwise_and),
    ast.BitOr: (operator.or_, np.bitwise_or),
    ast.BitXor: (operator.xor, np.bitwise_xor),
}
COMPARISONS: dict[type[ast.cmpop], tuple[Callable[[Any, Any], Any], Any]] = {
    ast.Eq: (operator.eq, np.equal),
    ast.NotEq: (operator.ne, np.not_equal),
    ast.Lt: (operator.lt, np.less),
    ast.LtE: (operator.le, np.less_equal),
    ast.Gt: (operator.gt, np.greater),
    ast.GtE: (operator.ge, np.greater_equal),
}
NUMBERS = (bool, int, float)


def arithmetic(kind: type[ast.operator], left: Any, right: Any, budget: RunBudget) -> Any:
    """left (kind) right, of tensors, numbers, lists or texts. BeyondError for what puna does not compute."""
    if kind is ast.MatMult:
        return matrix_product(left, right, budget)
    if kind not in ARITHMETIC:
        raise BeyondError(f"the operator {kind.__name__} is not computed here")
    python, numpy = ARITHMETIC[kind]
    if isinstance(left, TracedTensor) or isinstance(right, TracedTensor):
        dtype = common_type([left, right])
        if kind is ast.Div and np.dtype(dtype).kind != "f":
            dtype = np.float32
        arrays = [array_of(side).astype(dtype, copy=False) for side in (left, right)]
        budget.make(_broadcast(arrays))
        return TracedTensor(quietly(numpy, *arrays), is_ranked=is_any_ranked(left, right))
    if isinstance(left, NUMBERS) and isinstance(right, NUMBERS):
        return _bounded(kind, python, left, right)
    return _of_sequences(kind, left, right, budget)


def _bounded(kind: type[ast.operator], python: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    """Arithmetic of two Python numbers, whose result stays small."""
    is_whole_power = kind is ast.Pow and isinstance(left, int) and isinstance(right, int)
    if is_whole_power and left.bit_length() * max(abs(right), 1) > MAX_BITS:
        raise BeyondError("a power is too large")
    try:
        result = python(left, right)
    except (ZeroDivisionError, OverflowError, TypeError) as error:
        raise BeyondError(f"{left} and {right}: {error}") from None
    if isinstance(result, complex) or (isinstance(result, int) and result.bit_length() > MAX_BITS):
        raise BeyondError("a number is too large, or not a real one")
    return result


def _of_sequences(kind: type[ast.operator], left: Any, right: Any, budget: RunBudget) -> Any:
    """Lists, tuples and texts: joined, or repeated."""
    if kind is ast.Add and type(left) in (list, tuple, str, IdList) and isinstance(right, type(left) | list):
        if isinstance(left, str) != isinstance(right, str) or isinstance(left, tuple) != isinstance(right, tuple):
            raise BeyondError(f"{kind_of(left)} and {kind_of(right)} cannot be joined")
        budget.make_list(len(left) + len(right))
        joined = left + right
        return IdList(joined) if isinstance(left, IdList) or isinstance(right, IdList) else joined
    if kind is ast.Mult and isinstance(left, int) and isinstance(right, list | tuple | str):
        left, right = right, left
    if kind is ast.Mult and isinstance(left, list | tuple | str) and isinstance(right, int):
        budget.make_list(len(left) * max(right, 0))
        return left * right
    raise BeyondError(f"{kind_of(left)} {kind.__name__} {kind_of(right)} is not computed here")


def matrix_product(left: Any, right: Any, budget: RunBudget) -> TracedTensor:
    """left @ right."""
    a, b = array_of(left), array_of(right)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-2 if b.ndim > 1 else -1]:
        raise BeyondError(f"shapes {a.shape} and {b.shape} do not fit for a product of matrices")
    try:
        leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise BeyondError(f"shapes {a.shape} and {b.shape} do not fit for a product of matrices") from None
    shape = (*leading, *a.shape[-2:-1], *(b.shape[-1:] if b.ndim > 1 else ()))
    budget.make(shape)
    if int(np.prod(shape, dtype=np.float64)) * a.shape[-1] > MAX_MULTIPLICATIONS:
        raise BeyondError("a product of matrices is larger than puna computes here")
    return TracedTensor(np.asarray(quietly(np.matmul, a, b)))


def compare(kind: type[ast.cmpop], left: Any, right: Any, budget: RunBudget) -> Any:
    """One comparison; of tensors, element by element."""
    if kind is ast.Is:
        return left is right
    if kind is ast.IsNot:
        return left is not right
    if kind in (ast.In, ast.NotIn):
        return contains(right, left) != (kind is ast.NotIn)
    python, numpy = COMPARISONS[kind]
    if isinstance(left, TracedTensor) or isinstance(right, TracedTensor):
        if left is None or right is None:
            return kind is ast.NotEq
        arrays = [array_of(left), array_of(right)]
        budget.make(_broadcast(arrays))
        return TracedTensor(np.asarray(numpy(*arrays)))
    if kind in (ast.Eq, ast.NotEq):
        return is_equal(left, right, budget) == (kind is ast.Eq)
    if (isinstance(left, NUMBERS) and isinstance(right, NUMBERS)) or (isinstance(left, str) and isinstance(right, str)):
        return python(left, right)
    raise BeyondError(f"{kind_of(left)} and {kind_of(right)} have no order")


def is_equal(left: Any, right: Any, budget: RunBudget) -> bool:
    """left == right. Each list is a step: one that holds a list twice, which holds one twice, and so on, has no end to see."""
    waiting = [(left, right)]
    while waiting:
        one, other = waiting.pop()
        if one is other:
            continue
        if isinstance(one, list | tuple) and isinstance(other, list | tuple):
            if isinstance(one, list) != isinstance(other, list) or len(one) != len(other):
                return False
            budget.step()
            budget.make_list(len(one))
            waiting += zip(one, other, strict=True)
        elif isinstance(one, dict) and isinstance(other, dict):
            if one.keys() != other.keys():
                return False
            budget.step()
            waiting += ((one[key], other[key]) for key in one)
        elif one != other:
            return False
    return True


def is_any_ranked(*values: Any) -> bool:
    """Whether one of the values of an operation is in the order of a sort: then so is the result."""
    return any(isinstance(one, TracedTensor) and one.is_ranked for one in values)


def contains(items: Any, item: Any) -> bool:
    """item in items, where items is a list, tuple, text, range or dictionary of plain values."""
    if isinstance(items, str) and isinstance(item, str):
        return item in items
    if isinstance(items, TracedTensor):
        return bool((items.array == array_of(item)).any())
    if isinstance(items, range):  # Python looks for a real number one by one
        return isinstance(item, int | float) and item == item // 1 and int(item) in items
    if isinstance(items, list | tuple | dict | set | frozenset) and isinstance(item, bool | int | float | str | None):
        return any(one == item for one in items if not isinstance(one, TracedTensor))
    raise BeyondError(f"'in' is not computed for {kind_of(items)} here")


def is_true(value: Any) -> bool:
    """Whether an `if` takes its branch. BeyondError for a tensor of several numbers, of which Python would ask for one."""
    if isinstance(value, TracedTensor):
        if value.array.size != 1:
            raise BeyondError(f"a tensor of shape {value.shape} is neither true nor false")
        return bool(value.array.reshape(-1)[0])
    if value is None or isinstance(value, bool | int | float | str | list | tuple | dict | range | set):
        return bool(value)
    return True


def _broadcast(arrays: Sequence[Array]) -> tuple[int, ...]:
    """The shape of an operation's result. BeyondError if the shapes do not fit."""
    try:
        return np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = " and ".join(str(tuple(array.shape)) for array in arrays)
        raise BeyondError(f"the shapes {shapes} do not fit each other") from None


def broadcast(budget: RunBudget, *arrays: Array) -> tuple[int, ...]:
    """The common shape of arrays, counted."""
    shape = _broadcast(arrays)
    budget.make(shape)
    return shape


def quietly(function: Any, *arguments: Any) -> Array:
    """An operation of numpy without warnings: infinities and undefined numbers are values here. BeyondError for its errors."""
    with np.errstate(all="ignore"):
        try:
            return np.asarray(function(*arguments))
        except (TypeError, ValueError, IndexError) as error:
            raise BeyondError(str(error).splitlines()[0]) from None
