"""Python's own functions and constants that a traced program may use: builtins, math, and what torch has beside operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from puna.explain.source.tracer.limits import MAX_LIST, BeyondError, LimitError
from puna.explain.source.tracer.operations import FUNCTIONAL, METHODS, OPERATIONS, Extremes, Run
from puna.explain.source.tracer.tensors import NUMBERS, TYPE_NAMES, IdList, NumberType, TracedTensor, is_equal, is_true, kind_of
from puna.explain.source.tracer.values import DEVICE, GeneratorValue, ModelOutput

Function = Callable[..., Any]


class SourceError(Exception):
    """An exception that the traced program itself raises: its class's name, and its message."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name


def items_of(run: Run, value: Any) -> list[Any]:
    """The items that a loop over a value takes. BeyondError if puna cannot loop over it."""
    if isinstance(value, TracedTensor):
        if not value.array.ndim:
            raise BeyondError("a tensor without axes cannot be looped over")
        run.budget.make_list(len(value.array))
        return [TracedTensor(value.array[at, ...], value.is_ids) for at in range(len(value.array))]
    if isinstance(value, list | tuple | range | str | dict | set | ModelOutput):
        if isinstance(value, range | str | list | tuple | dict | set):
            run.budget.make_list(len(value))
        return list(value)
    raise BeyondError(f"{kind_of(value)} cannot be looped over here")


def _number(convert: type[int] | type[float], run: Run, value: Any = 0) -> Any:
    if isinstance(value, TracedTensor) and value.array.size == 1:
        value = value.array.item()
    if isinstance(value, str) and len(value) > 40:
        raise BeyondError("a number of more than 40 characters")
    if not isinstance(value, bool | int | float | str):
        raise BeyondError(f"{kind_of(value)} is no number")
    try:
        return convert(value)
    except (ValueError, OverflowError) as error:
        raise SourceError(type(error).__name__, str(error)) from None


def _extreme(function: Any, run: Run, *values: Any, default: Any = None, key: Any = None) -> Any:
    items = items_of(run, values[0]) if len(values) == 1 else list(values)
    if not items and default is not None:
        return default
    if key is not None or not all(isinstance(one, bool | int | float) for one in items):
        return _of_tensors(function, items) if key is None and len(items) == 2 else _beyond("the order of these values")
    if not items:
        raise SourceError("ValueError", "the list is empty")
    return function(items)


def _of_tensors(function: Any, items: list[Any]) -> Any:
    """The smaller or larger of two numbers, one of which is in a tensor."""
    plain = [one.array.item() if isinstance(one, TracedTensor) and one.array.size == 1 else one for one in items]
    return function(plain) if all(isinstance(one, NUMBERS) for one in plain) else _beyond("the order of these values")


def _beyond(what: str) -> Any:
    raise BeyondError(f"{what}: not in the tables of the run")


def _sum(run: Run, items: Any, start: Any = 0) -> Any:
    values = items_of(run, items)
    if not all(isinstance(one, bool | int | float) for one in [*values, start]):
        return _beyond("this sum")
    return sum(values, start)


def _length(run: Run, value: Any) -> int:
    if isinstance(value, TracedTensor) and value.array.ndim:
        return len(value.array)
    if isinstance(value, list | tuple | str | dict | range | set):
        return len(value)
    raise BeyondError(f"{kind_of(value)} has no length here")


def _range(run: Run, *ends: Any) -> range:
    whole = [one.array.item() if isinstance(one, TracedTensor) and one.array.size == 1 else one for one in ends]
    if not 1 <= len(whole) <= 3 or not all(isinstance(one, int) and one.bit_length() <= 62 for one in whole):
        raise BeyondError("range needs one to three whole numbers")
    if len(whole) == 3 and whole[2] == 0:
        raise SourceError("ValueError", "range() arg 3 must not be zero")
    return range(*whole)


def _enumerate(run: Run, items: Any, start: int = 0) -> list[Any]:
    return [(start + at, one) for at, one in enumerate(items_of(run, items))]


def _zip(run: Run, *several: Any, strict: bool = False) -> list[Any]:
    return list(zip(*(items_of(run, one) for one in several), strict=False))


def _list(run: Run, items: Any = ()) -> list[Any]:
    made = items_of(run, items)
    return IdList(made) if isinstance(items, IdList) else made


def _sorted(run: Run, items: Any, *, reverse: bool = False, key: Any = None) -> list[Any]:
    values = items_of(run, items)
    is_plain = all(isinstance(one, bool | int | float) for one in values) or all(isinstance(one, str) for one in values)
    return sorted(values, reverse=bool(reverse)) if is_plain and key is None else _beyond("this order")


