"""The items and tools of OpenAI's Responses -> a conversation and tools. What only OpenAI can run is skipped and named.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from puna.server.conversation import ConversationBuilder
from puna.server.reasoning import unpacked
from puna.server.tools.base import Tool
from puna.server.wires.openai_tools import tool_of
from puna.server.wires.parts import Part, placeholder, string_of, unreadable, wrong

ROLES = ("user", "assistant", "system", "developer")
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}  # a part's type -> where its text is
JOINT = "__"  # between the name of a namespace and that of its tool


def read_items(made: ConversationBuilder, items: Sequence[Part], name: str = "input") -> None:
    """Add items to a conversation. Refusal that names the item which is wrong."""
    for number, item in enumerate(items):
        where, kind = f"{name}.{number}", item.get("type") or ("message" if "role" in item else None)
        reader = ITEMS.get(str(kind))
        if reader is not None:
            reader(made, where, item)
        elif kind in ("item_reference", None):
            raise wrong(where, "refers to an item, and has no id" if kind else "has no type")
        else:
            made.skip(f"input:{str(kind)[:60]}")


def _message(made: ConversationBuilder, name: str, item: Part) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise wrong(f"{name}.role", f"is {str(role)[:40]!r}; allowed: {', '.join(ROLES)}")
    for number, part in enumerate(parts_of(f"{name}.content", item.get("content"))):
        where, kind = f"{name}.content.{number}", str(part.get("type"))
        if kind not in TEXTS:
            raise unreadable(where, kind, TEXTS)
        made.say(str(role), string_of(where, part, TEXTS[kind]))
    if role != "assistant":
        made.end()


def parts_of(name: str, content: Any) -> Sequence[Part]:
    """Content as parts; a text is one part."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise wrong(name, "is neither a text nor a list of parts")
    return content


def _call(made: ConversationBuilder, name: str, item: Part) -> None:
    made.call(string_of(name, item, "call_id"), joined_name(item), string_of(name, item, "arguments"))


def _custom_call(made: ConversationBuilder, name: str, item: Part) -> None:
    made.call(string_of(name, item, "call_id"), joined_name(item), {"input": string_of(name, item, "input")})


def _output(made: ConversationBuilder, name: str, item: Part) -> None:
    parts = [
        _result_text(made, f"{name}.output.{i}", part) for i, part in enumerate(parts_of(f"{name}.output", item.get("output")))
    ]
    made.answer(string_of(name, item, "call_id"), "\n".join(parts))


def _result_text(made: ConversationBuilder, name: str, part: Part) -> str:
    kind = str(part.get("type"))
    if kind in TEXTS:
        return string_of(name, part, TEXTS[kind])
    made.skip(f"function_call_output:{kind[:60]}")
    return placeholder(kind)


def _reasoning(made: ConversationBuilder, name: str, item: Part) -> None:
    """Thoughts from what the client was shown, or from what it carried without reading it."""
    shown = [part.get("text") for key in ("content", "summary") for part in item.get(key) or () if isinstance(part, dict)]
    thoughts = "".join(text for text in shown if isinstance(text, str)) or unpacked(str(item.get("encrypted_content")))
    made.end()
    if thoughts:
        made.think(thoughts)


ITEMS: Mapping[str, Callable[[ConversationBuilder, str, Part], None]] = {
    "message": _message,
    "function_call": _call,
    "function_call_output": _output,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _output,
    "reasoning": _reasoning,
}


class ReadTools(NamedTuple):
    """The functions among tools; of those in a namespace their own names; and what is left out."""

    tools: tuple[Tool, ...]
    in_namespaces: dict[str, tuple[str, str]]  # the tool's name -> the namespace, and the name in there
    skipped: list[str]


def read_tools(given: Sequence[Part]) -> ReadTools:
    """The tools that the client runs. Those of a namespace get its name, too, as two namespaces may share a name."""
    read = ReadTools((), {}, [])
    for number, item in enumerate(given):
        name, kind = f"tools.{number}", item.get("type")
        if kind == "function":
            read = read._replace(tools=(*read.tools, tool_of(name, item)))
        elif kind == "namespace":
            read = _with_namespace(read, name, item)
        else:
            read.skipped.append(f"tools:{str(kind)[:60]}")
    return read


def _with_namespace(read: ReadTools, name: str, item: Part) -> ReadTools:
    """The tools, with those of a namespace. Its first one tells what the namespace is for."""
    space, about, tools = string_of(name, item, "name"), item.get("description"), list[Tool]()
    for number, inner in enumerate(parts_of(f"{name}.tools", item.get("tools"))):
        if inner.get("type", "function") != "function":
            read.skipped.append(f"tools:{space[:60]}.{str(inner.get('type'))[:60]}")
            continue
        tool = tool_of(f"{name}.tools.{number}", inner)
        told = f"{about}\n\n{tool.description}" if about and not tools else tool.description
        tools.append(Tool(f"{space}{JOINT}{tool.name}", told, tool.parameters, tool.strict))
        read.in_namespaces[tools[-1].name] = (space, tool.name)
    return read._replace(tools=(*read.tools, *tools))


def joined_name(item: Part) -> str:
    """The name of the tool that a call or a choice means.

    >>> joined_name({"name": "spawn", "namespace": "agents"}), joined_name({"name": "get"})
    ('agents__spawn', 'get')
    """
    space, name = item.get("namespace"), str(item.get("name"))
    return f"{space}{JOINT}{name}" if space else name
