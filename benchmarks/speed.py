"""Decode, prefill and requests against llama.cpp: the programs take turns on the same file, and the ratios of the pairs count.

    python benchmarks/speed.py [MODEL.gguf] [--pairs 7] [--threads 2] [--measures decode,prefill,2000,requests,alone]

`puna bench --vs llama.cpp` measures the first three, and is what this uses for them; here they stand beside the requests. A pair
is one run of each, the order changing from pair to pair. decode: 128 tokens one at a time after one of prompt (tg128). prefill:
512 tokens of prompt (pp512). A number: 64 tokens one at a time after so many of prompt (tg64 @ d2000). requests: 32 requests that
come together, with 32 to 256 tokens of prompt and of answer, generated tokens per second; llama.cpp has 8 slots, and fills one
anew as its server does. alone: the same requests one after the other. Reported: the median of the pair ratios, and their range.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna import hub
from puna.llm import LLM
from puna.peers import PEERS
from puna.peers.comparison import PeerComparison, Rival, Workload
from puna.peers.pairs import alternate, summary
from puna.peers.process import dialogue
from puna.progress import SILENT
from puna.request import SamplingParams

PROMPT, GENERATED, AT_DEPTH = 512, 128, 64
NUM_REQUESTS, SLOTS, LENGTHS = 32, 8, (32, 256)
WHOLE = ("requests", "alone")  # measures of all requests together
WHOLE_CONTEXT = NUM_REQUESTS * 2 * LENGTHS[1] // 4  # puna's KV pages hold four sequences of this length: all requests
Requests = list[tuple[list[int], int]]  # prompts, and the number of tokens that each asks for


def workload(what: str) -> Workload:
    """The workload of a name in `--measures` that is not one of WHOLE."""
    known = {"decode": Workload.decode(GENERATED), "prefill": Workload.prompt(PROMPT)}
    return known.get(what) or Workload.decode(AT_DEPTH, int(what))


def mixed_requests() -> Requests:
    """Prompts without a common beginning."""
    import numpy as np

    rng = np.random.default_rng(1)
    lengths = rng.integers(*LENGTHS, (NUM_REQUESTS, 2), endpoint=True).tolist()
    return [(rng.integers(100, 30000, prompt).tolist(), generated) for prompt, generated in lengths]


def served_by_puna(llm: LLM, what: str) -> float:
    """Generated tokens per second of all requests."""
    requests = mixed_requests()
    start = time.perf_counter()
    for batch in [requests] if what == "requests" else [[one] for one in requests]:
        llm.generate([ids for ids, _ in batch], [SamplingParams(max_tokens=count, ignore_eos=True) for _, count in batch])
    return sum(count for _, count in requests) / (time.perf_counter() - start)


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

    def serve(self, requests: Requests, num_slots: int) -> float:
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


def serve_slots(model: Path, threads: int) -> None:
    """The child: measure what each line of JSON names."""
    slots = Slots(model, threads)
    for line in sys.stdin:
        num_slots = 1 if json.loads(line)["what"] == "alone" else SLOTS
        print(json.dumps({"rate": slots.serve(mixed_requests(), num_slots)}), flush=True)


@contextmanager
def llama_cpp_slots(model: Path, threads: int) -> Iterator[Callable[[str], float]]:
    """llama.cpp's side of the requests, in a process of its own."""
    command = [sys.executable, __file__, str(model), "--threads", str(threads), "--serve-slots"]
    with dialogue(command, threads) as child:
        yield lambda what: float(child.ask({"what": what})["rate"])


def rows_of(llm: LLM, measures: list[str], pairs: int) -> Iterator[dict[str, Any]]:
    """What is measured, the medians of both in tokens per second, the ratio with its range."""
    single = [what for what in measures if what not in WHOLE]
    if single:
        comparison = PeerComparison(llm, [workload(what) for what in single], pairs, SILENT)
        facts = comparison.against(Rival("llama.cpp", PEERS["llama.cpp"]))
        yield from ({"what": what} | row for what, row in zip(single, facts["tests"], strict=True))
    for what in measures:
        if what in WHOLE:
            with llama_cpp_slots(llm.path, llm.backend.info.threads) as slots:
                found = alternate(lambda name: served_by_puna(llm, name), slots, [what] * (pairs + 1))
            yield {"what": what} | summary(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measures", default="decode,prefill")
    parser.add_argument("--serve-slots", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_slots:
        serve_slots(given.model, given.threads)
        return
    measures = given.measures.split(",")
    tests = [workload(what) for what in measures if what not in WHOLE]
    longest = max([*(test.num_read + test.num_written for test in tests), *(WHOLE_CONTEXT for what in measures if what in WHOLE)])
    model = given.model or hub.resolve(None, SILENT)
    print(f"{model.name}, {given.threads} threads, {given.pairs} pairs")
    print(f"{'':10}{'puna':>10}{'llama.cpp':>12}{'ratio':>8}   range")
    with LLM.load(model, threads=given.threads, max_context=longest + 16, prefix_cache=False, speculation="off") as llm:
        rows = []
        for row in rows_of(llm, measures, given.pairs):
            rows.append(row)
            print(f"{row['what']:10}{row['puna']:>10}{row['peer']:>12}{row['ratio']:>8}   {row['min']}-{row['max']}")
    print(json.dumps({"model": model.name, "threads": given.threads, "pairs": given.pairs, "rows": rows}))


if __name__ == "__main__":
    main()
