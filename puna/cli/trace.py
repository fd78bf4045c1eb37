"""puna trace: one answer, and everything that happened on the way to it."""

from __future__ import annotations

import os
import re
import reprlib
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from puna.cli.against import OtherSide, compare
from puna.cli.against_view import diff_lines
from puna.cli.interrupts import ending_soon
from puna.cli.layers_view import layers_lines
from puna.cli.options import (
    MODEL,
    OUTPUT,
    PROMPT,
    HeadedCommand,
    Utf8,
    Whole,
    announce_template,
    engine_options,
    json_option,
    load_model,
    lora_name_option,
    no_thinking_option,
    option,
    sampling_options,
    sampling_params,
    sampling_settings,
    split_model,
    system_option,
    template_arg_option,
    template_option,
    tokenizer_option,
    under,
)
from puna.cli.save import require_writable, save_text
from puna.cli.terminal import TerminalReporter, given_text, print_json
from puna.cli.trace_view import trace_lines
from puna.cli.width import report_width
from puna.cli.word_wrap import wrapped
from puna.errors import UsageError
from puna.progress import printable
from puna.units import counted, kilobytes

if TYPE_CHECKING:
    from puna.calls import PromptJob
    from puna.chat import Message
    from puna.glassbox.diff import RunDiff
    from puna.glassbox.explorer import Explorer
    from puna.glassbox.layers import LayerChoice
    from puna.glassbox.trace import Trace
    from puna.llm import LLM
    from puna.progress import Reporter
    from puna.request import SamplingParams


class Positions(click.ParamType[Any]):
    """Tokens of the answer, as the steps are numbered, or one of three words: a LayerChoice."""

    name = "positions"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> LayerChoice:
        if not isinstance(value, str) or value in ("answer", "prompt", "all"):
            return cast("LayerChoice", value)
        found = [RANGE.fullmatch(part.strip()) for part in value.split(",")]
        ranges = [(int(one["first"]), int(one["last"] or one["first"])) for one in found if one is not None]
        if len(ranges) < len(found) or any(first > last for first, last in ranges):
            raise UsageError(
                f"--layers is {reprlib.repr(value)}; write tokens of the answer, such as 1-8 or 3,5, or answer, prompt, all",
                hint='Without a value it goes to the end: puna trace "Name a colour." --layers',
            )
        return [number - 1 for first, last in ranges for number in range(first, last + 1)]


RANGE = re.compile(r"(?P<first>[1-9]\d{0,5})(-(?P<last>[1-9]\d{0,5}))?")


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@under(
    PROMPT,
    system_option,
    option("--raw", is_flag=True, help="Continue the text as it is, without a template."),
    no_thinking_option,
    template_option,
    template_arg_option,
    option("--beside", type=Utf8(), multiple=True, metavar="PROMPT", help="Trace this prompt too, in the same batch."),
)
@sampling_options
@engine_options
@under(MODEL, tokenizer_option, lora_name_option)
@under(
    OUTPUT,
    json_option,
    option("--top", type=Whole(1), default=10, metavar="N", help="Likeliest tokens of each stage [10]."),
    option("--limit", type=Whole(1), metavar="N", help="Keep N candidates; leave out later steps [200000]."),
    option("--html", type=Utf8(), metavar="FILE", help="Write a page for a browser instead; it needs no network."),
    option("--step/--no-step", default=None, help="Step through it [in a terminal], or print it."),
    option(
        "--layers",
        type=Positions(),
        is_flag=False,
        flag_value="1-8",
        metavar="[POSITIONS]",
        help="Look inside each layer: 1-8, answer, all ...",
    ),
    option("--heads", type=Whole(1), metavar="LAYER", help="With --layers: each head of this layer."),
    option("--against", type=Utf8(), multiple=True, metavar="OTHER", help="Compare with a model or a setting; repeatable."),
)
def command(
    words: tuple[str, ...],
    raw: bool,
    as_json: bool,
    top: int,
    html: str | None,
    layers: LayerChoice | None,
    heads: int | None,
    beside: tuple[str, ...],
    limit: int | None,
    against: tuple[str, ...],
    step: bool | None,
    **flags: Any,
) -> None:
    """Answer PROMPT (- reads standard input), and show how each token came to be.

    The prompt's tokens; then for each step the likeliest tokens after the model and after each filter, what each filter removed,
    the number that was drawn, and why the answer ended. --json prints all of it, as docs/trace.schema.json describes. --html FILE
    writes it as one page to step through in a browser.

    In a terminal it is stepped through: other tokens, texts and settings can be tried at any token, each as a branch of the
    answer. ? says how, q leaves. --no-step prints it instead. puna explain sampling is a guided tour of what it shows.

    --layers also shows, for some tokens of the answer (1-8, or 3,5; answer: each one; prompt: those of the prompt; all: both),
    what the model would say after each layer, and where its heads looked. That takes a second pass, by numpy.

    --against compares this run with another: OTHER is a model, or a setting such as backend=reference, kv-type=int8,
    weights=int4, temperature=0.7 or lora=PATH, or several with commas between. It shows where the answers part, how far the
    models are apart for each token (KL), and the first layer whose numbers differ.

    With --beside PROMPT, which can be given several times, the prompts run together; --json then has them as "traces".
    """
    model, prompt = split_model(words, "PROMPT")
    prompt = given_text(prompt, "PROMPT")
    given = sampling_settings(flags)
    if raw and (flags["system"] is not None or flags["template"] is not None or flags["template_args"]):
        raise UsageError(
            "--raw uses no chat template: --system, --template and --template-arg have no effect", hint="Leave it out."
        )
    if html is not None and beside:
        raise UsageError("--html shows one prompt", hint="Leave --beside out, or print all of them with --json.")
    if against and (html is not None or beside or layers or heads):
        raise UsageError("--against shows a comparison, and no trace", hint="Leave --html, --beside, --layers and --heads out.")
    others = [OtherSide.read(text, [name.partition("=")[0] for name in flags["lora_modules"]]) for text in against]
    if heads is not None and layers is None:
        layers = True
    is_printed = any((as_json, html is not None, layers is not None, beside, limit is not None, against))
    if html is not None:
        require_writable(Path(html).expanduser())
    is_stepped = _is_stepped(step, is_printed)
    choice = {"top": top, "layers": layers or False} | ({} if limit is None else {"max_candidates": limit})
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=not raw)
        params = sampling_params(llm, given, report)
        if not raw:
            announce_template(llm, report)
    if is_stepped:
        _step_through(llm, _explorer(llm, prompt, raw, flags["system"], params, top))
        return
    with ending_soon(), llm, report:
        if others:
            load = partial(_load_other, model, flags, report)
            _print_diff(compare(llm, _job(llm, prompt, raw, flags["system"], params), others, load), as_json)
            return
        _require_layer(heads, llm)
        traces = _traces(llm, [prompt, *beside], raw, flags["system"], params, choice)
        if html is not None:
            _write_page(traces[0], html)
        if as_json:
            print_json({"traces": [trace.as_json() for trace in traces]} if beside else traces[0].as_json())
        elif html is None:
            print("\n".join(_lines(traces, report_width(sys.stdout), heads)))


