"""PyTorch's operations that sampling and generation loops use, in numpy. `OPERATIONS` and `METHODS` are the whole allow-list.

Each function takes the run (its budget, its random numbers), then what the source gives, by PyTorch's own parameter names.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from puna.explain.source.tracer.limits import MAX_DRAWS, MAX_LIST, BeyondError, LimitError, RunBudget
from puna.explain.source.tracer.tensors import (
    COMPARISONS,
    DEFAULTS,
    NUMPY_TYPES,
    Array,
    IdList,
    NumberType,
    TracedTensor,
    arithmetic,
    array_of,
    broadcast,
    common_type,
    compare,
    is_any_ranked,
    matrix_product,
    numpy_type,
    quietly,
)


class DrawnPosition(NamedTuple):
    """A number that multinomial drew, and the position that it fell on."""

    row: int
    uniform: float
    position: int


class Run(Protocol):
    """What an operation may use of the run."""

    budget: RunBudget
    vocab_size: int
    draws: list[DrawnPosition]

    def uniform(self) -> float:
        """The next random number, 0 <= number < 1."""


class Extremes(NamedTuple):
    """What max, min, sort and topk along an axis return."""

    values: TracedTensor
    indices: TracedTensor


# ---- making tensors ---------------------------------------------------------------------------------------------------------


def shape_of(size: Sequence[Any]) -> tuple[int, ...]:
    """A shape, from numbers or from one list of them."""
    if len(size) == 1 and isinstance(size[0], list | tuple):
        size = size[0]
    sizes = [int(one.array) if isinstance(one, TracedTensor) and one.array.ndim == 0 else one for one in size]
    if not all(type(one) is int and one >= 0 for one in sizes):
        raise BeyondError("a shape holds whole numbers of at least 0")
    if len(sizes) > 16:
        raise BeyondError("a shape of more than 16 axes")
    return tuple(sizes)


def full(run: Run, size: Any, fill_value: Any, *, dtype: Any = None, **_: Any) -> TracedTensor:
    shape = shape_of([size] if isinstance(size, list | tuple) else [[size]])
    run.budget.make(shape)
    filled = array_of(fill_value)
    return TracedTensor(np.full(shape, filled, filled.dtype if dtype is None else numpy_type(dtype)))


def _filled(value: int, run: Run, *size: Any, dtype: Any = None, **_: Any) -> TracedTensor:
    shape = shape_of(size)
    run.budget.make(shape)
    return TracedTensor(np.full(shape, value, np.float32 if dtype is None else numpy_type(dtype)))


def _filled_like(value: Any, run: Run, input: Any, *, dtype: Any = None, **_: Any) -> TracedTensor:
    array = array_of(input)
    run.budget.make(array.shape)
    return TracedTensor(np.full(array.shape, value, array.dtype if dtype is None else numpy_type(dtype)))


def full_like(run: Run, input: Any, fill_value: Any, *, dtype: Any = None, **_: Any) -> TracedTensor:
    return _filled_like(array_of(fill_value), run, input, dtype=dtype)


def tensor(run: Run, data: Any, *, dtype: Any = None, **_: Any) -> TracedTensor:
    """A new tensor of nested lists, of a number, or of a tensor."""
    if isinstance(data, TracedTensor):
        run.budget.make(data.shape)
        return TracedTensor(data.array.astype(data.array.dtype if dtype is None else numpy_type(dtype)), data.is_ids)
    leaves: list[Any] = []
    shape = _nested_shape(run, data, leaves, 0)
    run.budget.make(shape)
    if not all(isinstance(leaf, bool | int | float) for leaf in leaves):
        raise BeyondError("a tensor is made of numbers")
    kinds = [0 if isinstance(leaf, bool) else 1 if isinstance(leaf, int) else 2 for leaf in leaves]
    numbers = DEFAULTS[max(kinds)] if kinds else np.float32
    made = quietly(lambda: np.array(leaves, numbers if dtype is None else numpy_type(dtype)).reshape(shape))
    return TracedTensor(made, _holds_ids(data))


def _nested_shape(run: Run, data: Any, leaves: list[Any], depth: int) -> tuple[int, ...]:
    if depth > 8:
        raise BeyondError("lists are nested more than 8 deep")
    if isinstance(data, TracedTensor) and data.array.ndim == 0:
        data = data.array.item()
    if not isinstance(data, list | tuple | range):
        leaves.append(data)
        if len(leaves) > MAX_LIST:
            raise BeyondError("a list is larger than puna computes here")
        return ()
    run.budget.step()
    shapes = {_nested_shape(run, one, leaves, depth + 1) for one in data}
    if len(shapes) > 1:
        raise BeyondError("the rows of a tensor must have one length")
    return (len(data), *(shapes.pop() if shapes else ()))


def _holds_ids(data: Any) -> bool:
    return isinstance(data, IdList) or (isinstance(data, list) and bool(data) and isinstance(data[0], IdList))


def arange(run: Run, *ends: Any, dtype: Any = None, **_: Any) -> TracedTensor:
    numbers = [one.array.item() if isinstance(one, TracedTensor) and one.array.ndim == 0 else one for one in ends]
    if not 1 <= len(numbers) <= 3 or not all(isinstance(one, int | float) for one in numbers) or not all(numbers[2:]):
        raise BeyondError("arange needs one to three numbers")
    start, end, by = (0, numbers[0], 1) if len(numbers) == 1 else (*numbers, 1)[:3]
    count = (end - start) / by
    if not math.isfinite(count):
        raise BeyondError("a range without end")
    run.budget.make((max(0, math.ceil(count)),))
    is_whole = all(isinstance(one, int) for one in numbers)
    return TracedTensor(np.arange(start, end, by).astype(numpy_type(dtype) if dtype else np.int64 if is_whole else np.float32))


def rand(run: Run, *size: Any, **_: Any) -> TracedTensor:
    shape = shape_of(size)
    run.budget.make(shape)
    run.budget.make_list(math.prod(shape))
    return TracedTensor(np.array([run.uniform() for _ in range(math.prod(shape))], np.float32).reshape(shape))


def exponential(run: Run, input: TracedTensor, lambd: Any = 1.0) -> TracedTensor:
    """Random numbers of an exponential distribution, in place; the draw is puna's, not that of a generator of PyTorch."""
    if not isinstance(lambd, int | float) or not lambd > 0:
        raise BeyondError("an exponential distribution needs a number above 0")
    uniform = rand(run, *input.shape).array.astype(np.float64)
    write(run.budget, input, (...,), TracedTensor((-np.log1p(-uniform) / lambd).astype(input.array.dtype)))
    return input


