"""Dialogs -> prompt ids, in the chat formats of Meta's packages for Llama 2 and Llama 3."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Literal

from puna import checks
from puna.chat import Message
from puna.compat.errors import MetaAssertionError, NoDialogError
from puna.llm import LLM
from puna.tokenizers.base import Tokenizer

Role = Literal["system", "user", "assistant"]
SPECIAL_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
Dialog = Sequence[Message]


def dialog_encoder(llm: LLM, tokenizer: Tokenizer) -> tuple[Callable[[Dialog], list[int]], bool]:
    """How a model's dialogs become ids, and whether they must not hold Llama 2's tags.

    A vocabulary with Llama 3's headers uses Llama 3's format. Another model uses its own template, if it has one, else Llama 2's
    format.
    """
    if "<|start_header_id|>" in tokenizer.special_tokens:
        return lambda dialog: llama3_ids(checked(dialog), tokenizer), False
    template = llm.chat_template
    has_own = "<|im_start|>" in tokenizer.special_tokens if template is None else "<<SYS>>" not in template
    if has_own:
        return lambda dialog: llm.encode_chat(checked(dialog)), False
    return lambda dialog: llama2_ids(checked(dialog), tokenizer), True


def has_tags(dialog: Dialog) -> bool:
    """Whether any message, of any role, holds one of Llama 2's tags."""
    return any(tag in message["content"] for message in dialog for tag in SPECIAL_TAGS)


def checked(dialog: Dialog) -> Dialog:
    """A list of messages, each with a role and a text. NoDialogError for an empty one."""
    if not len(checks.row("the dialog", dialog, "a list of messages")):
        raise NoDialogError("the dialog is empty", hint='Give at least one message: {"role": "user", "content": "..."}.')
    for number, message in enumerate(dialog):
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise checks.refuse(f"message {number} of the dialog", message, 'a dict {"role": text, "content": text}')
    return dialog


def llama2_ids(dialog: Dialog, tokenizer: Tokenizer) -> list[int]:
    """Each exchange separately between BOS and EOS; the last question has no EOS."""
    turns = _with_system_merged(dialog)
    _require_turns(turns)
    texts = [message["content"].strip() for message in turns]
    past = (
        tokenizer.encode(f"[INST] {question} [/INST] {answer} ", bos=True, eos=True)
        for question, answer in zip(texts[::2], texts[1::2])
    )
    return [*chain.from_iterable(past), *tokenizer.encode(f"[INST] {texts[-1]} [/INST]", bos=True, eos=False)]


def _with_system_merged(dialog: Dialog) -> Dialog:
    """Join a system message with the message after it."""
    if dialog[0]["role"] != "system":
        return dialog
    if len(dialog) == 1:
        raise NoDialogError("the dialog holds only a system message", hint="Add a user message after it.")
    system, first, *rest = dialog
    merged = f"<<SYS>>\n{system['content']}\n<</SYS>>\n\n{first['content']}"
    return [{"role": first["role"], "content": merged}, *rest]


def _require_turns(turns: Dialog) -> None:
    roles = [message["role"] for message in turns]
    if roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]:
        raise MetaAssertionError(
            "model only supports 'system', 'user' and 'assistant' roles, starting with 'system', then 'user' and alternating "
            f"(u/a/u/a/u...); given: {', '.join(roles)}",
            hint="Put the messages into that order; only the first may be a system message.",
        )
    if roles[-1] != "user":
        raise MetaAssertionError(
            f"Last message must be from user, got {roles[-1]}", hint="Drop the last answer, or add a question after it."
        )


def llama3_ids(dialog: Dialog, tokenizer: Tokenizer) -> list[int]:
    """BOS; for each message a header with its role, the text, <|eot_id|>; the header of the answer."""
    control = tokenizer.special_tokens

    def header(role: str) -> list[int]:
        name, gap = tokenizer.encode(role, bos=False, eos=False), tokenizer.encode("\n\n", bos=False, eos=False)
        return [control["<|start_header_id|>"], *name, control["<|end_header_id|>"], *gap]

    def message_ids(message: Message) -> list[int]:
        text = tokenizer.encode(message["content"].strip(), bos=False, eos=False)
        return [*header(message["role"]), *text, control["<|eot_id|>"]]

    return [*tokenizer.encode("", bos=True, eos=False), *chain.from_iterable(map(message_ids, dialog)), *header("assistant")]
