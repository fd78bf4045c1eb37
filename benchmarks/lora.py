"""What LoRA adapters cost: the same model with and without one, in turns, and requests with several adapters in one batch.

    python benchmarks/lora.py [MODEL] [--pairs 7] [--threads 2] [--rank 16] [--device cpu]

The adapters are random and change all seven matrices of each layer. decode: 64 tokens of one request. prefill: 512 of prompt.
batch: 8 requests of 32 tokens, with four adapters, two requests each. Reported: the median of the pairs' ratios of time, with
adapter / without, and their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from puna import formats, hub
from puna.formats.names import HUGGINGFACE_NAMES, foreign_name
from puna.llm import LLM
from puna.model.weights import LM_HEAD, adaptable
from puna.progress import SILENT
from puna.request import SamplingParams

NAMES = ("a", "b", "c", "d")
DECODED, PROMPT, IN_BATCH = 64, 512, 32


def write_adapter(folder: Path, shapes: dict[str, tuple[int, ...]], rank: int, seed: int) -> Path:
    """A random adapter, small enough that the text stays one."""
    rng, halves = np.random.default_rng(seed), {}
    for ours, (rows, columns) in ((name, shape) for name, shape in shapes.items() if name != LM_HEAD.name):
        module = f"base_model.model.{foreign_name(HUGGINGFACE_NAMES, ours).removesuffix('.weight')}"
        halves[f"{module}.lora_A.weight"] = rng.standard_normal((rank, columns)).astype(np.float32) * np.float32(0.01)
        halves[f"{module}.lora_B.weight"] = rng.standard_normal((rows, rank)).astype(np.float32) * np.float32(0.01)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
    save_file(halves, folder / "adapter_model.safetensors")
    return folder


def seconds(work: Callable[[bool], object], adapted: bool) -> float:
    start = time.perf_counter()
    work(adapted)
    return time.perf_counter() - start


def measures(llm: LLM) -> dict[str, Callable[[bool], object]]:
    """Name -> what is timed, with adapters or without."""
    rng = np.random.default_rng(0)
    ids: list[int] = rng.integers(100, llm.model.vocab_size - 100, PROMPT).tolist()

    def generate(count: int, tokens: int, adapted: bool, prompt: list[int]) -> object:
        params = [
            SamplingParams(max_tokens=tokens, ignore_eos=True, lora_name=NAMES[i % len(NAMES)] if adapted else None)
            for i in range(count)
        ]
        return llm.generate([prompt] * count, params, progress=False)

    return {
        "decode": lambda adapted: generate(1, DECODED, adapted, ids[:1]),
        "prefill": lambda adapted: generate(1, 1, adapted, ids),
        "batch": lambda adapted: generate(8, IN_BATCH, adapted, ids[:8]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shapes = adaptable(formats.open_checkpoint(hub.resolve(given.model, SILENT)).config)
        paths = [write_adapter(Path(folder) / name, shapes, given.rank, seed) for seed, name in enumerate(NAMES)]
        modules = tuple(f"{name}={path}" for name, path in zip(NAMES, paths, strict=True))
        settings = {"threads": given.threads, "device": given.device}
        with LLM(given.model, prefix_cache=False, speculation="off", lora_modules=modules, report=SILENT, **settings) as llm:
            for what, work in measures(llm).items():
                work(True)
                work(False)
                ratios = []
                for pair in range(given.pairs):
                    times = {adapted: seconds(work, adapted) for adapted in (pair % 2 == 0, pair % 2 == 1)}
                    ratios.append(times[True] / times[False])
                print(
                    f"{what}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) times the seconds",
                    flush=True,
                )


if __name__ == "__main__":
    main()
