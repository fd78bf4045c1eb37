"""A conversation: its messages, what each answer cost, and what happens when the context is full."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from puna.cli import answer
from puna.cli.fetch import Confirm
from puna.cli.interrupts import CtrlC
from puna.cli.saved_chats import Autosave
from puna.cli.terminal import printable, shown_path, tell
from puna.cli.width import cut
from puna.errors import ContextLengthError, PunaError, UsageError
from puna.units import counted

if TYPE_CHECKING:
    from puna.chat import Message
    from puna.cli.answer import AnyLLM, AnyStream
    from puna.cli.prompt_format import PromptFormat
    from puna.completion import Completion
    from puna.request import SamplingParams

STOPPED = "stopped; the conversation keeps the answer so far"
SAVE_EVERY_S = 1.0  # during an answer: a killed process loses at most this much of it
FREE_CONTEXT = "/drop 1 drops the oldest exchange; /reset starts a new conversation."
ROOM_SHARE = 8  # leave an eighth of the context for an answer
QUOTED = 36  # cells of a quoted message


@dataclass
class Conversation:
    """The messages so far, and the statistics of each turn."""

    llm: AnyLLM
    params: SamplingParams
    system: str = ""
    is_quiet: bool = False  # stdout gets only the report
    load_s: float = 0.0
    prompt_format: PromptFormat | None = None  # if given, each message is sent alone, without a template
    autosave: Autosave | None = None  # None: nothing is saved
    confirm: Confirm | None = None  # asks a person; None: there is no terminal
    edit_text: Callable[[str], str] | None = None  # lets a person edit a text; KeyboardInterrupt if they gave up
    load: Callable[[str], AnyLLM] | None = None  # loads another model
    check: Callable[[str], None] = lambda model: None  # PunaError for a model that cannot hold a conversation; loads no weights
    ctrl_c: CtrlC = field(default_factory=CtrlC)
    messages: list[Message] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    num_failed: int = 0  # messages whose answer is missing or incomplete because of an error

    def sent_messages(self) -> list[Message]:
        """The conversation as the model sees it."""
        return self._with_system(self.messages)

    def _with_system(self, messages: list[Message]) -> list[Message]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + messages

    # ---- messages and answers

    def say(self, text: str) -> None:
        """Send a message and stream the answer. A message that does not fit is not sent."""
        self._say_after(self.messages, text)

    def regenerate(self) -> None:
        """Answer the last message again. UsageError if there is none."""
        self._say_after(self.messages[: self._last_question()], self.last_message())

    def edit(self, text: str) -> None:
        """Replace the last message with `text`, and answer it. UsageError if there is none."""
        self._say_after(self.messages[: self._last_question()], text)

    def last_message(self) -> str:
        """The user's last message. UsageError if there is none."""
        return self.messages[self._last_question()]["content"]

    def undo(self) -> str:
        """Remove the last message and its answer; return the message. UsageError if there is none."""
        text = self.last_message()
        del self.messages[self._last_question() :]
        self.save()
        return text

    def _last_question(self) -> int:
        numbers = self._questions()
        if not numbers:
            raise UsageError("there are no messages yet", hint="Type a message first.")
        return numbers[-1]

    def _questions(self) -> list[int]:
        """The indices of the user's messages: each begins an exchange."""
        return [number for number, message in enumerate(self.messages) if message["role"] == "user"]

    def _say_after(self, before: list[Message], text: str) -> None:
        """Make the conversation `before`, then `text`, then the answer. It stays as it is if there is no answer."""
        kept = self.messages
        self.messages = [*before, {"role": "user", "content": text}]
        try:
            with self.ctrl_c.during_answer():
                stream = self._stream_or_none(kept, text)
                if stream is not None:
                    self._receive(stream)
        except KeyboardInterrupt:  # before the first step
            self._give_up(kept, "[stopped; the message was not sent]")
        self.save()

    def _stream_or_none(self, kept: list[Message], text: str) -> AnyStream | None:
        """The stream of the answer. If the message was refused: None, and the conversation becomes `kept`."""
        try:
            return self._opened(text)
        except PunaError as error:
            self._give_up(kept, f"puna: {error.typed.message}", f"Not sent. {self._cure(error, text)}".rstrip())
            self.num_failed += 1
            return None

    def _give_up(self, kept: list[Message], *words: str) -> None:
        self.messages = kept
        tell(*words)

    def _opened(self, text: str) -> AnyStream:
        self._make_room()
        self.save()  # saves the question even if the answer ends the process
        if self.prompt_format is not None:
            return self.llm.stream(self.prompt_format.fill(text), self.params)
        return self.llm.chat_stream(self.sent_messages(), self.params)

    def _receive(self, stream: AnyStream) -> None:
        """Show the answer and keep it, also if an error or a signal ends it."""
        asked, partial = self.messages, _Partial()
        heard = answer.Heard()

        def on_text(text: str) -> None:
            if partial.is_due(text):
                self.messages = [*asked, {"role": "assistant", "content": partial.text}]
                self.save()

        try:
            with stream:
                heard = answer.stream_text(stream, None if self.is_quiet else sys.stdout, self._is_stopped, on_text)
        except KeyboardInterrupt:
            heard.is_stopped = True
        finally:  # also for SystemExit of a signal
            completion = stream.completion
            text = answer.whole_characters(completion.text, completion.finish_reason)
            self.messages = [*asked, {"role": "assistant", "content": text}]
            self.save()
            if not self.is_quiet:
                answer.end_line()
        self._account(completion, heard)

    def _is_stopped(self) -> bool:
        return self.ctrl_c.is_pressed

    def _account(self, completion: Completion, heard: answer.Heard) -> None:
        """Record an answer's statistics, and say why it ended if the model did not end it."""
        first = heard.first_token
        after_start_s = first - answer.process_started() if first and not self.turns else None
        facts = answer.speeds(completion, self.load_s, after_start_s)
        self.turns.append(facts | {"finish_reason": completion.finish_reason.value})
        if note := answer.told_of_shift(completion):
            tell(f"[{note}]")
        if completion.error:
            self.num_failed += 1
            tell(f"puna: the answer broke off: {completion.error}")
        elif note := answer.told_of_reasoning(completion):
            tell(f"[{note}]")
            self._tell_cut(completion)
        elif heard.is_stopped:
            tell("[stopped]" if self.prompt_format else f"[{STOPPED}]")
        else:
            self._tell_cut(completion)

    def _tell_cut(self, completion: Completion) -> None:
        is_alone = self.prompt_format is not None  # without other messages, dropping them frees nothing
        note = answer.cut_short(completion, self.llm, "/set max_tokens {}", answer.LARGER if is_alone else "")
        if note:
            is_full = note.startswith(answer.CONTEXT_IS_FULL)
            tell(f"[{note}]", FREE_CONTEXT if is_full and not is_alone else "")

    # ---- a full context

    def _make_room(self) -> None:
        """Offer to drop the oldest exchanges if there is little space for an answer. Drops nothing without asking."""
        if self.confirm is None or self.prompt_format is not None:
            return
        wanted = min(self.params.max_tokens or self.llm.plan.max_context, self.llm.plan.max_context // ROOM_SHARE)
        if self._fits(self.messages, wanted) or not (count := self._num_to_drop(wanted)):
            return
        oldest = "oldest" if count == 1 else f"{count} oldest"
        tell(f"The context of {self.llm.plan.max_context} tokens has no room for an answer of {wanted} tokens.")
        if self.confirm(f"Drop the {oldest} of {len(self._questions()) - 1} exchanges? [Y/n] "):
            self.drop_oldest(count)

    def _num_to_drop(self, wanted: int) -> int:
        """The fewest exchanges to drop for an answer of `wanted` tokens, else for any answer; 0: dropping cannot help."""
        starts = self._questions()
        for tokens in (wanted, 1):
            fitting = (count for count, start in enumerate(starts) if count and self._fits(self.messages[start:], tokens))
            if count := next(fitting, 0):
                return count
        return 0

    def _fits(self, messages: list[Message], answer_tokens: int) -> bool:
        size = self._num_tokens(messages)
        return size is not None and size + answer_tokens <= self.llm.plan.max_context

    def _num_tokens(self, messages: list[Message]) -> int | None:
        """Tokens of a prompt; None if the context cannot hold it."""
        try:
            return len(self.llm.encode_chat(self._with_system(messages)))
        except ContextLengthError:
            return None

    def drop_oldest(self, count: int) -> None:
        """Remove the oldest exchanges and say which. The saved conversation keeps them; later messages go to a new file.

        UsageError if there are fewer.
        """
        starts = [*self._questions(), len(self.messages)]
        if not 1 <= count < len(starts):
            exchanges = counted(len(starts) - 1, "exchange")
            have = f"the conversation has {exchanges}" if len(starts) > 1 else "there are no messages yet"
            raise UsageError(f"cannot drop {count}: {have}", hint="/drop N drops the N oldest messages with their answers.")
        dropped, self.messages = self.messages[: starts[count]], self.messages[starts[count] :]
        if self.autosave is not None:
            self.autosave.begin_anew()
        self.save()
        firsts = [quoted(message["content"]) for message in dropped if message["role"] == "user"]
        names = firsts[0] if count == 1 else f"{firsts[0]} to {firsts[-1]}"
        tell(f"Dropped {counted(count, 'exchange')}: {names}.")

    def _cure(self, error: PunaError, text: str) -> str:
        """What to do about a refused message: dropping helps only if the message fits alone."""
        if isinstance(error, ContextLengthError) and self.messages and self.prompt_format is None:
            alone = self._num_tokens([{"role": "user", "content": text}])
            if alone is not None and alone < self.llm.plan.max_context:
                return FREE_CONTEXT
        return error.typed.hint

    # ---- what is kept

    def save(self) -> None:
        """Save the conversation. A failure is printed once, and does not end the conversation."""
        if self.autosave is None or (not self.messages and self.autosave.path is None):
            return
        before = self.autosave.problem
        self.autosave.write(self.model_name(), self.sent_messages())
        if self.autosave.problem and self.autosave.problem != before:
            tell(f"puna: this conversation is not saved: {self.autosave.problem}")

    def forget(self) -> None:
        """Begin a new conversation; the file of this one stays."""
        self.messages = []
        if self.autosave is not None:
            self.autosave.begin_anew()

    def model_name(self) -> str:
        """The MODEL argument that loads the same model from any folder."""
        is_file = self.llm.path.exists()  # a server's model has only a name
        return shown_path(Path(os.path.abspath(self.llm.path)) if is_file else self.llm.path)  # noqa: PTH100 - resolve() follows links

    # ---- another model

    def replace_model(self, name: str) -> None:
        """Continue with another model. Closes the old one first, because both may not fit; loads it again if loading fails.

        PunaError, and no change, if `name` is not a model for conversations.
        """
        if self.load is None:
            raise UsageError("no other model can be loaded here", hint="Start again: puna chat MODEL --continue")
        self.check(name)
        before = self.model_name()
        self.close()
        try:
            self.llm = self.load(name)
        except (PunaError, KeyboardInterrupt) as error:
            words = error.typed.message if isinstance(error, PunaError) else "stopped"
            tell(f"puna: {words}", f"Going back to {before}")
            self.llm = self.load(before)
            return
        self.save()

    def close(self) -> None:
        """Close the model and release it. Idempotent."""
        llm = vars(self).pop("llm", None)
        if llm is not None:
            llm.close()


@dataclass(slots=True)
class _Partial:
    """An answer in progress."""

    text: str = ""
    _saved: float = field(default_factory=time.monotonic)

    def is_due(self, text: str) -> bool:
        """Add a piece; return whether to save the answer now."""
        self.text += text
        if time.monotonic() - self._saved < SAVE_EVERY_S:
            return False
        self._saved = time.monotonic()
        return True


def quoted(text: str) -> str:
    """The beginning of a message, in quotes, on one line."""
    return f'"{cut(printable(" ".join(text.split())), QUOTED)}"'
