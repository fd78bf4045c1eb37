"""Matrices that a file holds in other groups than puna: several fused in one, or an expert's by itself. No number is copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from math import prod
from typing import NoReturn, Protocol, TypeVar

import numpy as np

from puna.formats.names import foreign_name
from puna.formats.rows import CutRows, Rows, StackedRows
from puna.model.spec import ModelConfig
from puna.model.weights import Shape, tensor_shapes


class Stored(Protocol):
    """The parts of a stored tensor that count here."""

    @property
    def shape(self) -> Shape: ...
    def rows(self) -> Rows: ...
    def fail(self, problem: str) -> NoReturn: ...


T = TypeVar("T", bound=Stored)
Make = Callable[[T, str, Shape, Rows], T]  # (a tensor of the same type and file, name, shape, rows)


def separated(
    stored: Mapping[str, T], fused: Mapping[str, tuple[str, ...]], names: Mapping[str, str], model: ModelConfig, make: Make[T]
) -> dict[str, T]:
    """The tensors with each fused matrix cut into those of its roles, which stand one below the other."""
    found, shapes = dict(stored), tensor_shapes(model)
    for layer in range(model.num_layers) if fused else ():
        for name, roles in fused.items():
            ours = [f"layers.{layer}.{role}" for role in roles]
            whole = found.pop(name.format(layer), None) if ours[0] in shapes else None
            if whole is not None:
                parts = _cut(whole, [shapes[part] for part in ours])
                made = [(foreign_name(names, part), shapes[part], rows) for part, rows in zip(ours, parts)]
                found |= {name: make(whole, name, shape, rows) for name, shape, rows in made}
    return found


def _cut(whole: Stored, shapes: Sequence[Shape]) -> list[Rows]:
    """Rows of matrices that stand one below the other; in those of experts, expert by expert."""
    *outer, _, columns = shapes[0]
    heights = [shape[-2] for shape in shapes]
    needed = (*outer, sum(heights), columns)
    if whole.shape != needed:
        whole.fail(f"has shape {whole.shape}; the model's sizes need {needed}")
    rows, begins = whole.rows(), [0, *accumulate(heights)]
    experts = range(0, prod(outer) * begins[-1], begins[-1])
    return [
        _stack([_between(rows, expert + begin, expert + begin + height) for expert in experts])
        for begin, height in zip(begins, heights)
    ]


def _between(rows: Rows, first: int, last: int) -> Rows:
    return rows[first:last] if isinstance(rows, np.ndarray) else CutRows(rows, (first, last), (0, rows.shape[1]))


def _stack(parts: Sequence[Rows]) -> Rows:
    return parts[0] if len(parts) == 1 else StackedRows(parts)


def stacked(
    stored: Mapping[str, T], expert_names: Mapping[str, str], names: Mapping[str, str], model: ModelConfig, make: Make[T]
) -> dict[str, T]:
    """The tensors with the matrices of a layer's experts as one of (experts, rows, columns)."""
    found, shapes = dict(stored), tensor_shapes(model)
    for layer in range(model.num_layers) if expert_names else ():
        for role, name in expert_names.items():
            shape = shapes.get(f"layers.{layer}.{role}", (0,))
            experts = [found.pop(name.format(layer, expert), None) for expert in range(shape[0])]
            alike = [one for one in experts if one is not None]
            if alike and len(alike) == len(experts):
                whole = foreign_name(names, f"layers.{layer}.{role}")
                found[whole] = make(alike[0], whole, shape, StackedRows([_of_shape(one, alike[0], shape[1:]) for one in alike]))
            elif alike:
                alike[0].fail(f"and those of {len(alike) - 1} other experts are there; the layer has {len(experts)} experts")
    return found


def _of_shape(one: Stored, first: Stored, shape: Shape) -> Rows:
    if one.shape != shape:
        one.fail(f"has shape {one.shape}; the model's sizes need {shape}")
    rows = one.rows()
    if rows.shape != first.rows().shape:
        one.fail("has another type of numbers than the layer's first expert")
    return rows
