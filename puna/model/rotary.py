"""The cos and sin with which the layers of a model rotate q and k in a step: one owner of the tables, several per model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig


class RotaryTables:
    """The tables of cos and sin with which a model's layers rotate q and k.

    Layers share tables: a plain model has one. A layer without rotation has one of cos 1 and sin 0, and so have the pairs that a
    model does not rotate; a table for q alone also holds the factor of q. So the kernels rotate alike in every layer.
    """

    def __init__(self, model: ModelConfig) -> None:
        self._head_dim = model.head_dim
        self._kinds: list[tuple[RopeConfig | None, bool]] = []  # a table's rope, and whether it holds the factor of q
        ropes = [None if layer.attention.rope is None else model.ropes[layer.attention.rope] for layer in model.layers]
        self.of_k = tuple(self._number(rope, is_q=False) for rope in ropes)  # by layer
        self.of_q = tuple(self._number(rope, is_q=rope is not None and rope.q_beta > 0) for rope in ropes)

    def _number(self, rope: RopeConfig | None, is_q: bool) -> int:
        kind = (rope, is_q)
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)

    def __len__(self) -> int:
        return len(self._kinds)

    def cos_sin(self, positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """For tokens at `positions` of prompts of these lengths.  # (tokens,) twice -> (tables, tokens, 2, head_dim / 2)"""
        made = np.empty((len(self), len(positions), 2, self._head_dim // 2), np.float32)
        for table, (rope, is_q) in zip(made, self._kinds):
            if rope is None:
                table[:] = [[1.0], [0.0]]
            else:
                _fill(table, rope, positions, prompt_lengths)
            if is_q and rope is not None:
                turns = np.floor(positions / rope.original_context)
                table *= (1 + rope.q_beta * np.log1p(turns)).astype(np.float32)[:, None, None]
        return made


def _fill(
    table: npt.NDArray[np.float32], rope: RopeConfig, positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any]
) -> None:
    """Write cos and sin, with the attention factor in the pairs that are rotated.  # table: (tokens, 2, head_dim / 2)"""
    head_dim = 2 * table.shape[2]
    angles, rotated = rope.angles(positions, prompt_lengths, head_dim), rope.dim_of(head_dim) // 2
    factors = np.where(np.arange(head_dim // 2) < rotated, rope.attention_factor, 1.0)
    table[:, 0], table[:, 1] = np.cos(angles) * factors, np.sin(angles) * factors