def _is_stepped(asked: bool | None, is_printed: bool) -> bool:
    """Whether the trace is stepped through. UsageError if it is asked for and cannot be."""
    has_screen = sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if asked and is_printed:
        others = "--json, --html, --layers, --beside, --limit and --against"
        raise UsageError(f"--step shows one answer on the screen; {others} print or write", hint="Leave --step out.")
    if asked and not has_screen:
        raise UsageError("--step needs a terminal, for its keys and its screen", hint="Leave it out: the trace is printed.")
    return has_screen and not is_printed if asked is None else asked


def _explorer(llm: LLM, prompt: str, raw: bool, system: str | None, params: SamplingParams, top: int) -> Explorer:
    return llm.explore(prompt, params, top=top) if raw else llm.chat_explore(_messages(prompt, system), params, top=top)


def _step_through(llm: LLM, explorer: Explorer) -> None:
    """Show it on the screen; the answer that the person leaves with is printed."""
    from puna.cli.trace_stepper import step_through

    with llm:
        branch = step_through(llm, explorer).branch
    if branch is not None:
        lines, width = branch.completion.text.split("\n"), report_width(sys.stdout)
        print("\n".join(row for line in lines for row in wrapped(printable(line), width)))


def _load_other(model: str | None, flags: dict[str, Any], report: Reporter, other: OtherSide) -> LLM:
    return load_model(other.model or model, flags | dict(other.engine), report, needs_template=False)


def _job(llm: LLM, prompt: str, raw: bool, system: str | None, params: SamplingParams) -> PromptJob:
    (job,) = llm.jobs(prompt, params, {}) if raw else llm.chat_jobs(_messages(prompt, system), params, {})
    return job


def _messages(prompt: str, system: str | None) -> list[Message]:
    first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def _print_diff(diff: RunDiff, as_json: bool) -> None:
    if as_json:
        print_json(diff.as_json())
    else:
        print("\n".join(diff_lines(diff, report_width(sys.stdout))))


def _lines(traces: list[Trace], width: int, heads: int | None) -> Iterator[str]:
    """One trace after the other, each under its number if there are several."""
    for number, trace in enumerate(traces, 1):
        if len(traces) > 1:
            yield f"[{number} of {len(traces)}]"
        yield from trace_lines(trace, width)
        yield from layers_lines(trace, width, heads)


def _require_layer(layer: int | None, llm: LLM) -> None:
    if layer is not None and layer > llm.model.num_layers:
        raise UsageError(f"--heads is {layer}; the model has {counted(llm.model.num_layers, 'layer')}")


def _write_page(trace: Trace, path: str) -> None:
    """Write the page, and say so on stderr."""
    from puna.glassbox.report import trace_page

    text = trace_page(trace)
    save_text(Path(path).expanduser(), text, overwrite=True)
    print(f"puna: wrote {printable(path)}, {kilobytes(len(text.encode()))}: open it in a browser", file=sys.stderr)


def _traces(
    llm: LLM, prompts: list[str], raw: bool, system: str | None, params: SamplingParams, choice: dict[str, Any]
) -> list[Trace]:
    """The traces of prompts that run together."""
    if raw:
        return llm.trace(prompts, params, **choice)
    return llm.chat_trace([_messages(prompt, system) for prompt in prompts], params, **choice)
