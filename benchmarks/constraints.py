"""What constraints cost, as a share of the decode steps of the same run, and what jump-ahead saves.

    python benchmarks/constraints.py [MODEL] [--answers 24]

The time of a constraint is everything that it adds to a token: its mask, the masked row, and the matcher's way on. Sampling
itself and the forward pass count as the step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from puna.constraints import Constraint
from puna.llm import LLM
from puna.sampling import Sampler

TEXT = {"type": "string", "maxLength": 60}
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": TEXT,
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": TEXT, "maxItems": 4},
        },
        "required": ["name", "age", "tags"],
    },
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "date": {"type": "string", "format": "date"},
                "kind": {"enum": ["walk", "meal", "rest"]},
                "note": TEXT,
            },
            "required": ["date", "kind", "note"],
        },
        "minItems": 2,
        "maxItems": 3,
    },
    {
        "type": "object",
        "properties": {"answer": {"type": "string"}, "score": {"type": "number"}},
        "required": ["answer", "score"],
    },
    {"type": "object"},
]
PROMPT = "Tell me about a day of Ada the llama."


@contextmanager
def timed(owner: type[Any], name: str, spent: list[float]) -> Iterator[None]:
    """Add the seconds of each call of a method to `spent`."""
    method: Callable[..., Any] = getattr(owner, name)

    def measured(*args: Any) -> Any:
        start = time.perf_counter()
        try:
            return method(*args)
        finally:
            spent.append(time.perf_counter() - start)

    setattr(owner, name, measured)
    try:
        yield
    finally:
        setattr(owner, name, method)


def share(llm: LLM, count: int) -> dict[str, float]:
    """The time of constraints over that of the steps; of all calls, and of the median ones."""
    asked, sampled, accepted, forced, steps = (list[float]() for _ in range(5))
    llm.chat(PROMPT, json_schema=SCHEMAS[0], max_tokens=8)
    with (
        timed(Constraint, "sample", asked),
        timed(Sampler, "sample", sampled),
        timed(Constraint, "accept", accepted),
        timed(Constraint, "forced", forced),
        timed(type(llm.backend), "step", steps),
    ):
        for number in range(count):
            llm.chat(PROMPT, json_schema=SCHEMAS[number % len(SCHEMAS)], max_tokens=100, temperature=0.7, seed=number)
    own = [one - inner for one, inner in zip(asked, sampled, strict=True)]
    median = sum(map(statistics.median, (own, accepted, forced)))
    total = sum(own) + sum(accepted) + sum(forced)
    return {
        "median_us": 1e6 * median,
        "step_ms": 1e3 * statistics.median(steps),
        "median_share": median / statistics.median(steps),
        "total_share": total / (sum(steps) + sum(sampled)),
        "tokens_per_step": len(accepted) / len(asked),
    }


def jump_ahead_gain(llm: LLM, count: int) -> float:
    """Seconds of an answer without jump-ahead over those with it: the median of alternating pairs."""
    jump, ratios = Constraint.forced, list[float]()
    for number in range(count):
        seconds = list[float]()
        for method in (lambda self: (), jump):
            Constraint.forced = method  # type: ignore[method-assign, assignment]
            start = time.perf_counter()
            llm.chat(PROMPT, json_schema=SCHEMAS[number % 2], max_tokens=200, temperature=0.7, seed=number)
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?")
    parser.add_argument("--answers", type=int, default=24)
    given = parser.parse_args()
    with LLM(given.model) as llm:
        start = time.perf_counter()
        llm.engine.admission.constraints.require(llm.default_params.__class__(json_schema=SCHEMAS[0]))
        found = {
            "first_s": time.perf_counter() - start,
            **share(llm, given.answers),
            "jump_gain": jump_ahead_gain(llm, given.answers),
        }
    print(f"first constraint, with the vocabulary: {found['first_s']:.2f} s")
    print(f"a constraint itself: {found['median_us']:.0f} us of a step of {found['step_ms']:.2f} ms: {found['median_share']:.1%}")
    print(f"of all steps together: {found['total_share']:.1%}; tokens per step: {found['tokens_per_step']:.2f}")
    print(f"an answer without jump-ahead takes {found['jump_gain']:.2f} times as long")
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