def _round(run: Run, value: Any, digits: int | None = None) -> Any:
    if not isinstance(value, NUMBERS) or not (digits is None or (isinstance(digits, int) and abs(digits) < 20)):
        return _beyond("this rounding")
    try:
        return round(value, digits)
    except (ValueError, OverflowError) as error:
        raise SourceError(type(error).__name__, str(error)) from None


KINDS: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float,),
    "bool": (bool,),
    "str": (str,),
    "list": (list,),
    "tuple": (tuple,),
    "dict": (dict,),
    "torch.Tensor": (TracedTensor,),
}


class KindName(str):
    """The name of a type, as isinstance gets it."""

    kind = "a type"


def _is_instance(run: Run, value: Any, kinds: Any) -> bool:
    names = kinds if isinstance(kinds, tuple) else (kinds,)
    if not all(isinstance(name, KindName | NumberType) for name in names):
        return _beyond("isinstance of this type") is True
    spelled = [name if isinstance(name, str) else name.name.removesuffix("64") for name in names]
    return any(isinstance(value, kind) for name in spelled for kind in KINDS.get(name, ()))


def _of_math(name: str, run: Run, *numbers: Any) -> Any:
    plain = [one.array.item() if isinstance(one, TracedTensor) and one.array.size == 1 else one for one in numbers]
    if not all(isinstance(one, NUMBERS) for one in plain) or any(isinstance(one, int) and abs(one) > 1 << 62 for one in plain):
        return _beyond(f"math.{name} of these values")
    try:
        return getattr(math, name)(*plain)
    except (ValueError, OverflowError) as error:
        raise SourceError(type(error).__name__, str(error)) from None


def _nothing(run: Run, *_: Any, **__: Any) -> None:
    """Output is left out: it changes no value."""


BUILTINS: Mapping[str, Function] = {
    "len": _length, "range": _range, "enumerate": _enumerate, "zip": _zip, "list": _list, "sorted": _sorted,
    "tuple": lambda run, items=(): tuple(items_of(run, items)), "set": lambda run, items=(): _plain_set(items_of(run, items)),
    "reversed": lambda run, items: items_of(run, items)[::-1], "min": partial(_extreme, min), "max": partial(_extreme, max),
    "sum": _sum, "int": partial(_number, int), "float": partial(_number, float), "bool": lambda run, value=False: is_true(value),
    "str": lambda run, value="": str(value) if isinstance(value, bool | int | float | str) else _beyond("this text"),
    "abs": lambda run, value: abs(value) if isinstance(value, NUMBERS) else METHODS["abs"](run, value), "round": _round,
    "all": lambda run, items: all(is_true(one) for one in items_of(run, items)),
    "any": lambda run, items: any(is_true(one) for one in items_of(run, items)),
    "isinstance": _is_instance, "print": _nothing,
    "next": lambda run, items, *default: next(iter(items_of(run, items)), *default) if default or items else _beyond("next here"),
}  # fmt: skip
MATH = ("exp", "log", "log2", "log10", "sqrt", "floor", "ceil", "isnan", "isinf", "pow", "tanh", "sin", "cos")
CONSTANTS: Mapping[str, Any] = {
    "math.inf": math.inf, "math.pi": math.pi, "math.e": math.e, "math.nan": math.nan, "torch.inf": math.inf,
    "torch.Tensor": KindName("torch.Tensor"), "torch.float": NumberType("float32"),
    **{f"torch.{name}": NumberType(full) for name, full in TYPE_NAMES.items()},
}  # fmt: skip
NO_GRADIENTS = ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled", "torch.enable_grad", "torch.autograd.no_grad")
FUNCTIONS: Mapping[str, Function] = {
    **{f"torch.{name}": operation for name, operation in OPERATIONS.items()},
    **{f"torch.nn.functional.{name}": operation for name, operation in FUNCTIONAL.items()},
    **{f"math.{name}": partial(_of_math, name) for name in MATH},
    **dict.fromkeys(NO_GRADIENTS, _nothing),
    **dict.fromkeys(("time.time", "time.perf_counter", "gc.collect", "torch.cuda.empty_cache"), _nothing),
    "torch.cuda.is_available": lambda run: False,
    "torch.device": lambda run, *_: DEVICE,
    "torch.Generator": lambda run, *_, **__: GeneratorValue(),
}


def _plain_set(items: list[Any]) -> set[Any]:
    if all(isinstance(one, bool | int | float | str) for one in items):
        return set(items)
    return set(_beyond("a set of these values"))


# ---- methods of lists, texts and dictionaries -------------------------------------------------------------------------------


