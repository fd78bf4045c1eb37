"""The items and tools of OpenAI's Responses -> a conversation and tools. What only OpenAI can run is skipped and named.

https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from puna.server.conversation import ConversationBuilder
from puna.server.reasoning import unpacked
from puna.server.refusals import Refusal
from puna.server.tools.base import Tool
from puna.server.wires.openai_chat import tool_of

InputItem = Mapping[str, Any]

ROLES = ("user", "assistant", "system", "developer")
TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}  # a part's type -> where its text is
NO_IMAGE = "[An image was here. This model reads text only.]"
JOINT = "__"  # between the name of a namespace and that of its tool


def read_items(made: ConversationBuilder, items: Sequence[InputItem], name: str = "input") -> None:
    """Add items to a conversation. Refusal that names the item which is wrong."""
    for number, item in enumerate(items):
        where, kind = f"{name}.{number}", item.get("type") or ("message" if "role" in item else None)
        reader = ITEMS.get(str(kind))
        if reader is not None:
            reader(made, where, item)
        elif kind == "item_reference" or kind is None:
            what = "refers to another item; send the item itself" if kind else "has no type"
            raise _wrong(where, what)
        else:
            made.skip(f"input:{str(kind)[:60]}")


def _message(made: ConversationBuilder, name: str, item: InputItem) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise _wrong(f"{name}.role", f"is {str(role)[:40]!r}; allowed: {', '.join(ROLES)}")
    for number, part in enumerate(parts_of(f"{name}.content", item.get("content"))):
        where, kind = f"{name}.content.{number}", str(part.get("type"))
        if kind not in TEXTS:
            raise _wrong(where, f"is of type {kind[:60]!r}, which this model cannot read; it reads: {', '.join(TEXTS)}")
        made.say(str(role), _string(where, part, TEXTS[kind]))
    if role != "assistant":
        made.end()


def parts_of(name: str, content: Any) -> Sequence[InputItem]:
    """Content as parts; a text is one part."""
    if isinstance(content, str):
        return [{"type": "input_text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _wrong(name, "is neither a text nor a list of parts")
    return content


def _call(made: ConversationBuilder, name: str, item: InputItem) -> None:
    made.call(_string(name, item, "call_id"), joined_name(item), _string(name, item, "arguments"))


def _custom_call(made: ConversationBuilder, name: str, item: InputItem) -> None:
    made.call(_string(name, item, "call_id"), joined_name(item), {"input": _string(name, item, "input")})


def _output(made: ConversationBuilder, name: str, item: InputItem) -> None:
    parts = [
        _result_text(made, f"{name}.output.{i}", part) for i, part in enumerate(parts_of(f"{name}.output", item.get("output")))
    ]
    made.answer(_string(name, item, "call_id"), "\n".join(parts))


def _result_text(made: ConversationBuilder, name: str, part: InputItem) -> str:
    kind = str(part.get("type"))
    if kind in TEXTS:
        return _string(name, part, TEXTS[kind])
    made.skip(f"function_call_output:{kind[:60]}")
    return NO_IMAGE if kind == "input_image" else f"[Content of type {kind[:60]} was here. This model reads text only.]"


def _reasoning(made: ConversationBuilder, name: str, item: InputItem) -> None:
    """Thoughts from what the client was shown, or from what it carried without reading it."""
    shown = [part.get("text") for key in ("content", "summary") for part in item.get(key) or () if isinstance(part, dict)]
    thoughts = "".join(text for text in shown if isinstance(text, str)) or unpacked(str(item.get("encrypted_content")))
    made.end()
    if thoughts:
        made.think(thoughts)


ITEMS: Mapping[str, Callable[[ConversationBuilder, str, InputItem], None]] = {
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


def read_tools(given: Sequence[InputItem]) -> ReadTools:
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


def _with_namespace(read: ReadTools, name: str, item: InputItem) -> ReadTools:
    """The tools, with those of a namespace. Its first one tells what the namespace is for."""
    space, about, tools = _string(name, item, "name"), item.get("description"), list[Tool]()
    for number, inner in enumerate(parts_of(f"{name}.tools", item.get("tools"))):
        if inner.get("type", "function") != "function":
            read.skipped.append(f"tools:{space[:60]}.{str(inner.get('type'))[:60]}")
            continue
        tool = tool_of(f"{name}.tools.{number}", inner)
        told = f"{about}\n\n{tool.description}" if about and not tools else tool.description
        tools.append(Tool(f"{space}{JOINT}{tool.name}", told, tool.parameters, tool.strict))
        read.in_namespaces[tools[-1].name] = (space, tool.name)
    return read._replace(tools=(*read.tools, *tools))


def joined_name(item: InputItem) -> str:
    """The name of the tool that a call or a choice means.

    >>> joined_name({"name": "spawn", "namespace": "agents"}), joined_name({"name": "get"})
    ('agents__spawn', 'get')
    """
    space, name = item.get("namespace"), str(item.get("name"))
    return f"{space}{JOINT}{name}" if space else name


def _string(name: str, item: InputItem, key: str) -> str:
    if not isinstance(value := item.get(key), str):
        raise _wrong(f"{name}.{key}", "is missing" if value is None else "is no text")
    return value


def _wrong(name: str, problem: str) -> Refusal:
    return Refusal(400, f"{name} {problem}", field=name, code="invalid_value")
