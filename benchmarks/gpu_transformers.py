"""Speed of transformers on the shapes of `gpu.py`, in bf16 with random weights, next to puna on the same card and run.

    python benchmarks/gpu_transformers.py --shapes 8b --requests 256
    python benchmarks/gpu_transformers.py --shapes toy --device cpu --requests 4      # does the script run?

Decode: 128 tokens after a prompt of 16, batch 1, eager; with `--static` also with a static cache, which it compiles. Throughput:
the requests of `gpu.py --throughput`, given to the manager behind `generate_batch`, for each wants its own number of tokens. The
last line of stdout is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import gpu
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaConfig, LlamaForCausalLM

from puna.model.spec import ModelConfig


def model_of(config: ModelConfig, device: str) -> Any:
    """A model of a shape, made where it runs."""
    theirs = LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.ffn_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.max_context,
        tie_word_embeddings=config.tie_embeddings,
        dtype=torch.bfloat16,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        return LlamaForCausalLM(theirs).eval()


def decode_per_s(model: Any, ids: list[int], num_tokens: int = 128, **settings: Any) -> float:
    """As `gpu.decode_per_s` for one sequence."""
    given = torch.tensor([ids], device=model.device)

    def seconds(count: int) -> float:
        start = time.perf_counter()
        model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=count, min_new_tokens=count,
            do_sample=False, pad_token_id=0, **settings,
        )  # fmt: skip
        return time.perf_counter() - start

    seconds(num_tokens)
    return statistics.median((num_tokens - 1) / (seconds(num_tokens) - seconds(1)) for _ in range(gpu.REPEATS))


def throughput(model: Any, asked: list[list[int]], new: list[int], memory: float) -> dict[str, float]:
    """Output tokens per second of requests that each make their own number of tokens."""
    settings = GenerationConfig(max_new_tokens=max(new), do_sample=False, eos_token_id=-1, pad_token_id=0)
    batching = ContinuousBatchingConfig(max_memory_percent=memory)
    with model.continuous_batching_context_manager(generation_config=settings, continuous_batching_config=batching) as manager:
        start, made, done = time.perf_counter(), 0, 0
        for ids, count in zip(asked, new, strict=True):
            manager.add_request(ids, max_new_tokens=count, eos_token_id=-1)
        while done < len(asked):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                done, made = done + 1, made + len(result.generated_tokens)
            elif result is None and not manager.is_running():
                raise SystemExit(f"transformers ended after {done} of {len(asked)} requests")
        took = time.perf_counter() - start
    if made != sum(new):
        raise SystemExit(f"transformers made {made} of {sum(new)} tokens")
    total = made + sum(map(len, asked))
    return {"requests": len(asked), "output_tok_s": made / took, "total_tok_s": total / took, "seconds": took}


def measured(shape: str, arguments: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    config = gpu.SHAPES[shape]
    model = model_of(config, arguments.device)
    ids = gpu.prompts(config, [16], seed=1)[0]
    yield "decode_b1_tok_s", decode_per_s(model, ids)
    if arguments.static:
        yield "decode_b1_static_tok_s", decode_per_s(model, ids, cache_implementation="static")
    if arguments.requests:
        yield "throughput", throughput(model, *gpu.workload(config, arguments.requests), memory=arguments.memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shapes", default="8b", help=f"of {', '.join(gpu.SHAPES)}")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--static", action="store_true", help="also with a static cache: it compiles for minutes")
    parser.add_argument("--requests", type=int, default=256, help="0: no throughput")
    parser.add_argument("--memory", type=float, default=0.9, help="share of the card's memory that its cache may take")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    for shape in arguments.shapes.split(","):
        results[shape] = {}
        for name, value in measured(shape, arguments):
            results[shape][name] = value
            print(f"{shape:5} {name:24} {value}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
