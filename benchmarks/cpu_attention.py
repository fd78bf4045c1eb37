"""Speed of the CPU kernels' attention on random pages: bytes of K and V read per second, and operations per second of prompts.

    python benchmarks/cpu_attention.py [--shapes 135M,8B] [--kv f16] [--contexts 512,8192] [--chunk 1] [--rounds 5] [--threads 2]

A step attends with the last `--chunk` tokens of a sequence, in layers one after the other that together have more K and V than
any cache. The quickest layer counts, alone and times the layers of
the model. GB/s: of K and V,
each read once a layer, beside what `read_memory` reads here. GFLOP/s: two products of head_dim for each position that a query
head sees, beside what `multiply_floats` reaches here. No file is read.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import numba
import numpy as np

from puna.backends.cpu import roofline
from puna.backends.cpu.barrier import barrier
from puna.backends.cpu.buffers import buffer_bytes, sizes_of, tile_buffers
from puna.backends.cpu.compiled import load_entry
from puna.backends.cpu.jit import FLAGS
from puna.backends.cpu.layout import KV_TYPES, BufferAddresses, LayerRow, StepSizes, aligned_zeros, bytes_of
from puna.backends.cpu.simd import call
from puna.model.spec import ModelConfig, plain_model
from puna.plan import Plan

SHAPES = {  # layers, heads, K/V heads, head_dim
    "135M": (30, 9, 3, 64),
    "0.5B": (24, 14, 2, 64),
    "1.1B": (22, 32, 4, 64),
    "8B": (32, 32, 8, 128),
}
PAGE_SIZE = 32
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
LINE = (
    "{shape:5} {kv:5} {context:6} {layer_us:10.1f} us a layer {step_ms:10.3f} ms a step"
    " {gb_s:6.1f} GB/s {of_read:5.0%} {gflop_s:7.1f} GFLOP/s {of_fma:5.0%}"
)
LEAST_BYTES = 1 << 27  # of K and V in all layers


clock_gettime = ctypes.CDLL(None).clock_gettime
clock_gettime.argtypes = ctypes.c_int, ctypes.c_void_p


@numba.njit(**FLAGS)
def attend_layers(attend: int, memory: int, sizes: int, layers: int, control: int, times: int, thread: int, threads: int) -> None:
    """`times` (layers + 1): when the layer began, and when the last one ended, as seconds and nanoseconds, int64."""
    for number in range(layers + 1):
        barrier(control, threads)
        if thread == 0:
            clock_gettime(time.CLOCK_MONOTONIC, times + 16 * number)
        if number < layers:
            call(attend, memory, sizes, number, thread)


class Attention:
    """Buffers of a step of `chunk` tokens, the last ones of `context`, and K and V of `layers` layers."""

    def __init__(self, shape: str, kv_type: str, context: int, chunk: int, threads: int) -> None:
        self.real_layers, heads, kv_heads, head_dim = SHAPES[shape]
        pages, rng = -(-context // PAGE_SIZE), np.random.default_rng(0)
        plan = SimpleNamespace(
            page_size=PAGE_SIZE, kv_type=kv_type, max_context=context, num_pages=pages, max_tokens=chunk, max_sequences=1
        )
        self.sizes = self._sizes(plain_model(1, heads, kv_heads, head_dim, 64, 64, 256, context), plan, threads)
        self.layer_bytes = pages * self.sizes.layer_bytes
        self.layers = min(1024, -(-LEAST_BYTES // self.layer_bytes))
        config = plain_model(self.layers, heads, kv_heads, head_dim, 64, 64, 256, context)
        self.sizes = self._sizes(config, plan, threads)
        arrays = {name: aligned_zeros(size) for name, size in buffer_bytes(config, cast(Plan, plan), self.sizes, 1).items()}
        _fill(arrays["kv"], kv_type, rng)
        arrays["qkv"][:] = rng.standard_normal(len(arrays["qkv"]) // 4).astype(np.float32).view(np.uint8)
        arrays["tables"].view(np.int32)[:pages] = rng.permutation(pages)
        arrays["positions"].view(np.int32)[:] = np.arange(context - chunk, context)
        arrays["starts"].view(np.int32)[1] = chunk
        arrays["job"].view(np.int64)[:2] = chunk, 1
        layer = LayerRow(*[0] * len(LayerRow._fields))._replace(scale=head_dim**-0.5)
        arrays["layers"] = np.frombuffer(bytes_of(layer) * self.layers, np.uint8)
        tiles = tile_buffers(arrays["scratch"].ctypes.data, self.sizes)
        arrays["tiles"] = np.frombuffer(b"".join(map(bytes_of, tiles)), np.uint8)
        addresses = {name: arrays[name].ctypes.data if name in arrays else 0 for name in BufferAddresses._fields}
        self.memory = np.frombuffer(bytes_of(BufferAddresses(**addresses)), np.uint8)
        self.size_row = np.frombuffer(bytes_of(self.sizes), np.uint8)
        self.arrays, self.threads, self.entry = arrays, threads, load_entry(f"attend_{kv_type}")
        seen = sum(range(context - chunk + 1, context + 1))
        self.operations = 4.0 * head_dim * heads * seen

    @staticmethod
    def _sizes(config: ModelConfig, plan: SimpleNamespace, threads: int) -> StepSizes:
        return sizes_of(config, cast(Plan, plan), threads)

    def run(self, pool: ThreadPoolExecutor) -> float:
        """Seconds of the quickest layer: other programs interrupt some."""
        times = np.zeros((self.layers + 1, 2), np.int64)
        fixed = self.entry.address, self.memory.ctypes.data, self.size_row.ctypes.data, self.layers
        last = self.arrays["control"].ctypes.data, times.ctypes.data
        list(pool.map(lambda thread: self._attend(thread, *fixed, *last), range(self.threads)))
        return float(np.diff(times @ [1, 1e-9]).min())

    def _attend(self, thread: int, *addresses: int) -> None:
        """Each thread on a core of its own, or they would share one for as long as another program is busy on the other."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {CORES[thread % len(CORES)]})
        attend_layers(*addresses, thread, self.threads)


