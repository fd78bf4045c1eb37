"""How a chat template learns of tools, calls and results: in its own words, or as plain text where it has none for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from puna.chat import unread_args
from puna.messages import Messages, checked_messages
from puna.server.tools.base import ForTemplate, Tool
from puna.template import vocabulary

Write = Callable[[Iterable[Mapping[str, Any]]], str]  # calls in OpenAI's form -> as their model writes them

VARIABLES = ("tools", "xml_tools")  # in which templates take tools; SmolLM3 has the second


def variable_of(template: str | None) -> str | None:
    """The variable in which a template takes tools; None: it tells its model of none."""
    unread = unread_args(VARIABLES, template)
    return next((name for name in VARIABLES if name not in unread), None)


def for_template(template: str | None, messages: Messages, tools: Sequence[Tool], write: Write, knows: bool) -> ForTemplate:
    """`write`: how the model writes calls. `knows`: the template describes tools, and writes calls so, too. What it does not
    know is written as plain text.

    Without tools no call follows, and earlier ones stay in the template's own words, whichever these are.
    """
    told = checked_messages(messages)
    texts = vocabulary(template).texts if (knows or not tools) and template is not None else frozenset()
    if "tool_calls" not in texts:
        told = [_with_written_calls(message, write) for message in told]
    if texts.isdisjoint(("tool", "tool_calls")):
        told = _with_written_results(told)
    if not tools:
        return ForTemplate([*told], {})
    variable = variable_of(template) if knows else None
    if variable is None:
        return ForTemplate(_with_described(told, tools, write), {})
    return ForTemplate([*told], {variable: [tool.in_openai_form() for tool in tools]})


def _with_written_calls(message: dict[str, Any], write: Write) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    others = {name: value for name, value in message.items() if name != "tool_calls"}
    return others | {"content": _joined("\n", message["content"], write(message["tool_calls"]))}


def _with_written_results(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results as a user's words. Those that follow each other, and what the user says then, are one message."""
    found: list[dict[str, Any]] = []
    is_open = False  # whether the last message holds results, and may go on
    for message in messages:
        is_result = message["role"] == "tool"
        content = f"<tool_response>\n{message['content']}\n</tool_response>" if is_result else message["content"]
        if is_open and message["role"] in ("tool", "user"):
            found[-1]["content"] += "\n" + content
        else:
            found.append({"role": "user", "content": content} if is_result else message)
        is_open = is_result
    return found


def _with_described(messages: Sequence[dict[str, Any]], tools: Sequence[Tool], write: Write) -> list[Mapping[str, Any]]:
    """The conversation, with the tools in its system message."""
    described = description_of(tools, write)
    if messages[0]["role"] in ("system", "developer"):
        return [messages[0] | {"content": _joined("\n\n", messages[0]["content"], described)}, *messages[1:]]
    return [{"role": "system", "content": described}, *messages]


def description_of(tools: Sequence[Tool], write: Write) -> str:
    """What a model is told that has not been told by its template."""
    example = {"name": "FUNCTION", "arguments": {"ARGUMENT": "VALUE"}}
    lines = [json.dumps(tool.in_openai_form()["function"], ensure_ascii=False) for tool in tools]
    return "\n".join([
        "You can call functions. Each line between <tools> and </tools> describes one, with the JSON schema of its arguments:",
        *("<tools>", *lines, "</tools>"),
        "To call functions, end your answer with:",
        write([example]),
        "The results come in the next message.",
    ])  # fmt: skip


def _joined(between: str, *texts: str) -> str:
    return between.join(text for text in texts if text)
