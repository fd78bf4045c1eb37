"""Where speculation pays: each conversation with and without it, in turns of a few tokens, in one process.

    python benchmarks/speculation.py [MODEL] [--pairs 3] [--tokens 200] [--threads 1] [--temperature 0] [--seed 1]
    python benchmarks/speculation.py MODEL --draft-model SMALL      # guesses of a draft model instead of n-grams
    python benchmarks/speculation.py MODEL --draft-model SMALL --guesses 3 --kinds chat copy --first 4
    python benchmarks/speculation.py --none                         # both without guesses: how far two equal runs differ
    python benchmarks/speculation.py --table                        # where a draft model pays, computed from the costs of steps

Four kinds of conversations: chats, second turns of chats, texts and code to be repeated with one change, and to be repeated as
they are. A ratio is that of the decode speeds of one conversation: the median of its pairs. The two answers of a pair are made in
turns of `TURN` tokens, so that a machine that is not quiet slows both, and with the same weights: two copies of one model differ
by up to a tenth, by where they lie in memory. Time is CPU time with one thread, else wall-clock time. The texts must be the same.
Earlier answers are forgotten before each answer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from puna.backends.base import Backend
from puna.batch import Batch, Pending, SamplingBatch
from puna.config import EngineConfig
from puna.draft_model import ModelDrafter
from puna.llm import LLM, Stream
from puna.loading import load_parts
from puna.progress import PlainReporter
from puna.speculation import MAX_DRAFT, MODEL_GAIN, NGramDrafter, StepCosts

PARAGRAPH = (
    "The puna is the high plain of the central Andes, in southern Peru, western Bolivia, northern Chile and north-western "
    "Argentina. It lies between 3,800 and 4,800 metres above the sea, above the tree line and below the permanent snow. Grasses, "
    "herbs, mosses and small shrubs grow there, and llamas, alpacas and vicunas graze on them. The days are sunny and cool, the "
    "nights are cold, and frost can come in every month of the year. People have lived there for thousands of years: they keep "
    "animals, grow potatoes and quinoa, and trade wool and salt with the valleys below."
)
CODE = '''```python
class Stack:
    """A last-in, first-out collection."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("peek at an empty stack")
        return self.items[-1]

    def __len__(self):
        return len(self.items)
