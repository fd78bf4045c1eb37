"""Looks into the model: one pass of a text by the reference backend, which keeps what each layer and each head did."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from puna.backends.reference import ForwardPass, StreamedWeights, attend, matvec, qk_norm, rms_norm, rope
from puna.formats.base import Checkpoint
from puna.glassbox.layers import TracedText, require_memory
from puna.model.rotary import RotaryTables
from puna.model.spec import ModelConfig
from puna.progress import SILENT, Reporter

Floats = npt.NDArray[np.float32]


def heads_of(model: ModelConfig, layer: int, w: Mapping[str, Floats], x: Floats, role: str) -> Floats:
    """The queries or keys ("q", "k") of a layer for a hidden state, before they are rotated.  # (heads, head_dim)"""
    h = rms_norm(x, w["attn_norm"], model.norm_eps) if "attn_norm" in w else x
    heads = matvec(w[f"{role}_proj"], h, w.get(f"{role}_bias")).reshape(-1, model.head_dim)
    if model.layers[layer].attention.qk_norm == "none":
        return heads
    return qk_norm(heads, w[f"{role}_norm"], model.norm_eps)


@dataclass(eq=False)
class HeadTap:
    """Keeps the hidden states and the weights of all heads."""

    hidden_states: Floats  # (layers + 1, tokens, hidden_size)
    report: Reporter = SILENT
    weights: dict[tuple[int, int], Floats] = field(default_factory=dict)  # (layer from 0, row) -> (heads, positions)

    def hidden(self, layer: int, row: int, x: Floats) -> None:
        if row == 0:
            self.report.progress("looking at layers", layer, len(self.hidden_states) - 1)
        self.hidden_states[layer, row] = x

    def attention(self, layer: int, row: int, weights: Floats) -> None:
        self.weights[layer - 1, row] = weights.copy()


class InnerView:
    """What a text does inside the model. Layers, heads and positions count from 0. InsufficientMemoryError for a large model."""

    def __init__(self, checkpoint: Checkpoint, ids: Sequence[int], report: Reporter = SILENT) -> None:
        require_memory(checkpoint, [len(ids) - 1])
        self.ids, self.model, self._weights = tuple(ids), checkpoint.config, StreamedWeights(checkpoint)
        self._tap = HeadTap(np.empty((self.model.num_layers + 1, len(ids), self.model.hidden_size), np.float32), report)
        forward = ForwardPass(self.model, self._weights, checkpoint.adapters, num_pages=1, page_size=len(ids))
        forward.run(TracedText(self.ids, len(ids)).batch(len(ids)), self._tap)
        self._kv = forward.kv  # (K or V, layers, pages, kv_heads, page_size, head_dim)

    def weights(self, layer: int, row: int) -> Floats:
        """How the heads weigh what a position sees, its own last.  # (heads, positions)"""
        return self._tap.weights[layer, row]

    def head(self, layer: int, head: int) -> list[list[float | None]]:
        """The weights of one head: a row for each position; None: not seen."""
        count = len(self.ids)
        rows = [self.weights(layer, row)[head].tolist() for row in range(count)]
        return [[None] * (row + 1 - len(own)) + own + [None] * (count - row - 1) for row, own in enumerate(rows)]

    def query(self, layer: int, row: int) -> Floats:
        """The queries of a position, rotated.  # (heads, head_dim)"""
        heads = heads_of(self.model, layer, self._weights.layer(layer), self._tap.hidden_states[layer, row], "q")
        tables = RotaryTables(self.model)
        cos_sin = tables.cos_sin(np.array([row]), np.array([len(self.ids)]))[tables.of_q[layer], 0]
        return rope(heads, *cos_sin)

    def keys(self, layer: int, row: int) -> Floats:
        """The rotated keys of what a position sees.  # (kv_heads, positions, head_dim)"""
        return self._seen(self._kv[0, layer], layer, row)

    def values(self, layer: int, row: int) -> Floats:
        """The values of what a position sees.  # (kv_heads, positions, head_dim)"""
        return self._seen(self._kv[1, layer], layer, row)

    def attended(self, layer: int, row: int, hear: Callable[[Floats], object] = lambda weights: None) -> Floats:
        """What the heads make of the values. `hear` is told their weights.  # (heads, head_dim)"""
        spec = self.model.layers[layer].attention
        q, keys, values = self.query(layer, row), self.keys(layer, row), self.values(layer, row)
        return attend(q, keys, values, spec.scale, spec.softcap, hear)

    def _seen(self, pages: Floats, layer: int, row: int) -> Floats:
        flat = pages.transpose(1, 0, 2, 3).reshape(self.model.num_kv_heads, -1, self.model.head_dim)
        return flat[:, row + 1 - self.weights(layer, row).shape[1] : row + 1]
