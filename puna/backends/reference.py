"""The definition of the forward pass: numpy, float32, one obvious function per op, one row at a time.

Weights of every type become float32 at load. Slow, and bit-equal alone, in a chunk or in a batch: each row is a matrix times
one vector, and the shape of every product depends on the row's own position only. (The glass box, which looks at one text, lets a
matrix multiply many rows at once.)
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from puna.backends.base import DeviceInfo, PageBytes, Roofline, load_whole, loading_to_main_memory, moved
from puna.batch import Batch, Computed, IntArray, SamplingBatch
from puna.config import EngineConfig
from puna.errors import DeviceError
from puna.formats.base import Adapter, Checkpoint, Tensor
from puna.model.rotary import RotaryTables
from puna.model.spec import Activation, Dense, Experts, ModelConfig
from puna.plan import Plan
from puna.progress import SILENT, Reporter
from puna.resources import cpu_identity, memory_bytes, own_bytes, usable_cores

Floats = npt.NDArray[np.float32]
T = TypeVar("T")
Product = Callable[[str, Floats], Floats]  # (role of a layer's matrix without "_proj", x) -> W x + b


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / rms(x) * weight, along the last axis (Zhang and Sennrich 2019, arXiv 1910.07467).  # (..., hidden), (hidden,)

    >>> rms_norm(np.float32([3, 4]), np.float32([1, 2]), 1e-5).round(3).tolist()
    [0.8489999771118164, 2.263000011444092]
    """
    return np.asarray(x * (1 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(eps))) * weight)


def qk_norm(heads: Floats, weight: Floats, eps: float) -> Floats:
    """RMS norm of each head, or of all together if `weight` has their size.  # (heads, head_dim), (head_dim,) or all"""
    return rms_norm(heads.reshape(-1, len(weight)), weight, eps).reshape(heads.shape)


def matvec(weight: Floats, x: Floats, bias: Floats | None = None) -> Floats:
    """y = W x (+ bias), for one x or several.  # (rows, columns), (..., columns) -> (..., rows)"""
    return x @ weight.T if bias is None else x @ weight.T + bias


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


def _unheard(weights: Floats) -> None:
    """Nobody listens."""


def attend(
    q: Floats,
    keys: Floats,
    values: Floats,
    scale: float = 0.0,
    cap: float = 0.0,
    hear: Callable[[Floats], object] = _unheard,
) -> Floats:
    """Softmax attention of one position; each K/V head serves num_heads / num_kv_heads queries (Ainslie 2023, arXiv 2305.13245).

    q (heads, head_dim); keys, values (kv_heads, positions, head_dim) -> (heads, head_dim). A `scale` of 0: 1 / sqrt(head_dim).
    `hear` is told how the heads weigh the positions, (heads, positions).
    """
    groups = q.reshape(len(keys), -1, q.shape[1])  # (kv_heads, heads of the group, head_dim)
    scores = groups @ keys.transpose(0, 2, 1) * np.float32(scale or 1 / np.sqrt(q.shape[1]))
    weights = softmax(softcap(scores, cap))
    hear(weights.reshape(len(q), -1))
    return (weights @ values).reshape(q.shape)


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
    """A feed-forward part whose matrices `product` multiplies.  # (..., hidden) -> (..., hidden)"""
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


class Tap(Protocol):
    """Hears what passes through the model, row by row, layer by layer. It must change nothing, and copy what it keeps."""

    def hidden(self, layer: int, row: int, x: Floats) -> None:
        """The hidden state of a row of the batch after `layer` layers; 0: its embedding.  # (hidden_size,)"""

    def attention(self, layer: int, row: int, weights: Floats) -> None:
        """How its heads weigh the positions that they see in a layer, numbered from 1.  # (heads, positions), its own last"""


class FloatWeights(Protocol):
    """A model's weights as float32."""

    final_norm: Floats  # (hidden_size,)

    def embed(self, token_ids: IntArray) -> Floats:
        """The embeddings of tokens.  # (tokens,) -> (tokens, hidden_size)"""

    def layer(self, layer: int) -> Mapping[str, Floats]:
        """The weights of a layer by their roles."""

    def head(self, first: int, last: int) -> Floats:
        """Rows first..last-1 of the output matrix.  # (last - first, hidden_size)"""


