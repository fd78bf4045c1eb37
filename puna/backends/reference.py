"""The definition of the forward pass: numpy, float32, one obvious function per op, one row at a time.

Weights of every type become float32 at load. Slow, and bit-equal alone, in a chunk or in a batch: each row is a matrix times
one vector, and the shape of every product depends on the row's own position only.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce

import numpy as np
import numpy.typing as npt

from puna.backends.base import DeviceInfo, PageBytes, Roofline, load_whole, loading_to_main_memory, moved
from puna.batch import Batch, Computed, IntArray, SamplingBatch
from puna.config import EngineConfig
from puna.errors import DeviceError
from puna.formats.base import Checkpoint
from puna.model.rotary import RotaryTables
from puna.model.spec import Activation, Dense, Experts, ModelConfig
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.resources import cpu_identity, memory_bytes, own_bytes, usable_cores

Floats = npt.NDArray[np.float32]
Product = Callable[[str, Floats], Floats]  # (role of a layer's matrix without "_proj", x) -> W x + b


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / rms(x) * weight (Zhang and Sennrich 2019, arXiv 1910.07467).  # (hidden,), (hidden,) -> (hidden,)

    >>> rms_norm(np.float32([3, 4]), np.float32([1, 2]), 1e-5).round(3).tolist()
    [0.8489999771118164, 2.263000011444092]
    """
    return x * np.float32(1 / np.sqrt(np.mean(np.square(x)) + np.float32(eps))) * weight


def qk_norm(heads: Floats, weight: Floats, eps: float) -> Floats:
    """RMS norm of each head, or of all together if `weight` has their size.  # (heads, head_dim), (head_dim,) or all"""
    rows = heads.reshape(-1, len(weight))
    return np.stack([rms_norm(row, weight, eps) for row in rows]).reshape(heads.shape)


def matvec(weight: Floats, x: Floats, bias: Floats | None = None) -> Floats:
    """y = W x (+ bias).  # (rows, columns), (columns,) -> (rows,)"""
    return weight @ x if bias is None else weight @ x + bias


def low_rank(a: Floats, b: Floats, x: Floats) -> Floats:
    """B (A x): what a LoRA adapter adds to a product (Hu et al. 2021, arXiv 2106.09685).  # (rank, columns), (rows, rank)"""
    return matvec(b, matvec(a, x))


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


def softcap(x: Floats, cap: float) -> Floats:
    """cap * tanh(x / cap), which keeps x within -cap..cap (Gemma 2, arXiv 2408.00118); a cap of 0 keeps it as it is."""
    return np.asarray(np.float32(cap) * np.tanh(x / np.float32(cap))) if cap else x


def attend(q: Floats, keys: Floats, values: Floats, scale: float = 0.0, cap: float = 0.0) -> Floats:
    """Softmax attention of one position; each K/V head serves num_heads / num_kv_heads queries (Ainslie 2023, arXiv 2305.13245).

    q (heads, head_dim); keys, values (kv_heads, positions, head_dim) -> (heads, head_dim). A `scale` of 0: 1 / sqrt(head_dim).
    """
    groups = q.reshape(len(keys), -1, q.shape[1])  # (kv_heads, heads of the group, head_dim)
    scores = groups @ keys.transpose(0, 2, 1) * np.float32(scale or 1 / np.sqrt(q.shape[1]))
    return (softmax(softcap(scores, cap)) @ values).reshape(q.shape)


def silu(x: Floats) -> Floats:
    """x / (1 + e**-x); the exponent is clipped below float32's overflow."""
    return np.asarray(x / (1 + np.exp(np.minimum(-x, np.float32(88)))))


def gelu(x: Floats) -> Floats:
    """GELU in its tanh form (Hendrycks and Gimpel 2016, arXiv 1606.08415)."""
    return np.asarray(np.float32(0.5) * x * (1 + np.tanh(np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3))))


ACTIVATIONS: Mapping[Activation, Callable[[Floats], Floats]] = {"silu": silu, "gelu": gelu}


def glu(gate: Floats, up: Floats, activation: Activation = "silu") -> Floats:
    """activation(gate) * up (Shazeer 2020, arXiv 2002.05202)."""
    return ACTIVATIONS[activation](gate) * up


def dense(product: Product, h: Floats, ffn: Dense) -> Floats:
    """A feed-forward part whose matrices `product` multiplies.  # (hidden,) -> (hidden,)"""
    return product("down", glu(product("gate", h), product("up", h), ffn.activation))


