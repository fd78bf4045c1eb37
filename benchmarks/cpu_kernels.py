"""Speed of the CPU kernels' products by type: bytes per second in decode, operations per second in prefill.

    python benchmarks/cpu_kernels.py [--kinds Q4_1,Q4_K] [--rows 65536] [--columns 2048] [--tokens 64] [--rounds 7] [--threads 2]

One process; the types take turns in every round, the order changing, and the median of the rounds counts. decode: one token times
a matrix that no cache holds. prefill: many tokens times one that the caches hold. Random blocks: their speed does not depend on
the numbers. No file is read. `ratio`: how many times as fast as the first type, round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np

from puna.backends.cpu import kernels
from puna.backends.cpu.compiled import load_entry, prepare
from puna.backends.cpu.jit import FLAGS
from puna.backends.cpu.layout import GROUP, KINDS, PANEL_BYTES, SET, PackedMatrix, aligned_zeros, record_bytes
from puna.backends.cpu.packing import pack
from puna.formats.base import Tensor
from puna.formats.blocks import BLOCK_TYPES

PROMPT, PROMPT_ROWS = 64, 1024
SCALES = ("d", "dmin", "m")  # half-precision fields of blocks: random bytes may be no numbers


@numba.njit(**FLAGS)
def quantize(x: int, columns: int, record: int) -> None:
    kernels.quantize_blocks(x, columns, record, 0, columns // 32)


def random_matrix(kind: str, rows: int, columns: int) -> PackedMatrix:
    block, rng = BLOCK_TYPES[kind], np.random.default_rng(0)
    data = rng.integers(0, 256, (rows, block.row_bytes(columns)), np.uint8)
    blocks = data.reshape(-1).view(block.layout)
    for name in SCALES if block.layout.names else ():
        if name in (block.layout.names or ()):
            blocks[name] = rng.uniform(0.001, 0.01, len(blocks))
    if not block.layout.names:
        blocks.reshape(-1)[:] = rng.standard_normal(blocks.size).astype(block.layout)
    return pack(Tensor(kind, (rows, columns), block, data), KINDS[kind])


def product(matrix: PackedMatrix, tokens: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], None]:
    """A call that multiplies the matrix with `tokens` random rows, its groups shared out to the threads."""
    columns = matrix.columns
    x = np.random.default_rng(1).standard_normal((tokens, columns)).astype(np.float32)
    stride = record_bytes(columns) if matrix.kind.is_quantised else 4 * columns
    seen = aligned_zeros(tokens * stride) if matrix.kind.is_quantised else x.view(np.uint8).reshape(-1)
    for token in range(tokens if matrix.kind.is_quantised else 0):
        quantize(x[token].ctypes.data, columns, seen.ctypes.data + token * stride)
    y = aligned_zeros(4 * tokens * matrix.rows)
    groups = matrix.rows // GROUP
    ends = [groups * i // threads for i in range(threads + 1)]
    scratch = [aligned_zeros(PANEL_BYTES) for _ in range(threads)]
    multiply = load_entry(f"multiply_{matrix.kind.name}")
    fixed = matrix.address, columns, seen.ctypes.data, stride, tokens, y.ctypes.data, 4 * matrix.rows

    def run(keep: Any = (x, seen, y)) -> None:
        list(pool.map(lambda i: multiply(*fixed, ends[i], ends[i + 1], SET, scratch[i].ctypes.data), range(threads)))

    return run


def seconds(call: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def compare(calls: dict[str, Callable[[], None]], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Seconds of each call in every round, after a warm-up round."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name in list(calls) if number % 2 else list(calls)[::-1]:
            taken = seconds(calls[name], repeats)
            found[name] += [taken] if number else []
    return found


def table(what: str, found: dict[str, list[float]], amounts: dict[str, float], unit: str) -> list[dict[str, Any]]:
    first = next(iter(found.values()))
    rows = []
    for name, taken in found.items():
        rate = amounts[name] / statistics.median(taken) / 1e9
        ratio = statistics.median(a / b for a, b in zip(first, taken, strict=True))
        rows.append({"what": what, "type": name, "rate": round(rate, 1), "unit": unit, "ratio": round(ratio, 2)})
        print(f"{what:8} {name:6} {rate:8.1f} {unit:6} {1e3 * statistics.median(taken):9.3f} ms  ratio {ratio:5.2f}")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", default="Q4_1,Q4_0,Q5_0,Q5_1,Q8_0,Q4_K,Q5_K,Q6_K,Q3_K,Q2_K,IQ4_NL,IQ4_XS,MXFP4")
    parser.add_argument("--rows", type=int, default=65536)
    parser.add_argument("--tokens", type=int, default=PROMPT)
    parser.add_argument("--columns", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    kinds = given.kinds.split(",")
    prepare([f"multiply_{KINDS[kind].name}" for kind in kinds])
    with ThreadPoolExecutor(given.threads) as pool:
        large = {kind: random_matrix(kind, given.rows, given.columns) for kind in kinds}
        small = {kind: random_matrix(kind, PROMPT_ROWS, given.columns) for kind in kinds}
        decode = {kind: product(matrix, 1, given.threads, pool) for kind, matrix in large.items()}
        prefill = {kind: product(matrix, given.tokens, given.threads, pool) for kind, matrix in small.items()}
        read = {kind: float(matrix.array.nbytes) for kind, matrix in large.items()}
        operations = dict.fromkeys(kinds, 2.0 * given.tokens * PROMPT_ROWS * given.columns)
        rows = table("decode", compare(decode, given.rounds, 3), read, "GB/s")
        rows += table("prefill", compare(prefill, given.rounds, 10), operations, "GOP/s")
    print(json.dumps({"columns": given.columns, "threads": given.threads, "rounds": given.rounds, "rows": rows}))


if __name__ == "__main__":
    main()
