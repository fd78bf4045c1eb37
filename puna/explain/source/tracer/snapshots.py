"""What is kept of a value at one moment of a run: its shape, type and first values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from puna.explain.source.tracer.tensors import Array, IdList, TracedTensor
from puna.explain.source.tracer.values import ModelOutput

MAX_SHOWN = 6  # values of each axis
MAX_ROWS = 2  # of all axes but the last
MAX_TEXT = 200
MAX_DEPTH = 3
NUM_TOP = 3
MAX_SPELLED = 24  # tokens of a row that are spelled
MANY = 100  # along an axis of more real numbers, the largest ones say more than the first ones

Number = float | int | bool | str  # a text stands for what JSON has no number for


@dataclass(frozen=True, slots=True)
class Largest:
    """One of the largest values of a row, and its position; `text`: of the token whose id the position is."""

    position: int
    value: Number
    text: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A value at one moment.

    kind: "tensor", "int", "list" ...; shape: of a tensor, or (length,) of a list; dtype: of a tensor. values: the first ones, as
    nested lists. largest: of a tensor of one row with many numbers, or of its first row. texts: what rows of token ids spell.
    """

    kind: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    values: Any = None
    largest: tuple[Largest, ...] = ()
    texts: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """As a JSON object, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, (), [])} | (
            {"values": self.values} if self.values is not None else {}
        )


@dataclass(frozen=True, slots=True)
class TokenSpelling:
    """How token ids are spelled: the piece of one id; None where the ids are not known."""

    vocab_size: int
    piece: Callable[[int], str]


def snapshot(value: Any, spelling: TokenSpelling | None = None) -> Snapshot:
    """What is kept of a value.

    >>> snapshot(3), snapshot([1, 2]).shape
    (Snapshot(kind='int', shape=None, dtype=None, values=3, largest=(), texts=()), (2,))
    """
    if isinstance(value, ModelOutput):
        value = value.logits
    if isinstance(value, TracedTensor):
        return _of_tensor(value, spelling)
    if isinstance(value, IdList) or (
        isinstance(value, list) and value and all(isinstance(one, IdList) for one in value[:MAX_SHOWN])
    ):
        rows = [value] if isinstance(value, IdList) else value
        texts = tuple(_spelled(row, spelling) for row in rows[:MAX_ROWS])
        return Snapshot("list", (len(value),), values=_nested(value, 0), texts=tuple(filter(None, texts)))
    if isinstance(value, bool | int | float | str) or value is None:
        return Snapshot("None" if value is None else type(value).__name__, values=_plain(value))
    if isinstance(value, list | tuple | range | set | dict):
        return Snapshot("tuple" if isinstance(value, tuple) else type(value).__name__, (len(value),), values=_nested(value, 0))
    return Snapshot(str(getattr(value, "kind", type(value).__name__)))


def _of_tensor(tensor: TracedTensor, spelling: TokenSpelling | None) -> Snapshot:
    texts = _texts(tensor, spelling) if tensor.is_ids and spelling is not None else ()
    largest = () if tensor.is_ranked else _largest(tensor.array, spelling)
    return Snapshot("tensor", tensor.shape, tensor.dtype.name, _first(tensor.array), largest, texts)


def _texts(tensor: TracedTensor, spelling: TokenSpelling) -> tuple[str, ...]:
    """What token ids spell: each one of a row, of a column or of a ranking, else each of the first rows."""
    array = tensor.array
    if array.ndim > 2 or not array.size:
        return ()
    if array.ndim == 2 and tensor.is_ranked:
        array = array[0]
    if array.ndim < 2 or array.shape[-1] == 1:
        return tuple(_spelled([one], spelling) for one in array.reshape(-1)[:MAX_SHOWN].tolist())
    return tuple(_spelled(row.tolist(), spelling) for row in array[:MAX_ROWS])


def _first(array: Array) -> Any:
    """The first values of each axis, the leading axes at most MAX_ROWS."""
    part = array[tuple(slice(MAX_ROWS) for _ in range(array.ndim - 1)) + ((slice(MAX_SHOWN),) if array.ndim else ())]
    return _nested(part.tolist(), 0)


def _largest(array: Array, spelling: TokenSpelling | None) -> tuple[Largest, ...]:
    if not array.ndim or array.shape[-1] < MANY or array.dtype.kind != "f" or not array.size:
        return ()
    row = array.reshape(-1, array.shape[-1])[0]
    if not np.isfinite(row).any():
        return ()
    ids = np.argsort(-np.nan_to_num(row, nan=-np.inf, neginf=-np.inf), kind="stable")[:NUM_TOP]
    known = spelling if spelling is not None and array.shape[-1] == spelling.vocab_size else None
    return tuple(Largest(int(one), _plain(float(row[one])), None if known is None else known.piece(int(one))) for one in ids)


def _spelled(ids: Sequence[Any], spelling: TokenSpelling | None) -> str:
    """The text of token ids; "·" stands for one that is no token, such as padding."""
    if spelling is None or not all(type(one) is int for one in ids[:MAX_SPELLED]):
        return ""
    pieces = [spelling.piece(one) if 0 <= one < spelling.vocab_size else "·" for one in ids[:MAX_SPELLED]]
    return "".join(pieces) + ("..." if len(ids) > MAX_SPELLED else "")


def _nested(value: Any, depth: int) -> Any:
    if isinstance(value, dict):
        if depth >= MAX_DEPTH:
            return "..."
        return {str(_plain(key)): _nested(one, depth + 1) for key, one in islice(value.items(), MAX_SHOWN)}
    if isinstance(value, list | tuple | range | set):
        return [_nested(one, depth + 1) for one in islice(value, MAX_SHOWN)] if depth < MAX_DEPTH else "..."
    if isinstance(value, TracedTensor):
        return f"tensor {value.shape}"
    return _plain(value)


def _plain(value: Any) -> Any:
    """A value for JSON: of real numbers that JSON does not have, and of huge ones, the text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value if len(value) <= MAX_TEXT else value[:MAX_TEXT] + "..."
    if value is None or isinstance(value, bool | int):
        return value
    return str(getattr(value, "kind", type(value).__name__))


@dataclass(slots=True)
class Record:
    """One execution of a statement.

    names: what it set; truth: of an `if`, `while` or `assert`; rounds: of the loops around it.
    """

    names: Mapping[str, Snapshot]
    rounds: tuple[int, ...]
    truth: bool | None = None


@dataclass(slots=True)
class Records:
    """The executions of one statement: the first ones, and how many there were."""

    count: int = 0
    first: list[Record] = field(default_factory=list)

    def add(self, make: Callable[[], Record]) -> None:
        """Count an execution; of the first ones, keep the record."""
        self.count += 1
        if len(self.first) < KEPT:
            self.first.append(make())


KEPT = 32  # executions of a statement that are kept in full