class HeldWeights:
    """All of them in memory."""

    def __init__(self, checkpoint: Checkpoint, report: Reporter) -> None:
        self._held: dict[str, Floats] = {}
        for done, (name, tensor) in enumerate(checkpoint.tensors.items(), start=1):
            self._held[name] = as_floats(tensor)
            report.progress("loading weights", done, len(checkpoint.tensors))
        self._layers = [_of_layer(self._held, layer) for layer in range(checkpoint.config.num_layers)]
        self.final_norm, self._head = self._held["final_norm"], self._held.get("lm_head", self._held["embed"])

    def embed(self, token_ids: IntArray) -> Floats:
        return self._held["embed"][token_ids]

    def layer(self, layer: int) -> Mapping[str, Floats]:
        return self._layers[layer]

    def head(self, first: int, last: int) -> Floats:
        return self._head[first:last]

    def num_bytes(self) -> int:
        return sum(weight.nbytes for weight in self._held.values())


class StreamedWeights:
    """One layer at a time, or rows of the output matrix, made float32 when they are asked for: for one pass of a whole text."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors, self._number, self._layer = checkpoint.tensors, -1, dict[str, Floats]()
        self.final_norm = as_floats(checkpoint.tensors["final_norm"])

    def embed(self, token_ids: IntArray) -> Floats:
        table = self._tensors["embed"]
        return np.concatenate([table.dequantize(token_id, token_id + 1) for token_id in token_ids.tolist()])

    def layer(self, layer: int) -> Mapping[str, Floats]:
        if layer != self._number:
            self._layer = {}  # before the next one takes memory
            self._layer = {name: as_floats(tensor) for name, tensor in _of_layer(self._tensors, layer).items()}
            self._number = layer
        return self._layer

    def head(self, first: int, last: int) -> Floats:
        self._number, self._layer = -1, {}
        return self._tensors.get("lm_head", self._tensors["embed"]).dequantize(first, last)


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Where a token stands, and what is done with it."""

    index: int  # in the batch
    position: int
    cos_sin: Floats  # (tables, 2, head_dim / 2) the rotary tables of this token
    table: IntArray  # (pages,) the page table of its sequence
    adapter: int  # the LoRA adapter of its sequence; -1: none