```'''
PROMPTS: dict[str, tuple[str, ...]] = {
    "chat": (
        "What is the capital of Peru, and what is it known for?",
        "Explain photosynthesis to a child.",
        "Write a short story about a lighthouse keeper.",
        "How do I make a good cup of tea?",
        "What is the difference between a process and a thread?",
        "Write a polite letter that cancels an appointment.",
        "Give me five ideas for a rainy Sunday.",
        "Why is the sky blue?",
        "Write a Python function that tells whether a number is prime.",
        "What should I see in Rome in two days?",
        "Write a SQL query that lists customers without orders.",
        "Compare Python and Java in a table.",
        "List the planets with one fact each.",
        "Explain what a REST API is, with an example in JSON.",
        "Translate 'good morning, how are you?' into Spanish, French and German.",
    ),
    "second turn": (
        "Say that in a shorter way.",
        "Can you give me another example?",
        "Now explain the second point in more detail.",
        "Why?",
        "Write the same for a ten-year-old.",
    ),
    "one change": (
        f'Repeat this text word for word, but write "lamas" for "llamas":\n\n{PARAGRAPH}',
        f"Correct the spelling of this text and return the whole text:\n\n{PARAGRAPH.replace('animals', 'animls')}",
        f"Rename the method push to add, and return the whole class:\n\n{CODE}",
        f"Rename the class to Pile, and return the whole class:\n\n{CODE}",
    ),
    "copy": (f"Copy this code exactly:\n\n{CODE}", f"Repeat this text word for word:\n\n{PARAGRAPH}"),
}


class PagesFrom:
    """A backend whose pages begin with page `first`, so that two engines can share it."""

    def __init__(self, backend: Backend, first: int) -> None:
        self._backend, self._first = backend, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def step(self, batch: Batch, sampling: SamplingBatch | None = None) -> Pending:
        tables = batch.page_tables
        moved = np.where(tables < 0, tables, tables + np.int32(self._first))
        return self._backend.step(dataclasses.replace(batch, page_tables=moved), sampling)


def loaded(given: argparse.Namespace) -> tuple[LLM, LLM]:
    """The model without guesses and, with the same weights and half of the pages, the model with guesses."""
    settings: dict[str, Any] = {"device": given.device, "threads": given.threads, "max_context": 2048, "prefix_cache": False}
    reporter = PlainReporter()
    parts = load_parts(given.model, EngineConfig(speculation="off", **settings), None, reporter, None)
    half = parts.plan.num_pages // 2
    how: dict[str, Any] = {"draft_model": given.draft_model} if given.draft_model else {"speculation": "ngram"}
    guessing = EngineConfig(**({"speculation": "off"} if given.none else how), **settings)
    plan = dataclasses.replace(parts.plan, num_pages=half)
    lower: Any = PagesFrom(parts.backend, 0)
    upper: Any = PagesFrom(parts.backend, half)
    return (
        LLM.from_parts(parts.checkpoint, parts.tokenizer, lower, plan, parts.config, report=reporter),
        LLM.from_parts(parts.checkpoint, parts.tokenizer, upper, plan, guessing, report=reporter),
    )


TURN = 8  # tokens


@dataclass
class Run:
    """One answer, and the seconds that it has taken after its first token."""

    stream: Stream
    clock: Callable[[], float]
    seconds: float = 0.0

    def take(self) -> bool:
        """Make some tokens; whether there may be more."""
        start = self.clock()
        num_outputs = sum(1 for _ in islice(self.stream, TURN))
        self.seconds += self.clock() - start
        return num_outputs == TURN

    @property
    def speed(self) -> float:
        return max(1, len(self.stream.completion.token_ids) - 1) / self.seconds


def begun(llm: LLM, messages: Any, given: argparse.Namespace) -> Run:
    if isinstance(drafter := llm.engine._drafter, NGramDrafter):
        drafter._answers.clear()
    stream = llm.chat_stream(messages, max_tokens=given.tokens, temperature=given.temperature, seed=given.seed)
    next(stream)
    return Run(stream, time.process_time if given.threads == 1 else time.perf_counter)


def pair(llms: tuple[LLM, LLM], messages: Any, given: argparse.Namespace) -> tuple[float, Any]:
    """How many times as fast the second model answers as the first, and its completion."""
    plain, guessing = runs = [begun(llm, messages, given) for llm in llms]
    unfinished = runs[:]
    while unfinished:
        unfinished = [run for run in unfinished if run.take()]
    answer, same = plain.stream.completion, guessing.stream.completion
    assert answer.token_ids == same.token_ids, "speculation changed a text"
    return guessing.speed / plain.speed, same


def conversations(llm: LLM, given: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """(kind, messages). A second turn follows the model's answer to a chat."""
    settings = {"max_tokens": given.tokens, "temperature": given.temperature, "seed": given.seed}
    for kind in given.kinds:
        for number, prompt in enumerate(PROMPTS[kind][: given.first]):
            first = PROMPTS["chat"][number]
            turn: Any = (
                [{"role": "user", "content": first}, {"role": "assistant", "content": ""}] if kind == "second turn" else []
            )
            if turn:
                turn[1]["content"] = llm.chat(first, **settings).text
            yield kind, [*turn, {"role": "user", "content": prompt}]


def compare(llms: tuple[LLM, LLM], given: argparse.Namespace) -> Iterator[tuple[str, float, Any]]:
    """(kind, ratio, completion) of each conversation of more than 20 tokens."""
    for kind, messages in conversations(llms[0], given):
        pairs = [pair(llms, messages, given) for _ in range(given.pairs)]
        ratio, completion = statistics.median(one for one, _ in pairs), pairs[-1][1]
        if len(completion.token_ids) > 20:
            timing = completion.timing
            counts = f"{len(completion.token_ids):>5}{timing.num_drafted:>9}{timing.num_accepted:>7}"
            print(f"{kind:12}{ratio:>7.3f}{counts}   {messages[-1]['content'].splitlines()[0][:60]}", flush=True)
            yield kind, ratio, completion


ODDS, GUESS_COSTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)


def print_table() -> None:
    """Where a draft model pays: the expected speed of one request, by the odds of a guess and by what one costs."""
    costs = StepCosts(MODEL_GAIN)
    print("a guess costs" + "".join(f"{cost:>12.2f}" for cost in GUESS_COSTS) + "   (a step of the large model = 1)")
    for odds in ODDS:
        lengths = [costs.length([odds] * MAX_DRAFT, 1, cost) for cost in GUESS_COSTS]
        speeds = [
            sum(odds**n for n in range(length + 1)) / (costs[1 + length] + length * cost)
            for length, cost in zip(lengths, GUESS_COSTS, strict=True)
        ]
        cells = (f"{speed:.2f}x of {length}" if length else "-" for speed, length in zip(speeds, lengths, strict=True))
        print(f"{odds:>7.0%} right" + "".join(f"{cell:>12}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", nargs="+", choices=PROMPTS, default=list(PROMPTS))
    parser.add_argument("--first", type=int, default=None, help="only so many conversations of each kind")
    parser.add_argument("--guesses", type=int, default=0, help="always so many guesses, whether they pay or not")
    parser.add_argument("--none", action="store_true", help="no guesses on either side: what the machine alone makes of a pair")
    parser.add_argument("--draft-model", default="", help="measure guesses of this model instead of n-grams")
    parser.add_argument(
        "--table", action="store_true", help="print where a draft model pays, from the costs of steps; measure nothing"
    )
    given = parser.parse_args()
    if given.table:
        print_table()
        return
    plain, guessing = loaded(given)
    with plain, guessing:
        costs: StepCosts | None = getattr(guessing.engine._drafter, "_costs", None)
        if given.guesses and costs is not None:
            costs.length = lambda odds, rows, guess=0.0: min(given.guesses, len(odds))  # type: ignore[method-assign]
        print(f"{'':12}{'ratio':>7}{'of':>5}{'guesses':>9}{'right':>7}   ({given.pairs} pairs each)")
        results = list(compare((plain, guessing), given))
        if isinstance(drafter := guessing.engine._drafter, ModelDrafter):
            wide = ", ".join(f"{1 + count} rows {drafter._costs[1 + count]:.2f}" for count in (1, 2, 3, 7))
            print(f"a guess costs {drafter._guess_cost:.3f} of a step of one row; {wide}")
    rows = []
    print(f"{'':12}{'mean':>7}{'lowest':>8}{'highest':>9}{'guesses':>9}{'right':>7}")
    for kind in given.kinds:
        ratios = [ratio for name, ratio, _ in results if name == kind] or [0.0]
        timings = [completion.timing for name, _, completion in results if name == kind]
        drafted, accepted = sum(t.num_drafted for t in timings), sum(t.num_accepted for t in timings)
        row = (statistics.fmean(ratios), min(ratios), max(ratios))
        print(f"{kind:12}{row[0]:>7.2f}{row[1]:>8.3f}{row[2]:>9.2f}{drafted:>9}{accepted / max(1, drafted):>7.0%}")
        rows.append(
            {"kind": kind, "mean": round(row[0], 3), "lowest": round(row[1], 3), "drafted": drafted, "accepted": accepted}
        )
    print(json.dumps({"threads": given.threads, "pairs": given.pairs, "temperature": given.temperature, "rows": rows}))


if __name__ == "__main__":
    main()
