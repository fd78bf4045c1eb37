"""Where the lines of a conversation come from: a terminal with history and editing, or a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from puna.cli.terminal import tell
from puna.errors import UsageError
from puna.paths import cache_dir

FENCE = '"""'
ReadLine = Callable[[str], str]  # prompt -> line; EOFError at the end, KeyboardInterrupt for Ctrl-C


def read_message(read_line: ReadLine) -> str:
    r"""One message: a line, or the lines between two fences ("" where Ctrl-C came between them).

    >>> lines = iter(['\"\"\"Dear', 'llama\"\"\"'])
    >>> read_message(lambda _: next(lines))
    'Dear\nllama'
    """
    text = read_line("> ")
    if not text.startswith(FENCE):
        return text
    text = text.removeprefix(FENCE)
    while not text.endswith(FENCE):
        try:
            text += "\n" + read_line(". ")
        except EOFError:
            tell(f"puna: the input ended within {FENCE}; that message was not sent")
            raise
        except KeyboardInterrupt:
            tell(f"puna: left {FENCE}; that message was not sent")
            return ""
    return text.removesuffix(FENCE).strip("\n")


@contextlib.contextmanager
def open_input() -> Iterator[ReadLine]:
    """The reader that fits: line editing where both ends are a terminal."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        yield _terminal_reader()
    else:
        yield _piped_line


def _piped_line(_: str) -> str:
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: byte {error.object[error.start]:#04x}") from error
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _terminal_reader() -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    session: PromptSession[str] = PromptSession(history=_history(), key_bindings=keys)

    def read(prompt: str) -> str:
        while True:
            try:
                text = session.prompt(prompt)
                text.encode("utf-8")  # the history does this too; a terminal gives lone surrogates for other bytes
                return text
            except UnicodeEncodeError:
                tell("puna: that line is not UTF-8; it was not sent")
            except KeyboardInterrupt:
                if not session.default_buffer.text:  # Ctrl-C on a line with text only clears it
                    raise

    return read


def _history() -> Any:
    """Lines of earlier conversations, in the cache; where that cannot be written, of this one only."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = cache_dir() / "chat_history"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(file)
