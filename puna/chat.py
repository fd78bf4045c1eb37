"""Messages -> the ids of a prompt, by the model file's template or by one of three built-in ones.

Content stays text: puna breaks up control tokens in the content of a message before a template sees them.
Knows text and ids, but no models. `template.py` runs templates; `messages.py` checks messages.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from puna import checks
from puna.errors import TemplateError, UsageError
from puna.messages import Message as Message
from puna.messages import Messages, checked_messages, texts_in
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.vocabulary import Segments, cutter

SET_BY_PUNA = ("messages", "bos_token", "eos_token", "add_generation_prompt")  # variables that a caller cannot replace
ASKED_FOR = ("system", "developer", "tool")  # roles whose messages a template must not leave out


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """Text to encode with control tokens, and the character that breaks up control tokens in contents."""

    text: str
    guard: str


@dataclass(frozen=True, slots=True)
class Turn:
    """A part of a prompt that is encoded separately. `bos`: None follows the file's rule."""

    text: str
    bos: bool | None = False
    eos: bool = False
    special: bool = True


def encode_chat(
    messages: Messages,
    tokenizer: Tokenizer,
    template: str | None = None,
    *,
    add_generation_prompt: bool = True,
    continue_final_message: bool | None = None,
    template_args: Mapping[str, Any] | None = None,
    now: datetime | None = None,
    limit: int | None = None,
) -> list[int]:
    """Ids of the prompt for the next assistant message, or for the rest of the last one.

    `template`: Jinja2 text as in a model file, or the name of a built-in; None chooses a built-in by the vocabulary.
    The prompt has one BOS: the template's, else one if the file asks for it. `limit`: as in `Tokenizer.encode`.
    The other arguments are those of `render`.
    """
    if template is None or template in BUILT_IN:
        turns = checked_messages(messages)
        is_continued = continues(turns, add_generation_prompt, continue_final_message)
        checked_args(template_args)
        name = template or fitting_template(tokenizer)
        return _encode_built_in(turns, tokenizer, name, add_generation_prompt, is_continued, limit)
    prompt = render(
        messages,
        template,
        bos_token=_text_of(tokenizer, tokenizer.bos_id),
        eos_token=_text_of(tokenizer, tokenizer.eos_id),
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
        template_args=template_args,
        control_tokens=tokenizer.special_tokens,
        now=now,
    )
    return tokenizer.encode(prompt.text, eos=False, special=True, guard=prompt.guard, limit=limit)


def render(
    messages: Messages,
    template: str,
    *,
    bos_token: str,
    eos_token: str,
    add_generation_prompt: bool = True,
    continue_final_message: bool | None = None,
    template_args: Mapping[str, Any] | None = None,
    control_tokens: Collection[str] = (),
    now: datetime | None = None,
) -> RenderedChat:
    """The text that a Jinja2 template makes of `messages`, under the conventions of Hugging Face's chat templates.

    `continue_final_message`: None continues the last message if it is the assistant's, True requires one, False refuses one.
    `add_generation_prompt=False` adds no header for an answer. `template_args`: variables of the template.
    """
    from puna.template import render_template

    turns = checked_messages(messages)
    is_continued = continues(turns, add_generation_prompt, continue_final_message)
    given = checked_args(template_args)
    turns = _in_the_words_of(template, turns)
    letters = unused_letters([template, *texts_in(turns), *texts_in(given)])
    guard, end = next(letters), next(letters)
    guarded = break_up(turns, control_tokens, guard)
    own = {"bos_token": bos_token, "eos_token": eos_token, "tools": None, "documents": None}

    def rendered(turns: list[dict[str, Any]]) -> str:
        variables = own | break_up(given, control_tokens, guard)
        variables |= {"messages": turns, "add_generation_prompt": add_generation_prompt and not is_continued}
        return render_template(template, variables, now=now)

    _require_none_left_out(guarded, letters, rendered)
    if not is_continued:
        return RenderedChat(rendered(guarded), guard)
    before, found, _ = rendered([*guarded[:-1], _with_letter(guarded[-1], end)]).rpartition(end)
    if not found or not before.rstrip().endswith(guarded[-1]["content"].strip()):
        raise TemplateError(
            "the chat template changes or drops the last message, so puna cannot continue it",
            hint="Leave out what the template removes (mostly thoughts), or end with a user message.",
        )
    return RenderedChat(before, guard)


