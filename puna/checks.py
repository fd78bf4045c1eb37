"""Checks of arguments. Each returns the value as a Python type, or raises a UsageError that says what is allowed.

They accept numpy's numbers and arrays too. A bool is not a number, and bytes are not a row of numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import reprlib
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from functools import partial
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from puna.errors import ConfigError, ContextLengthError, UsageError, did_you_mean

Check = Callable[[str, Any], Any]  # (name, value) -> the checked value
T = TypeVar("T")


def refuse(name: str, value: object, needed: str) -> UsageError:
    """The error for a value of the wrong kind.

    >>> str(refuse("threads", "two", "a whole number"))
    "threads is 'two'; a whole number is needed"
    """
    return UsageError(f"{name} is {shown(value)}; {needed} is needed")


def shown(value: object) -> str:
    """A value in an error: shortened, and never an error itself.

    >>> shown("two"), shown([10**5000])
    ("'two'", '<list with a number of thousands of digits>')
    """
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not write an int of more than 4300 digits
        return f"<{type(value).__name__} with a number of thousands of digits>"
    except Exception:  # noqa: BLE001 - a class of the caller's may write nothing of itself
        return f"<{type(value).__name__}>"


def require(holds: bool, name: str, problem: str, hint: str = "") -> None:
    """ConfigError about the size or setting `name` unless `holds`."""
    if not holds:
        raise ConfigError(name, problem, hint=hint)


_TAKERS: dict[type[Any], str] = {}  # each kind of settings, and where its settings are given


def unknown_setting(kind: type[Any], given: Iterable[str]) -> UsageError | None:
    """The error for the first name that is no field of the dataclass `kind`; None if all are."""
    names = _names(kind)
    unknown = next((name for name in given if name not in names), None)
    if unknown is None:
        return None
    taker = next((taker for other, taker in _TAKERS.items() if other is not kind and unknown in _names(other)), None)
    if taker is not None:
        return UsageError(f"{unknown!r} is no setting of {kind.__name__}", hint=f"Give it to {taker}.")
    return UsageError(f"unknown setting {unknown!r}", hint=f"{did_you_mean(unknown, names)} Known: {', '.join(names)}.".strip())


def _names(kind: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def refuse_unknown(taker: str) -> Callable[[type[T]], type[T]]:
    """A decorator above `@dataclass`: an unknown keyword is the error of `unknown_setting` instead of Python's TypeError.

    `taker` says where these settings are given. The names are looked at only after Python has refused them, so that
    construction costs no more than before.
    """

    def decorated(kind: type[T]) -> type[T]:
        construct = kind.__init__

        @functools.wraps(construct)
        def __init__(self: T, /, *args: Any, **settings: Any) -> None:
            try:
                construct(self, *args, **settings)
            except TypeError:
                if (error := unknown_setting(kind, settings)) is None:
                    raise
                raise error from None

        kind.__init__ = __init__  # type: ignore[method-assign, assignment]
        _TAKERS[kind] = taker
        return kind

    return decorated


def whole(name: str, value: object, low: int | None = None, high: int | None = None) -> int:
    """A whole number in low..high, if these are given.

    >>> whole("repeat", 0, low=1)
    Traceback (most recent call last):
    puna.errors.UsageError: repeat is 0; a whole number of at least 1 is needed
    """
    number = _index(value)
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        raise refuse(name, value, "a whole number" + _within(low, high))
    return number


def real(name: str, value: object, low: float | None = None, high: float | None = None) -> float:
    """A finite number."""
    number = _float(value)
    if not math.isfinite(number) or (low is not None and high is not None and not low <= number <= high):
        raise refuse(name, value, "a finite number" + _within(low, high))
    return number


def flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise refuse(name, value, "True or False")
    return value


def optional(check: Check) -> Check:
    """`check`, but None is also allowed."""
    return partial(_optional, check)


def _optional(check: Check, name: str, value: Any) -> Any:
    return None if value is None else check(name, value)


def limits(check: Check) -> tuple[float, float] | None:
    """(least, greatest) number that a check of this module allows; None if it has no such limits.

    >>> limits(optional(partial(whole, low=0, high=9)))
    (0, 9)
    """
    if not isinstance(check, partial):
        return None
    if check.func is _optional:
        return limits(check.args[0])
    return (check.keywords["low"], check.keywords["high"]) if "high" in check.keywords else None


def instance(name: str, value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise refuse(name, value, f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}")
    return value


def is_row(value: object) -> bool:
    """Whether a value is an ordered list: not text, not bytes, and not an iterator, which can be read only once."""
    if isinstance(value, np.ndarray):
        return value.ndim > 0
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray, memoryview))


def row(name: str, value: object, needed: str) -> Sequence[Any]:
    """A row whose length Python knows: `range(10**20)` has none."""
    if not is_row(value):
        raise refuse(name, value, needed)
    try:
        len(value)  # type: ignore[arg-type]
    except OverflowError:
        raise UsageError(f"{name} holds more than {sys.maxsize} entries") from None
    return value  # type: ignore[return-value]


def several(name: str, value: object, needed: str) -> Collection[Any]:
    """A row or a set, for arguments whose order does not matter."""
    return value if isinstance(value, Set) else row(name, value, needed)


def token_ids(name: str, values: Collection[Any]) -> list[int]:
    """Each id as a whole number. Does not check that the vocabulary has it. They are counted before they are copied: a range has
    any number of them.
    """
    if len(values) > MAX_IDS:
        raise UsageError(f"{name}: {len(values)} entries; at most {MAX_IDS} are taken at once", hint="Give them in parts.")
    numbers = list(map(_token_id, values))
    if None in numbers:
        wrong = next(value for value, number in zip(values, numbers) if number is None)
        raise UsageError(f"{name} holds {shown(wrong)}; token ids are whole numbers")
    return numbers  # type: ignore[return-value]


def prompt_ids(name: str, value: object, needed: str, limit: int | None) -> list[int]:
    """A row of token ids, counted before they are copied: a range has any number of them. ContextLengthError beyond `limit`."""
    ids = row(name, value, needed)
    if limit is not None and len(ids) > limit:
        raise ContextLengthError.of(str(len(ids)), limit)
    return token_ids(name, ids)


def unicode(name: str, text: str) -> str:
    """Text without a lone surrogate (half of a UTF-16 pair), which no tokenizer can encode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise UsageError(
            f"{name} holds the lone surrogate U+{code:04X} at character {error.start}, which is not valid Unicode",
            hint="Decode the input as UTF-8, or remove that character.",
        ) from error
    return text


