"""LoRA adapters on a device (Hu et al. 2021, arXiv 2106.09685): what a step's adapted rows get beside each product, x A^T B^T.

Each row is computed by itself, with the sums of `exact`: its bits do not depend on the others, nor on their adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from puna.backends.torch.exact import products
from puna.formats.base import Adapter

AdaptedRows = tuple[int, torch.Tensor]  # an adapter's number, and the token rows that it changes


@dataclass(frozen=True, slots=True)
class LowRankWeights:
    a: torch.Tensor  # (rank, columns), float32
    b: torch.Tensor  # (rows, rank)


LayerAdapters = tuple[Mapping[str, LowRankWeights], ...]  # by adapter, then by role


def of_layer(adapters: Sequence[Adapter], number: int, device: torch.device) -> LayerAdapters:
    """What each adapter adds to the matrices of layer `number`."""
    beginning = f"layers.{number}."
    return tuple(
        {
            name.removeprefix(beginning): LowRankWeights(torch.from_numpy(part.a).to(device), torch.from_numpy(part.b).to(device))
            for name, part in adapter.parts.items()
            if name.startswith(beginning)
        }
        for adapter in adapters
    )


def add(
    y: torch.Tensor, adapters: LayerAdapters, roles: Sequence[tuple[str, int]], x: torch.Tensor, adapted: Sequence[AdaptedRows]
) -> None:
    """Add to `y`, in place, what the rows' adapters add to the products of x with stacked matrices.

    x (tokens, columns), y (tokens, all rows). `roles`: of the matrices, and the rows of each.
    """
    for adapter, rows in adapted:
        first = 0
        for role, height in roles:
            part = adapters[adapter].get(role)
            if part is not None:
                low = products(part.a.unsqueeze(0), x[rows].unsqueeze(0))
                y[rows, first : first + height] += products(part.b.unsqueeze(0), low)[0]
            first += height
