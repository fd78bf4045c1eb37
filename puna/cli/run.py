"""puna run: one answer."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from puna.cli import answer
from puna.cli.interrupts import INTERRUPTED
from puna.cli.keyboard import unechoed
from puna.cli.options import (
    Sampling,
    Utf8,
    announce_template,
    cache_options,
    engine_options,
    json_option,
    load_model,
    no_thinking_option,
    sampling_options,
    sampling_params,
    sampling_settings,
    split_model,
    system_option,
    template_arg_option,
    template_option,
    tokenizer_option,
)
from puna.cli.terminal import TerminalReporter, given_text, print_json, shown_path, tell
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.chat import Message
    from puna.llm import LLM, Stream
    from puna.request import SamplingParams


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@click.option("--raw", is_flag=True, help="Continue the text as it is, without a chat template.")
@click.option("--suffix", type=Utf8(), metavar="TEXT", help="Fill in between PROMPT and TEXT (code models).")
@system_option
@template_option
@template_arg_option
@no_thinking_option
@sampling_options
@click.option("--logprobs", type=Sampling(), metavar="N", help="Show log-probabilities, and the N likeliest tokens.")
@click.option("--processed-logprobs", is_flag=True, default=None, help="With --logprobs: also those after the filters.")
@engine_options
@cache_options
@tokenizer_option
@json_option
def command(words: tuple[str, ...], raw: bool, suffix: str | None, as_json: bool, **flags: Any) -> int:
    """Answer PROMPT (- reads standard input). The answer goes to stdout, timing to stderr."""
    model, prompt = split_model(words, "PROMPT")
    prompt = given_text(prompt, "PROMPT")
    given = sampling_settings(flags)
    raw = raw or suffix is not None  # neither uses a template
    if raw and (flags["system"] is not None or flags["template"] is not None or flags["template_args"]):
        raise UsageError(
            "--raw and --suffix use no chat template: --system, --template and --template-arg have no effect",
            hint="Leave one of them out.",
        )
    if not raw and not prompt.strip():
        raise UsageError("the question is empty", hint="Give a question, or use --raw to continue an empty text.")
    started = time.perf_counter()
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=not raw)
        params = sampling_params(llm, given, report)
        if not raw:
            announce_template(llm, report)
    load_s = time.perf_counter() - started
    with llm, unechoed():
        return _answer(llm, _open_stream(llm, prompt, suffix, raw, flags["system"], params), load_s, as_json)


def _open_stream(llm: LLM, prompt: str, suffix: str | None, raw: bool, system: str | None, params: SamplingParams) -> Stream:
    if suffix is not None:
        infill = llm.encode_infill(prompt, suffix)
        return llm.stream(infill.token_ids, replace(params, stop_ids=(*params.stop_ids, *infill.stop_ids)))
    if raw:
        return llm.stream(prompt, params)
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return llm.chat_stream([*messages, {"role": "user", "content": prompt}], params)


def _answer(llm: LLM, stream: Stream, load_s: float, as_json: bool) -> int:
    """Print the answer and its statistics; return the exit code."""
    first, is_interrupted = 0.0, False
    try:
        with stream:
            first = answer.stream_text(stream, None if as_json else sys.stdout).first_token
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if not as_json:
            answer.end_line()
    completion = stream.completion
    if is_interrupted:
        tell(answer.interrupted(completion))
        return INTERRUPTED
    answer.require_success(completion)
    facts = answer.speeds(completion, load_s, first - answer.process_started() if first else None)
    if as_json:
        print_json({"model": shown_path(llm.path), **answer.completion_facts(completion, llm.tokenizer), "stats": facts})
    else:
        answer.tell_logprobs(completion, llm.tokenizer)
    tell(
        *answer.speeds_lines(facts),
        answer.told_of_reasoning(completion),
        answer.told_of_shift(completion),
        answer.cut_short(completion, llm),
    )
    return 0
