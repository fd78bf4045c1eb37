"""Reads the messages of a conversation: from a terminal with history and editing, or from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from puna.cli.keyboard import Keyboard, drop_typed, unechoed
from puna.cli.standard_input import LineReader
from puna.cli.terminal import tell
from puna.paths import cache_dir

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

FENCE = '"""'
ReadLine = Callable[[str], str]  # prompt -> line; EOFError at the end, KeyboardInterrupt for Ctrl-C
Complete = Callable[[str], list[str]]  # the line so far -> what may stand in place of its last word


class Typed(NamedTuple):
    """A message as it was typed. Text between fences is never a command."""

    text: str
    is_fenced: bool = False


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A source of messages."""

    read_line: ReadLine
    edit: Callable[[str], str] | None = None  # text -> the edited text; None: there is no terminal
    ask: ReadLine | None = None  # like read_line, but keeps the line out of the history

    @property
    def is_terminal(self) -> bool:
        return self.edit is not None

    def confirm(self, question: str) -> bool:
        """Whether a person agrees: Enter, y or yes is agreement, Ctrl-C or Ctrl-D is not."""
        try:
            return (self.ask or self.read_line)(question).strip().lower() in ("", "y", "yes")
        except (EOFError, KeyboardInterrupt):
            return False


def read_message(read_line: ReadLine) -> Typed:
    r"""One message: a line, or the lines between two fences ("" if Ctrl-C came between them).

    >>> lines = iter(['\"\"\"Dear', 'llama\"\"\"'])
    >>> read_message(lambda _: next(lines)).text
    'Dear\nllama'
    """
    text = read_line("> ")
    if not text.startswith(FENCE):
        return Typed(text)
    text = text.removeprefix(FENCE)
    while not text.endswith(FENCE):
        try:
            text += "\n" + read_line(". ")
        except EOFError:
            tell(f"puna: the input ended within {FENCE}; that message was not sent")
            raise
        except KeyboardInterrupt:
            tell(f"puna: left {FENCE}; that message was not sent")
            return Typed("")
    return Typed(text.removesuffix(FENCE).strip("\n"), is_fenced=True)


@contextlib.contextmanager
def open_input(complete: Complete) -> Iterator[ChatInput]:
    """The source of messages: with line editing, and what `complete` offers for Tab, if stdin and stderr are a terminal."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with unechoed(is_raw=True) as keyboard:  # each prompt echoes by itself
            yield _terminal_input(keyboard, complete)
    else:
        lines = LineReader()
        yield ChatInput(lambda _: lines.read())


def _terminal_input(keyboard: Keyboard, complete: Complete) -> ChatInput:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(
        history=_history(), key_bindings=keys, completer=_completer(complete), complete_while_typing=False
    )
    return ChatInput(  # each call borrows the keyboard anew
        read_line=keyboard.lent()(partial(_prompted, session)),
        edit=keyboard.lent()(lambda text: session.prompt("edit> ", default=text)),
        ask=keyboard.lent()(_asked),
    )


def _completer(complete: Complete) -> Any:
    """What prompt_toolkit asks when Tab is pressed."""
    from prompt_toolkit.completion import Completer, Completion

    class LastWord(Completer):
        def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
            line = document.text_before_cursor
            return (Completion(one, start_position=-len(line.rpartition(" ")[2])) for one in complete(line))

    return LastWord()


def _prompted(session: PromptSession[str], prompt: str) -> str:
    """A line; Ctrl-C on one with text only clears it."""
    while True:
        try:
            text = session.prompt(prompt)
            text.encode("utf-8")  # the history does this too; a terminal gives lone surrogates for other bytes
            return text
        except UnicodeEncodeError:
            tell("puna: that line is not UTF-8; it was not sent")
        except KeyboardInterrupt:
            if not session.default_buffer.text:
                raise


def _asked(question: str) -> str:
    """The answer to a question; what was typed before it is dropped."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.input.typeahead import clear_typeahead

    session: PromptSession[str] = PromptSession()
    clear_typeahead(session.input)
    drop_typed()
    return session.prompt(question)


def _history() -> Any:
    """The history file in the cache. If it cannot be written, the history holds only this conversation."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = cache_dir() / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)
