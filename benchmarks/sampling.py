"""What sampling costs the host: microseconds for each token, and as a share of a decode step of the default model.

    python benchmarks/sampling.py [--rounds 9] [--vocab-size 128256]

The rows of logits are the default model's own, of an answer. Larger ones repeat its 49,152, the copies 4 lower. Steps
and samples take turns, so that both see the same load; the times are those of the fastest round. A step is one of an answer
without guesses, timed at the wall, because all threads take part; a sample is timed by its thread.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from puna import LLM
from puna.history import History, Row
from puna.request import TEMPERATURE_FIRST, SamplingParams
from puna.sampling import Sampler

TOKENS, QUESTION = 48, "Tell me about llamas in the Andes."
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 0.8},
    "top-p": {"temperature": 0.8, "top_p": 0.95},
    "top-p, flat rows": {"temperature": 2.0, "top_p": 0.95, "samplers": TEMPERATURE_FIRST},
    "top-k, top-p, min-p": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "min-p": {"temperature": 0.8, "min_p": 0.05},
    "typical-p": {"temperature": 0.8, "typical_p": 0.95},
    "top-n-sigma": {"temperature": 0.8, "top_n_sigma": 1.0},
    "min-p, XTC": {"temperature": 0.8, "min_p": 0.02, "xtc_probability": 0.5},
    "dynamic temperature": {"temperature": 0.8, "dynatemp_range": 0.5, "min_p": 0.05},
    "mirostat 2": {"temperature": 0.8, "mirostat": 2},
    "min-p, adaptive-p": {"temperature": 0.8, "min_p": 0.05, "adaptive_target": 0.5},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.1, "penalty_last_n": 64, "min_p": 0.05},
    "DRY": {"temperature": 0.8, "dry_multiplier": 0.8, "min_p": 0.05},
}


class Watcher:
    """A greedy sampler that keeps the logits."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def sample(self, logits: Row, history: History) -> int:
        self.rows.append(logits.copy())
        return int(logits.argmax())


def step_s(llm: LLM) -> float:
    """Seconds of a decode step: of an answer of `TOKENS` tokens, without the first."""
    completion = llm.chat(QUESTION, max_tokens=TOKENS, ignore_eos=True)
    return 1 / completion.timing.decode_per_s


def sample_s(rows: list[Row], ids: list[int], settings: dict[str, Any]) -> float:
    """Seconds of a thread for each token."""
    sampler = Sampler(SamplingParams(seed=1, **settings), len(rows[0]))
    start = time.thread_time()
    for number, row in enumerate(rows):
        sampler.sample(row, History(ids, ids[:number]))
    return (time.thread_time() - start) / len(rows)


def enlarged(row: Row, size: int) -> Row:
    copies = -(-size // len(row))
    return np.concatenate([row, *[row - 4] * (copies - 1)])[:size].astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--vocab-size", type=int, default=128256)
    given = parser.parse_args()
    steps: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in SETTINGS}
    with LLM(speculation="off") as llm:
        watcher = Watcher()
        ids = list(llm.chat(QUESTION, max_tokens=TOKENS, ignore_eos=True, sampler=watcher).token_ids)
        rows = [enlarged(row, given.vocab_size) for row in watcher.rows]
        for _ in range(given.rounds):
            steps.append(step_s(llm))
            for name, settings in SETTINGS.items():
                times[name].append(sample_s(rows, ids, settings))
    step = min(steps)
    print(f"a decode step of the default model: {step * 1e3:.2f} ms; sampling from {given.vocab_size} logits:")
    best = {name: min(values) for name, values in times.items()}
    for name, seconds in best.items():
        print(f"{name:22} {seconds * 1e6:7.0f} us  {seconds / step:6.1%}")
    print(json.dumps({"step_us": step * 1e6, **{name: seconds * 1e6 for name, seconds in best.items()}}))


if __name__ == "__main__":
    main()
