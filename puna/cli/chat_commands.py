"""The commands of a conversation: one literal table, which /help prints, and a small function for each."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from puna.cli import chat_settings
from puna.cli.answer import rate
from puna.cli.conversation import Conversation, quoted
from puna.cli.numerals import typed_whole
from puna.cli.options import set_thinking
from puna.cli.save import save_text
from puna.cli.saved_chats import document, read_chat
from puna.cli.terminal import printable, shown_path, tell
from puna.cli.width import pad
from puna.errors import PunaError, UsageError, did_you_mean
from puna.paths import typed_path
from puna.units import counted

QUIT = "quit"
ADVICE = (
    "Tab completes commands, and the names of settings.",
    'For several lines, type Alt-Enter between them, or """ before and after.',
    "Ctrl-C stops an answer. What you type during one waits for the next prompt.",
    "To send /x, type //x.",
)


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """A line that begins with a slash. `run` returns QUIT to leave."""

    argument: str
    about: str
    run: Callable[[Conversation, str], str | None]
    is_shown: bool = True  # in /help


def obey(talk: Conversation, line: str) -> str | None:
    """Carry out a command; returns QUIT to leave. Prints an error. Sends nothing of the line to the model."""
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        shown = [known for known, one in COMMANDS.items() if one.is_shown]
        tell(f"puna: there is no command {name}", f"{did_you_mean(name, shown)} /help lists the commands.".strip())
        return None
    try:
        return command.run(talk, rest.strip())
    except PunaError as error:
        tell(f"puna: {error.typed.message}", error.typed.hint)
    except OSError as error:
        tell(f"puna: {error.strerror or error}: {error.filename}")
    return None


def as_command(line: str) -> str | None:
    """The command that a line means, with its slash; None for a message. Words like "exit" need no slash.

    >>> as_command("/help"), as_command(" Exit "), as_command("//x"), as_command("help me")
    ('/help', '/quit', None, None)
    """
    if line.startswith("/") and not line.startswith("//"):
        return line
    return BARE.get(line.strip().lower())


# ---- the conversation


def _reset(talk: Conversation, _: str) -> None:
    talk.forget()
    tell("New conversation." + (" The system message stays." if talk.system else ""))


def _undo(talk: Conversation, _: str) -> None:
    tell(f"Removed {quoted(talk.undo())} and its answer.")


def _drop(talk: Conversation, text: str) -> None:
    count = typed_whole(text or "1")
    if count is None or count < 0:
        hint = "/drop 2 drops the two oldest messages with their answers."
        raise UsageError(f"/drop needs a number, not {reprlib.repr(text)}", hint=hint)
    talk.drop_oldest(int(count))


def _regenerate(talk: Conversation, _: str) -> None:
    talk.last_message()
    if talk.params.temperature == 0 or talk.params.seed is not None:
        tell("With temperature 0 or a fixed seed, the answer stays the same: /set temperature 0.7")
    talk.regenerate()


def _edit(talk: Conversation, text: str) -> None:
    before = talk.last_message()
    if not text:
        if talk.edit_text is None:
            raise UsageError("/edit needs the new text of your last message", hint="/edit TEXT")
        try:
            text = talk.edit_text(before)
        except (EOFError, KeyboardInterrupt):
            text = ""
    if text.strip():
        talk.edit(text)
    else:
        tell("Your message is unchanged.")


def _system(talk: Conversation, text: str) -> None:
    if text and talk.prompt_format is not None:
        raise UsageError("without a chat template (--raw) there is no system message", hint="Put it into --prompt-format.")
    if text:
        talk.system = text
        talk.save()
    tell(*f"System message: {talk.system or 'none'}".splitlines())


# ---- files


def _path(file: str, command: str) -> Path:
    if not file or "\0" in file:
        raise UsageError(f"{command} needs a file name" + (" without NUL characters" if file else ""), hint=f"{command} FILE")
    return typed_path(file, "the file")


def _save(talk: Conversation, file: str, overwrite: bool = False) -> None:
    path = _path(file, "/save")
    save_text(path, document(shown_path(talk.llm.path), talk.sent_messages()), overwrite=overwrite)
    tell(f"Saved {counted(len(talk.messages), 'message')} to {path}")


def _overwrite(talk: Conversation, file: str) -> None:
    _save(talk, file, overwrite=True)


def _load(talk: Conversation, file: str) -> None:
    chat = read_chat(_path(file, "/load"))
    talk.forget()
    talk.system, talk.messages = chat.system or talk.system, list(chat.said)
    talk.save()
    tell(f"Loaded {counted(len(talk.messages), 'message')}." + _last_words(talk))


