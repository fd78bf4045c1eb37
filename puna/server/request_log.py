"""One row for each request: which wire, how long the prompt, what came from the cache, how fast. No text, unless asked for."""

from __future__ import annotations

import json
import logging
import time

from puna.completion import Timing
from puna.server.running_job import RunningJob

log = logging.getLogger("puna.server.requests")

MAX_WORD = 500  # characters of a client's text in a row


def write(run: RunningJob) -> None:
    """The row of a job that has ended."""
    log.info("%s", row(run))


def write_texts(run: RunningJob) -> None:
    """The prompt of a job as the model got it, and its answers (`ServerSettings.log_prompts`): one line of JSON."""
    answers = ["".join(output.reasoning + output.text for output in one.outputs) for one in run.handle.samples]
    log.info("%s", json.dumps({"prompt": run.llm.decode(run.prompt_ids, skip_special=False), "answers": answers}))


def row(run: RunningJob) -> str:
    """A row of `name=value`, which people and programs can read.

    opening: tokens that the answer was given to open with; cached: the share of prompt and opening whose K and V were in the
    prefix cache; out: the tokens after the opening; first: seconds until the first one; rate: tokens per second after it, "-" if
    none came; end: why it ended.
    """
    usage, handle = run.usage, run.handle
    num_given = usage.prompt + run.num_opened
    first = next((one for one in handle.samples if one.first_token_at), None)
    facts = {
        "wire": run.job.wire,
        "model": word(run.job.model) or "-",
        "prompt": usage.prompt,
        **({"opening": run.num_opened} if run.num_opened else {}),
        "cached": f"{100 * usage.cached // max(num_given, 1)}%",
        "out": _num_generated(run),
        "first": f"{first.first_token_at - handle.submitted_at:.2f}s" if first else "-",
        "rate": f"{rate:.1f}/s" if (rate := _rate(run)) > 0 else "-",
        "total": f"{time.time() - run.began_at:.2f}s",
        "end": _end(run),
    }
    if run.ignored:
        facts["ignored"] = word(",".join(run.ignored))
    if run.notice:
        facts["notice"] = repr(run.notice)
    return " ".join(f"{name}={value}" for name, value in facts.items())


def word(text: str) -> str:
    """A client's text as one word of a row: it can begin no other row, forge no fact, and send nothing to a terminal.

    >>> word("gpt-4o"), word("a b=c\\n\\x1b[2J\\u202e")
    ('gpt-4o', 'a?b?c??[2J?')
    """
    return "".join(c if c.isprintable() and c not in " =" else "?" for c in text[:MAX_WORD])


def _num_generated(run: RunningJob) -> int:
    requests = [one.request for one in run.handle.samples if one.request is not None]
    return sum(max(0, len(one.output_ids) - run.num_opened) for one in requests)


def _rate(run: RunningJob) -> float:
    now = time.perf_counter()  # one whose client has gone ends before the next step: it has no end yet
    return sum(Timing.of(one, one.request, now).decode_per_s for one in run.handle.samples if one.request is not None)


def _end(run: RunningJob) -> str:
    if run.problem is not None:
        return f"error:{run.problem.status}"
    reasons = [str(one.request.finish_reason) for one in run.handle.samples if one.request and one.request.finish_reason]
    return reasons[0] if reasons else "gone"
