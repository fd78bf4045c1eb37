"""Where a draft model pays: how often it is right on answers of the large model, what a guess costs, and the speed that follows.

    python benchmarks/draft_models.py MODEL DRAFT [DRAFT ...] [--tokens 150] [--temperature 0] [--rounds 20] [--threads 1]

The draft model reads the answers that the large model gives to the conversations of `benchmarks/speculation.py`. Its likeliest
token at each place is the guess that it would have made there, so each length is replayed exactly. Costs are medians of steps of
both models in turns, by CPU time of the calling thread, so that with one thread they hold on a busy machine, too. Not counted is
that the draft model reads the prompt.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speculation import PROMPTS
from step_rows import BEFORE, seconds

from puna.llm import LLM
from puna.request import Request, SamplingParams

LENGTHS = (1, 2, 3, 5, 7)
KINDS = ("chat", "copy")

Answer = tuple[list[int], list[int]]  # ids of the prompt and of the answer


def answers(llm: LLM, kind: str, given: argparse.Namespace) -> list[Answer]:
    prompts = list(PROMPTS[kind][:8])
    completions = llm.chat(prompts, max_tokens=given.tokens, temperature=given.temperature, seed=1)
    return [(llm.encode_chat(prompt), list(one.token_ids)) for prompt, one in zip(prompts, completions, strict=True)]


def guesses(draft: LLM, answer: Answer) -> list[int]:
    """The token that the draft model takes to be the likeliest at each place of an answer."""
    prompt_ids, output_ids = answer
    done = draft.generate(prompt_ids + output_ids, max_tokens=0, prompt_logprobs=1, prompt_logprobs_start=len(prompt_ids))
    return [one.top[0][0] for one in done.prompt_logprobs[len(prompt_ids) :] if one is not None]


def steps(output_ids: Sequence[int], guessed: Sequence[int], length: int) -> int:
    """How many steps an answer takes with so many guesses in each."""
    count = place = 0
    while place < len(output_ids):
        run = (guessed[at] == output_ids[at] for at in range(place, min(place + length, len(output_ids))))
        place += 1 + next((number for number, is_right in enumerate(run) if not is_right), length)
        count += 1
    return count


def costs(large: LLM, draft: LLM, rounds: int) -> tuple[dict[int, float], float]:
    """What steps of the large model cost by their rows, and what a guess costs, in steps of one row of the large model."""
    requests = {}
    for llm in (large, draft):
        pages = list(range(-(-(BEFORE + 32) // llm.plan.page_size)))
        requests[llm] = Request(1, [5] * BEFORE, SamplingParams(), output_ids=[7], page_ids=pages)
    taken: list[tuple[dict[int, float], float]] = []
    for _ in range(rounds + 2):
        one = {rows: seconds(large, requests[large], rows) for rows in (1, *(1 + length for length in LENGTHS))}
        taken.append((one, seconds(draft, requests[draft], 1)))
    rows = {rows: statistics.median(one[rows] / one[1] for one, _ in taken[2:]) for rows in taken[0][0]}
    return rows, statistics.median(guess / one[1] for one, guess in taken[2:])


def compare(large: LLM, made: dict[str, list[Answer]], path: str, given: argparse.Namespace) -> dict[str, Any]:
    """A row of the table for each kind of text: how often guesses are right, their cost, and the speed with each length."""
    settings: dict[str, Any] = {"device": "cpu", "threads": given.threads, "max_context": 2048, "speculation": "off"}
    with LLM.load(path, prefix_cache=False, **settings) as draft:
        rows, guess = costs(large, draft, given.rounds)
        found: dict[str, Any] = {"draft": path, "guess": round(guess, 3), "rows": {n: round(cost, 2) for n, cost in rows.items()}}
        for kind, some in made.items():
            pairs = [(answer[1], guesses(draft, answer)) for answer in some]
            num_tokens = sum(len(output) for output, _ in pairs)
            right = sum(a == b for output, guessed in pairs for a, b in zip(output, guessed, strict=True)) / num_tokens
            times = {n: sum(steps(*pair, n) for pair in pairs) * (rows[1 + n] + n * guess) for n in LENGTHS}
            found[kind] = {"right": round(right, 3), **{str(n): round(num_tokens / time, 2) for n, time in times.items()}}
            speeds = "".join(f"{num_tokens / times[n]:>7.2f}" for n in LENGTHS)
            print(f"{Path(path).name[:34]:34} {kind:5}{right:>7.0%}{guess:>7.2f}{speeds}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("drafts", nargs="+")
    parser.add_argument("--tokens", type=int, default=150)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    with LLM.load(
        given.model, device="cpu", threads=given.threads, max_context=2048, speculation="off", prefix_cache=False
    ) as large:
        made = {kind: answers(large, kind, given) for kind in KINDS}
        print(f"{Path(given.model).name[:40]:40}{'right':>7}{'guess':>7}" + "".join(f"{f'x of {n}':>7}" for n in LENGTHS))
        results = [compare(large, made, draft, given) for draft in given.drafts]
    print(json.dumps({"model": given.model, "temperature": given.temperature, "threads": given.threads, "drafts": results}))


if __name__ == "__main__":
    main()
