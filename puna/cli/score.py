"""puna score: how likely a model finds each of several texts after a prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from puna.cli.options import HeadedCommand, Utf8, option, split_model, under
from puna.cli.single_call import Result, call_model, call_options
from puna.cli.terminal import given_text
from puna.errors import UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.llm import LLM
    from puna.score import OptionScore


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@under(
    "Options",
    option("--option", "options", multiple=True, type=Utf8(), metavar="TEXT", help="One of them; repeatable."),
)
@call_options
def command(words: tuple[str, ...], options: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Print how likely each --option is after PROMPT (- reads standard input).

    A line has the log-probability of the option, the same per token, and whether greedy sampling would write it. No chat template
    is used: PROMPT is continued as it stands. An option mostly begins with a space.
    """
    if not options:
        raise UsageError("there are no options to score", hint='Give --option "..." once or more.')
    model, prompt = split_model(words, "prompt of the options")
    prompt = given_text(prompt, "PROMPT")

    def call(llm: LLM) -> Result:
        scores = llm.score(prompt, list(options))
        return Result(
            facts=lambda: {"options": list(map(_facts, options, scores))},
            lines=["   logprob  per token  option", *map(_line, options, scores)],
            counts=f"{counted(len(options), 'option')}, {counted(_num_tokens(scores), 'token')}",
        )

    call_model(model, flags, as_json, call)


def _num_tokens(scores: Sequence[OptionScore]) -> int:
    return sum(len(one.token_ids) for one in scores)


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
