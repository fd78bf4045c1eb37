"""A mixture of experts beside a dense model that multiplies as many weights for each token: what routing and sorting cost.

    python benchmarks/experts.py [--threads 2] [--pairs 9] [--quantize q8_0] [--shape small] [--measures decode,batch,prefill]

Random weights, in memory, both models in one process, taking turns. decode: one token at a time after 64 of prompt; batch: the
same for 8 sequences at once; prefill: a step of 256 tokens. Reported: tokens per second, the median of the pair ratios, and their
range. Experts read more weights in a batch and a prefill than the dense model does: tokens choose different ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from random_model import tensor  # beside this file

from puna.backends import backend_spec, create_backend
from puna.backends.base import Backend
from puna.batch import Batch
from puna.config import EngineConfig
from puna.formats.base import Checkpoint
from puna.model.spec import Dense, Experts, ModelConfig, plain_model
from puna.model.weights import role_of, tensor_shapes
from puna.plan import make_plan
from puna.request import Request, SamplingParams
from puna.scheduler import ScheduledChunk

SHAPES: dict[str, tuple[ModelConfig, Experts]] = {
    "small": (plain_model(12, 8, 4, 64, 512, 1024, 8192, 2048, tie_embeddings=True), Experts(512, count=16, top_k=2)),
    "mixtral": (plain_model(2, 16, 4, 64, 1024, 1024, 8192, 2048, tie_embeddings=True), Experts(3584, count=8, top_k=2)),
    "qwen3-moe": (plain_model(3, 16, 4, 64, 1024, 1024, 8192, 2048, tie_embeddings=True), Experts(384, count=128, top_k=8)),
}
PROMPT, STEPS, CHUNK, SEQUENCES = 64, 32, 256, 8
IDS: list[int] = np.random.default_rng(0).integers(0, 8192, CHUNK + SEQUENCES).tolist()


def models(shape: str) -> dict[str, ModelConfig]:
    plain, experts = SHAPES[shape]
    parts: dict[str, Experts | Dense] = {"experts": experts, "dense": Dense(experts.size * experts.top_k)}
    return {
        name: replace(plain, layers=tuple(replace(layer, ffn=part) for layer in plain.layers)) for name, part in parts.items()
    }


def loaded(config: ModelConfig, quantize: str, threads: int) -> tuple[Backend, int]:
    """The model on the CPU, and the bytes of its weights."""
    kinds = {name: "F32" if len(shape) == 1 or role_of(name).name == "router" else quantize for name, shape in shapes(config)}
    tensors = {name: tensor(name, shape, kinds[name]) for name, shape in shapes(config)}
    engine = EngineConfig(device="cpu", threads=threads)
    backend = create_backend(engine)
    plan = make_plan(config, tensors, engine, backend_spec("cpu").layouts, backend.info.free_bytes)
    backend.load(Checkpoint(Path("random"), "memory", config, tensors), plan)
    return backend, plan.weights_bytes


def shapes(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    return list(tensor_shapes(config).items())


def step(backend: Backend, first: int, tokens: int, sequences: int) -> None:
    """`tokens` tokens of each of so many sequences, from position `first` on."""
    chunks = []
    for number in range(sequences):
        ids = IDS[number : number + first + tokens]
        request = Request(number, ids, SamplingParams(), page_ids=list(range(16 * number, 16 * number + 16)))
        chunks.append(ScheduledChunk(request, first, len(ids), num_logits=1, is_last=False))
    backend.step(Batch.of(chunks)).logits()


def per_s(backend: Backend, what: str) -> float:
    """Tokens per second."""
    sequences = SEQUENCES if what == "batch" else 1
    start = time.perf_counter()
    if what == "prefill":
        step(backend, 0, CHUNK, 1)
        return CHUNK / (time.perf_counter() - start)
    for number in range(STEPS):
        step(backend, PROMPT + number, 1, sequences)
    return STEPS * sequences / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quantize", type=str.upper, default="Q8_0")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--measures", default="decode,batch,prefill")
    given = parser.parse_args()
    made = {name: loaded(config, given.quantize, given.threads) for name, config in models(given.shape).items()}
    backends = {name: backend for name, (backend, _) in made.items()}
    print(", ".join(f"{name}: {size / 1e6:.0f} MB" for name, (_, size) in made.items()))
    rows = []
    for what in given.measures.split(","):
        speeds: dict[str, list[float]] = {name: [] for name in backends}
        for pair in range(-1, given.pairs):  # the first one warms up
            for name in list(backends) if pair % 2 else list(backends)[::-1]:
                speed = per_s(backends[name], what)
                speeds[name] += [speed] if pair >= 0 else []
        ratios = sorted(a / b for a, b in zip(*speeds.values(), strict=True))
        medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
        rows.append({"what": what, **medians, "ratio": round(statistics.median(ratios), 3)})
        print(f"{what:8}" + "".join(f"{value:>8} {name}" for name, value in medians.items()), end="")
        print(f"   ratio {rows[-1]['ratio']}, {ratios[0]:.3f}-{ratios[-1]:.3f}")
    print(json.dumps({"shape": given.shape, "quantize": given.quantize, "threads": given.threads, "rows": rows}))


if __name__ == "__main__":
    main()
