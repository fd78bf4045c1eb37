"""puna score: how likely a model finds each of several texts after a prompt."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
from puna.cli.options import (
    MODEL,
    OUTPUT,
    HeadedCommand,
    Utf8,
    engine_options,
    json_option,
    load_model,
    option,
    split_model,
    tokenizer_option,
    under,
)
from puna.cli.terminal import TerminalReporter, given_text, print_json, shown_path, tell
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.score import OptionScore


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@under(
    "Options",
    option("--option", "options", multiple=True, type=Utf8(), metavar="TEXT", help="One of them; repeatable."),
)
@engine_options
@under(MODEL, tokenizer_option)
@under(OUTPUT, json_option)
def command(words: tuple[str, ...], options: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Print how likely each --option is after PROMPT (- reads standard input).

    A line has the log-probability of the option, the same per token, and whether greedy sampling would write it. No chat template
    is used: PROMPT is continued as it stands. An option mostly begins with a space.
    """
    if not options:
        raise UsageError("there are no options to score", hint='Give --option "..." once or more.')
    model, prompt = split_model(words, "prompt of the options")
    prompt = given_text(prompt, "PROMPT")
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=False)
    with ending_soon(), llm:
        started = time.perf_counter()
        scores = llm.score(prompt, list(options))
        seconds = time.perf_counter() - started
        if as_json:
            print_json({"model": shown_path(llm.path), "options": list(map(_facts, options, scores))})
        else:
            print("\n".join(["   logprob  per token  option", *map(_line, options, scores)]))
        tell(f"{counted(len(options), 'option')}, {counted(sum(len(one.token_ids) for one in scores), 'token')}, {seconds:.2f} s")


def _line(text: str, score: OptionScore) -> str:
    mark = "  (greedy)" if score.is_greedy else ""
    return f"{score.logprob:10.4f} {score.mean_logprob:10.4f}  {json.dumps(text, ensure_ascii=False)}{mark}"


def _facts(text: str, score: OptionScore) -> dict[str, Any]:
    return {
        "text": text,
        "logprob": score.logprob,
        "mean_logprob": score.mean_logprob,
        "is_greedy": score.is_greedy,
        "token_ids": list(score.token_ids),
        "token_logprobs": list(score.token_logprobs),
    }
