"""Conversations on disk. Every change is saved at once, so that a crash or a closed window loses nothing.

A file holds {"model": ..., "messages": [...]}, as /save writes it and /load reads it.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna import checks
from puna.cli.save import save_text
from puna.errors import PunaError, UsageError
from puna.files import PRIVATE, TEMPORARY
from puna.paths import conversations_dir
from puna.units import rough_gib

if TYPE_CHECKING:
    from puna.messages import Message

SAVED_ROLES = ("system", "user", "assistant")  # the roles of a chat in the terminal
KEPT = 200  # conversations; the least recently changed are removed first
MAX_BYTES = 64 << 20
OLD_S = 24 * 3600  # a killed process left a temporary file of this age


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A conversation that was read from a file."""

    path: Path
    model: str | None  # the MODEL argument to continue with
    messages: list[Message]

    @property
    def system(self) -> str:
        """The system message; "" if there is none."""
        return "\n\n".join(message["content"] for message in self.messages if message["role"] == "system")

    @property
    def said(self) -> list[Message]:
        """The messages without the system message."""
        return [message for message in self.messages if message["role"] != "system"]


@dataclass(slots=True)
class Autosave:
    """Writes one conversation to a file of its own, each time it changes."""

    folder: Path = field(default_factory=conversations_dir)
    path: Path | None = None  # None: nothing was written yet
    problem: str = ""  # why the last attempt failed
    _written: str = ""

    def write(self, model: str, messages: list[Message]) -> None:
        """Save the conversation if it changed. A failure goes to `problem`: it must not end the conversation."""
        text = document(model, messages)
        if text == self._written:
            return
        try:
            if self.path is None:
                self.path = _new_file(self.folder)
            save_text(self.path, text, overwrite=True, mode=PRIVATE)
            self._written, self.problem = text, ""
        except (PunaError, OSError) as error:
            self.problem = str(error)

    def begin_anew(self) -> None:
        """Start another conversation; the file of this one stays."""
        self.path, self._written = None, ""


def document(model: str, messages: list[Message]) -> str:
    """The text of a file that holds a conversation."""
    return json.dumps({"model": model, "messages": messages}, ensure_ascii=False, indent=1) + "\n"


def newest(folder: Path | None = None) -> SavedChat:
    """The conversation that was saved last. UsageError if there is none."""
    folder = conversations_dir() if folder is None else folder
    files = _by_age(folder)
    if not files:
        raise UsageError(f"no conversation is saved in {folder}", hint="Start one: puna chat")
    return read_chat(files[-1])


def read_chat(path: Path) -> SavedChat:
    """The conversation in a file of /save or autosave. UsageError if it holds none, PunaError if it cannot be read."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file", hint="Name a file that /save wrote.")  # opening a pipe would wait
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UsageError(f"{path} is larger than {rough_gib(MAX_BYTES)}", hint="Name a file that /save wrote.")
        values = json.loads(data.decode("utf-8-sig"))
    except OSError as error:
        raise PunaError(f"cannot read {path}: {error.strerror or error}", hint="Check the path.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is not JSON: {error}", hint="Name a file that /save wrote.") from error
    model = values.get("model") if isinstance(values, dict) else None
    return SavedChat(path, model if isinstance(model, str) else None, _messages(path, values))


def _messages(path: Path, values: Any) -> list[Message]:
    found = values.get("messages") if isinstance(values, dict) else values  # other programs write a bare list of messages
    if not isinstance(found, list):
        raise UsageError(f'{path} holds no "messages"', hint="Name a file that /save wrote.")
    return [_message(f"{path}: message {number}", message) for number, message in enumerate(found)]


def _message(name: str, message: Any) -> Message:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if role not in SAVED_ROLES or not isinstance(role, str) or not isinstance(content, str):
        raise UsageError(f'{name} is not {{"role": ..., "content": text}}', hint=f"Roles: {', '.join(SAVED_ROLES)}.")
    return {"role": role, "content": checks.unicode(f"the content of {name}", content)}


def _new_file(folder: Path) -> Path:
    """The name of a new file, in a folder that only its owner can read. Removes the oldest conversations."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in _by_age(folder)[: -(KEPT - 1)]:
        file.unlink(missing_ok=True)
    for file in folder.glob(f"{TEMPORARY}*"):
        if time.time() - file.stat().st_mtime > OLD_S:
            file.unlink(missing_ok=True)
    return folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(4)}.json"


def _by_age(folder: Path) -> list[Path]:
    """The files of conversations, the latest at the end."""
    dated = []
    for file in folder.glob("*.json"):
        try:
            dated.append((file.stat().st_mtime_ns, file.name, file))
        except OSError:  # another process removed it
            continue
    return [file for _, _, file in sorted(dated)]