def select(run: Run, input: Any, dim: Any, index: Any) -> TracedTensor:
    array = array_of(input)
    if type(index) is not int:
        raise BeyondError("select needs a whole number")
    return read(run.budget, _as_tensor(input), (*[slice(None)] * _axis(dim, array), index))


def narrow(run: Run, input: Any, dim: Any, start: Any, length: Any) -> TracedTensor:
    if type(start) is not int or type(length) is not int or length < 0:
        raise BeyondError("narrow needs whole numbers")
    array = array_of(input)
    return read(run.budget, _as_tensor(input), (*[slice(None)] * _axis(dim, array), slice(start, start + length)))


# ---- joining and choosing ---------------------------------------------------------------------------------------------------


def _tensors(given: Any) -> list[TracedTensor]:
    if not isinstance(given, list | tuple) or not given or not all(isinstance(one, TracedTensor) for one in given):
        raise BeyondError("a list of tensors is needed here")
    return list(given)


def cat(run: Run, tensors: Any, dim: int = 0, **_: Any) -> TracedTensor:
    parts = _tensors(tensors)
    run.budget.make((sum(part.array.size for part in parts),))
    dtype = common_type(parts)
    joined = quietly(lambda: np.concatenate([part.array.astype(dtype, copy=False) for part in parts], _axis(dim, parts[0].array)))
    return TracedTensor(joined, any(part.is_ids for part in parts))


def stack(run: Run, tensors: Any, dim: int = 0, **_: Any) -> TracedTensor:
    parts = _tensors(tensors)
    run.budget.make((sum(part.array.size for part in parts),))
    return TracedTensor(quietly(lambda: np.stack([part.array for part in parts], dim)), any(part.is_ids for part in parts))


def where(run: Run, condition: Any, input: Any = None, other: Any = None) -> Any:
    if input is None:
        return tuple(TracedTensor(found) for found in np.nonzero(_found(run, condition)))
    arrays = [array_of(one) for one in (condition, input, other)]
    broadcast(run.budget, *arrays)
    dtype = common_type([input, other])
    made = np.where(arrays[0], arrays[1].astype(dtype, copy=False), arrays[2].astype(dtype, copy=False))
    return TracedTensor(
        made, any(isinstance(one, TracedTensor) and one.is_ids for one in (input, other)), is_any_ranked(input, other)
    )


