"""puna run: one answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from puna.cli import answer
from puna.cli.connect import open_model
from puna.cli.interrupts import INTERRUPTED
from puna.cli.keyboard import unechoed
from puna.cli.options import (
    MODEL,
    OUTPUT,
    PROMPT,
    HeadedCommand,
    Sampling,
    Utf8,
    announce_template,
    cache_options,
    engine_options,
    json_option,
    lora_name_option,
    no_thinking_option,
    option,
    sampling_options,
    sampling_params,
    sampling_settings,
    server_options,
    split_model,
    system_option,
    template_arg_option,
    template_option,
    tokenizer_option,
    under,
)
from puna.cli.replay import write_receipts
from puna.cli.save import require_writable
from puna.cli.terminal import TerminalReporter, given_text, print_json, shown_path, tell
from puna.errors import UsageError

if TYPE_CHECKING:
    from puna.chat import Message
    from puna.cli.answer import AnyLLM, AnyStream
    from puna.cli.remote import RemoteLLM
    from puna.completion import Completion
    from puna.glassbox.receipt import Receipt
    from puna.llm import LLM
    from puna.request import SamplingParams

SEVERAL = "Several answers"


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@under(
    PROMPT,
    system_option,
    option("--raw", is_flag=True, help="Continue the text as it is, without a template."),
    option("--suffix", type=Utf8(), metavar="TEXT", help="Fill in between PROMPT and TEXT (code models)."),
    no_thinking_option,
    template_option,
    template_arg_option,
)
@sampling_options
@under(
    SEVERAL,
    option("--n", type=Sampling(), metavar="N", help="Answer N times; the prompt is computed once [1]."),
    option("--best-of", type=Sampling(), metavar="N", help="Answer N times, show the --n most likely ones."),
)
@engine_options
@under(MODEL, tokenizer_option, lora_name_option)
@cache_options
@server_options
@under(
    OUTPUT,
    json_option,
    option("--logprobs", type=Sampling(), metavar="N", help="Log-probabilities, and the N likeliest tokens."),
    option("--processed-logprobs", is_flag=True, default=None, help="With --logprobs: also those after the filters."),
    option("--receipt", type=Utf8(), metavar="FILE", help="Write what `puna replay` needs to verify the run."),
)
def command(words: tuple[str, ...], raw: bool, suffix: str | None, as_json: bool, receipt: str | None, **flags: Any) -> int:
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
    if receipt is not None:
        require_writable(Path(receipt).expanduser())
    started = time.perf_counter()
    with TerminalReporter() as report:
        llm = open_model(model, flags, report, needs_template=not raw)
        params = sampling_params(llm, given, report)
        if not raw:
            announce_template(llm, report)
    load_s = time.perf_counter() - started
    with llm, unechoed():
        if flags["server"]:
            cast("RemoteLLM", llm).wants_receipts = receipt is not None
        stream = _open_stream(llm, prompt, suffix, raw, flags["system"], params)
        code = _answer(llm, stream, load_s, as_json, is_several=params.num_samples > 1)
        if receipt is not None:
            write_receipts(receipt, _receipts(llm, stream))
        return code


def _receipts(llm: AnyLLM, stream: AnyStream) -> list[Receipt]:
    """Of each sample. A server tells them at the end of its answer."""
    from puna.cli.remote_stream import RemoteStream

    if isinstance(stream, RemoteStream):
        return stream.receipts()
    return [cast("LLM", llm).receipt(one) for one in stream.completion.choices]


def _open_stream(
    llm: AnyLLM, prompt: str, suffix: str | None, raw: bool, system: str | None, params: SamplingParams
) -> AnyStream:
    if suffix is not None:
        from puna.cli.remote import RemoteLLM

        if isinstance(llm, RemoteLLM):
            return llm.stream(prompt, params, suffix)
        infill = llm.encode_infill(prompt, suffix)
        return llm.stream(infill.token_ids, replace(params, stop_ids=(*params.stop_ids, *infill.stop_ids)))
    if raw:
        return llm.stream(prompt, params)
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return llm.chat_stream([*messages, {"role": "user", "content": prompt}], params)


def _answer(llm: AnyLLM, stream: AnyStream, load_s: float, as_json: bool, is_several: bool) -> int:
    """Print the answer and its statistics; return the exit code."""
    first, is_interrupted, is_streamed = 0.0, False, not (as_json or is_several)
    try:
        with stream:
            first = answer.stream_text(stream, sys.stdout if is_streamed else None).first_token
    except KeyboardInterrupt:
        is_interrupted = True
    finally:
        if is_streamed:
            answer.end_line()
    completion = stream.completion
    if is_interrupted:
        tell(answer.interrupted(completion))
        return INTERRUPTED
    choices = completion.choices if is_several else (completion,)
    for one in choices:
        answer.require_success(one)
    facts = answer.speeds(completion, load_s, first - answer.process_started() if first else None)
    if is_several:
        facts |= answer.speeds_of_several(choices)
    if as_json:
        print_json({"model": shown_path(llm.path), **_facts(llm, choices), "stats": facts})
    else:
        _show(llm, choices, is_streamed)
    told = (
        said(one)
        for said in (answer.told_of_reasoning, answer.told_of_shift, partial(answer.cut_short, llm=llm))
        for one in choices
    )
    tell(*answer.speeds_lines(facts), *dict.fromkeys(told))
    return 0


def _facts(llm: AnyLLM, choices: Sequence[Completion]) -> dict[str, Any]:
    """The first answer as JSON types and, if there are several, all of them as "choices"."""
    each = [answer.completion_facts(one, llm.tokenizer) for one in choices]
    return each[0] if len(each) == 1 else each[0] | {"choices": each}


def _show(llm: AnyLLM, choices: Sequence[Completion], is_streamed: bool) -> None:
    """Print what is not printed yet: answers, each under its number if there are several, and log-probabilities."""
    for number, one in enumerate(choices, 1):
        if len(choices) > 1:
            print(f"[{number} of {len(choices)}]")
        if not is_streamed:
            answer.write_whole(sys.stdout, answer.whole_characters(one.text, one.finish_reason))
        answer.tell_logprobs(one, llm.tokenizer)