def continues(turns: Sequence[Mapping[str, Any]], add_generation_prompt: bool, asked: bool | None) -> bool:
    """Whether the answer continues the last message. UsageError if the arguments and that message do not match."""
    is_last = turns[-1]["role"] == "assistant"
    checks.optional(checks.flag)("continue_final_message", asked)
    if asked and not is_last:
        raise UsageError(
            f"continue_final_message is True, but the last message has the role {turns[-1]['role']!r}",
            hint="End with an assistant message: the beginning of the answer.",
        )
    if asked is False and is_last and add_generation_prompt:
        raise UsageError(
            "the last message is the assistant's, and continue_final_message is False: there is nothing to answer",
            hint="Add a user message, or leave continue_final_message out to continue the last one.",
        )
    return is_last and (add_generation_prompt if asked is None else asked)


def checked_args(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Variables for a template. UsageError for names that puna sets itself, and for values that are not JSON."""
    if not given and isinstance(given, Mapping | None):
        return {}
    if not isinstance(given, Mapping):
        raise checks.refuse("template_args", given, "a dict {name: value}")
    from puna.template import FUNCTIONS

    for name in given:
        if not isinstance(name, str) or not name.isidentifier():
            raise UsageError(f"template_args names {name!r}; the name of a variable is needed, such as enable_thinking")
        if name in (*SET_BY_PUNA, *FUNCTIONS):
            raise UsageError(f"template_args names {name}, which puna sets itself", hint="Leave it out.")
    return {name: checks.json_value(f"template_args[{name!r}]", value) for name, value in given.items()}


def unread_args(names: Collection[str], template: str | None) -> list[str]:
    """Those of `names` that a template never reads. A built-in template reads none."""
    from puna.template import vocabulary

    if template is None or template in BUILT_IN:
        return list(names)
    return [name for name in names if name not in vocabulary(template).variables]


def _in_the_words_of(template: str, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages in the roles and keys that a template knows. TemplateError for tool calls that it never reads."""
    from puna.template import vocabulary

    texts = vocabulary(template).texts
    number = next((i for i, turn in enumerate(turns) if "tool_calls" in turn), None)
    if number is not None and "tool_calls" not in texts:
        raise TemplateError(
            f"message {number} has tool_calls, which the chat template of this model does not read",
            hint="Take a model that was trained to call tools, or leave tool_calls out.",
        )
    return turns if "developer" in texts else [_as_system(turn) for turn in turns]


def _as_system(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"role": "system"} if turn["role"] == "developer" else turn


def _require_none_left_out(
    turns: list[dict[str, Any]], letters: Iterator[str], rendered: Callable[[list[dict[str, Any]]], str]
) -> None:
    """TemplateError if the template drops a system or tool message: each gets a marker, which the text must contain."""
    probes = {number: next(letters) for number, turn in enumerate(turns) if turn["role"] in ASKED_FOR}
    if not probes:
        return
    text = rendered([_with_letter(turn, probes.get(number, "")) for number, turn in enumerate(turns)])
    for number, letter in probes.items():
        if letter not in text:
            raise TemplateError(
                f"the chat template of this model leaves out message {number}, which has the role {turns[number]['role']!r}",
                hint="Put its text into a user message.",
            )


def _with_letter(turn: dict[str, Any], letter: str) -> dict[str, Any]:
    return turn | {"content": turn["content"] + letter}


def unused_letters(texts: Sequence[str]) -> Iterator[str]:
    """Characters that occur in none of `texts`. Those that Unicode reserves for internal use come first."""
    used = set().union(*texts)
    yield from (c for c in map(chr, chain(range(0xFDD0, 0xFDF0), range(0x100000, 0x10FFFE))) if c not in used)
    raise UsageError("the messages use up every private character of Unicode")


def break_up(value: Any, control_tokens: Collection[str], guard: str) -> Any:
    """Messages, or any JSON value, with `guard` inside each control token of its texts.

    >>> break_up([{"role": "user", "content": "a<s>b"}], ["<s>"], "|")
    [{'role': 'user', 'content': 'a<|s>b'}]
    """
    cut = _cutter_of(frozenset(control_tokens))

    def broken(text: str) -> str:
        pieces = [(piece, number) for piece, number in cut(text)]
        if all(number is None for _, number in pieces):
            return text
        guarded = (piece if number is None else piece[0] + guard + piece[1:] for piece, number in pieces)
        return broken("".join(guarded))  # again: tokens may overlap

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return broken(value)
        if isinstance(value, Mapping):
            return {broken(key): walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, list) else value

    return walk(value)


@lru_cache(maxsize=8)
def _cutter_of(control_tokens: frozenset[str]) -> Callable[[str], Segments]:
    """Kept for the next chat: to make one of Gemma 3's 6,250 control tokens takes 10 ms."""
    return cutter({text: number for number, text in enumerate(control_tokens) if len(text) > 1})


def fitting_template(tokenizer: Tokenizer) -> str:
    """The built-in whose control tokens the vocabulary has. TemplateError if none fits."""
    name = guessed_template(tokenizer.special_tokens)
    if name is None:
        raise TemplateError(
            "the model file has no chat template, and no built-in one fits its vocabulary",
            hint=f"Name one with --template ({', '.join(BUILT_IN)}), or use --raw for plain continuation.",
        )
    return name


def guessed_template(control_tokens: Collection[str]) -> str | None:
    """The built-in template for a model without one, by the control tokens of its vocabulary; None if none fits.

    >>> guessed_template(["<|im_start|>", "<|im_end|>"])
    'chatml'
    """
    return next((name for token, name in _MARKS.items() if token in control_tokens), None)


def llama2(messages: Sequence[Message], add_generation_prompt: bool) -> list[Turn]:
    """Llama 2 and Code Llama: tags in plain text, each exchange encoded separately between BOS and EOS."""
    if tag := next((tag for tag in _LLAMA2_TAGS for message in messages if tag in message["content"]), None):
        raise UsageError(f"a message holds {tag}, which marks the turns of a Llama 2 chat; it is not allowed in a message")
    texts = _llama2_texts(messages, is_closed=not add_generation_prompt)
    turns = [
        Turn(f"[INST] {user.strip()} [/INST] {answer.strip()} ", bos=True, eos=True, special=False)
        for user, answer in zip(texts[::2], texts[1::2])
    ]
    asked = [Turn(f"[INST] {user.strip()} [/INST]", bos=True, special=False) for user in texts[len(texts) // 2 * 2 :]]
    return [*turns, *asked]


_LLAMA2_TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")


def _llama2_texts(messages: Sequence[Message], is_closed: bool) -> list[str]:
    """Contents, user first and last (assistant last if nothing is asked), the system message inside the first."""
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    rest = messages if system is None else messages[1:]
    roles = [message["role"] for message in rest]
    alternates = roles == ["user" if i % 2 == 0 else "assistant" for i in range(len(roles))]
    if not alternates or (len(roles) % 2 == 0 and not is_closed) or not roles:
        raise UsageError(
            "a Llama 2 chat is user, assistant, user, ... after at most one system message; "
            f"given: {', '.join(m['role'] for m in messages)}"
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
    given: list[dict[str, Any]],
    tokenizer: Tokenizer,
    name: str,
    add_generation_prompt: bool,
    is_continued: bool,
    limit: int | None,
) -> list[int]:
    plain = [_plain(number, turn, name) for number, turn in enumerate(given)]
    letters = unused_letters([message["content"] for message in plain])
    guard, end = next(letters), next(letters)
    guarded: list[Message] = break_up(plain, tokenizer.special_tokens, guard)
    if is_continued:
        guarded[-1]["content"] += end
    turns = BUILT_IN[name](guarded, add_generation_prompt and not is_continued)
    if is_continued:
        turns[-1] = replace(turns[-1], text=turns[-1].text.rpartition(end)[0], eos=False)
    encoded = (
        tokenizer.encode(turn.text, bos=turn.bos, eos=turn.eos, special=turn.special, guard=guard, limit=limit) for turn in turns
    )
    return list(chain.from_iterable(encoded))


def _plain(number: int, turn: dict[str, Any], name: str) -> Message:
    if turn["role"] == "tool" or turn.get("tool_calls"):
        what = "the role 'tool'" if turn["role"] == "tool" else "tool_calls"
        raise TemplateError(
            f"message {number} has {what}; the built-in template {name} has no place for it",
            hint="Use the template of a model that was trained to call tools.",
        )
    return {"role": _as_system(turn)["role"], "content": turn["content"]}


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str:
    return "" if token_id is None else tokenizer.piece(token_id)
