"""How near each Triton kernel comes to the card's memory bandwidth, at the shapes of models of 8B, 7B, 1B and 135M.

    python benchmarks/gpu_kernels.py [--seconds 170] [--sweep Q4_0]

First the kernels are held against plain torch on the card, and rows alone against rows in a batch; then each is timed: a CUDA
graph of launches that go round enough weights to leave the second cache (60 MB), 3 replays that do not count, the median of 20.
Bytes are those that must be read and written; the share is that of the bandwidth at which this card copies 1 GiB, measured here.
Weights are random, made on the card. `--sweep` times the tiles of `matvec.candidates` that fit the card, for a kind, instead. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice

import numpy as np
import torch

from puna.backends.torch import plain
from puna.backends.torch.exact import ACTIVATIONS
from puna.backends.torch.kv import DTYPES, Half, LayerKV, Slots
from puna.backends.torch.step import Step
from puna.backends.torch.weights import KINDS, Matrix, load_matrix
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES

CACHE_BYTES = 120 << 20  # twice the second cache of an H100 or H200
MOST_COPIES, LEAST_LAUNCHES = 64, 16
PAGE_SIZE = 16

Launch = Callable[[int], object]  # of the copy with this number


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int


MODELS = {
    "8B": Shape(4096, 14336, 32, 8, 128, 128256),
    "7B": Shape(4096, 11008, 32, 32, 128, 32000),
    "1B": Shape(2048, 8192, 32, 8, 64, 128256),
    "135M": Shape(576, 1536, 9, 3, 64, 49152),
}


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    kind: str
    tokens: int
    num_bytes: int
    seconds: float

    def text(self, copy_rate: float) -> str:
        rate = self.num_bytes / self.seconds
        return (
            f"{self.name:28} {self.kind:5} {self.tokens:5} {self.num_bytes / 1e6:9.2f} MB {self.seconds * 1e6:9.1f} us "
            f"{rate / 1e9:7.0f} GB/s {100 * rate / copy_rate:5.1f} %"
        )


# ---- timing ---------------------------------------------------------------------------------------------------------


def time_s(launch: Launch, copies: int) -> float:
    """Seconds of one launch, in a graph of launches on one copy after the other."""
    launches = list(islice(cycle(range(copies)), max(copies, LEAST_LAUNCHES)))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # compiles, and makes the scratch memory, before anything is captured
        for copy in range(min(copies, 3)):
            launch(copy)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for copy in launches:
            launch(copy)
    times = []
    for run in range(23):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if run >= 3:
            times.append(start.elapsed_time(end) / 1e3 / len(launches))
    return float(statistics.median(times))


def copies_of(num_bytes: int) -> int:
    return min(MOST_COPIES, max(1, -(-CACHE_BYTES // num_bytes)))


def copy_rate() -> float:
    """Bytes per second read and written."""
    source = torch.randn(1 << 28, device="cuda")
    target = torch.empty_like(source)
    return 8.0 * len(source) / time_s(lambda copy: target.copy_(source), 1)


# ---- data -----------------------------------------------------------------------------------------------------------


def random_matrix(kind: str, rows: int, columns: int) -> Matrix:
    """Planes of random numbers; scales such that weights are small."""
    block = BLOCK_TYPES[kind]
    zeros = Tensor("w", (1, columns), block, np.zeros((1, block.row_bytes(columns)), np.uint8))
    planes = {}
    for name, plane in load_matrix(zeros, kind, torch.device("cpu")).planes.items():
        shape = (rows, plane.shape[1])
        if plane.dtype.is_floating_point:
            planes[name] = (torch.randn(shape, device="cuda") * (0.02 if name == "w" else 1e-3)).to(plane.dtype)
        else:
            lowest, highest = (-128, 128) if plane.dtype == torch.int8 else (0, 64 if name in ("scales", "mins") else 256)
            planes[name] = torch.randint(lowest, highest, shape, dtype=plane.dtype, device="cuda")
    return Matrix(kind, rows, columns, planes)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda")


def random_kv(kv_type: str, pages: int, kv_heads: int, head_dim: int) -> LayerKV:
    def half() -> Half:
        shape = (pages, kv_heads, PAGE_SIZE, head_dim)
        if kv_type == "int8":
            return Half(torch.randint(-127, 128, shape, dtype=torch.int8, device="cuda"), 0.01 * normal(*shape[:3]).abs())
        return Half(normal(*shape).to(DTYPES[kv_type]), None)

    return LayerKV(half(), half())


def step_at(sequences: int, rows: int, first: int, head_dim: int) -> Step:
    """`rows` tokens of each sequence, from a position; sequences in pages of their own. Several are a prompt's."""
    per_sequence = -(-(first + rows) // PAGE_SIZE)
    tables = torch.randperm(sequences * per_sequence, device="cuda").view(sequences, per_sequence)
    ids = torch.arange(sequences, device="cuda").repeat_interleave(rows)
    positions = first + torch.arange(rows, device="cuda").repeat(sequences)
    slots = Slots(tables[ids, positions // PAGE_SIZE], positions % PAGE_SIZE)
    cos_sin = normal(1, sequences * rows, 2, head_dim // 2)
    return Step(ids, positions, ids, tables, cos_sin, slots, ids, positions.tolist(), ids.tolist(), rows > 1)


# ---- right first ----------------------------------------------------------------------------------------------------


def check() -> Iterator[str]:
    """A line for each operation that differs from plain torch, or whose rows depend on the batch."""
    from puna.backends.torch import kernels
    from puna.backends.torch.kernels import experts

    for kind in KINDS:
        columns = 1536
        w, x, norm = random_matrix(kind, 200, columns), normal(17, columns), 1 + 0.1 * normal(columns)
        found = kernels.norm_matvec(x, norm, 1e-5, (w,), (None,))
        yield from compare(f"norm_matvec {kind}", found, plain.norm_matvec(x, norm, 1e-5, (w,), (None,)), 0.02)
        gate_up, residual = normal(3, 2 * columns), normal(3, 200)
        for activation in ACTIVATIONS:
            found = kernels.glu_matvec_add(gate_up, w, None, residual, activation=activation)
            expected = plain.glu_matvec_add(gate_up, w, None, residual, activation=activation)
            yield from compare(f"glu_matvec_add {kind}, {activation}", found, expected, 0.02)
        found, chosen = torch.empty((2, 40), device="cuda"), torch.tensor([2, 0], dtype=torch.int32, device="cuda")
        experts.expert_matvec(x[:1], w, chosen, found)
        expected = torch.cat([plain.matvec(w.part(expert, 5), x[:1]) for expert in (2, 0)])
        yield from compare(f"expert_matvec {kind}", found, expected, 1e-4)
        yield from alone_as_together(f"norm_matvec {kind}", w, x, norm, many=False)
        x = normal(300, columns)
        found, expected = kernels.matvec_add(x, w, None, None, many=True), plain.matvec_add(x, w, None, None)
        yield from compare(f"matvec_add {kind}, many rows", found, expected, 0.03)
        yield from alone_as_together(f"norm_matvec {kind}, many rows", w, x, norm, many=True)
        ids = torch.tensor([3, 199, 0], device="cuda")
        if not torch.equal(kernels.embed(w, ids), w.dequantize_rows(ids)):
            yield f"embed {kind}: other bits than Matrix.dequantize_rows"
    for kv_type in DTYPES:
        for rows in (1, 20):
            kv, q, step = random_kv(kv_type, 96, 2, 128), normal(2 * rows, 8, 128), step_at(2, rows, 700, 128)
            for window, cap in ((0, 0.0), (33, 0.0), (0, 2.0)):
                found, expected = (ops.attend(q, kv, window, step, cap=cap) for ops in (kernels, plain))
                yield from compare(f"attend {kv_type}, {rows} rows, window {window}, cap {cap}", found, expected, 2e-3)
        kv, truth, qkv = random_kv(kv_type, 96, 2, 128), random_kv(kv_type, 96, 2, 128), normal(2, 12 * 128)
        step = step_at(2, 1, 700, 128)
        found, expected = kernels.rope_write(qkv, 8, None, 1e-5, kv, step), plain.rope_write(qkv, 8, None, 1e-5, truth, step)
        yield from compare(f"rope_write {kv_type}", found, expected, 1e-4)
        at = step.slots.pages, slice(None), step.slots.offsets
        if not torch.equal(kv.values.numbers[at], truth.values.numbers[at]):
            yield f"rope_write {kv_type}: other bits of V"


def alone_as_together(name: str, w: Matrix, x: torch.Tensor, norm: torch.Tensor, many: bool) -> Iterator[str]:
    from puna.backends.torch import kernels

    def product(x: torch.Tensor) -> torch.Tensor:
        return kernels.norm_matvec(x, norm, 1e-5, (w,), (None,), many)

    whole, count = product(x), len(x)
    for first, last in ((0, 1), (count - 1, count), (3, 6), (1, count // 2)):
        if not torch.equal(product(x[first:last]), whole[first:last]):
            yield f"{name}: rows {first}..{last - 1} depend on the batch"


def compare(name: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> Iterator[str]:
    error = float((found - expected).abs().max() / expected.std())
    if not error < tolerance:
        yield f"{name}: error {error:.2g}, {tolerance} allowed"


# ---- the table ------------------------------------------------------------------------------------------------------


def products(model: str, kind: str, tokens: int) -> Iterator[Row]:
    from puna.backends.torch import kernels

    s = MODELS[model]
    attended = s.heads * s.head_dim
    for name, rows, columns in (
        ("qkv", attended + 2 * s.kv_heads * s.head_dim, s.hidden),
        ("o", s.hidden, attended),
        ("gate_up", 2 * s.ffn, s.hidden),
        ("down", s.hidden, s.ffn),
        ("lm_head", s.vocab, s.hidden),
    ):
        if columns % BLOCK_TYPES[kind].block_size:
            continue
        first = random_matrix(kind, rows, columns)
        weights = [first, *(random_matrix(kind, rows, columns) for _ in range(copies_of(first.num_bytes) - 1))]
        x, norm, residual = normal(tokens, columns * (2 if name == "down" else 1)), normal(columns), normal(tokens, rows)

        def launch(
            copy: int,
            name: str = name,
            weights: list[Matrix] = weights,
            x: torch.Tensor = x,
            norm: torch.Tensor = norm,
            residual: torch.Tensor = residual,
        ) -> object:
            if name == "o":
                return kernels.matvec_add(x, weights[copy], None, residual)
            if name == "down":
                return kernels.glu_matvec_add(x, weights[copy], None, residual)
            return kernels.norm_matvec(x, norm, 1e-5, (weights[copy],), (None,))

        num_bytes = first.num_bytes + 4 * tokens * (x.shape[1] + rows)
        yield Row(f"{model} {name} {rows}x{columns}", kind, tokens, num_bytes, time_s(launch, len(weights)))


def attention(model: str, kv_type: str, sequences: int, context: int) -> Iterator[Row]:
    from puna.backends.torch import kernels

    s = MODELS[model]
    step = step_at(sequences, 1, context - 1, s.head_dim)
    pages = step.page_tables.numel()
    per_token = s.kv_heads * (2 * s.head_dim * DTYPES[kv_type].itemsize + (8 if kv_type == "int8" else 0))
    num_bytes = sequences * context * per_token
    layers = [random_kv(kv_type, pages, s.kv_heads, s.head_dim) for _ in range(copies_of(num_bytes))]
    q = normal(sequences, s.heads, s.head_dim)
    seconds = time_s(lambda copy: kernels.attend(q, layers[copy], 0, step), len(layers))
    yield Row(f"{model} attend, context {context}", kv_type, sequences, num_bytes, seconds)
    qkv = normal(sequences, (s.heads + 2 * s.kv_heads) * s.head_dim)
    seconds = time_s(lambda copy: kernels.rope_write(qkv, s.heads, None, 1e-5, layers[copy], step), len(layers))
    yield Row(f"{model} rope_write", kv_type, sequences, 4 * (qkv.numel() + q.numel()) + sequences * per_token, seconds)


def prefill(model: str, tokens: int) -> Iterator[Row]:
    from puna.backends.torch import kernels

    s = MODELS[model]
    step, kv = step_at(1, tokens, 0, s.head_dim), random_kv("bf16", -(-tokens // PAGE_SIZE), s.kv_heads, s.head_dim)
    q, w = normal(tokens, s.heads, s.head_dim), random_matrix("Q4_0", 2 * s.ffn, s.hidden)
    x, norm = normal(tokens, s.hidden), normal(s.hidden)
    kernels.attend(q, kv, 0, step)  # its work is planned, and uploaded, before the capture
    yield Row(f"{model} prefill attend", "bf16", tokens, 8 * q.numel(), time_s(lambda copy: kernels.attend(q, kv, 0, step), 1))
    seconds = time_s(lambda copy: kernels.norm_matvec(x, norm, 1e-5, (w,), (None,), many=True), 1)
    yield Row(f"{model} gate_up, many rows", "Q4_0", tokens, w.num_bytes + 4 * tokens * (s.hidden + w.rows), seconds)
    yield from beside_cublas(f"{model} gate_up", random_matrix("BF16", 2 * s.ffn, s.hidden), x)


def beside_cublas(name: str, w: Matrix, x: torch.Tensor) -> Iterator[Row]:
    """A product of many rows by our kernel and by torch's own, whose bits depend on the number of rows."""
    from puna.backends.torch import kernels

    half = x.to(torch.bfloat16)
    ours = time_s(lambda copy: kernels.matvec_add(x, w, None, None, many=True), 1)
    theirs = time_s(lambda copy: torch.mm(half, w.planes["w"].T), 1)
    for kind, seconds in (("BF16", ours), ("cuBLAS", theirs)):
        rate = 2e-12 * len(x) * w.rows * w.columns / seconds
        yield Row(f"{name}, {rate:.0f} TFLOP/s", kind, len(x), w.num_bytes, seconds)


def choosing(rows: int) -> Iterator[Row]:
    from puna.backends.torch.kernels import sampling

    logits, ones = normal(rows, 128256), torch.ones(rows, device="cuda")
    yield Row("argmax", "f32", rows, 4 * logits.numel(), time_s(lambda copy: sampling.argmax(logits), 1))
    args = (0.5 * ones).double(), ones, (50 * ones).int(), (0.9 * ones).double(), 0 * ones
    yield Row("draw, top-k, top-p", "f32", rows, 4 * logits.numel(), time_s(lambda copy: sampling.draw(logits, *args), 1))


def table() -> Iterator[Row]:
    """Run the most important measurements first: the time may run out."""
    for kind in ("BF16", "Q8_0", "Q4_0", "Q4_K"):
        yield from products("8B", kind, 1)
    for kv_type, sequences, context in (("bf16", 1, 1024), ("bf16", 1, 32768), ("int8", 8, 4096), ("bf16", 64, 1024)):
        yield from attention("8B", kv_type, sequences, context)
    for kind in ("BF16", "Q4_0"):
        yield from products("135M", kind, 1)
        yield from products("8B", kind, 16)
    yield from choosing(1)
    yield from prefill("8B", 2048)
    for model, kind in (("1B", "BF16"), ("1B", "Q4_0"), ("7B", "Q4_0"), ("8B", "Q6_K"), ("7B", "BF16")):
        yield from products(model, kind, 1)
    yield from attention("135M", "bf16", 1, 512)
    yield from choosing(64)


def sweep(kind: str) -> Iterator[Row]:
    from puna.backends.torch.kernels import matvec
    from puna.backends.torch.kernels.gpu_properties import gpu_properties

    for rows, columns in ((4096, 4096), (28672, 4096)):
        first = random_matrix(kind, rows, columns)
        weights = [first, *(random_matrix(kind, rows, columns) for _ in range(copies_of(first.num_bytes) - 1))]
        x, norm, y = normal(1, columns), normal(columns), normal(1, rows)
        for tile in matvec.candidates(kind, gpu_properties(x.device)):

            def launch(copy: int, tile: matvec.MatvecTile = tile, weights: list[Matrix] = weights) -> None:
                matvec.matvec(x, weights[copy], None, None, y, matvec.NORM, norm, 1e-5, tile)  # noqa: B023

            name = f"{rows}x{columns} {tile.rows}x{tile.columns} {tile.warps}w {tile.stages}s"
            yield Row(name, kind, 1, first.num_bytes, time_s(launch, len(weights)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=170.0, help="stop with what is measured by then")
    parser.add_argument("--sweep", choices=list(KINDS), help="time the tiles of a kind")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("gpu_kernels: there is no GPU here")
    begin = time.monotonic()
    wrong = list(check())
    print(*wrong or ["all operations agree with plain torch, alone and in a batch"], sep="\n", flush=True)
    rate = copy_rate()
    print(f"{torch.cuda.get_device_name()}: copies at {rate / 1e9:.0f} GB/s", flush=True)
    rows = []
    for row in sweep(args.sweep) if args.sweep else table():
        print(row.text(rate), flush=True)
        rows.append(asdict(row))
        if time.monotonic() - begin > args.seconds:
            print("the time is up: the rest of the table was left out")
            break
    print(json.dumps({"device": torch.cuda.get_device_name(), "copy_bytes_per_s": rate, "wrong": wrong, "rows": rows}))


if __name__ == "__main__":
    main()
