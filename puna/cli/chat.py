"""puna chat: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import re
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from puna.cli.chat_commands import QUIT, as_command, completions, greeting, obey
from puna.cli.chat_input import ChatInput, open_input, read_message
from puna.cli.connect import open_model
from puna.cli.conversation import Conversation, quoted
from puna.cli.fetch import Confirm, by_line
from puna.cli.interrupts import INTERRUPTED
from puna.cli.options import (
    MODEL,
    OUTPUT,
    HeadedCommand,
    Utf8,
    announce_template,
    cache_options,
    check_model,
    engine_options,
    json_option,
    lora_name_option,
    no_thinking_option,
    option,
    sampling_options,
    sampling_params,
    sampling_settings,
    server_options,
    system_option,
    template_arg_option,
    template_option,
    tokenizer_option,
    under,
)
from puna.cli.prompt_format import PLACEHOLDER, PromptFormat
from puna.cli.saved_chats import Autosave, SavedChat, newest
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell
from puna.errors import ModelNotFoundError, UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.cli.answer import AnyLLM
    from puna.request import SamplingParams

# Defaults of a chat. A greedy conversation with a small model soon repeats itself; --temperature 0 asks for one.
DEFAULTS = {"max_tokens": 1024, "temperature": 0.7, "top_p": 0.95}
# What may be a message in the place of MODEL: one word of letters, or several.
SPOKEN = re.compile(r"[^\W\d_]+|.*\s.*", re.DOTALL)
KEPT = " puna chat --continue resumes it."


@click.command(cls=HeadedCommand)
@click.argument("words", nargs=-1, metavar="[MODEL]")
@under(
    "Conversation",
    option("--continue", "resume", is_flag=True, help="Continue the conversation that was saved last."),
    system_option,
    option("--no-save", is_flag=True, help="Do not save this conversation."),
    no_thinking_option,
    template_option,
    template_arg_option,
    option("--raw", is_flag=True, help="Send each message alone, without a template."),
    option("--prompt-format", type=Utf8(), metavar="TEXT", help=r'With --raw, such as "Q: {prompt}\nA:" [{prompt}].'),
)
@sampling_options
@engine_options
@under(MODEL, tokenizer_option, lora_name_option)
@cache_options
@server_options
@under(OUTPUT, json_option)
def command(
    words: tuple[str, ...], resume: bool, no_save: bool, raw: bool, prompt_format: str | None, as_json: bool, **flags: Any
) -> int:
    """Talk with a model. /help lists the commands. From a pipe, each line is a message.

    puna saves each conversation on this machine; --continue resumes the last one.
    """
    model = _model_of(words)
    prompt = _prompt_format(raw, prompt_format, flags)
    given = sampling_settings(flags)
    resumed = newest() if resume else None
    started = time.perf_counter()
    llm = _loaded_first(model, flags, raw) if model or resumed is None or flags["server"] else _loaded_again(resumed, flags, raw)
    talk = Conversation(
        llm,
        _params(llm, given, prompt),
        flags["system"] or "",
        is_quiet=as_json,
        prompt_format=prompt,
        autosave=None if no_save else Autosave(),
        load=lambda name: _loaded(name, flags | {"tokenizer": None, "template": None}, raw),
        check=lambda name: None if flags["server"] else _checked(name, raw, talk.confirm or by_line),
    )
    talk.load_s = time.perf_counter() - started
    path = talk.llm.path
    try:
        code = _converse(talk, resumed)
    finally:
        talk.close()
    if as_json:
        print_json({"model": shown_path(path), "messages": talk.sent_messages(), "turns": talk.turns})
    return code or (1 if talk.num_failed else 0)


def _model_of(words: tuple[str, ...]) -> str | None:
    """The MODEL on the command line. UsageError for a message there: it is typed later."""
    from puna import hub

    if len(words) < 2:
        return next(iter(words), None)
    model, message = (words[0], words[1:]) if hub.looks_like_model(words[0]) else (None, words)
    chat, run = (shlex.join(["puna", name, *([model] if model else [])]) for name in ("chat", "run"))
    raise UsageError(
        f"{len(words)} words were given; at most one is allowed: [MODEL]",
        hint=f"Type a message after `{chat}` has started; or for one answer: {run} {shlex.quote(' '.join(message))}",
    )


def _loaded_first(model: str | None, flags: dict[str, Any], raw: bool) -> AnyLLM:
    """The model of the command line. The error for a word that is no model says how to ask it."""
    try:
        return _loaded(model, flags, raw)
    except ModelNotFoundError as error:
        if model is None or not SPOKEN.fullmatch(model):
            raise
        message, hint = error.typed
        raise ModelNotFoundError(message, hint=f"{hint} If it is a message: puna run {shlex.quote(model)}") from error


def _loaded(model: str | None, flags: dict[str, Any], raw: bool) -> AnyLLM:
    with TerminalReporter() as report:
        llm = open_model(model, flags, report, needs_template=not raw)
        if not raw:
            announce_template(llm, report)
    return llm


def _params(llm: AnyLLM, given: dict[str, Any], prompt: PromptFormat | None) -> SamplingParams:
    with TerminalReporter() as report:
        params = sampling_params(llm, given, report, DEFAULTS)
    return params if prompt is None else replace(params, stop=(*params.stop, *prompt.stops))


def _checked(model: str, raw: bool, confirm: Confirm) -> None:
    with TerminalReporter() as report:
        check_model(model, report, confirm, needs_template=not raw)


def _loaded_again(resumed: SavedChat, flags: dict[str, Any], raw: bool) -> AnyLLM:
    """The model of a saved conversation. UsageError if it is gone."""
    try:
        return _loaded(resumed.model, flags, raw)
    except ModelNotFoundError as error:
        raise UsageError(
            f"the model of the last conversation is gone: {resumed.model}", hint="Name another: puna chat MODEL --continue"
        ) from error


def _prompt_format(raw: bool, text: str | None, flags: dict[str, Any]) -> PromptFormat | None:
    if not raw:
        if text is not None:
            raise UsageError("--prompt-format needs --raw: a chat template has a format of its own", hint="Add --raw.")
        return None
    if flags["system"] is not None or flags["template"] is not None or flags["template_args"]:
        raise UsageError(
            "--raw uses no chat template: --system, --template and --template-arg have no effect",
            hint="Leave one of them out.",
        )
    return PromptFormat.parse(PLACEHOLDER if text is None else text)


def _converse(talk: Conversation, resumed: SavedChat | None) -> int:
    """Read and answer until the end of input or /quit; returns the exit code."""
    with talk.ctrl_c.heard(), open_input(completions) as source:
        if source.is_terminal:
            talk.confirm, talk.edit_text = source.confirm, source.edit
            tell(f"{greeting(talk)}. /help lists the commands.")
        if resumed is not None:
            _resume(talk, resumed)
        try:
            return _read_and_answer(talk, source)
        except KeyboardInterrupt:  # a second Ctrl-C, before the prompt is back
            return 0 if source.is_terminal else INTERRUPTED


def _resume(talk: Conversation, resumed: SavedChat) -> None:
    talk.messages, talk.system = list(resumed.said), talk.system or resumed.system
    last = f" You said last: {quoted(talk.last_message())}" if talk.messages else ""
    tell(f"Continuing with {counted(len(talk.messages), 'message')}.{last}")


def _read_and_answer(talk: Conversation, source: ChatInput) -> int:
    is_leaving = False  # Ctrl-C was the last key
    while True:
        try:
            typed = read_message(source.read_line)
            is_leaving = False
            line = None if typed.is_fenced else as_command(typed.text)
            if line is not None:
                if obey(talk, line) is QUIT:
                    return 0
            elif typed.text.strip():
                is_escaped = typed.text.startswith("//") and not typed.is_fenced
                talk.say(typed.text[1:] if is_escaped else typed.text)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            if not source.is_terminal:
                return INTERRUPTED
            if is_leaving:
                return 0
            is_leaving = True
            tell("Press Ctrl-C again, or Ctrl-D, to leave." + (KEPT if talk.autosave else ""))
