"""What all chat wires share of messages: they are built turn by turn, and put into an order that the model's template takes.

Agents send instructions anywhere, two users in a row, and several system messages. Many templates refuse that. `fitted` asks the
template itself, with a short conversation of the same roles, and moves only what it does not take. What it does depends on
the template alone, so that a longer conversation begins with the same tokens as before, and finds them in the prefix cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise, takewhile
from typing import Any

from puna.chat import BUILT_IN, render
from puna.errors import PunaError
from puna.messages import Message, checked_messages

INSTRUCTING = ("system", "developer")
Turns = list[dict[str, Any]]


class ConversationBuilder:
    """Messages in OpenAI's form, built from the blocks or items of a wire. `skipped` names those that are left out."""

    def __init__(self) -> None:
        self.messages: Turns = []
        self.skipped: list[str] = []
        self._is_open = False

    def say(self, role: str, text: str) -> None:
        """Text of a role. Until `end` it belongs to one message with what the role has said before."""
        turn = self._turn(role)
        turn["content"] = f"{turn['content']}\n{text}" if turn["content"] else text

    def think(self, text: str) -> None:
        """What the assistant has thought before what it says next."""
        turn = self._turn("assistant")
        turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def call(self, call_id: str, name: str, arguments: Mapping[str, Any] | str) -> None:
        """A call of the assistant."""
        made = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self._turn("assistant").setdefault("tool_calls", []).append(made)

    def answer(self, call_id: str, text: str) -> None:
        """The result of a call."""
        self.end()
        self._turn("tool").update(tool_call_id=call_id, content=text)
        self.end()

    def skip(self, name: str) -> None:
        if name not in self.skipped:
            self.skipped.append(name)

    def end(self) -> None:
        """The message is complete: what follows begins another one."""
        self._is_open = False

    def _turn(self, role: str) -> dict[str, Any]:
        if not self._is_open or self.messages[-1]["role"] != role:
            self.messages.append({"role": role, "content": ""})
            self._is_open = True
        return self.messages[-1]


def as_conversation(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message of OpenAI's as puna's templates take it: an assistant's null content is empty, and its reasoning has one name."""
    kept = {name: value for name, value in message.items() if value is not None and name != "reasoning"}
    if message.get("role") == "assistant":
        kept.setdefault("content", "")
        if (thoughts := message.get("reasoning_content") or message.get("reasoning")) and isinstance(thoughts, str):
            kept["reasoning_content"] = thoughts
    return kept


def fitted(messages: Sequence[Mapping[str, Any]], template: str | None) -> Turns:
    """The messages in an order that a chat template takes, and each tool's result with the tool's name.

    `template`: Jinja2 text, or the name of a built-in one; None changes no order. UsageError for messages that are none.
    """
    turns = _with_names(checked_messages(messages))
    if template is None:
        return turns
    turns = _instructed(turns, template)
    for role, probe in _IN_A_ROW.items():
        if _is_in_a_row(turns, role) and not takes(template, probe):
            turns = _merged(turns, (role,))
    return turns


_IN_A_ROW = {"user": ("user", "user"), "assistant": ("user", "assistant", "assistant", "user")}


def _instructed(turns: Turns, template: str) -> Turns:
    """Leading instructions in one message, or in the user's, and later ones as the user's, where the template needs that."""
    head = list(takewhile(lambda turn: turn["role"] in INSTRUCTING, turns))
    rest = turns[len(head) :]
    roles = [turn["role"] for turn in head]
    if len(head) > 1 and not takes(template, (*roles[:2], "user")):
        head = _merged(head, INSTRUCTING)
    head = [turn if takes(template, (turn["role"], "user")) else turn | {"role": "user"} for turn in head]
    return head + [
        turn if turn["role"] not in INSTRUCTING or _takes_late(template, turn["role"]) else _as_user(turn) for turn in rest
    ]


def _takes_late(template: str, role: str) -> bool:
    """Whether a template takes instructions after the first user message, also as the last message."""
    return takes(template, ("user", "assistant", role, "user")) and takes(template, ("user", role))


def _as_user(turn: dict[str, Any]) -> dict[str, Any]:
    return turn | {"role": "user"}


@lru_cache(1024)
def takes(template: str, roles: tuple[str, ...]) -> bool:
    """Whether a template renders a conversation of these roles, and leaves out no instruction.

    >>> strict = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
    >>> strict += "{{ m.content }}{% endfor %}"
    >>> takes(strict, ("system", "user")), takes(strict, ("user", "system"))
    (True, False)
    """
    probe: Turns = [{"role": role, "content": f"{role} {number}"} for number, role in enumerate(roles)]
    try:
        if template in BUILT_IN:
            plain: list[Message] = [
                {"role": turn["role"].replace("developer", "system"), "content": turn["content"]} for turn in probe
            ]
            BUILT_IN[template](plain, True)
        else:
            render(probe, template, bos_token="", eos_token="")
    except PunaError:
        return False
    return True


def _is_in_a_row(turns: Turns, role: str) -> bool:
    return any(turn["role"] == role == later["role"] for turn, later in pairwise(turns))


def _merged(turns: Turns, roles: Sequence[str]) -> Turns:
    """The messages, with neighbours of these roles in one."""
    groups = groupby(turns, key=lambda turn: roles[0] if turn["role"] in roles else turn["role"])
    return [turn for role, group in groups for turn in (_joined(list(group)) if role == roles[0] else group)]


def _joined(turns: Turns) -> Turns:
    """One message of several: with their texts, thoughts and calls."""
    first, *others = turns
    for turn in others:
        texts = [text for text in (first["content"], turn["content"]) if text]
        lists = {key: [*first.get(key, ()), *turn[key]] for key in ("tool_calls",) if key in turn}
        thoughts = {key: first.get(key, "") + turn[key] for key in ("reasoning_content",) if key in turn}
        first = {**first, **lists, **thoughts, "content": "\n\n".join(texts)}
    return [first]


def _with_names(turns: Turns) -> Turns:
    """Results of tools with the tool's name, which some templates read, from the call with the same id."""
    names = {call.get("id"): call.get("function", call).get("name") for turn in turns for call in turn.get("tool_calls", ())}
    return [
        turn | {"name": name}
        if turn["role"] == "tool" and "name" not in turn and (name := names.get(turn.get("tool_call_id")))
        else turn
        for turn in turns
    ]
