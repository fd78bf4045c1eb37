"""Where speculation pays: the same prompts with and without it, alternating, in one process.

    python benchmarks/speculation.py [MODEL] [--pairs 3] [--tokens 200] [--threads 1] [--temperature 0]
    python benchmarks/speculation.py MODEL --draft-model SMALL      # guesses of a draft model instead of n-grams
    python benchmarks/speculation.py --table                        # where a draft model pays, computed from the costs of steps

Three kinds of prompts: chats, texts and code to be repeated with one change, and to be repeated as they are. Each ratio is that
of the decode speeds of one prompt's pair, by CPU time with one thread (a machine that is not quiet disturbs it less), else by
wall-clock time. The texts must be the same. Earlier answers are forgotten before each answer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from puna.llm import LLM
from puna.speculation import NGramDrafter, StepCosts

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
    ),
    "one change": (
        f'Repeat this text word for word, but write "lamas" for "llamas":\n\n{PARAGRAPH}',
        f"Correct the spelling of this text and return the whole text:\n\n{PARAGRAPH.replace('animals', 'animls')}",
        f"Rename the method push to add, and return the whole class:\n\n{CODE}",
        f"Rename the class to Pile, and return the whole class:\n\n{CODE}",
    ),
    "copy": (f"Copy this code exactly:\n\n{CODE}", f"Repeat this text word for word:\n\n{PARAGRAPH}"),
}


def decode_speed(llm: LLM, prompt: str, tokens: int, temperature: float, clock: Callable[[], float]) -> tuple[float, Any]:
    """Tokens per second after the first one, and the completion."""
    if isinstance(drafter := llm.engine._drafter, NGramDrafter):
        drafter._answers.clear()
    with llm.chat_stream(prompt, max_tokens=tokens, temperature=temperature, seed=1) as stream:
        next(stream)
        start = clock()
        for _ in stream:
            pass
        seconds = clock() - start
    completion = stream.completion
    return max(1, len(completion.token_ids) - 1) / seconds, completion


def compare(plain: LLM, guessing: LLM, given: argparse.Namespace) -> Iterator[tuple[str, float, Any]]:
    """(kind, ratio, completion) of each pair, in alternating order."""
    clock = time.process_time if given.threads == 1 else time.perf_counter
    for pair in range(given.pairs):
        for kind, prompts in PROMPTS.items():
            for number, prompt in enumerate(prompts):
                order = (plain, guessing) if (pair + number) % 2 == 0 else (guessing, plain)
                made = {llm: decode_speed(llm, prompt, given.tokens, given.temperature, clock) for llm in order}
                (before, answer), (after, same) = made[plain], made[guessing]
                assert answer.token_ids == same.token_ids, "speculation changed a text"
                if len(answer.token_ids) > 20:
                    yield kind, after / before, same


ODDS, GUESS_COSTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95), (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)


def print_table() -> None:
    """Where a draft model pays: the expected speed of one request, by the odds of a guess and by what one costs."""
    costs = StepCosts()
    print("a guess costs" + "".join(f"{cost:>12.2f}" for cost in GUESS_COSTS) + "   (a step of the large model = 1)")
    for odds in ODDS:
        lengths = [costs.length(odds, 1, cost) for cost in GUESS_COSTS]
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--draft-model", default="", help="measure guesses of this model instead of n-grams")
    parser.add_argument(
        "--table", action="store_true", help="print where a draft model pays, from the costs of steps; measure nothing"
    )
    given = parser.parse_args()
    if given.table:
        print_table()
        return
    how: dict[str, Any] = {"draft_model": given.draft_model} if given.draft_model else {"speculation": "ngram"}
    settings: dict[str, Any] = {"device": given.device, "threads": given.threads, "max_context": 2048, "prefix_cache": False}
    with (
        LLM.load(given.model, speculation="off", **settings) as plain,
        LLM.load(given.model, **how, **settings) as guessing,
    ):
        results = list(compare(plain, guessing, given))
    rows = []
    print(f"{'':12}{'ratio':>7}{'lowest':>8}{'highest':>9}{'guesses':>9}{'right':>7}   ({given.pairs} pairs of each prompt)")
    for kind in PROMPTS:
        ratios = [ratio for name, ratio, _ in results if name == kind]
        timings = [completion.timing for name, _, completion in results if name == kind]
        drafted, accepted = sum(t.num_drafted for t in timings), sum(t.num_accepted for t in timings)
        row = (statistics.median(ratios), min(ratios), max(ratios))
        print(f"{kind:12}{row[0]:>7.2f}{row[1]:>8.2f}{row[2]:>9.2f}{drafted:>9}{accepted / max(1, drafted):>7.0%}")
        rows.append(
            {"kind": kind, "ratio": round(row[0], 3), "lowest": round(row[1], 3), "drafted": drafted, "accepted": accepted}
        )
    print(json.dumps({"threads": given.threads, "pairs": given.pairs, "temperature": given.temperature, "rows": rows}))


if __name__ == "__main__":
    main()