def _append(run: Run, items: list[Any], one: Any) -> None:
    if len(items) >= MAX_LIST:
        raise LimitError(f"a list of more than {MAX_LIST:,} items is longer than puna makes here")
    items.append(one)


def _extend(run: Run, items: list[Any], more: Any) -> None:
    added = items_of(run, more)
    run.budget.make_list(len(items) + len(added))
    items.extend(added)


def _index(run: Run, items: Any, one: Any, *_: Any) -> int:
    for at, other in enumerate(items):
        if not isinstance(other, TracedTensor) and not isinstance(one, TracedTensor) and is_equal(other, one, run.budget):
            return at
    raise SourceError("ValueError", "it is not in the list")


def _pop(run: Run, items: list[Any], at: int = -1) -> Any:
    try:
        return items.pop(at)
    except (IndexError, TypeError) as error:
        raise SourceError(type(error).__name__, str(error)) from None


def _joined(run: Run, between: str, items: Any) -> str:
    texts = items_of(run, items)
    if not all(isinstance(one, str) for one in texts) or sum(len(one) + len(between) for one in texts) > MAX_LIST:
        return str(_beyond("this text"))
    return between.join(texts)


def _counted(run: Run, made: Any) -> Any:
    run.budget.make_list(len(made))
    return made


LIST_METHODS: Mapping[str, Function] = {
    "append": _append, "extend": _extend, "index": _index, "pop": _pop, "copy": _list,
    "count": lambda run, items, one: sum(
        1 for other in items if not isinstance(other, TracedTensor) and is_equal(other, one, run.budget)
    ),
    "reverse": lambda run, items: items.reverse(),
}  # fmt: skip
TEXT_METHODS: Mapping[str, Function] = {
    "strip": lambda run, text: _counted(run, text.strip()), "lower": lambda run, text: _counted(run, text.lower()),
    "upper": lambda run, text: _counted(run, text.upper()),
    "join": _joined,
    "split": lambda run, text, *by: _counted(run, text.split(*by[:1])) if all(isinstance(one, str) and one for one in by) else [],
    "startswith": lambda run, text, start: isinstance(start, str) and text.startswith(start),
    "endswith": lambda run, text, end: isinstance(end, str) and text.endswith(end),
}  # fmt: skip
DICT_METHODS: Mapping[str, Function] = {
    "get": lambda run, known, key, default=None: known.get(key, default) if isinstance(key, str | int) else default,
    "items": lambda run, known: list(zip(items_of(run, known), known.values(), strict=True)), "keys": items_of,
    "values": lambda run, known: items_of(run, list(known.values())),
    "to": lambda run, known, *_: known,
}  # fmt: skip
METHODS_OF: tuple[tuple[type, Mapping[str, Function]], ...] = (
    (TracedTensor, METHODS),
    (list, LIST_METHODS),
    (str, TEXT_METHODS),
    (dict, DICT_METHODS),
)


def method_of(value: Any, name: str) -> Function | None:
    """A method of a tensor, list, text or dictionary; None if it is not in the tables."""
    return next((table.get(name) for kind, table in METHODS_OF if isinstance(value, kind)), None)


def attribute_of(value: Any, name: str) -> Any:
    """An attribute of a tensor, or of what an operation returned. BeyondError if it is not in the tables."""
    if isinstance(value, TracedTensor) and name in TENSOR_ATTRIBUTES:
        return TENSOR_ATTRIBUTES[name](value)
    if isinstance(value, Extremes) and name in Extremes._fields:
        return getattr(value, name)
    if isinstance(value, dict) and name in ENCODED and name in value:
        return value[name]
    if isinstance(value, ModelOutput) and name in OUTPUT_ATTRIBUTES:
        return OUTPUT_ATTRIBUTES[name](value)
    raise BeyondError(f".{name} of {kind_of(value)} is not in the tables of the run")


ENCODED = ("input_ids", "attention_mask")  # what a tokenizer that is called returns has as attributes and as entries
TENSOR_ATTRIBUTES: Mapping[str, Callable[[TracedTensor], Any]] = {
    "shape": lambda tensor: tensor.shape,
    "dtype": lambda tensor: tensor.dtype,
    "device": lambda tensor: DEVICE,
    "ndim": lambda tensor: tensor.array.ndim,
    "T": lambda tensor: TracedTensor(tensor.array.T, tensor.is_ids),
}
OUTPUT_ATTRIBUTES: Mapping[str, Callable[[ModelOutput], Any]] = {
    "logits": lambda output: output.logits,
    "past_key_values": lambda output: output.past,
}
