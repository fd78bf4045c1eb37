"""Decode and prefill against llama.cpp: two processes take turns on the same file, and the ratios of the pairs count.

    python benchmarks/speed.py [MODEL.gguf] [--pairs 7] [--threads 2] [--measures decode,prefill,2000,requests,alone]

Each process loads the model once, then waits on its standard input; only one runs at a time. A pair is one run of each, the
order changing from pair to pair. decode: 128 tokens one at a time after one of prompt (tg128). prefill: 512 tokens of prompt
(pp512). A number: 64 tokens one at a time after so many of prompt (tg64 @ d2000). requests: 32 requests that come together, with
32 to 256 tokens of prompt and of answer, generated tokens per second; llama.cpp has 8 slots, and fills one anew as its server
does. alone: the same requests one after the other. Reported: the median of the pair ratios, and their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROMPT, GENERATED, AT_DEPTH = 512, 128, 64
NUM_REQUESTS, SLOTS, LENGTHS = 32, 8, (32, 256)
WHOLE = ("requests", "alone")  # measures of all requests together
WHOLE_CONTEXT = NUM_REQUESTS * 2 * LENGTHS[1] // 4  # puna's KV pages hold four sequences of this length: all requests
Measure = Callable[[str], float]  # of a name in `--measures`


def random_ids(count: int) -> list[int]:
    import numpy as np

    ids: list[int] = np.random.default_rng(0).integers(100, 30000, count).tolist()
    return ids


def amounts(what: str) -> tuple[int, int]:
    """Prompt tokens, and generated tokens; 0 generated tokens measure the prompt."""
    return {"decode": (1, GENERATED), "prefill": (PROMPT, 0)}.get(what) or (int(what), AT_DEPTH)


def mixed_requests() -> list[tuple[list[int], int]]:
    """Prompts without a common beginning, and the number of tokens that each asks for."""
    import numpy as np

    rng = np.random.default_rng(1)
    lengths = rng.integers(*LENGTHS, (NUM_REQUESTS, 2), endpoint=True).tolist()
    return [(rng.integers(100, 30000, prompt).tolist(), generated) for prompt, generated in lengths]


def serve_puna(model: Path, threads: int, longest: int) -> None:
    from puna.llm import LLM
    from puna.request import SamplingParams

    llm = LLM.load(model, threads=threads, max_context=longest, prefix_cache=False, speculation="off")

    def serve(batches: list[list[tuple[list[int], int]]]) -> float:
        start = time.perf_counter()
        for batch in batches:
            llm.generate([ids for ids, _ in batch], [SamplingParams(max_tokens=count, ignore_eos=True) for _, count in batch])
        return sum(count for batch in batches for _, count in batch) / (time.perf_counter() - start)

    def measure(what: str) -> float:
        if what in WHOLE:
            return serve([[one] for one in mixed_requests()] if what == "alone" else [mixed_requests()])
        prompt, generated = amounts(what)
        timing = llm.generate(random_ids(prompt), SamplingParams(max_tokens=generated + 1, ignore_eos=True)).timing
        return timing.decode_per_s if generated else timing.prefill_per_s

    answer(measure)


def serve_llama_cpp(model: Path, threads: int, longest: int) -> None:
    import llama_cpp

    slots = Slots(model, threads)
    llm = llama_cpp.Llama(str(model), n_ctx=longest, n_batch=512, n_threads=threads, n_threads_batch=threads, verbose=False)

    def measure(what: str) -> float:
        if what in WHOLE:
            return slots.serve(mixed_requests(), 1 if what == "alone" else SLOTS)
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


@dataclass(slots=True)
class Slot:
    """A request that llama.cpp runs as sequence `number`."""

    number: int
    waiting: list[int]  # ids that it has not computed
    left: int  # tokens to generate
    position: int = 0
    row: int = -1  # of its logits in the batch


class Slots:
    """llama.cpp's batched interface, used as its server does: a step has a token of each answer, then prompts up to n_batch."""

    BATCH = 2048

    def __init__(self, model: Path, threads: int) -> None:
        import llama_cpp

        self.api = llama_cpp
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = SLOTS * 2 * LENGTHS[1], self.BATCH, 512, SLOTS
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(self.BATCH, 0, 1)

    def serve(self, requests: list[tuple[list[int], int]], num_slots: int) -> float:
        queue, running = list(requests), dict[int, Slot]()
        start = time.perf_counter()
        while queue or running:
            for number in set(range(num_slots)) - running.keys():
                if queue:
                    ids, count = queue.pop(0)
                    self.api.llama_memory_seq_rm(self.api.llama_get_memory(self.context), number, -1, -1)
                    running[number] = Slot(number, list(ids), count)
            self._step(sorted(running.values(), key=lambda slot: len(slot.waiting)))
            running = {number: slot for number, slot in running.items() if slot.left}
        return sum(count for _, count in requests) / (time.perf_counter() - start)

    def _step(self, slots: list[Slot]) -> None:
        import numpy as np

        self.batch.n_tokens = 0
        for slot in slots:
            self._fill(slot)
        assert self.api.llama_decode(self.context, self.batch) == 0
        for slot in slots:
            if slot.row >= 0:
                logits = np.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, slot.row), (self.vocab_size,))
                slot.waiting = [int(logits.argmax())]
                slot.left -= 1

    def _fill(self, slot: Slot) -> None:
        """Put what a slot waits for into the batch, as far as it has room."""
        b = self.batch
        taken, slot.waiting = slot.waiting[: self.BATCH - b.n_tokens], slot.waiting[self.BATCH - b.n_tokens :]
        for token in taken:
            at = b.n_tokens
            b.token[at], b.pos[at], b.n_seq_id[at], b.seq_id[at][0], b.logits[at] = token, slot.position, 1, slot.number, 0
            slot.position, b.n_tokens = slot.position + 1, at + 1
        slot.row = b.n_tokens - 1 if taken and not slot.waiting else -1
        if slot.row >= 0:
            b.logits[slot.row] = 1


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
        longest = max(WHOLE_CONTEXT if what in WHOLE else sum(amounts(what)) for what in given.measures.split(","))
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
