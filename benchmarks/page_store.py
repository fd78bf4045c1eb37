"""The prefix cache on disk: the first token of a long prompt before and after a restart, and its cost where nothing is shared.

    python benchmarks/page_store.py [--model PATH] [--tokens 8000] [--starts 3] [--pairs 10]

Each start is a process of its own, with the same random prompt and the folder of the first. The cost is measured in one process,
in pairs of the same requests without and with a folder: new prompts each time, in turns, until all is saved. CPU time is that of
all threads; other programs disturb it less than the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from puna.llm import LLM
from puna.progress import SILENT

PROMPTS, LENGTH, NEW = 4, 300, 40  # of a run of the second part


def random_prompt(vocab_size: int, length: int, seed: int) -> list[int]:
    ids: list[int] = np.random.default_rng(seed).integers(10, vocab_size - 1000, length).tolist()
    return ids


def first_token(model: str | None, folder: str, tokens: int) -> dict[str, float]:
    """Seconds until the first token, and of CPU, in this process; how many tokens were found."""
    with LLM(model, cache_dir=folder, report=SILENT) as llm:
        cpu = time.process_time()
        stream = llm.stream(random_prompt(llm.model.vocab_size, tokens, seed=1), max_tokens=1, ignore_eos=True)
        next(stream)
        seconds = stream.handle.first_token_at - stream.handle.submitted_at
        return {"seconds": seconds, "cpu": time.process_time() - cpu, "cached": stream.completion.num_cached}


def in_a_process(given: argparse.Namespace, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", folder, "--tokens", str(given.tokens)]
    done = subprocess.run([*command, *(["--model", given.model] if given.model else [])], capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def cost_of(llm: LLM, seed: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, of a run with new prompts, until all its pages are saved."""
    prompts = [random_prompt(llm.model.vocab_size, LENGTH, seed + number) for number in range(PROMPTS)]
    start, cpu = time.perf_counter(), time.process_time()
    llm.generate(prompts, max_tokens=NEW, ignore_eos=True, progress=False)
    seconds = time.perf_counter() - start
    if llm.stored_pages is not None:
        saved = threading.Event()
        llm.stored_pages._do(llm.stored_pages._save_all)
        llm.stored_pages._do(lambda store: saved.set())
        saved.wait()
    return seconds, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.folder:
        print(json.dumps(first_token(given.model, given.folder, given.tokens)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if given.starts:
            first, *later = [in_a_process(given, folder) for _ in range(given.starts)]
            print(f"first start: {first['seconds']:.2f} s to the first token, {first['cpu']:.2f} s of CPU")
            for one in later:
                shares = one["seconds"] / first["seconds"], one["cpu"] / first["cpu"]
                told = f"{one['seconds']:.3f} s ({shares[0]:.1%}), {one['cpu']:.2f} s of CPU ({shares[1]:.1%})"
                print(f"later start: {told}, {one['cached']} tokens found")
        if given.pairs:
            compare(given, str(Path(folder) / "cost"))


def compare(given: argparse.Namespace, folder: str) -> None:
    with LLM(given.model, report=SILENT) as without, LLM(given.model, cache_dir=folder, report=SILENT) as with_store:
        pairs = [
            (cost_of(without, 1000 * pair), cost_of(with_store, 1000 * pair)) if pair % 2 else
            (cost_of(with_store, 1000 * pair), cost_of(without, 1000 * pair))[::-1]
            for pair in range(1, given.pairs + 2)
        ][1:]  # fmt: skip
    for name, part in (("clock", 0), ("CPU time", 1)):
        ratios = sorted(after[part] / before[part] for before, after in pairs)
        print(f"{name} with a folder / without: median {statistics.median(ratios):.4f}, {ratios[0]:.3f} to {ratios[-1]:.3f}")


if __name__ == "__main__":
    main()
