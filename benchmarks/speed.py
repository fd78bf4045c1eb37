"""Decode and prefill against llama.cpp: two processes take turns on the same file, and the ratios of the pairs count.

    python benchmarks/speed.py [MODEL.gguf] [--pairs 7] [--threads 2]

Each process loads the model once, then waits on its standard input; only one runs at a time. A pair is one run of each, the
order changing from pair to pair. decode: 128 tokens one at a time after one of prompt (tg128). prefill: 512 tokens of prompt
(pp512). Reported: the median of the pair ratios, and their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROMPT, GENERATED = 512, 128


def serve_puna(model: Path, threads: int) -> None:
    import numpy as np

    from puna.llm import LLM

    llm = LLM.load(model, threads=threads, prefix_cache=False)
    ids = np.random.default_rng(0).integers(100, 30000, PROMPT).tolist()

    def decode() -> float:
        timing = llm.generate(ids[:1], max_tokens=GENERATED + 1, ignore_eos=True).timing
        return timing.decode_per_s

    def prefill() -> float:
        return llm.generate(ids, max_tokens=1, ignore_eos=True).timing.prefill_per_s

    answer({"decode": decode, "prefill": prefill})


def serve_llama_cpp(model: Path, threads: int) -> None:
    import llama_cpp
    import numpy as np

    llm = llama_cpp.Llama(str(model), n_ctx=1024, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    ids = np.random.default_rng(0).integers(100, 30000, PROMPT).tolist()

    def decode() -> float:
        llm.reset()
        llm.eval(ids[:1])
        start = time.perf_counter()
        for token in ids[1 : GENERATED + 1]:
            llm.eval([token])
        return GENERATED / (time.perf_counter() - start)

    def prefill() -> float:
        llm.reset()
        start = time.perf_counter()
        llm.eval(ids)
        return PROMPT / (time.perf_counter() - start)

    answer({"decode": decode, "prefill": prefill})


SERVERS = {"puna": serve_puna, "llama.cpp": serve_llama_cpp}


def answer(measures: dict[str, Any]) -> None:
    """Run the measure that each line names and print its result."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(measures[line.strip()](), flush=True)


class Runner:
    """A process that measures when it is asked to."""

    def __init__(self, name: str, model: Path, threads: int) -> None:
        command = [sys.executable, __file__, str(model), "--threads", str(threads), "--serve", name]
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
    """Tokens per second of both, in alternating order, after a run of each that does not count."""
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
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        SERVERS[given.serve](given.model, given.threads)
        return
    from puna import hub
    from puna.report import SILENT

    model = given.model or hub.resolve(None, SILENT)
    runners = {name: Runner(name, model, given.threads) for name in SERVERS}
    rows = [compare(runners, what, given.pairs) for what in ("decode", "prefill")]
    print(f"{model.name}, {given.threads} threads, {given.pairs} pairs")
    print(f"{'':10}{'puna':>10}{'llama.cpp':>12}{'ratio':>8}   range")
    for row in rows:
        low, high = row["range"]
        print(f"{row['what']:10}{row['puna']:>10}{row['llama.cpp']:>12}{row['ratio']:>8}   {low}-{high}")
    print(json.dumps({"model": model.name, "threads": given.threads, "pairs": given.pairs, "rows": rows}))


if __name__ == "__main__":
    main()