def gather(run: Run, input: Any, dim: Any, index: Any = None, **_: Any) -> TracedTensor:
    array, at = array_of(input), array_of(index)
    run.budget.make(at.shape)
    axis = _axis(dim, array)
    if at.ndim != array.ndim:
        raise BeyondError(f"gather needs as many axes in its index, {at.ndim}, as in its input, {array.ndim}")
    part = array[tuple(slice(None) if one == axis else slice(at.shape[one]) for one in range(array.ndim))]
    return TracedTensor(quietly(lambda: np.take_along_axis(part, at, axis)), isinstance(input, TracedTensor) and input.is_ids)


def pad(run: Run, input: Any, pad: Any, mode: str = "constant", value: Any = 0) -> TracedTensor:
    array = array_of(input)
    if mode != "constant" or not isinstance(pad, tuple | list) or len(pad) % 2 or len(pad) > 2 * array.ndim:
        raise BeyondError("pad with a constant at the ends of axes only")
    ends = shape_of([list(pad)])
    pairs = [(0, 0)] * (array.ndim - len(ends) // 2) + [(ends[at], ends[at + 1]) for at in range(len(ends) - 2, -1, -2)]
    run.budget.make([size + sum(pair) for size, pair in zip(array.shape, pairs, strict=True)])
    return TracedTensor(np.pad(array, pairs, constant_values=array_of(0 if value is None else value).astype(array.dtype)))


def scatter(run: Run, input: Any, dim: Any, index: Any = None, src: Any = None, value: Any = None, **_: Any) -> TracedTensor:
    made = TracedTensor(array_of(input).copy(), isinstance(input, TracedTensor) and input.is_ids)
    run.budget.make(made.shape)
    return scatter_in_place(run, made, dim, index, src, value)


def scatter_in_place(
    run: Run, input: Any, dim: Any, index: Any = None, src: Any = None, value: Any = None, **_: Any
) -> TracedTensor:
    array, at = array_of(input), array_of(index)
    given = array_of(src if src is not None else value)
    if given.ndim == at.ndim and given.shape != at.shape:
        given = given[tuple(slice(size) for size in at.shape)]
    run.budget.make(at.shape)

    def put() -> int:
        np.put_along_axis(array, at, given.astype(array.dtype), _axis(dim, array))
        return 0

    quietly(put)
    return _as_tensor(input)


def isin(run: Run, elements: Any, test_elements: Any, **_: Any) -> TracedTensor:
    first, second = array_of(elements), array_of(test_elements)
    run.budget.make((first.size, min(second.size, 64)))
    run.budget.make((second.size,))
    return TracedTensor(np.isin(first, second))


def nonzero(run: Run, input: Any, as_tuple: bool = False, **_: Any) -> Any:
    return where(run, input) if as_tuple else TracedTensor(np.argwhere(_found(run, input)))


def _found(run: Run, given: Any) -> Array:
    """The array of a tensor of which the positions that are not 0 are asked for: each has a number for each axis."""
    array = array_of(given)
    run.budget.make((int(np.count_nonzero(array)), max(array.ndim, 1)))
    return array


def _triangle(keep: Any, run: Run, input: Any, diagonal: int = 0, **_: Any) -> TracedTensor:
    array = array_of(input)
    run.budget.make(array.shape)
    return TracedTensor(quietly(lambda: keep(array, diagonal)))


# ---- along an axis ----------------------------------------------------------------------------------------------------------


def _axis(dim: Any, array: Array) -> int:
    """An axis counted from the front. BeyondError if there is none."""
    if type(dim) is not int or not -max(array.ndim, 1) <= dim < max(array.ndim, 1):
        raise BeyondError(f"a tensor of {array.ndim} axes has no axis {dim}")
    return dim % max(array.ndim, 1)


def _left(array: Array, *axes: int | None) -> tuple[int, ...]:
    """The shape of what is left of an array after some axes became one number; None: all did."""
    return () if None in axes else tuple(size for at, size in enumerate(array.shape) if at not in axes)


def _real(array: Array) -> Array:
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def softmax(run: Run, input: Any, dim: Any = None, dtype: Any = None, **_: Any) -> TracedTensor:
    array = _real(array_of(input))
    array = array if dtype is None else array.astype(numpy_type(dtype))
    run.budget.make(array.shape)
    axis = _axis(-1 if dim is None else dim, array)
    powers = quietly(lambda: np.exp(array - array.max(axis=axis, keepdims=True)))
    return TracedTensor(quietly(lambda: powers / powers.sum(axis=axis, keepdims=True)), is_ranked=is_any_ranked(input))


def log_softmax(run: Run, input: Any, dim: Any = None, dtype: Any = None, **_: Any) -> TracedTensor:
    array = _real(array_of(input))
    array = array if dtype is None else array.astype(numpy_type(dtype))
    run.budget.make(array.shape)
    axis = _axis(-1 if dim is None else dim, array)
    moved = quietly(lambda: array - array.max(axis=axis, keepdims=True))
    return TracedTensor(quietly(lambda: moved - np.log(np.exp(moved).sum(axis=axis, keepdims=True))))


def logsumexp(run: Run, input: Any, dim: Any = -1, keepdim: bool = False, **_: Any) -> TracedTensor:
    array = _real(array_of(input))
    run.budget.make(array.shape)
    axis = _axis(dim, array)
    top = array.max(axis=axis, keepdims=True)
    total = quietly(lambda: np.log(np.exp(array - top).sum(axis=axis, keepdims=True)) + top)
    return TracedTensor(total if keepdim else np.squeeze(total, axis))


def argmax(run: Run, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> TracedTensor:
    return _arg(np.argmax, run, input, dim, keepdim)


def argmin(run: Run, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> TracedTensor:
    return _arg(np.argmin, run, input, dim, keepdim)


def _arg(function: Any, run: Run, input: Any, dim: Any, keepdim: bool) -> TracedTensor:
    array = array_of(input)
    axis = None if dim is None else _axis(dim, array)
    run.budget.make(_left(array, axis))
    found = quietly(lambda: function(array, axis=axis, keepdims=bool(keepdim)))
    return TracedTensor(found.astype(np.int64), _is_vocabulary(run, input, -1 if axis is None else axis))


def _is_vocabulary(run: Run, input: Any, axis: int) -> bool:
    """Whether positions along an axis are token ids: it has the vocabulary's size and order."""
    array = array_of(input)
    return bool(array.ndim) and array.shape[axis] == run.vocab_size and not is_any_ranked(input)


def _extreme(name: str, run: Run, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    array = array_of(input)
    if isinstance(dim, TracedTensor) or dim is None:
        return _pairwise(name, run, input, dim) if dim is not None else TracedTensor(quietly(lambda: getattr(np, name)(array)))
    axis = _axis(dim, array)
    run.budget.make(_left(array, axis))
    values = quietly(lambda: getattr(np, name)(array, axis=axis, keepdims=bool(keepdim)))
    indices = argmax(run, input, dim, keepdim) if name == "max" else argmin(run, input, dim, keepdim)
    return Extremes(TracedTensor(values), indices)


def _pairwise(name: str, run: Run, input: Any, other: Any) -> TracedTensor:
    arrays = [array_of(input), array_of(other)]
    broadcast(run.budget, *arrays)
    return TracedTensor(np.asarray(getattr(np, f"{name}imum")(*arrays)))


def _reduced(name: str, run: Run, input: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> TracedTensor:
    array = array_of(input)
    axis = None if dim is None else tuple(_axis(one, array) for one in (dim if isinstance(dim, list | tuple) else [dim]))
    run.budget.make(_left(array, *(range(array.ndim) if axis is None else axis)))
    if name in ("all", "any"):
        return TracedTensor(np.asarray(getattr(np, name)(array, axis=axis, keepdims=bool(keepdim))))
    made = quietly(lambda: getattr(np, name)(_real(array) if name != "sum" else array, axis=axis, keepdims=bool(keepdim)))
    return TracedTensor(made.astype(np.int64 if array.dtype.kind in "bi" and name == "sum" else made.dtype))


def cumsum(run: Run, input: Any, dim: Any = None, **_: Any) -> TracedTensor:
    array = array_of(input)
    run.budget.make(array.shape)
    wide = np.float64 if array.dtype.kind == "f" else np.int64
    summed = quietly(lambda: np.cumsum(array, axis=_axis(dim, array), dtype=wide))
    made = summed.astype(array.dtype if array.dtype.kind == "f" else np.int64)
    return TracedTensor(made, is_ranked=is_any_ranked(input))


def sort(run: Run, input: Any, dim: Any = -1, descending: bool = False, **_: Any) -> Extremes:
    indices = argsort(run, input, dim, descending)
    array = array_of(input)
    return Extremes(TracedTensor(np.take_along_axis(array, indices.array, _axis(dim, array)), is_ranked=True), indices)


def argsort(run: Run, input: Any, dim: Any = -1, descending: bool = False, **_: Any) -> TracedTensor:
    array = array_of(input)
    run.budget.make(array.shape)
    axis = _axis(dim, array)
    keyed = -_real(array) if descending and array.dtype.kind != "i" else -array if descending else array
    found = quietly(lambda: np.argsort(keyed, axis=axis, kind="stable"))
    return TracedTensor(found.astype(np.int64), _is_vocabulary(run, input, axis), is_ranked=True)


def topk(run: Run, input: Any, k: Any, dim: Any = -1, **_: Any) -> Extremes:
    ordered = sort(run, input, dim, True)
    array = array_of(input)
    axis, count = _axis(dim, array), k.array.item() if isinstance(k, TracedTensor) and k.array.size == 1 else k
    if type(count) is not int or not 0 <= count <= array.shape[axis]:
        raise BeyondError(f"k is {count}; the axis has {array.shape[axis]} values")
    part = tuple(slice(count) if one == axis else slice(None) for one in range(array.ndim))
    ids = TracedTensor(ordered.indices.array[part], ordered.indices.is_ids, is_ranked=True)
    return Extremes(TracedTensor(ordered.values.array[part], is_ranked=True), ids)


def multinomial(run: Run, input: Any, num_samples: Any, replacement: bool = False, **_: Any) -> TracedTensor:
    """Positions drawn with the probabilities of each row. The number drawn is puna's, not that of a generator of PyTorch."""
    array = _real(array_of(input))
    if array.ndim not in (1, 2) or type(num_samples) is not int or not 1 <= num_samples <= 64 or not array.size:
        raise BeyondError("multinomial draws 1 to 64 positions from one or two axes here")
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    if len(rows) * num_samples > MAX_DRAWS - len(run.draws):
        raise LimitError(f"the run draws more than {MAX_DRAWS:,} numbers")
    run.budget.make(rows.shape)
    drawn = [_drawn(run, number, row, num_samples, replacement) for number, row in enumerate(rows)]
    made = np.array(drawn, np.int64).reshape((*array.shape[:-1], num_samples))
    return TracedTensor(made, _is_vocabulary(run, input, array.ndim - 1))


def _drawn(run: Run, number: int, row: Array, num_samples: int, replacement: bool) -> list[int]:
    found: list[int] = []
    row = row.copy()
    for _ in range(num_samples):
        run.budget.step()
        total = float(row.sum())
        if not (math.isfinite(total) and total > 0 and (row >= 0).all()):
            raise BeyondError("the probabilities to draw from are not all numbers of at least 0 with a sum above 0")
        uniform = run.uniform()
        sums = np.cumsum(row)
        position = int(min(np.searchsorted(sums, uniform * sums[-1], side="right"), np.flatnonzero(row)[-1]))
        run.draws.append(DrawnPosition(number, uniform, position))
        found.append(position)
        if not replacement:
            row[position] = 0.0
    return found


def cross_entropy(
    run: Run, input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean", **_: Any
) -> TracedTensor:
    """The negative log-probability of each target; input (batch, classes, ...), target (batch, ...)."""
    array, at = _real(array_of(input)), array_of(target)
    if weight is not None or at.dtype.kind != "i":
        raise BeyondError("cross_entropy with weights, or with probabilities as targets")
    if array.ndim < 1 or array.shape[: min(1, at.ndim)] + array.shape[2 if at.ndim else 1 :] != at.shape:
        raise BeyondError(f"cross_entropy: the shapes {array.shape} and {at.shape} do not fit")
    axis = 1 if array.ndim > 1 else 0
    logs = log_softmax(run, TracedTensor(array), axis).array
    is_ignored = at == ignore_index
    known = np.where(is_ignored, 0, at)
    if known.size and not (known.min() >= 0 and known.max() < array.shape[axis]):
        raise BeyondError("cross_entropy: a target is no class")
    picked = -np.take_along_axis(logs, np.expand_dims(known, axis), axis).squeeze(axis)
    picked = np.where(is_ignored, np.float32(0), picked).astype(array.dtype)
    if reduction == "none":
        return TracedTensor(picked)
    total = picked.sum()
    return TracedTensor(
        np.asarray(total if reduction == "sum" else quietly(np.true_divide, total, (~is_ignored).sum()), array.dtype)
    )


# ---- element by element -----------------------------------------------------------------------------------------------------


def _each(function: Any, run: Run, input: Any, **_: Any) -> TracedTensor:
    array = array_of(input)
    run.budget.make(array.shape)
    return TracedTensor(quietly(function, array if function in (np.abs, np.logical_not, np.negative) else _real(array)))


def _both(kind: type[ast.operator], run: Run, input: Any, other: Any, **_: Any) -> Any:
    return arithmetic(kind, _as_tensor(input), other, run.budget)


def _compared(kind: type[ast.cmpop], run: Run, input: Any, other: Any, **_: Any) -> Any:
    return compare(kind, _as_tensor(input), other, run.budget)


def _logical(function: Any, run: Run, input: Any, other: Any, **_: Any) -> TracedTensor:
    arrays = [array_of(input), array_of(other)]
    broadcast(run.budget, *arrays)
    return TracedTensor(np.asarray(function(*arrays)))


def clamp(run: Run, input: Any, min: Any = None, max: Any = None, **_: Any) -> TracedTensor:
    array = array_of(input)
    low, high = (None if one is None else array_of(one) for one in (min, max))
    run.budget.make(array.shape)
    return TracedTensor(quietly(lambda: np.clip(array, low, high)).astype(array.dtype))


def _as_tensor(value: Any) -> TracedTensor:
    return value if isinstance(value, TracedTensor) else TracedTensor(array_of(value))


# ---- shapes -----------------------------------------------------------------------------------------------------------------


def reshape(run: Run, input: Any, *shape: Any) -> TracedTensor:
    array = array_of(input)
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    if len(shape) == 1 and isinstance(shape[0], NumberType):
        return TracedTensor(array.view(numpy_type(shape[0])))
    if not all(type(one) is int for one in shape):
        raise BeyondError("a shape holds whole numbers")
    if not array.flags.c_contiguous:  # then it is a copy
        run.budget.make(array.shape)
    return _viewed(input, quietly(lambda: array.reshape(shape)))


def _viewed(input: Any, array: Array) -> TracedTensor:
    return TracedTensor(array, isinstance(input, TracedTensor) and input.is_ids, is_any_ranked(input))


def transpose(run: Run, input: Any, dim0: Any, dim1: Any) -> TracedTensor:
    array = array_of(input)
    return _viewed(input, np.swapaxes(array, _axis(dim0, array), _axis(dim1, array)))


def permute(run: Run, input: Any, *dims: Any) -> TracedTensor:
    order = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], list | tuple) else dims
    array = array_of(input)
    return _viewed(input, quietly(lambda: np.transpose(array, [_axis(one, array) for one in order])))


def unsqueeze(run: Run, input: Any, dim: Any) -> TracedTensor:
    return _viewed(input, quietly(lambda: np.expand_dims(array_of(input), dim)))


def squeeze(run: Run, input: Any, dim: Any = None) -> TracedTensor:
    array = array_of(input)
    if dim is not None and array.shape[_axis(dim, array)] != 1:
        return _viewed(input, array)
    return _viewed(input, array.squeeze() if dim is None else array.squeeze(_axis(dim, array)))


def flatten(run: Run, input: Any, start_dim: int = 0, end_dim: int = -1) -> TracedTensor:
    array = array_of(input)
    first, last = _axis(start_dim, array), _axis(end_dim, array)
    return reshape(run, input, *array.shape[:first], -1, *array.shape[last + 1 :])


def expand(run: Run, input: Any, *sizes: Any) -> TracedTensor:
    array = array_of(input)
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes
    missing = len(wanted) - array.ndim
    shape = shape_of([[array.shape[at - missing] if one == -1 else one for at, one in enumerate(wanted)]]) if missing >= 0 else ()
    run.budget.make(shape)
    return _viewed(input, quietly(lambda: np.broadcast_to(array, shape)))


def repeat(run: Run, input: Any, *sizes: Any) -> TracedTensor:
    array, times = array_of(input), shape_of(sizes)
    run.budget.make((array.size, *times))
    return _viewed(input, quietly(lambda: np.tile(array, times)))


def repeat_interleave(run: Run, input: Any, repeats: Any, dim: Any = None, **_: Any) -> TracedTensor:
    array = array_of(input)
    if type(repeats) is not int or repeats < 0:
        raise BeyondError("repeat_interleave with one number of at least 0 only")
    run.budget.make((array.size, repeats))
    return _viewed(input, np.repeat(array, repeats, None if dim is None else _axis(dim, array)))


def split(run: Run, tensor: Any, split_size_or_sections: Any, dim: Any = 0) -> Any:
    array = array_of(tensor)
    axis, size = _axis(dim, array), split_size_or_sections
    length = array.shape[axis]
    if isinstance(size, list):
        ends = np.cumsum(shape_of([size]))[:-1].tolist()
    elif type(size) is int and size > 0:
        ends = list(range(size, length, size))
    else:
        raise BeyondError("split needs a number above 0, or a list")
    if len(ends) > MAX_PARTS:
        raise BeyondError(f"split makes more than {MAX_PARTS:,} parts")
    return tuple(_viewed(tensor, part) for part in np.split(array, ends, axis))


def manual_seed(run: Run, seed: Any) -> None:
    """Nothing: the numbers of a trace are always the same."""


# ---- methods only -----------------------------------------------------------------------------------------------------------


def tolist(run: Run, input: TracedTensor) -> Any:
    run.budget.make_list(input.array.size)
    values = input.array.tolist()
    if not input.is_ids or input.array.ndim not in (1, 2):
        return values
    return IdList(values) if input.array.ndim == 1 else [IdList(row) for row in values]


def item(run: Run, input: TracedTensor) -> Any:
    if input.array.size != 1:
        raise BeyondError(f"item() of a tensor of shape {input.shape}, which must hold one number")
    return input.array.item()


def size(run: Run, input: TracedTensor, dim: Any = None) -> Any:
    return input.shape if dim is None else input.shape[_axis(dim, input.array)]


def to(run: Run, input: TracedTensor, *wanted: Any, dtype: Any = None, **_: Any) -> TracedTensor:
    """Another type; another device is the same here."""
    types = [one for one in (*wanted, dtype) if isinstance(one, NumberType)]
    return _typed(types[0].name, run, input) if types else input


def _typed(name: str, run: Run, input: TracedTensor) -> TracedTensor:
    numpy_type(NumberType(name))
    run.budget.make(input.shape)
    return TracedTensor(input.array.astype(NUMPY_TYPES[name], copy=False), input.is_ids)


def clone(run: Run, input: TracedTensor, **_: Any) -> TracedTensor:
    run.budget.make(input.shape)
    return TracedTensor(input.array.copy(), input.is_ids, input.is_ranked)


def same(run: Run, input: TracedTensor, *_: Any, **__: Any) -> TracedTensor:
    return input


def masked_fill(run: Run, input: Any, mask: Any, value: Any) -> TracedTensor:
    array = array_of(input)
    broadcast(run.budget, array, array_of(mask))
    made = np.where(array_of(mask), array_of(value).astype(array.dtype), array)
    return TracedTensor(made, is_ranked=is_any_ranked(input))


def index_select(run: Run, input: Any, dim: Any, index: Any) -> TracedTensor:
    array, at = array_of(input), array_of(index)
    run.budget.make((array.size, max(at.size, 1)))
    return _viewed(input, quietly(lambda: np.take(array, at, _axis(dim, array))))


Operation = Callable[..., Any]
MAX_PARTS = 4096


def _in_place(operation: Operation) -> Operation:
    """The form with "_" at the end of its name: it writes the result into the tensor itself."""

    def written(run: Run, input: TracedTensor, *args: Any, **kwargs: Any) -> TracedTensor:
        write(run.budget, input, (...,), operation(run, input, *args, **kwargs))
        return input

    return written


def write(budget: RunBudget, target: TracedTensor, index: Any, value: Any) -> None:
    """target[index] = value, in the target's own type."""
    given = array_of(value)
    if not target.array.flags.writeable:
        raise BeyondError("this tensor is an expanded view and cannot be written")
    budget.make(given.shape)

    def assign() -> int:
        target.array[index] = given.astype(target.array.dtype, copy=False)
        return 0

    quietly(assign)
    target.is_ids |= isinstance(value, TracedTensor) and value.is_ids


def read(budget: RunBudget, source: TracedTensor, index: Any) -> TracedTensor:
    """source[index]; a view where PyTorch gives one."""
    parts = index if isinstance(index, tuple) else (index,)
    chosen = [np.asarray(part) for part in parts if isinstance(part, np.ndarray | list)]
    if chosen:
        is_mask = any(part.dtype == bool for part in chosen)
        left = source.shape[sum(part is not None for part in parts) :]
        sliced = [size for size, part in zip(source.shape, parts, strict=False) if isinstance(part, slice)]
        budget.make(source.shape if is_mask else (*broadcast(budget, *chosen), *sliced, *left))
    made = quietly(lambda: source.array[index])
    return TracedTensor(made, source.is_ids, source.is_ranked and made.shape[-1:] == source.shape[-1:])


_SHARED: dict[str, Operation] = {
    "softmax": softmax, "log_softmax": log_softmax, "logsumexp": logsumexp, "argmax": argmax, "argmin": argmin,
    "max": partial(_extreme, "max"), "min": partial(_extreme, "min"), "amax": partial(_reduced, "max"),
    "amin": partial(_reduced, "min"), "sum": partial(_reduced, "sum"), "mean": partial(_reduced, "mean"),
    "prod": partial(_reduced, "prod"), "all": partial(_reduced, "all"), "any": partial(_reduced, "any"), "cumsum": cumsum,
    "sort": sort, "argsort": argsort, "topk": topk, "multinomial": multinomial, "gather": gather, "scatter": scatter,
    "where": where, "isin": isin, "nonzero": nonzero, "exp": partial(_each, np.exp), "log": partial(_each, np.log),
    "log2": partial(_each, np.log2), "sqrt": partial(_each, np.sqrt), "rsqrt": partial(_each, lambda x: 1 / np.sqrt(x)),
    "abs": partial(_each, np.abs), "tanh": partial(_each, np.tanh), "sigmoid": partial(_each, lambda x: 1 / (1 + np.exp(-x))),
    "logical_not": partial(_each, np.logical_not), "neg": partial(_each, np.negative), "isnan": partial(_each, np.isnan),
    "isinf": partial(_each, np.isinf), "isfinite": partial(_each, np.isfinite),
    "logical_and": partial(_logical, np.logical_and), "logical_or": partial(_logical, np.logical_or),
    "maximum": partial(_pairwise, "max"), "minimum": partial(_pairwise, "min"),
    "add": partial(_both, ast.Add), "sub": partial(_both, ast.Sub), "mul": partial(_both, ast.Mult),
    "div": partial(_both, ast.Div), "pow": partial(_both, ast.Pow), "matmul": lambda run, a, b: matrix_product(a, b, run.budget),
    **{name: partial(_compared, kind) for name, kind in zip(("eq", "ne", "lt", "le", "gt", "ge"), COMPARISONS, strict=True)},
    "clamp": clamp, "clip": clamp, "masked_fill": masked_fill, "reshape": reshape, "transpose": transpose, "permute": permute,
    "unsqueeze": unsqueeze, "squeeze": squeeze, "flatten": flatten, "repeat_interleave": repeat_interleave, "split": split,
    "index_select": index_select, "tril": partial(_triangle, np.tril), "triu": partial(_triangle, np.triu), "clone": clone,
    "numel": lambda run, input: input.array.size,
    "select": select,
    "narrow": narrow,
}  # fmt: skip

# Name after `torch.` -> the operation.
OPERATIONS: Mapping[str, Operation] = {
    **_SHARED,
    "full": full, "full_like": full_like, "zeros": partial(_filled, 0), "ones": partial(_filled, 1), "empty": partial(_filled, 0),
    "zeros_like": partial(_filled_like, 0), "ones_like": partial(_filled_like, 1), "empty_like": partial(_filled_like, 0),
    "tensor": tensor, "as_tensor": tensor, "LongTensor": tensor, "arange": arange, "rand": rand, "cat": cat, "concat": cat,
    "rand_like": lambda run, input, **_: rand(run, *array_of(input).shape),
    "stack": stack, "manual_seed": manual_seed,
}  # fmt: skip
# Name after `torch.nn.functional.` -> the operation.
FUNCTIONAL: Mapping[str, Operation] = {"softmax": softmax, "log_softmax": log_softmax, "cross_entropy": cross_entropy, "pad": pad}
# Method of a tensor -> the operation; its first argument is the tensor.
METHODS: Mapping[str, Operation] = {
    **_SHARED,
    "view": reshape, "expand": expand, "repeat": repeat, "tolist": tolist, "item": item, "size": size, "to": to, "type": to,
    "float": partial(_typed, "float32"), "long": partial(_typed, "int64"), "int": partial(_typed, "int32"),
    "bool": partial(_typed, "bool"), "double": partial(_typed, "float64"), "half": partial(_typed, "float16"),
    "contiguous": same, "detach": same, "cpu": same, "cuda": same, "requires_grad_": same,
    "dim": lambda run, input: input.array.ndim, "t": lambda run, input: transpose(run, input, 0, 1),
    "div_": _in_place(_SHARED["div"]), "mul_": _in_place(_SHARED["mul"]), "add_": _in_place(_SHARED["add"]),
    "sub_": _in_place(_SHARED["sub"]), "masked_fill_": _in_place(masked_fill), "clamp_": _in_place(clamp),
    "fill_": _in_place(lambda run, input, value: value), "zero_": _in_place(lambda run, input: 0),
    "copy_": _in_place(lambda run, input, src, **_: src), "scatter_": scatter_in_place, "exponential_": exponential,
}  # fmt: skip
