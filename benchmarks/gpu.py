"""Speed of the torch backend on models of well-known shapes, with random weights: no file is needed, and speed does not ask for
trained ones.

    python benchmarks/gpu.py --shapes 8b,7b,1b,135m --weights as-is,int8,int4 --throughput
    python benchmarks/gpu.py --shapes 7b --vram 12GiB          # what a card of 12 GiB would do
    python benchmarks/gpu.py --shapes toy --device torch        # does the script run?

Greedy, prefix cache off. Decode: 128 tokens after a prompt of 16, batch 1, 8 and 32. Prefill: a prompt of 512 and of 2,048
tokens. Throughput: 256 requests, prompt and answer each uniform in 100..1024, seed 0, answers not ended by eos. After a run
unmeasured, the median of 3. The last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from puna.backends import backend_spec, choose_device, create_backend
from puna.config import EngineConfig, parse_bytes
from puna.formats.base import Checkpoint, Tensor
from puna.formats.blocks import BLOCK_TYPES, ENCODERS
from puna.formats.rows import ComputedRows
from puna.llm import LLM
from puna.model.rope import RopeConfig
from puna.model.spec import ModelConfig, plain_model
from puna.model.weights import tensor_shapes
from puna.plan import make_plan
from puna.progress import StderrReporter
from puna.request import SamplingParams

LLAMA3 = RopeConfig(theta=500000.0)
SHAPES = {  # layers, heads, K/V heads, head_dim, hidden, ffn, vocabulary, context
    "8b": plain_model(32, 32, 8, 128, 4096, 14336, 128256, 8192, rope=LLAMA3, name="Llama-3-8B"),
    "7b": plain_model(32, 32, 32, 128, 4096, 11008, 32000, 4096, name="Llama-2-7B"),
    "1b": plain_model(16, 32, 8, 64, 2048, 8192, 128256, 8192, rope=LLAMA3, tie_embeddings=True, name="Llama-3.2-1B"),
    "135m": plain_model(30, 9, 3, 64, 576, 1536, 49152, 8192, tie_embeddings=True, name="SmolLM2-135M"),
    "toy": plain_model(2, 4, 2, 16, 64, 128, 256, 4096, name="toy"),
}
POOL = 1 << 22  # random weights that are dealt out again and again: never zeros, which multiply faster than others
REPEATS = 3


def checkpoint_of(config: ModelConfig, kind: str) -> Checkpoint:
    """A model whose rows are made when they are loaded."""
    pool = np.random.default_rng(0).standard_normal(POOL).astype(np.float32) * np.float32(0.02)
    encoded = {name: ENCODERS[name](pool.reshape(-1, 256)) for name in ("F32", kind)}

    def tensor(name: str, shape: tuple[int, ...]) -> Tensor:
        used = kind if len(shape) == 2 and shape[1] % BLOCK_TYPES[kind].block_size == 0 else "F32"
        rows, size = (1, *shape)[-2], BLOCK_TYPES[used].row_bytes(shape[-1])
        flat = encoded[used].reshape(-1)

        def made(first: int, last: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
            return np.resize(np.roll(flat, 64 * first), (last - first, size))

        return Tensor(name, shape, BLOCK_TYPES[used], ComputedRows((rows, size), made))

    tensors = {name: tensor(name, shape) for name, shape in tensor_shapes(config).items()}
    return Checkpoint(Path(config.name), "memory", config, tensors)


def loaded(config: ModelConfig, given: EngineConfig, kind: str) -> LLM:
    report = StderrReporter()
    engine, checkpoint = choose_device(given, report), checkpoint_of(config, kind)
    backend = create_backend(engine, report)
    layouts = backend_spec(engine.device).layouts
    plan = make_plan(config, checkpoint.tensors, engine, layouts, backend.info.free_bytes, report)
    backend.load(checkpoint, plan, report)
    return LLM.from_parts(checkpoint, None, backend, plan, engine)


def prompts(config: ModelConfig, lengths: list[int], seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(config.vocab_size) for _ in range(length)] for length in lengths]


def decode_per_s(llm: LLM, batch: int, num_tokens: int = 128) -> float:
    """Tokens per second of all requests together, without the time for prompts."""
    asked = prompts(llm.model, [16] * batch, seed=batch)

    def seconds(count: int) -> float:
        start = time.perf_counter()
        llm.generate(asked, SamplingParams(max_tokens=count, ignore_eos=True))
        return time.perf_counter() - start

    seconds(4)
    rates = [batch * (num_tokens - 1) / (seconds(num_tokens) - seconds(1)) for _ in range(REPEATS)]
    return statistics.median(rates)


def prefill_per_s(llm: LLM, length: int) -> float:
    rates = [
        llm.generate(ids, SamplingParams(max_tokens=1)).timing.prefill_per_s
        for ids in prompts(llm.model, [length] * (REPEATS + 1), seed=length)
    ]
    return statistics.median(rates[1:])


def workload(config: ModelConfig, count: int) -> tuple[list[list[int]], list[int]]:
    """Prompts, and the number of tokens to generate for each."""
    rng = random.Random(0)
    lengths = [(rng.randint(100, 1024), rng.randint(100, 1024)) for _ in range(count)]
    return prompts(config, [first for first, _ in lengths], seed=0), [new for _, new in lengths]


def throughput(llm: LLM, count: int) -> dict[str, float]:
    asked, new = workload(llm.model, count)
    params = [SamplingParams(max_tokens=each, ignore_eos=True) for each in new]
    start = time.perf_counter()
    done = llm.generate(asked, params)
    took = time.perf_counter() - start
    made = sum(len(c.token_ids) for c in done)
    return {"requests": count, "output_tok_s": made / took, "total_tok_s": (made + sum(map(len, asked))) / took, "seconds": took}


def waits(llm: LLM) -> int:
    """The number of times that the host waits for the GPU in 32 decode steps, except for the last step's ids; should be 0."""
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        llm.generate(
            prompts(llm.model, [16] * 4, seed=4),
            SamplingParams(max_tokens=32, ignore_eos=True, temperature=0.7, repetition_penalty=1.1),
        )
    torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def measured(shape: str, weights: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    config = SHAPES[shape]
    kind = {"as-is": "BF16", "int8": "BF16", "int4": "BF16"}.get(weights, weights)
    engine = EngineConfig(
        device=arguments.device,
        weights=weights if weights in ("as-is", "int8", "int4") else "auto",  # type: ignore[arg-type]
        vram=parse_bytes(arguments.vram),
        max_context=min(config.max_context, arguments.context),
        max_batch=256,
        chunk_tokens=arguments.chunk,
        graphs=not arguments.no_graphs,
        prefix_cache=False,
        speculation="off",
    )
    started = time.perf_counter()
    with loaded(config, engine, kind) as llm:
        yield "load_s", time.perf_counter() - started
        yield "device", llm.backend.info.description
        yield "weights", llm.plan.weights
        yield "streamed_layers", llm.plan.num_offloaded
        for batch in arguments.batches:
            yield f"decode_b{batch}_tok_s", decode_per_s(llm, batch)
        for length in (512, 2048):
            if length < llm.plan.max_context:
                yield f"pp{length}_tok_s", prefill_per_s(llm, length)
        if arguments.throughput:
            yield "throughput", throughput(llm, arguments.requests)
        if engine.device.startswith("cuda"):
            yield "waits", waits(llm)
            yield "planned_gib", llm.plan.total_bytes / 2**30
            yield "reserved_gib", torch.cuda.max_memory_reserved() / 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shapes", default="8b,7b,1b,135m", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--weights", default="as-is", help="as-is (bf16), int8, int4, or a block type such as Q4_K")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vram", default="0")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--chunk", type=int, default=0, help="tokens of a step; 0: the device's own")
    parser.add_argument("--no-graphs", action="store_true", help="decode steps are not recorded")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--throughput", action="store_true")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for shape in arguments.shapes.split(","):
        for weights in arguments.weights.split(","):
            row: dict[str, Any] = {"shape": shape, "asked": weights}
            for name, value in measured(shape, weights, arguments):
                row[name] = value
                print(
                    f"{shape:<6}{weights:<8}{name:<20}{value:.1f}"
                    if isinstance(value, float)
                    else f"{shape:<6}{weights:<8}{name:<20}{value}"
                )
                sys.stdout.flush()
            results.append(row)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
