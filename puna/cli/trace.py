"""puna trace: one answer, and everything that happened on the way to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from puna.cli.interrupts import ending_soon
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
from puna.cli.save import save_text
from puna.cli.terminal import TerminalReporter, given_text, print_json
from puna.cli.trace_view import trace_lines
from puna.cli.width import report_width
from puna.errors import UsageError
from puna.progress import printable
from puna.units import kilobytes

if TYPE_CHECKING:
    from puna.chat import Message
    from puna.glassbox.trace import Trace
    from puna.llm import LLM
    from puna.request import SamplingParams


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT")
@under(
    PROMPT,
    system_option,
    option("--raw", is_flag=True, help="Continue the text as it is, without a template."),
    no_thinking_option,
    template_option,
    template_arg_option,
)
@sampling_options
@engine_options
@under(MODEL, tokenizer_option, lora_name_option)
@under(
    OUTPUT,
    json_option,
    option("--top", type=Whole(1), default=10, metavar="N", help="Likeliest tokens of each stage [10]."),
    option("--html", type=Utf8(), metavar="FILE", help="Write a page for a browser instead; it needs no network."),
)
def command(words: tuple[str, ...], raw: bool, as_json: bool, top: int, html: str | None, **flags: Any) -> None:
    """Answer PROMPT (- reads standard input), and show how each token came to be.

    The prompt's tokens; then for each step the likeliest tokens after the model and after each filter, what each filter removed,
    the number that was drawn, and why the answer ended. --json prints all of it, as docs/trace.schema.json describes. --html FILE
    writes it as one page to step through in a browser.
    """
    model, prompt = split_model(words, "PROMPT")
    prompt = given_text(prompt, "PROMPT")
    given = sampling_settings(flags)
    if raw and (flags["system"] is not None or flags["template"] is not None or flags["template_args"]):
        raise UsageError(
            "--raw uses no chat template: --system, --template and --template-arg have no effect", hint="Leave it out."
        )
    with TerminalReporter() as report:
        llm = load_model(model, flags, report, needs_template=not raw)
        params = sampling_params(llm, given, report)
        if not raw:
            announce_template(llm, report)
    with ending_soon(), llm:
        trace = _trace(llm, prompt, raw, flags["system"], params, top)
        if html is not None:
            _write_page(trace, html)
        if as_json:
            print_json(trace.as_json())
        elif html is None:
            print("\n".join(trace_lines(trace, report_width(sys.stdout))))


def _write_page(trace: Trace, path: str) -> None:
    """Write the page, and say so on stderr."""
    from puna.glassbox.report import trace_page

    text = trace_page(trace)
    save_text(Path(path).expanduser(), text, overwrite=True)
    print(f"puna: wrote {printable(path)}, {kilobytes(len(text.encode()))}: open it in a browser", file=sys.stderr)


def _trace(llm: LLM, prompt: str, raw: bool, system: str | None, params: SamplingParams, top: int) -> Trace:
    if raw:
        return llm.trace(prompt, params, top=top)
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return llm.chat_trace([*messages, {"role": "user", "content": prompt}], params, top=top)