def _fill(kv: Any, kv_type: str, rng: np.random.Generator) -> None:
    """Random K and V; of int8 the scales too, which are small numbers in any of these bytes."""
    if kv_type == "int8":
        kv[:] = 17
        kv.reshape(-1, 64)[:] = rng.integers(0, 60, 64, np.uint8)  # as float32: all finite and small
        return
    kind = np.float16 if kv_type == "f16" else np.float32
    some = rng.standard_normal(1 << 16).astype(kind).view(np.uint8)
    for at in range(0, len(kv), len(some)):
        kv[at : at + len(some)] = some[: len(kv) - at]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--kv", default=",".join(KV_TYPES))
    parser.add_argument("--contexts", default="512,2048,8192,32768")
    parser.add_argument("--chunk", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    limit = roofline.measure(given.threads)
    read, multiplied = limit.read_bytes_per_s / 1e9, limit.f32_ops_per_s / 1e9
    print(f"this machine, {given.threads} threads: {read:.1f} GB/s, {multiplied:.0f} GFLOP/s")
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(given.threads) as pool:
        for shape in given.shapes.split(","):
            for kv_type in given.kv.split(","):
                for context in map(int, given.contexts.split(",")):
                    made = Attention(shape, kv_type, context, given.chunk, given.threads)
                    taken = min(made.run(pool) for _ in range(given.rounds + 1))
                    row = {"shape": shape, "kv": kv_type, "context": context, "layer_us": 1e6 * taken}
                    row |= {"step_ms": 1e3 * taken * made.real_layers, "gb_s": made.layer_bytes / taken / 1e9}
                    rows.append(row | {"gflop_s": made.operations / taken / 1e9})
                    print(LINE.format(**rows[-1], of_read=rows[-1]["gb_s"] / read, of_fma=rows[-1]["gflop_s"] / multiplied))
    print(json.dumps({"chunk": given.chunk, "threads": given.threads, "read_gb_s": read, "gflop_s": multiplied, "rows": rows}))


if __name__ == "__main__":
    main()
