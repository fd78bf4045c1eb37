"""Mistral's ways: after [TOOL_CALLS] a list of JSON objects or, in models since 2025, each call with its name before [ARGS].

    [TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Lima"}}]
    [TOOL_CALLS]get_weather[ARGS]{"city": "Lima"}[TOOL_CALLS]now[ARGS]{}

Templates refuse ids that are no 9 letters and digits, and ask for one with each call and result.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from typing import Any

from puna.messages import Messages, checked_messages
from puna.server.tools.layout import CallLayout
from puna.server.tools.layout_calls import LayoutCalls

LETTERS = string.ascii_letters + string.digits


def new_id() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(9))


def with_short_ids(messages: Messages) -> Messages:
    """The conversation, where each call and its result have the same id of 9 letters. A result without an id answers the first
    call that has none yet."""
    found, open_ids = checked_messages(messages), list[str]()
    for number, message in enumerate(found):
        for position, call in enumerate(message.get("tool_calls", [])):
            call["id"] = short_id(call.get("id") or f"{number}.{position}")
            open_ids.append(call["id"])
        if message["role"] == "tool":
            given = message.get("tool_call_id")
            message["tool_call_id"] = short_id(given) if given else next(iter(open_ids), short_id(number))
            open_ids = [one for one in open_ids if one != message["tool_call_id"]]
    return found


def short_id(given: Any) -> str:
    """An id as it is if it has 9 letters and digits, else 9 that follow from it.

    >>> short_id("abcABC123"), short_id("call_1")
    ('abcABC123', '74196fe72')
    """
    text = str(given)
    return text if re.fullmatch("[A-Za-z0-9]{9}", text) else hashlib.sha256(text.encode()).hexdigest()[:9]


LIST = CallLayout(
    begin="[TOOL_CALLS]",
    opens=("[", " ["),
    heads=('{"name": "NAME", "arguments": ',),
    tail="}",
    between=", ",
    close="]",
)
NAMED = CallLayout(begin="[TOOL_CALLS]", opens=("",), heads=("NAME[ARGS]",), tail="", between="[TOOL_CALLS]", close="")
MISTRAL_LIST = LayoutCalls(LIST, new_id=new_id, adapt=with_short_ids)
MISTRAL_NAMED = LayoutCalls(NAMED, new_id=new_id, adapt=with_short_ids)
