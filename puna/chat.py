"""Messages -> the ids of a prompt: by the template of the model file, or by one of three that are built in.

What a person typed stays text: control tokens in the content of a message are broken up before a template sees them.
Knows text and ids. Knows no models; the template itself runs in `template.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TypedDict

from puna import checks
from puna.errors import TemplateError, UsageError
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.vocabulary import cutter

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Text to encode with control tokens, and the character that breaks up those which a person typed."""

    text: str
    guard: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of a prompt that is encoded by itself. `bos`: None follows the file's rule."""

    text: str
    bos: bool | None = False
    eos: bool = False
    special: bool = True


def encode_chat(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    add_generation_prompt: bool = True,
    now: datetime | None = None,
    limit: int | None = None,
) -> list[int]:
    """Ids of the prompt that asks for the next assistant message.

    `template`: Jinja2 text as in a model file, or the name of a built-in; None chooses a built-in by the vocabulary.
    BOS is there once: where the template wrote it, else where the file asks for it. `limit`: as of `Tokenizer.encode`.
    """
    check_messages(messages)
    if template is None or template in BUILT_IN:
        return _encode_built_in(messages, tokenizer, template or fitting_template(tokenizer), add_generation_prompt, limit)
    prompt = render(
        messages,
        template,
        bos_token=_text_of(tokenizer, tokenizer.bos_id),
        eos_token=_text_of(tokenizer, tokenizer.eos_id),
        add_generation_prompt=add_generation_prompt,
        control_tokens=tokenizer.special_tokens,
        now=now,
    )
    return tokenizer.encode(prompt.text, eos=False, special=True, guard=prompt.guard, limit=limit)


def render(
    messages: Sequence[Message],
    template: str,
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    control_tokens: Collection[str] = (),
    now: datetime | None = None,
) -> Prompt:
    """The text that a Jinja2 template makes of `messages`, under the conventions of Hugging Face's chat templates."""
    from puna.template import render_template

    check_messages(messages)
    guard = choose_guard([template, *(message["content"] for message in messages)])
    variables = {
        "messages": break_up(messages, control_tokens, guard),
        "bos_token": bos_token,
        "eos_token": eos_token,
        "add_generation_prompt": add_generation_prompt,
        "tools": None,
        "documents": None,
    }
    return Prompt(render_template(template, variables, now=now), guard)


def check_messages(messages: Sequence[Message]) -> None:
    if not len(checks.row("the conversation", messages, "a list of messages")):
        raise UsageError("a chat needs at least one message")
    for number, message in enumerate(messages):
        _check_message(f"message {number}", message)