def route(logits: Floats, experts: Experts) -> tuple[list[int], Floats]:
    """A token's experts, the most probable first, and the weight of each (Shazeer et al. 2017, arXiv 1701.06538).

    logits (experts,) -> top_k numbers, (top_k,). On a tie the lower expert comes first.

    >>> route(np.float32([0, 2, 0, 2]), Experts(size=8, count=4, top_k=3))[0]
    [1, 3, 0]
    """
    chosen = np.argsort(-logits, kind="stable")[: experts.top_k]
    shares = softmax(logits)[chosen]
    return chosen.tolist(), shares / shares.sum() if experts.normalises else shares


class ReferenceBackend:
    """The whole forward pass as readable code."""

    filters: frozenset[str] = frozenset()
    prompts_apart = False

    def __init__(self, config: EngineConfig, report: Reporter = SILENT) -> None:
        total, free = memory_bytes()
        self.info = DeviceInfo("reference", "numpy, float32, one row at a time", usable_cores(), total, free)
        self.kv_arithmetic = f"numpy {np.__version__}, {cpu_identity()}, {usable_cores()} cores"  # its BLAS shares sums out
        self._model: ModelConfig | None = None

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        """Make every weight float32, and allocate the pages."""
        load_whole(partial(self._load, checkpoint, plan, report), self.close, loading_to_main_memory(checkpoint, plan))

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        model = checkpoint.config
        self._weights: dict[str, Floats] = {}
        for done, (name, tensor) in enumerate(checkpoint.tensors.items(), start=1):
            self._weights[name] = np.ascontiguousarray(tensor.dequantize(), dtype=np.float32).reshape(tensor.shape)
            report.progress("loading weights", done, len(checkpoint.tensors))
        self._weights.setdefault("lm_head", self._weights["embed"])
        self._layers = [_of_layer(self._weights, layer) for layer in range(model.num_layers)]
        self._adapters = checkpoint.adapters
        self._page_size, self._rotary = plan.page_size, RotaryTables(model)
        pages = (model.num_layers, plan.num_pages, model.num_kv_heads, plan.page_size, model.head_dim)
        self._kv = np.zeros((2, *pages), np.float32)
        self._keys, self._values = self._kv
        self._model = model

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Computed:
        return self._forward(batch)

    def _forward(self, batch: Batch) -> Computed:
        """Go layer by layer, and through a layer's tokens in order: a later row of a chunk finds the K and V of earlier ones."""
        model = self._loaded()
        tables = batch.page_tables[batch.sequences]  # (tokens, pages)
        cos_sin = self._rotary.cos_sin(batch.positions, batch.row_prompt_lengths)
        x = self._weights["embed"][batch.token_ids] * np.float32(model.embedding_scale)  # (tokens, hidden_size)
        with np.errstate(over="ignore", invalid="ignore"):  # the sampler reports numbers that are not finite
            for layer in range(model.num_layers):
                for row, position in enumerate(batch.positions.tolist()):
                    product = partial(self._product, layer, int(batch.row_adapters[row]))
                    x[row] = self._block(model, layer, product, x[row], position, cos_sin[:, row], tables[row])
            logits = [self._logits(model, x[row]) for row in batch.logit_rows]
            hidden = [self._final_normed(model, x[row]) for row in batch.hidden_rows]
        return Computed(_stacked(logits, model.vocab_size), _stacked(hidden, model.hidden_size))

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        pages = self._kv.transpose(2, 0, 1, 3, 4, 5)[list(page_ids)]  # (pages, K or V, layers, kv_heads, page_size, head_dim)
        return moved(np.ascontiguousarray(pages).reshape(len(page_ids), -1).view(np.uint8), out)

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        by_page = self._kv.transpose(2, 0, 1, 3, 4, 5)
        by_page[list(page_ids)] = pages.view(np.float32).reshape(len(page_ids), *by_page.shape[1:])

    def roofline(self) -> Roofline:
        """What numpy reaches here; numpy has no fast int8 product, and the result shows that."""
        data = np.ones(1 << 26, np.float32)
        square, small = np.ones((1024, 1024), np.float32), np.ones((128, 128), np.int8)
        return Roofline(
            read_bytes_per_s=data.nbytes / _best_seconds(lambda: data.max()),
            int8_ops_per_s=2 * 128**3 / _best_seconds(lambda: np.matmul(small, small, dtype=np.int32)),
            f32_ops_per_s=2 * 1024**3 / _best_seconds(lambda: square @ square),
        )

    def weights_bytes(self) -> int:
        arrays = {id(weight): weight for weight in self._weights.values()}.values()  # a tied embedding is there twice
        return sum(weight.nbytes for weight in arrays)

    def held_bytes(self) -> int:
        return own_bytes()

    def close(self) -> None:
        self._model = None
        for name in ("_weights", "_layers", "_adapters", "_kv", "_keys", "_values"):
            vars(self).pop(name, None)

    def _block(
        self, model: ModelConfig, layer: int, product: Product, x: Floats, position: int, cos_sin: Floats, table: IntArray
    ) -> Floats:
        """One layer for one token; writes its K and V to the pages.  # (hidden_size,) -> (hidden_size,)

        `cos_sin` (tables, 2, head_dim / 2): the rotary tables of this token. `product`: that of the layer's matrices for it.
        """
        spec, norm = model.layers[layer], partial(self._normed, model, self._layers[layer])
        x = x + norm("attn_post_norm", self._attention(model, layer, product, norm("attn_norm", x), position, cos_sin, table))
        h = norm("ffn_norm", x)
        added = dense(product, h, spec.ffn) if isinstance(spec.ffn, Dense) else self._experts(layer, h, spec.ffn)
        return x + norm("ffn_post_norm", added)

    def _normed(self, model: ModelConfig, w: dict[str, Floats], name: str, x: Floats) -> Floats:
        """x normed by the layer's norm of that name, where it has one."""
        return rms_norm(x, w[name], model.norm_eps) if name in w else x

    def _product(self, layer: int, adapter: int, role: str, x: Floats) -> Floats:
        """The layer's matrix of that role times x, with its bias, and with what an adapter adds.  # (columns,) -> (rows,)"""
        w, adapters = self._layers[layer], self._adapters[adapter : adapter + 1] if adapter >= 0 else ()
        y = matvec(w[f"{role}_proj"], x, w.get(f"{role}_bias"))
        for part in (one.parts.get(f"layers.{layer}.{role}_proj") for one in adapters):
            y = y if part is None else y + low_rank(part.a, part.b, x)
        return y

    def _attention(
        self, model: ModelConfig, layer: int, product: Product, h: Floats, position: int, cos_sin: Floats, table: IntArray
    ) -> Floats:
        w, spec = self._layers[layer], model.layers[layer].attention
        q = product("q", h).reshape(model.num_heads, model.head_dim)
        k, v = (product(role, h).reshape(model.num_kv_heads, model.head_dim) for role in "kv")
        if spec.qk_norm != "none":
            q, k = qk_norm(q, w["q_norm"], model.norm_eps), qk_norm(k, w["k_norm"], model.norm_eps)
        self._write(layer, table, position, rope(k, *cos_sin[self._rotary.of_k[layer]]), v)
        keys, values = self._read(layer, table, position, spec.window)
        attended = attend(rope(q, *cos_sin[self._rotary.of_q[layer]]), keys, values, spec.scale, spec.softcap)
        return product("o", attended.reshape(-1))

    def _experts(self, layer: int, h: Floats, ffn: Experts) -> Floats:
        """The outputs of the token's experts, each times its weight, summed in the router's order."""
        w = self._layers[layer]
        outputs = (
            share
            * matvec(w["down_experts"][e], glu(matvec(w["gate_experts"][e], h), matvec(w["up_experts"][e], h), ffn.activation))
            for e, share in zip(*route(matvec(w["router"], h), ffn), strict=True)
        )
        return np.asarray(reduce(operator.add, outputs))

    def _logits(self, model: ModelConfig, x: Floats) -> Floats:
        """(hidden_size,) -> (vocab_size,)"""
        logits = matvec(self._weights["lm_head"], self._final_normed(model, x))
        return softcap(logits, model.logit_softcap)

    def _final_normed(self, model: ModelConfig, x: Floats) -> Floats:
        """The hidden state that the output matrix multiplies.  # (hidden_size,) -> (hidden_size,)"""
        return rms_norm(x, self._weights["final_norm"], model.norm_eps)

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


def _stacked(rows: list[Floats], width: int) -> Floats:
    return np.array(rows, np.float32).reshape(-1, width)


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