MAX_JSON_DEPTH = 32
MAX_ID_BITS = 64
MAX_IDS = 1 << 24  # token ids that one call takes: more than any context, and any text that is scored
MAX_INT_BITS = 14_000  # Python writes no whole number of more than 4300 digits


def json_value(name: str, value: object, depth: int = 0, max_depth: int = MAX_JSON_DEPTH) -> Any:
    """A copy of a JSON value: texts, numbers, True, False, None, and lists and dicts of them."""
    if depth > max_depth:
        raise UsageError(f"{name if len(name) <= 80 else name[:80] + ' ...'} is nested deeper than {max_depth}")
    if isinstance(value, str):
        return unicode(name, value)
    if value is None or (isinstance(value, int) and value.bit_length() <= MAX_INT_BITS) or _is_finite(value):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {unicode(name, key): json_value(f"{name}: {key}", item, depth + 1, max_depth) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(name, item, depth + 1, max_depth) for item in value]
    raise refuse(name, value, "a JSON value")


def _index(value: Any) -> int | None:
    """A whole number as an int; None for anything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _token_id(value: Any) -> int | None:
    """As `_index`; None also for a number that no vocabulary reaches, and that Python may not print."""
    number = _index(value)
    return None if number is not None and number.bit_length() > MAX_ID_BITS else number


def _float(value: Any) -> float:
    """A number as a float; NaN for anything else."""
    if type(value) is float:  # nearly always: what follows takes ten times as long
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an int of hundreds of digits
        return math.inf


def _within(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f" of at least {low}" if high is None else f" in {low}..{high}"