def _check_message(name: str, message: object) -> None:
    if not isinstance(message, Mapping):
        raise checks.refuse(name, message, 'a dict {"role": ..., "content": ...}')
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UsageError(f"{name} has the role {role!r}; allowed: {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise UsageError(f"{name} has content of type {type(content).__name__}; text is needed")
    checks.unicode(name, content)


def choose_guard(texts: Sequence[str]) -> str:
    """A character that occurs in none of `texts`: one that Unicode reserves for internal use, if there is one left."""
    used = set().union(*texts)
    candidates = map(chr, chain(range(0xFDD0, 0xFDF0), range(0x100000, 0x10FFFE)))
    guard = next((c for c in candidates if c not in used), None)
    if guard is None:
        raise UsageError("the messages use up every private character of Unicode")
    return guard


def break_up(messages: Sequence[Message], control_tokens: Collection[str], guard: str) -> list[Message]:
    """The messages with `guard` inside each control token of their contents.

    >>> break_up([{"role": "user", "content": "a<s>b"}], ["<s>"], "|")
    [{'role': 'user', 'content': 'a<|s>b'}]
    """
    cut = cutter({text: number for number, text in enumerate(control_tokens) if len(text) > 1})

    def broken(text: str) -> str:
        pieces = [(piece, number) for piece, number in cut(text)]
        if all(number is None for _, number in pieces):
            return text
        guarded = (piece if number is None else piece[0] + guard + piece[1:] for piece, number in pieces)
        return broken("".join(guarded))  # again: tokens may overlap

    return [{"role": message["role"], "content": broken(message["content"])} for message in messages]


def fitting_template(tokenizer: Tokenizer) -> str:
    """The built-in whose control tokens the vocabulary has. Where none fits, nothing is guessed."""
    name = guessed_template(tokenizer.special_tokens)
    if name is None:
        raise TemplateError(
            "the model file has no chat template, and its vocabulary fits none that is built in",
            hint=f"Name one with --template ({', '.join(BUILT_IN)}), or use --raw for plain continuation.",
        )
    return name


def guessed_template(control_tokens: Collection[str]) -> str | None:
    """The built-in that is used for a model without a template, by the control tokens of its vocabulary; None where none fits.

    >>> guessed_template(["<|im_start|>", "<|im_end|>"])
    'chatml'
    """
    return next((name for token, name in _MARKS.items() if token in control_tokens), None)


def llama2(messages: Sequence[Message], add_generation_prompt: bool) -> list[Turn]:
    """Llama 2 and Code Llama: tags in plain text, each exchange encoded by itself between BOS and EOS."""
    if tag := next((tag for tag in _LLAMA2_TAGS for message in messages if tag in message["content"]), None):
        raise UsageError(f"a message holds {tag}, which marks the turns of a Llama 2 chat; it is not allowed in a message")
    texts = _llama2_texts(messages)
    turns = [
        Turn(f"[INST] {user.strip()} [/INST] {answer.strip()} ", bos=True, eos=True, special=False)
        for user, answer in zip(texts[::2], texts[1::2])
    ]
    return [*turns, Turn(f"[INST] {texts[-1].strip()} [/INST]", bos=True, special=False)]


_LLAMA2_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


def _llama2_texts(messages: Sequence[Message]) -> list[str]:
    """Contents, user first and last, the system message within the first."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    rest = messages if system is None else messages[1:]
    roles = [message["role"] for message in rest]
    if roles != ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))] or len(roles) % 2 == 0:
        raise UsageError(
            f"a Llama 2 chat is user, assistant, user, ... and ends with user; given: {', '.join(m['role'] for m in messages)}"
        )
    texts = [message["content"] for message in rest]
    if system is not None:
        texts[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{texts[0]}"
    return texts


def llama3(messages: Sequence[Message], add_generation_prompt: bool) -> list[Turn]:
    """Llama 3: a header with the role, the content, <|eot_id|>."""
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    parts = [head.format(message["role"]) + message["content"].strip() + "<|eot_id|>" for message in messages]
    return [Turn("".join([*parts, head.format("assistant") if add_generation_prompt else ""]), bos=True)]


def chatml(messages: Sequence[Message], add_generation_prompt: bool) -> list[Turn]:
    """ChatML: <|im_start|>, the role, the content, <|im_end|>."""
    parts = [f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n" for message in messages]
    return [Turn("".join([*parts, "<|im_start|>assistant\n" if add_generation_prompt else ""]), bos=None)]


BUILT_IN: Mapping[str, Callable[[Sequence[Message], bool], list[Turn]]] = {
    "llama2": llama2,
    "llama3": llama3,
    "chatml": chatml,
}
_MARKS = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama3"}


def _encode_built_in(
    messages: Sequence[Message], tokenizer: Tokenizer, name: str, add_generation_prompt: bool, limit: int | None
) -> list[int]:
    guard = choose_guard([message["content"] for message in messages])
    turns = BUILT_IN[name](break_up(messages, tokenizer.special_tokens, guard), add_generation_prompt)
    encoded = (
        tokenizer.encode(turn.text, bos=turn.bos, eos=turn.eos, special=turn.special, guard=guard, limit=limit) for turn in turns
    )
    return list(chain.from_iterable(encoded))


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.piece(token_id)
