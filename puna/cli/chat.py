"""puna chat: a conversation in the terminal, or line by line from a pipe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from puna.cli.chat_input import open_input, read_message
from puna.cli.conversation import Conversation
from puna.cli.options import (
    Utf8,
    announce_template,
    engine_options,
    json_option,
    load_model,
    sampling_options,
    sampling_params,
    sampling_settings,
    system_option,
    template_arg_option,
    template_option,
    tokenizer_option,
)
from puna.cli.prompt_format import PLACE, PromptFormat
from puna.cli.save import save_text
from puna.cli.terminal import TerminalReporter, print_json, shown_path, tell
from puna.errors import PunaError, UsageError
from puna.paths import typed_path

# Where the flag is not given. A greedy conversation with a small model soon repeats itself; --temperature 0 asks for one.
DEFAULTS = {"max_tokens": 1024, "temperature": 0.7, "top_p": 0.95}

HELP = '''\
/reset          forget the conversation; the system message stays
/system TEXT    set the system message (alone: show it)
/save FILE      write the conversation as JSON; /save! overwrites
/stats          tokens and speeds
/help           these lines
/quit           leave (so do Ctrl-D, and Ctrl-C on an empty line)
A message of several lines: Alt-Enter, or between """ and """. Ctrl-C stops an answer. //x sends /x.'''


@click.command()
@click.argument("model", required=False)
@click.option("--raw", is_flag=True, help="No chat template, and each message by itself: for base models.")
@click.option("--prompt-format", type=Utf8(), metavar="TEXT", help=r'With --raw, such as "Q: {prompt}\nA:" [{prompt}].')
@system_option
@template_option
@template_arg_option
@sampling_options
@engine_options
@tokenizer_option
@json_option
def command(model: str | None, raw: bool, prompt_format: str | None, as_json: bool, **flags: Any) -> int:
    """Talk with a model. /help lists the commands. From a pipe, each line is a message."""
    spoken = _prompt_format(raw, prompt_format, flags)
    given = sampling_settings(flags)
    started = time.perf_counter()
    with TerminalReporter() as report:
        llm = load_model(model, flags, report)
        params = sampling_params(llm, given, report, DEFAULTS)
        if not raw:
            announce_template(llm, report)
    params = params if spoken is None else replace(params, stop=(*params.stop, *spoken.stops))
    load_s = time.perf_counter() - started
    talk = Conversation(llm, params, flags["system"] or "", is_quiet=as_json, load_s=load_s, prompt_format=spoken)
    with llm:
        _converse(talk)
    if as_json:
        print_json({"model": shown_path(llm.path), "messages": talk.sent_messages(), "turns": talk.turns})
    return 1 if talk.num_failed else 0


def _prompt_format(raw: bool, text: str | None, flags: dict[str, Any]) -> PromptFormat | None:
    if not raw:
        if text is not None:
            raise UsageError("--prompt-format goes with --raw: with a chat template it has no use", hint="Add --raw.")
        return None
    if flags["system"] is not None or flags["template"] is not None or flags["template_args"]:
        raise UsageError(
            "--raw uses no chat template: --system, --template, --template-arg have no use",
            hint="Leave one of them out.",
        )
    return PromptFormat.parse(PLACE if text is None else text)


def _converse(talk: Conversation) -> None:
    """Read and answer until the end of input, /quit, or Ctrl-C at an empty line."""
    with open_input() as read_line:
        while True:
            try:
                text = read_message(read_line)
            except (EOFError, KeyboardInterrupt):
                return
            if text.startswith("/") and not text.startswith("//"):
                if _obey(talk, text) is QUIT:
                    return
            elif text.strip():
                talk.say(text.removeprefix("/") if text.startswith("//") else text)


QUIT = "quit"


def _obey(talk: Conversation, line: str) -> str | None:
    """Carry out a /command; a word for one that is unknown or fails. Nothing is sent to the model."""
    name, _, rest = line.partition(" ")
    action = ACTIONS.get(name)
    if action is None:
        tell(f"puna: there is no command {name}; /help lists them. To send a message that begins with /, type two.")
        return None
    try:
        return action(talk, rest.strip())
    except PunaError as error:
        tell(f"puna: {error.message}", error.hint)
    except OSError as error:
        tell(f"puna: {error.strerror or error}: {error.filename}")
    return None


def _reset(talk: Conversation, _: str) -> None:
    talk.messages.clear()
    tell("The conversation is forgotten." + (" The system message stays." if talk.system else ""))


def _system(talk: Conversation, text: str) -> None:
    if text and talk.prompt_format is not None:
        raise UsageError("without a chat template (--raw) there is no system message", hint="Put it into --prompt-format.")
    if text:
        talk.system = text
    tell(*f"System message: {talk.system or 'none'}".splitlines())


def _save(talk: Conversation, file: str, overwrite: bool = False) -> None:
    if not file or "\0" in file:
        raise UsageError("/save needs a file name" + (" without NUL characters" if file else ""), hint="/save FILE")
    path = typed_path(file, "the file")
    text = json.dumps({"model": shown_path(talk.llm.path), "messages": talk.sent_messages()}, ensure_ascii=False, indent=1)
    save_text(path, text + "\n", overwrite=overwrite)
    tell(f"Saved {len(talk.messages)} messages to {path}")


def _overwrite(talk: Conversation, file: str) -> None:
    _save(talk, file, overwrite=True)


def _stats(talk: Conversation, _: str) -> None:
    if not talk.turns:
        tell(f"Nothing was said yet. The context holds {talk.llm.plan.max_context} tokens.")
        return
    last = talk.turns[-1]
    used = last["prompt_tokens"] + last["output_tokens"]
    tell(
        f"{len(talk.turns)} answers; context {used} of {talk.llm.plan.max_context} tokens; the last answer: "
        f"prompt {last['prompt_tokens']} tokens ({last['cached_tokens']} cached), {last['prefill_tokens_per_s']:.0f} tok/s, "
        f"answer {last['output_tokens']} tokens, {last['decode_tokens_per_s']:.1f} tok/s"
    )


def _help(_: Conversation, __: str) -> None:
    tell(*HELP.splitlines())


def _quit(_: Conversation, __: str) -> str:
    return QUIT


ACTIONS: dict[str, Callable[[Conversation, str], str | None]] = {
    "/reset": _reset,
    "/system": _system,
    "/save": _save,
    "/save!": _overwrite,
    "/stats": _stats,
    "/help": _help,
    "/quit": _quit,
    "/exit": _quit,
}