def _last_words(talk: Conversation) -> str:
    return f" You said last: {quoted(talk.last_message())}" if any(m["role"] == "user" for m in talk.messages) else ""


# ---- the model


def _model(talk: Conversation, name: str) -> None:
    if name:
        talk.replace_model(name)
    tell(greeting(talk))


def greeting(talk: Conversation) -> str:
    """The model's name and its context."""
    path = talk.llm.path  # the name that a person typed or fetched; the name inside a file is often another one
    name = printable(path.name if path.is_dir() else path.stem)
    return f"{name}, context {talk.llm.plan.max_context} tokens"


def _set(talk: Conversation, text: str) -> None:
    if chat_settings.name_in(text) == "thinking":
        is_on = chat_settings.on_or_off(text)
        set_thinking(talk.llm, is_on)
        tell(f"thinking = {'on' if is_on else 'off'}")
    elif text:
        talk.params = chat_settings.changed(talk.params, text)
        tell(chat_settings.line(talk.params, chat_settings.name_in(text)))
    else:
        tell(*chat_settings.lines(talk.params))


def _stats(talk: Conversation, _: str) -> None:
    if not talk.turns:
        tell(f"No messages yet. The context holds {talk.llm.plan.max_context} tokens.")
        return
    last = talk.turns[-1]
    used = last["prompt_tokens"] + last["output_tokens"]
    prompt, answer = (counted(last[f"{name}_tokens"], "token") for name in ("prompt", "output"))
    tell(
        f"{counted(len(talk.turns), 'answer')}; context {used} of {talk.llm.plan.max_context} tokens. The last answer:",
        f"  prompt {prompt} ({last['cached_tokens']} cached){rate(last['prefill_tokens_per_s'], 0)}",
        f"  answer {answer}{rate(last['decode_tokens_per_s'], 1)}",
    )


def _help(_: Conversation, __: str) -> None:
    tell(*help_lines())


def _quit(_: Conversation, __: str) -> str:
    return QUIT


# In the order of /help.
COMMANDS: dict[str, ChatCommand] = {
    "/regenerate": ChatCommand("", "answer your last message again", _regenerate),
    "/edit": ChatCommand("[TEXT]", "change your last message, and answer it", _edit),
    "/undo": ChatCommand("", "remove your last message and its answer", _undo),
    "/drop": ChatCommand("[N]", "remove the N oldest messages with their answers", _drop),
    "/reset": ChatCommand("", "start a new conversation; the system message stays", _reset),
    "/system": ChatCommand("[TEXT]", "set the system message, or show it", _system),
    "/model": ChatCommand("[NAME]", "continue with another model, or show this one", _model),
    "/set": ChatCommand("[NAME VALUE]", 'temperature 0.2, stop "User:", choice yes no ...; alone: all', _set),
    "/save": ChatCommand("FILE", "write the conversation as JSON; /save! overwrites", _save),
    "/save!": ChatCommand("FILE", "", _overwrite, is_shown=False),
    "/load": ChatCommand("FILE", "continue a conversation that /save wrote", _load),
    "/stats": ChatCommand("", "tokens and speeds", _stats),
    "/help": ChatCommand("", "show these lines", _help),
    "/quit": ChatCommand("", "leave; so do Ctrl-D, and Ctrl-C twice", _quit),
    "/exit": ChatCommand("", "", _quit, is_shown=False),
}
# What people type to leave or to get help, without a slash -> the command.
BARE = dict.fromkeys(("exit", "quit", "bye", ":q", "q"), "/quit") | dict.fromkeys(("help", "?"), "/help")


def completions(line: str) -> list[str]:
    """What may stand in place of the last word of a line that is a command.

    >>> completions("/re"), completions("/set temp"), completions("/set json_object o"), completions("hi")
    (['/regenerate', '/reset'], ['temperature'], ['on', 'off'], [])
    """
    if not line.startswith("/"):
        return []
    *before, word = line.split(" ")
    match before:
        case []:
            offered = [name for name, one in COMMANDS.items() if one.is_shown]
        case ["/set"]:
            offered = [*chat_settings.NAMES, "thinking"]
        case ["/set", name]:
            offered = list(chat_settings.values_of(name))
        case _:
            offered = []
    return [one for one in offered if one.startswith(word)]


def help_lines() -> Iterator[str]:
    """What /help shows."""
    shown = [(f"{name} {one.argument}".strip(), one.about) for name, one in COMMANDS.items() if one.is_shown]
    width = max(len(usage) for usage, _ in shown)
    yield from (f"{pad(usage, width)}  {about}" for usage, about in shown)
    yield from ADVICE
