"""Checks of conversations in OpenAI's form: roles, contents as text or in parts, tool calls."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

from puna import checks
from puna.errors import UsageError

ROLES = ("system", "user", "assistant", "tool", "developer")
Messages = Sequence[Mapping[str, object]]


class Message(TypedDict):
    """A plain message. Others may have further keys (tool_calls, name ...), and contents in parts."""

    role: str
    content: str


def checked_messages(messages: object) -> list[dict[str, Any]]:
    """Messages with text as content; other keys are kept. UsageError for anything else.

    >>> checked_messages([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}])
    [{'role': 'user', 'content': 'a\\nb'}]
    """
    items = checks.row("the conversation", messages, "a list of messages")
    if not len(items):
        raise UsageError("a chat needs at least one message")
    return [_checked(f"message {number}", message) for number, message in enumerate(items)]


def texts_in(value: object) -> Iterator[str]:
    """Every text in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for pair in value.items() for item in pair for text in texts_in(item))
    elif isinstance(value, list):
        yield from (text for item in value for text in texts_in(item))


def _checked(name: str, message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise checks.refuse(name, message, 'a dict {"role": ..., "content": ...}')
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise UsageError(f"{name} has the role {checks.shown(role)}; allowed: {', '.join(ROLES)}")
    others = {key: value for key, value in message.items() if key not in ("role", "content")}
    kept: dict[str, Any] = checks.json_value(name, others)
    checks.optional(partial(checks.instance, kind=str))(f"{name}: tool_call_id", kept.get("tool_call_id"))
    if "tool_calls" in kept:
        kept["tool_calls"] = _calls(f"{name}: tool_calls", kept["tool_calls"])
        if not kept["tool_calls"]:
            del kept["tool_calls"]
        elif role != "assistant":
            raise UsageError(f"{name} has tool_calls and the role {role!r}; only the assistant calls tools")
    return {"role": role, "content": _content(name, message.get("content"), "tool_calls" in kept), **kept}


def _content(name: str, content: object, may_lack: bool) -> str:
    """The text of a message. Parts are joined by line ends, as in llama.cpp and vLLM."""
    if content is None and may_lack:
        return ""
    if content is None:
        raise UsageError(f"{name} has no content", hint='For example: {"role": "user", "content": "Hello"}')
    if checks.is_row(content):
        parts = checks.row(name, content, "a list of parts")
        return "\n".join(_part(f"part {number} of {name}", part) for number, part in enumerate(parts))
    if not isinstance(content, str):
        raise UsageError(f"{name} has content of type {type(content).__name__}; text is needed")
    return checks.unicode(name, content)


def _part(name: str, part: object) -> str:
    if not isinstance(part, Mapping):
        raise checks.refuse(name, part, 'a dict {"type": "text", "text": ...}')
    kind = part.get("type")
    if not isinstance(kind, str) or kind != "text":
        raise UsageError(f"{name} is of type {checks.shown(kind)}; puna reads parts of type 'text'")
    return checks.unicode(name, checks.instance(f"the text of {name}", part.get("text"), str))


def _calls(name: str, calls: Any) -> list[Any]:
    """Tool calls with their arguments as an object, which templates write as JSON. OpenAI's API gives JSON text."""
    if calls is None:
        return []
    if not isinstance(calls, list) or not all(map(_is_call, calls)):
        raise checks.refuse(name, calls, 'a list of {"type": "function", "function": {"name": ..., "arguments": {...}}}')
    for call in calls:
        function = call.get("function", call)
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _arguments(function["arguments"])
    return calls


def _is_call(call: object) -> bool:
    return isinstance(call, dict) and isinstance(call.get("function", {}), dict) and isinstance(call.get("id", ""), str | None)


def _arguments(text: str) -> Any:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return found if isinstance(found, dict) else text
