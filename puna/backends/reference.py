"""The definition of the forward pass: numpy, float32, one obvious function per op, one row at a time.

Weights of every type become float32 at load. Slow, and bit-equal alone, in a chunk or in a batch: each row is a matrix times
one vector, and the shape of every product depends on the row's own position only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from puna.backends.base import DeviceInfo, DeviceLimits, load_whole, loading_to_main_memory
from puna.config import EngineConfig, ModelConfig
from puna.errors import DeviceError
from puna.formats.base import Checkpoint
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.request import Batch, IntArray, Logits
from puna.resources import memory_bytes, own_bytes, usable_cores

Floats = npt.NDArray[np.float32]


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467).  # (hidden,), (hidden,) -> (hidden,)

    >>> rms_norm(np.float32([3, 4]), np.float32([1, 2]), 1e-5).round(3).tolist()
    [0.8489999771118164, 2.263000011444092]
    """
    return x * np.float32(1 / np.sqrt(np.mean(np.square(x)) + np.float32(eps))) * weight


def matvec(weight: Floats, x: Floats, bias: Floats | None = None) -> Floats:
    """y = W x (+ bias).  # (rows, columns), (columns,) -> (rows,)"""
    return weight @ x if bias is None else weight @ x + bias


def rope(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """Rotate each pair (x[2i], x[2i+1]) (Su et al. 2021, arXiv 2104.09864).  # (heads, head_dim), (head_dim / 2,) twice"""
    even, odd = x[:, 0::2], x[:, 1::2]
    turned = np.empty_like(x)
    turned[:, 0::2] = even * cos - odd * sin
    turned[:, 1::2] = even * sin + odd * cos
    return turned


def softmax(scores: Floats) -> Floats:
    """Softmax along the last axis."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def attend(q: Floats, keys: Floats, values: Floats) -> Floats:
    """Softmax attention of one position; each K/V head serves num_heads / num_kv_heads queries (Ainslie 2023, arXiv 2305.13245).

    q (heads, head_dim); keys, values (kv_heads, positions, head_dim) -> (heads, head_dim)
    """
    groups = q.reshape(len(keys), -1, q.shape[1])  # (kv_heads, heads of the group, head_dim)
    scores = groups @ keys.transpose(0, 2, 1) * np.float32(1 / np.sqrt(q.shape[1]))
    return (softmax(scores) @ values).reshape(q.shape)


def swiglu(gate: Floats, up: Floats) -> Floats:
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202); the exponent is clipped below float32's overflow."""
    return np.asarray(gate / (1 + np.exp(np.minimum(-gate, np.float32(88)))) * up)


class ReferenceBackend:
    """The whole forward pass as readable code."""

    def __init__(self, config: EngineConfig, report: Reporter = SILENT) -> None:
        total, free = memory_bytes()
        self.info = DeviceInfo("reference", "numpy, float32, one row at a time", usable_cores(), total, free)
        self._model: ModelConfig | None = None

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        """Make every weight float32, and allocate the pages."""
        load_whole(partial(self._load, checkpoint, plan, report), self.close, loading_to_main_memory(checkpoint, plan))

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        model = checkpoint.config
        self._weights: dict[str, Floats] = {}
        for done, (name, tensor) in enumerate(checkpoint.tensors.items(), start=1):
            self._weights[name] = np.ascontiguousarray(tensor.dequantize(), dtype=np.float32)
            report.progress("loading weights", done, len(checkpoint.tensors))
        self._weights.setdefault("lm_head", self._weights["embed"])
        self._layers = [_of_layer(self._weights, layer) for layer in range(model.num_layers)]
        self._page_size = plan.page_size
        pages = (model.num_layers, plan.num_pages, model.num_kv_heads, plan.page_size, model.head_dim)
        self._keys, self._values = np.zeros(pages, np.float32), np.zeros(pages, np.float32)
        self._model = model

    def forward(self, batch: Batch) -> Logits:
        """Go layer by layer, and through a layer's tokens in order: a later row of a chunk finds the K and V of earlier ones."""
        model = self._loaded()
        tables = np.repeat(batch.page_tables, np.diff(batch.starts), axis=0)  # (tokens, pages)
        angles = model.rope.angles(batch.positions, np.repeat(batch.prompt_lengths, np.diff(batch.starts)), model.head_dim)
        turns = np.stack([np.cos(angles), np.sin(angles)], axis=1) * model.rope.attention_factor  # (tokens, 2, head_dim / 2)
        x = self._weights["embed"][batch.token_ids]  # (tokens, hidden_size)
        with np.errstate(over="ignore", invalid="ignore"):  # the sampler reports numbers that are not finite
            for layer in range(model.num_layers):
                for row, position in enumerate(batch.positions.tolist()):
                    x[row] = self._block(model, layer, x[row], position, turns[row].astype(np.float32), tables[row])
            logits = [self._logits(model, x[row]) for row in batch.logit_rows]
        return np.array(logits, np.float32).reshape(-1, model.vocab_size)

    def limits(self) -> DeviceLimits:
        """What numpy reaches here; numpy has no fast int8 product, and the result shows that."""
        data = np.ones(1 << 26, np.float32)
        square, small = np.ones((1024, 1024), np.float32), np.ones((128, 128), np.int8)
        return DeviceLimits(
            read_bytes_per_s=data.nbytes / _best_seconds(lambda: data.max()),
            int8_ops_per_s=2 * 128**3 / _best_seconds(lambda: np.matmul(small, small, dtype=np.int32)),
            f32_ops_per_s=2 * 1024**3 / _best_seconds(lambda: square @ square),
        )

    def held_bytes(self) -> int:
        return own_bytes()

    def close(self) -> None:
        self._model = None
        for name in ("_weights", "_layers", "_keys", "_values"):
            vars(self).pop(name, None)

    def _block(self, model: ModelConfig, layer: int, x: Floats, position: int, turns: Floats, table: IntArray) -> Floats:
        """One layer for one token; writes its K and V to the pages.  # (hidden_size,) -> (hidden_size,)"""
        w = self._layers[layer]
        h = rms_norm(x, w["attn_norm"], model.norm_eps)
        q = matvec(w["q_proj"], h, w.get("q_bias")).reshape(model.num_heads, model.head_dim)
        k = matvec(w["k_proj"], h, w.get("k_bias")).reshape(model.num_kv_heads, model.head_dim)
        v = matvec(w["v_proj"], h, w.get("v_bias")).reshape(model.num_kv_heads, model.head_dim)
        if model.qk_norm:
            q = np.stack([rms_norm(head, w["q_norm"], model.norm_eps) for head in q])
            k = np.stack([rms_norm(head, w["k_norm"], model.norm_eps) for head in k])
        self._write(layer, table, position, rope(k, *turns), v)
        keys, values = self._read(layer, table, position, model.window_of(layer))
        x = x + matvec(w["o_proj"], attend(rope(q, *turns), keys, values).reshape(-1), w.get("o_bias"))
        h = rms_norm(x, w["ffn_norm"], model.norm_eps)
        gate, up = matvec(w["gate_proj"], h, w.get("gate_bias")), matvec(w["up_proj"], h, w.get("up_bias"))
        return x + matvec(w["down_proj"], swiglu(gate, up), w.get("down_bias"))

    def _logits(self, model: ModelConfig, x: Floats) -> Floats:
        """(hidden_size,) -> (vocab_size,)"""
        return matvec(self._weights["lm_head"], rms_norm(x, self._weights["final_norm"], model.norm_eps))

    def _write(self, layer: int, table: IntArray, position: int, k: Floats, v: Floats) -> None:
        page, slot = table[position // self._page_size], position % self._page_size
        self._keys[layer, page, :, slot] = k
        self._values[layer, page, :, slot] = v

    def _read(self, layer: int, table: IntArray, position: int, window: int) -> tuple[Floats, Floats]:
        """K and V of the positions that `position` sees, its own last.  # (kv_heads, positions, head_dim) each"""
        pages = table[: position // self._page_size + 1]
        seen = slice(max(0, position + 1 - window) if window else 0, position + 1)
        return self._flat(self._keys[layer, pages], seen), self._flat(self._values[layer, pages], seen)

    def _flat(self, pages: Floats, seen: slice) -> Floats:
        count, heads, size, dim = pages.shape
        return np.ascontiguousarray(pages.transpose(1, 0, 2, 3).reshape(heads, count * size, dim)[:, seen])

    def _loaded(self) -> ModelConfig:
        if self._model is None:
            raise DeviceError(
                "the reference backend holds no model", hint="Call load() first; after close(), make a new backend."
            )
        return self._model


def _of_layer(weights: dict[str, Floats], layer: int) -> dict[str, Floats]:
    beginning = f"layers.{layer}."
    return {name.removeprefix(beginning): values for name, values in weights.items() if name.startswith(beginning)}


def create(config: EngineConfig, report: Reporter = SILENT) -> ReferenceBackend:
    """The reference needs no setting except the plan's pages."""
    return ReferenceBackend(config, report)


def _best_seconds(work: Callable[[], object], repeats: int = 5) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return min(once() for _ in range(repeats))