class ForwardPass:
    """A model's forward pass, and the K and V that it writes."""

    def __init__(
        self, model: ModelConfig, weights: FloatWeights, adapters: Sequence[Adapter], num_pages: int, page_size: int
    ) -> None:
        self.model, self._weights, self._adapters = model, weights, adapters
        self._page_size, self._rotary = page_size, RotaryTables(model)
        self.kv = np.zeros((2, model.num_layers, num_pages, model.num_kv_heads, page_size, model.head_dim), np.float32)
        self._keys, self._values = self.kv

    def run(self, batch: Batch, tap: Tap | None = None, at_once: int = 1) -> Floats:
        """The hidden states after the last layer.  # -> (tokens, hidden_size)

        It goes layer by layer, and through a layer's tokens in order: a later row of a chunk finds the K and V of earlier ones.
        `at_once`: rows that a matrix multiplies together. 1: a row's bits do not depend on the batch; more is faster, for one
        sequence.
        """
        rows = self._rows(batch)
        x = self._weights.embed(batch.token_ids) * np.float32(self.model.embedding_scale)
        with np.errstate(over="ignore", invalid="ignore"):  # the sampler reports numbers that are not finite
            for layer in range(self.model.num_layers + 1):
                for first in range(0, len(rows) if layer else 0, at_once):
                    part = slice(first, first + at_once)
                    x[part] = self._block(layer - 1, x[part], rows[part], tap)
                if tap is not None:
                    for row in rows:
                        tap.hidden(layer, row.index, x[row.index])
        return x

    def logits(self, x: Floats) -> Floats:
        """(hidden_size,) -> (vocab_size,)"""
        head = self._weights.head(0, self.model.vocab_size)
        return softcap(matvec(head, self.final_normed(x)), self.model.logit_softcap)

    def final_normed(self, x: Floats) -> Floats:
        """The hidden state that the output matrix multiplies.  # (hidden_size,) -> (hidden_size,)"""
        return rms_norm(x, self._weights.final_norm, self.model.norm_eps)

    def _rows(self, batch: Batch) -> list[TokenRow]:
        tables = batch.page_tables[batch.sequences]  # (tokens, pages)
        cos_sin = self._rotary.cos_sin(batch.positions, batch.row_prompt_lengths)
        places = enumerate(zip(batch.positions.tolist(), batch.row_adapters.tolist(), strict=True))
        return [TokenRow(index, position, cos_sin[:, index], tables[index], adapter) for index, (position, adapter) in places]

    def _block(self, layer: int, x: Floats, rows: Sequence[TokenRow], tap: Tap | None) -> Floats:
        """One layer for some tokens; writes their K and V to the pages.  # (tokens, hidden_size) -> (tokens, hidden_size)"""
        spec, norm, product = (
            self.model.layers[layer],
            partial(self._normed, layer),
            partial(self._product, layer, rows[0].adapter),
        )
        x = x + norm("attn_post_norm", self._attention(layer, product, norm("attn_norm", x), rows, tap))
        h = norm("ffn_norm", x)
        if isinstance(spec.ffn, Dense):
            return x + norm("ffn_post_norm", dense(product, h, spec.ffn))
        return x + norm("ffn_post_norm", np.array([self._experts(layer, one, spec.ffn) for one in h]))

    def _normed(self, layer: int, name: str, x: Floats) -> Floats:
        """x normed by the layer's norm of that name, where it has one."""
        w = self._weights.layer(layer)
        return rms_norm(x, w[name], self.model.norm_eps) if name in w else x

    def _product(self, layer: int, adapter: int, role: str, x: Floats) -> Floats:
        """The layer's matrix of that role times each x, with its bias, and with what an adapter adds.

        (tokens, columns) -> (tokens, rows)
        """
        w, adapters = self._weights.layer(layer), self._adapters[adapter : adapter + 1] if adapter >= 0 else ()
        y = matvec(w[f"{role}_proj"], x, w.get(f"{role}_bias"))
        for part in (one.parts.get(f"layers.{layer}.{role}_proj") for one in adapters):
            y = y if part is None else y + low_rank(part.a, part.b, x)
        return y

    def _attention(self, layer: int, product: Product, h: Floats, rows: Sequence[TokenRow], tap: Tap | None) -> Floats:
        """(tokens, hidden_size) -> (tokens, hidden_size)"""
        qkv = zip(product("q", h), product("k", h), product("v", h), strict=True)
        return product("o", np.array([self._attended(layer, *own, row, tap) for own, row in zip(qkv, rows, strict=True)]))

    def _attended(self, layer: int, q: Floats, k: Floats, v: Floats, row: TokenRow, tap: Tap | None) -> Floats:
        """What the heads of one token gather.  # (q_size,), (kv_size,) twice -> (q_size,)"""
        model, w, spec = self.model, self._weights.layer(layer), self.model.layers[layer].attention
        q, k, v = (one.reshape(-1, model.head_dim) for one in (q, k, v))
        if spec.qk_norm != "none":
            q, k = qk_norm(q, w["q_norm"], model.norm_eps), qk_norm(k, w["k_norm"], model.norm_eps)
        self._write(layer, row, rope(k, *row.cos_sin[self._rotary.of_k[layer]]), v)
        keys, values = self._read(layer, row, spec.window)
        q = rope(q, *row.cos_sin[self._rotary.of_q[layer]])
        hear = _unheard if tap is None else partial(tap.attention, layer + 1, row.index)
        return attend(q, keys, values, spec.scale, spec.softcap, hear).reshape(-1)

    def _experts(self, layer: int, h: Floats, ffn: Experts) -> Floats:
        """The outputs of the token's experts, each times its weight, summed in the router's order."""
        w = self._weights.layer(layer)
        outputs = (
            share
            * matvec(w["down_experts"][e], glu(matvec(w["gate_experts"][e], h), matvec(w["up_experts"][e], h), ffn.activation))
            for e, share in zip(*route(matvec(w["router"], h), ffn), strict=True)
        )
        return np.asarray(reduce(operator.add, outputs))

    def _write(self, layer: int, row: TokenRow, k: Floats, v: Floats) -> None:
        page, slot = row.table[row.position // self._page_size], row.position % self._page_size
        self._keys[layer, page, :, slot] = k
        self._values[layer, page, :, slot] = v

    def _read(self, layer: int, row: TokenRow, window: int) -> tuple[Floats, Floats]:
        """K and V of the positions that the row sees, its own last.  # (kv_heads, positions, head_dim) each"""
        pages = row.table[: row.position // self._page_size + 1]
        seen = slice(max(0, row.position + 1 - window) if window else 0, row.position + 1)
        if len(pages) == 1:  # nothing to join
            return self._keys[layer, pages[0], :, seen], self._values[layer, pages[0], :, seen]
        return self._flat(self._keys[layer, pages], seen), self._flat(self._values[layer, pages], seen)

    def _flat(self, pages: Floats, seen: slice) -> Floats:
        count, heads, size, dim = pages.shape
        return np.ascontiguousarray(pages.transpose(1, 0, 2, 3).reshape(heads, count * size, dim)[:, seen])


class ReferenceBackend:
    """The whole forward pass as readable code."""

    filters: frozenset[str] = frozenset()
    prompts_apart = False

    def __init__(self, config: EngineConfig, report: Reporter = SILENT) -> None:
        total, free = memory_bytes()
        self.info = DeviceInfo("reference", "numpy, float32, one row at a time", usable_cores(), total, free)
        self.kv_arithmetic = f"numpy {np.__version__}, {cpu_identity()}, {usable_cores()} cores"  # its BLAS shares sums out
        self._weights: HeldWeights | None = None
        self._pass: ForwardPass | None = None

    def load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter = SILENT) -> None:
        """Make every weight float32, and allocate the pages."""
        load_whole(partial(self._load, checkpoint, plan, report), self.close, loading_to_main_memory(checkpoint, plan))

    def _load(self, checkpoint: Checkpoint, plan: Plan, report: Reporter) -> None:
        self._weights = HeldWeights(checkpoint, report)
        self._pass = ForwardPass(checkpoint.config, self._weights, checkpoint.adapters, plan.num_pages, plan.page_size)

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Computed:
        run = self._loaded()
        x, model = run.run(batch), run.model
        with np.errstate(over="ignore", invalid="ignore"):
            hidden = [run.final_normed(x[row]) for row in batch.hidden_rows]
            logits = [run.logits(x[row]) for row in batch.logit_rows]
        return Computed(_stacked(logits, model.vocab_size), _stacked(hidden, model.hidden_size))

    def read_pages(self, page_ids: Sequence[int], out: PageBytes | None = None) -> PageBytes:
        # (pages, K or V, layers, kv_heads, page_size, head_dim)
        pages = self._loaded().kv.transpose(2, 0, 1, 3, 4, 5)[list(page_ids)]
        return moved(np.ascontiguousarray(pages).reshape(len(page_ids), -1).view(np.uint8), out)

    def write_pages(self, page_ids: Sequence[int], pages: PageBytes) -> None:
        by_page = self._loaded().kv.transpose(2, 0, 1, 3, 4, 5)
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
        return 0 if self._weights is None else self._weights.num_bytes()

    def held_bytes(self) -> int:
        return own_bytes()

    def close(self) -> None:
        self._weights = self._pass = None

    def _loaded(self) -> ForwardPass:
        if self._pass is None:
            raise DeviceError(
                "the reference backend holds no model", hint="Call load() first; after close(), make a new backend."
            )
        return self._pass


def as_floats(tensor: Tensor) -> Floats:
    """A weight as float32, in its shape."""
    return np.ascontiguousarray(tensor.dequantize(), dtype=np.float32).reshape(tensor.shape)


def _stacked(rows: list[Floats], width: int) -> Floats:
    return np.array(rows, np.float32).reshape(-1, width)


def _of_layer(weights: Mapping[str, T], layer: int) -> dict[str, T]:
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
