"""Anthropic's messages, content blocks and tools -> a conversation and tools.

https://platform.claude.com/docs/en/api/messages. What agents cannot do without is taken: results of tools with images get a note
in their place. What only Anthropic's own servers know (their searches, their sealed thoughts) is skipped and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puna.server.conversation import ConversationBuilder
from puna.server.reasoning import unpacked
from puna.server.tools.base import Tool
from puna.server.wires.openai_tools import tool_of
from puna.server.wires.parts import Part, placeholder, string_of, unreadable, wrong

BILLING = "x-anthropic-billing-header:"  # a line of Claude Code for its own server. It may change with every request
ROLES = ("user", "assistant", "system")
CUSTOM = ("custom", None)  # types of tools that the client runs
TOOL_SEARCH = "tool_search_tool"  # types of the server's own search for tools begin so


def read_conversation(system: str | Sequence[Any], messages: Sequence[Part], prefill: str | Sequence[Any]) -> ConversationBuilder:
    """The conversation of a request. Refusal that names the part which is wrong."""
    made = ConversationBuilder()
    _read(made, "system", {"role": "system", "content": system})
    for number, message in enumerate(messages):
        if message.get("role") not in ROLES:
            raise wrong(f"messages.{number}.role", f"is {str(message.get('role'))[:40]!r}; allowed: {', '.join(ROLES)}")
        _read(made, f"messages.{number}", message)
    _read(made, "prefill", {"role": "assistant", "content": prefill})
    return made


def _read(made: ConversationBuilder, name: str, message: Part) -> None:
    for number, block in enumerate(blocks_of(name, message.get("content", ""))):
        where, kind = f"{name}.content.{number}", str(block.get("type"))
        reader = BLOCKS.get(kind)
        if reader is not None:
            reader(made, where, block, message["role"])
        elif kind == "server_tool_use" or kind.endswith("_tool_result"):
            made.skip(f"messages:{kind[:60]}")
        else:
            raise unreadable(where, kind, BLOCKS)
    made.end()


def blocks_of(name: str, content: Any) -> Sequence[Part]:
    """Content as blocks: a text is one block of text, and none if it is empty."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise wrong(name, "has content that is neither a text nor a list of blocks")
    return content


def _text(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    text = string_of(name, block, "text")
    if role == "system" and text.startswith(BILLING):
        made.skip(f"system:{BILLING.rstrip(':')}")
    else:
        made.say(role, text)


def _document(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, dict) else None
    if kind != "text" or not isinstance(source, dict):
        raise wrong(name, f"is a document of type {str(kind)[:40]!r}; this model reads documents of type 'text'")
    title = block.get("title")
    made.say(role, f"{title}\n{string_of(name, source, 'data')}" if title else string_of(name, source, "data"))


def _thinking(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    """Thoughts that were not shown are in the signature, which the client returns as it came."""
    thoughts = string_of(name, block, "thinking") or unpacked(str(block.get("signature", "")))
    if thoughts:
        made.think(thoughts)


def _redacted(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    made.skip("messages:redacted_thinking")


def _tool_use(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise wrong(f"{name}.input", "is no object")
    made.call(string_of(name, block, "id"), string_of(name, block, "name"), arguments)


def _tool_result(made: ConversationBuilder, name: str, block: Part, role: str) -> None:
    parts = [_result_text(made, f"{name}.content.{i}", part) for i, part in enumerate(blocks_of(name, block.get("content", "")))]
    text = "\n".join(parts)
    made.answer(string_of(name, block, "tool_use_id"), f"Error: {text}" if block.get("is_error") is True else text)


def _result_text(made: ConversationBuilder, name: str, part: Part) -> str:
    kind = str(part.get("type"))
    if kind == "text":
        return string_of(name, part, "text")
    if kind == "tool_reference":
        return f"Tool found: {string_of(name, part, 'tool_name')}"
    made.skip(f"tool_result:{kind[:60]}")
    return placeholder(kind)


BLOCKS: Mapping[str, Callable[[ConversationBuilder, str, Part, str], None]] = {
    "text": _text,
    "document": _document,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
}


def read_tools(tools: Sequence[Part], messages: Sequence[Part]) -> tuple[tuple[Tool, ...], list[str]]:
    """The client's tools, and names of those that are left out: the server's, and deferred ones that no search has found yet.

    A deferred tool is left out while the client searches for tools itself; a search by the server is none here.
    """
    kinds = [tool.get("type") for tool in tools]
    waits = not any(str(kind).startswith(TOOL_SEARCH) for kind in kinds)
    found = _references(messages) if waits else set()
    known, found_late, skipped = list[Tool](), list[Tool](), list[str]()
    for number, (kind, tool) in enumerate(zip(kinds, tools)):
        if kind not in CUSTOM:
            skipped.append(f"tools:{str(kind)[:60]}")
        elif tool.get("defer_loading") is not True or not waits:
            known.append(_tool(f"tools.{number}", tool))
        elif tool.get("name") in found:
            found_late.append(_tool(f"tools.{number}", tool))
        else:
            skipped.append(f"tools:{str(tool.get('name'))[:60]} (defer_loading)")
    return (*known, *found_late), skipped  # late ones last, so that the others stay where they were in the prompt


def _tool(name: str, tool: Part) -> Tool:
    return tool_of(name, {**tool, "parameters": tool.get("input_schema")})


def _references(messages: Sequence[Part]) -> set[str]:
    """Names of tools that searches have found."""
    contents = [message.get("content") for message in messages]
    blocks = [block for content in contents if isinstance(content, list) for block in content if isinstance(block, dict)]
    results = [block.get("content") for block in blocks if block.get("type") == "tool_result"]
    parts = [part for result in results if isinstance(result, list) for part in result if isinstance(part, dict)]
    return {str(part.get("tool_name")) for part in parts if part.get("type") == "tool_reference"}
