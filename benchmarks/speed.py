"""Decode and prefill against llama.cpp: two processes take turns on the same file, and the ratios of the pairs count.

    python benchmarks/speed.py [MODEL.gguf] [--pairs 7] [--threads 2] [--measures decode,prefill,2000]

Each process loads the model once, then waits on its standard input; only one runs at a time. A pair is one run of each, the
order changing from pair to pair. decode: 128 tokens one at a time after one of prompt (tg128). prefill: 512 tokens of prompt
(pp512). A number: 64 tokens one at a time after so many of prompt (tg64 @ d2000). Reported: the median of the pair ratios, and
their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, GENERATED, AT_DEPTH = 512, 128, 64
Measure = Callable[[str], float]  # of a name in `--measures`


def random_ids(count: int) -> list[int]:
    import numpy as np

    ids: list[int] = np.random.default_rng(0).integers(100, 30000, count).tolist()
    return ids


def amounts(what: str) -> tuple[int, int]:
    """Prompt tokens, and generated tokens; 0 generated tokens measure the prompt."""
    return {"decode": (1, GENERATED), "prefill": (PROMPT, 0)}.get(what) or (int(what), AT_DEPTH)


def serve_puna(model: Path, threads: int, longest: int) -> None:
    from puna.llm import LLM
    from puna.request import SamplingParams

    llm = LLM.load(model, threads=threads, max_context=longest, prefix_cache=False, speculation="off")

    def measure(what: str) -> float:
        prompt, generated = amounts(what)
        timing = llm.generate(random_ids(prompt), SamplingParams(max_tokens=generated + 1, ignore_eos=True)).timing
        return timing.decode_per_s if generated else timing.prefill_per_s

    answer(measure)


def serve_llama_cpp(model: Path, threads: int, longest: int) -> None:
    import llama_cpp

    llm = llama_cpp.Llama(str(model), n_ctx=longest, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def measure(what: str) -> float:
        prompt, generated = amounts(what)
        ids = random_ids(prompt + generated)
        llm.reset()
        start = time.perf_counter()
        llm.eval(ids[:prompt])
        if not generated:
            return prompt / (time.perf_counter() - start)
        start = time.perf_counter()
        for token in ids[prompt:]:
            llm.eval([token])
        return generated / (time.perf_counter() - start)

    answer(measure)


SERVERS = {"puna": serve_puna, "llama.cpp": serve_llama_cpp}


def answer(measure: Measure) -> None:
    """Measure what each line names and print its result."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(measure(line.strip()), flush=True)


class Runner:
    """A process that measures on request."""

    def __init__(self, name: str, model: Path, given: argparse.Namespace) -> None:
        command = [sys.executable, __file__, str(model), "--threads", str(given.threads), "--measures", given.measures]
        command += ["--serve", name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while self._line() != "ready":
            pass

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"a process ended: {self.process.args}")
        return line.strip()

    def measure(self, what: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self._line())


def compare(runners: dict[str, Runner], what: str, pairs: int) -> dict[str, Any]:
    """Tokens per second of both programs, in alternating order, after a warm-up run of each."""
    results: dict[str, list[float]] = {name: [] for name in runners}
    for runner in runners.values():
        runner.measure(what)
    for pair in range(pairs):
        for name in list(runners) if pair % 2 == 0 else list(runners)[::-1]:
            results[name].append(runners[name].measure(what))
    ratios = [a / b for a, b in zip(*results.values(), strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in results.items()}
    return {
        "what": what,
        **medians,
        "ratio": round(statistics.median(ratios), 3),
        "range": [round(min(ratios), 3), round(max(ratios), 3)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measures", default="decode,prefill")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        longest = max(sum(amounts(what)) for what in given.measures.split(","))
        SERVERS[given.serve](given.model, given.threads, longest + 16)
        return
    from puna import hub
    from puna.progress import SILENT

    model = given.model or hub.resolve(None, SILENT)
    runners = {name: Runner(name, model, given) for name in SERVERS}
    rows = [compare(runners, what, given.pairs) for what in given.measures.split(",")]
    print(f"{model.name}, {given.threads} threads, {given.pairs} pairs")
    print(f"{'':10}{'puna':>10}{'llama.cpp':>12}{'ratio':>8}   range")
    for row in rows:
        low, high = row["range"]
        print(f"{row['what']:10}{row['puna']:>10}{row['llama.cpp']:>12}{row['ratio']:>8}   {low}-{high}")
    print(json.dumps({"model": model.name, "threads": given.threads, "pairs": given.pairs, "rows": rows}))


if __name__ == "__main__":
    main()
