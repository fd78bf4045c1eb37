"""A conversation: its messages, and what each answer cost."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from puna.cli import answer
from puna.cli.terminal import tell
from puna.errors import ContextLengthError, PunaError

if TYPE_CHECKING:
    from puna.chat import Message
    from puna.cli.prompt_format import PromptFormat
    from puna.llm import LLM, Completion, Stream
    from puna.request import SamplingParams

STOPPED = "stopped; what was said so far is part of the conversation"


@dataclass
class Conversation:
    """The messages so far, and what each turn cost."""

    llm: LLM
    params: SamplingParams
    system: str = ""
    is_quiet: bool = False  # nothing but the report on stdout
    load_s: float = 0.0
    prompt_format: PromptFormat | None = None  # given: each message is asked by itself, without a template
    messages: list[Message] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    num_failed: int = 0  # messages that got no answer, or not all of it, because of an error

    def sent_messages(self) -> list[Message]:
        """The conversation as the model sees it."""
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.messages

    def say(self, text: str) -> None:
        """Send a message and stream the answer. A message that does not fit is not sent, and nothing is dropped for it."""
        self.messages.append({"role": "user", "content": text})
        try:
            stream = self._open_stream(text)
        except PunaError as error:
            message = self.messages.pop()
            self.num_failed += 1
            tell(f"puna: {error.message}", f"Not sent. {self._cure(error, message)}".rstrip())
            return
        note = ""
        with stream:
            try:
                first = answer.stream_text(stream, None if self.is_quiet else sys.stdout)
            except KeyboardInterrupt:
                first, note = 0.0, "stopped" if self.prompt_format else STOPPED
        if not self.is_quiet:
            answer.end_line()
        self._keep(stream.completion, first, note)

    def _open_stream(self, text: str) -> Stream:
        if self.prompt_format is not None:
            return self.llm.stream(self.prompt_format.fill(text), self.params)
        return self.llm.chat_stream(self.sent_messages(), self.params)

    def _cure(self, error: PunaError, message: Message) -> str:
        """What to do about a message that was refused: a fresh start helps only one that fits alone."""
        if isinstance(error, ContextLengthError) and self.messages and self.prompt_format is None:
            alone = self.llm.encode_chat([*self.sent_messages()[: bool(self.system)], message])
            if len(alone) < self.llm.plan.max_context:
                return "/reset begins anew, with room."
        return error.hint

    def _keep(self, completion: Completion, first: float, note: str) -> None:
        self.messages.append({"role": "assistant", "content": completion.text})
        after_start_s = first - answer.process_started() if first and not self.turns else None
        self.turns.append(
            answer.speeds(completion, self.load_s, after_start_s) | {"finish_reason": completion.finish_reason.value}
        )
        if completion.error:
            self.num_failed += 1
            tell(f"puna: the answer broke off: {completion.error}")
        elif note or (note := answer.cut_short(completion, self.llm)):
            has_cure = "context is full" in note and self.prompt_format is None
            tell(f"[{note}]", "/reset begins anew, with room." if has_cure else "")
