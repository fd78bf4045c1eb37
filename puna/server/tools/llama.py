"""The way of Llama 3.1 to 3.3: a call is a JSON object that is the whole answer, or that follows <|python_tag|>.

{"name": "get_weather", "parameters": {"city": "Lima"}}; {"name": "now", "parameters": {}}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from puna.messages import Messages, checked_messages
from puna.server.tools.layout import CallLayout
from puna.server.tools.layout_calls import LayoutCalls


def one_call_each(messages: Messages) -> Messages:
    """The conversation, with a message for each call, and its result behind it: these templates take one call at a time."""
    found: list[Mapping[str, object]] = []
    waiting = checked_messages(messages)
    while waiting:
        message = waiting.pop(0)
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            found.append(message)
        for number, call in enumerate(calls if len(calls) > 1 else ()):
            found.append(message | {"tool_calls": [call], "content": message["content"] if number == 0 else ""})
            results = [one for one in waiting if one["role"] == "tool" and one.get("tool_call_id") == call.get("id")]
            found += results[:1]
            waiting = [one for one in waiting if one is not next(iter(results), None)]
    return found


AFTER_TAG = CallLayout(
    begin="<|python_tag|>",
    opens=("",),
    heads=('{"name": "NAME", "parameters": ',),
    tail="}",
    between="; ",
    close="",
    needs_begin=False,
)
AT_START = replace(
    AFTER_TAG,
    begin="",
    heads=('{ "name" : "NAME" , "parameters" : ', '{ "type" : "function" , "name" : "NAME" , "parameters" : '),
    tail=" }",
    between=" ; ",
)
LLAMA = LayoutCalls(AFTER_TAG, AT_START, adapt=one_call_each)
