"""What a decode step costs with more rows: the table by which speculation chooses how much to guess.

    python benchmarks/step_rows.py [MODEL] [--rounds 30] [--threads 2] [--device cpu]

A step of one sequence with 1 to 32 rows, each of which has logits, after 256 tokens. All numbers of rows take turns; reported are
medians of the ratios to the same round's step of one row, by CPU time of the calling thread: with one thread they hold on a busy
machine, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

from puna.batch import Batch
from puna.llm import LLM
from puna.request import Request, SamplingParams
from puna.scheduler import ScheduledChunk

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 32)
BEFORE = 256


def seconds(llm: LLM, request: Request, rows: int) -> float:
    """The time of a step of `rows` rows after `BEFORE` tokens, the first of them the last known token."""
    chunk = ScheduledChunk(request, BEFORE, BEFORE + 1, rows, True, draft_ids=tuple(range(100, 99 + rows)))
    batch = Batch.of([chunk])
    start = time.thread_time()
    llm.backend.step(batch).logits()
    return time.thread_time() - start


def measure(llm: LLM, rounds: int) -> dict[int, float]:
    """Rows -> cost in steps of one row."""
    page_ids = list(range(-(-(BEFORE + max(ROWS)) // llm.plan.page_size)))
    request = Request(1, [5] * BEFORE, SamplingParams(), output_ids=[7], page_ids=page_ids)
    taken: list[dict[int, float]] = [{rows: seconds(llm, request, rows) for rows in ROWS} for _ in range(rounds + 3)][3:]
    return {rows: round(statistics.median(one[rows] / one[1] for one in taken), 3) for rows in ROWS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    with LLM.load(given.model, device=given.device, threads=given.threads, max_context=512, prefix_cache=False) as llm:
        costs = measure(llm, given.rounds)
        threads = llm.backend.info.threads
    print(f"{'rows':>5}{'cost':>8}{'a row':>8}   (a step of one row = 1; {threads} threads)")
    for rows, cost in costs.items():
        print(f"{rows:>5}{cost:>8.2f}{cost / rows:>8.2f}")
    print(json.dumps({"threads": threads, "rounds": given.rounds, "costs": costs}))


if __name__ == "__main__":
    main()
