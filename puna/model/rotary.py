"""The cos and sin with which the layers of a model rotate q and k in a step: one owner of the tables, several per model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from puna.model.rope import BY_LENGTH, RopeConfig
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
        self._rotations = [None if rope is None else _Rotation(rope, model.head_dim, is_q) for rope, is_q in self._kinds]

    def _number(self, rope: RopeConfig | None, is_q: bool) -> int:
        kind = (rope, is_q)
        if kind not in self._kinds:
            self._kinds.append(kind)
        return self._kinds.index(kind)

    def __len__(self) -> int:
        return len(self._kinds)

    def cos_sin(self, positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """For tokens at `positions` of prompts of these lengths.  # (tokens,) twice -> (tables, tokens, 2, head_dim / 2)"""
        made = np.empty((len(self._rotations), len(positions), 2, self._head_dim // 2), np.float32)
        for table, rotation in zip(made, self._rotations):
            if rotation is None:
                table[:] = [[1.0], [0.0]]
            else:
                rotation.fill(table, positions, prompt_lengths)
        return made


class _Rotation:
    """One table: the frequencies of a rope, and the factors of its pairs."""

    def __init__(self, rope: RopeConfig, head_dim: int, is_q: bool) -> None:
        self._rope, self._head_dim, self._is_q = rope, head_dim, is_q
        self._frequencies = None if rope.scaling in BY_LENGTH else rope.frequencies(head_dim)  # None: they depend on the length
        self._factors = np.where(np.arange(head_dim // 2) < rope.dim_of(head_dim) // 2, rope.attention_factor, 1.0)

    def fill(self, table: npt.NDArray[np.float32], positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any]) -> None:
        """Write cos and sin, with the attention factor in the pairs that are rotated.  # table: (tokens, 2, head_dim / 2)"""
        angles = self._angles(positions, prompt_lengths)
        table[:, 0], table[:, 1] = np.cos(angles) * self._factors, np.sin(angles) * self._factors
        if self._is_q:
            turns = np.floor(positions / self._rope.original_context)
            table *= (1 + self._rope.q_beta * np.log1p(turns)).astype(np.float32)[:, None, None]

    def _angles(self, positions: npt.NDArray[Any], prompt_lengths: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """The rotation angle of each pair.  # (tokens,) twice -> (tokens, head_dim / 2), radians"""
        if self._frequencies is not None:
            return np.asarray(np.multiply.outer(positions, self._frequencies))
        lengths = np.maximum(positions + 1, prompt_lengths)
        turned = [position * self._rope.frequencies(self._head_dim, int(n)) for position, n in zip(positions, lengths)]
        return np.asarray(turned, np.float64).reshape(-1, self._head_dim // 2)
