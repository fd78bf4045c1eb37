"""Tools as OpenAI's API has them, which most wires share: the functions, and which of them must be called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from puna.server.fields import Fields
from puna.server.job import ToolChoice
from puna.server.refusals import invalid
from puna.server.tools.base import Tool


class Functions(NamedTuple):
    """The functions among tools. `skipped` names the others, which only another server could run."""

    tools: tuple[Tool, ...] = ()
    skipped: tuple[str, ...] = ()


class ToolFields(Fields):
    """A body that offers tools. Those that are no functions are skipped and named."""

    SKIPPED: ClassVar[Sequence[str]] = ("tools of another type than function",)

    tools: list[dict[str, Any]] = []

    def ignored(self) -> list[str]:
        return [*super().ignored(), *self.functions.skipped]

    @cached_property
    def functions(self) -> Functions:
        return read_functions(self.tools)


def read_functions(given: Sequence[Mapping[str, Any]]) -> Functions:
    """The functions of a chat's `tools`. Refusal that names the one which is wrong."""
    others = tuple(f"tools:{str(tool.get('type'))[:40]}" for tool in given if not _is_function(tool))
    functions = [tool.get("function") for tool in given if _is_function(tool)]
    return Functions(tuple(tool_of(f"tools.{number}", function) for number, function in enumerate(functions)), others)


def _is_function(tool: Mapping[str, Any]) -> bool:
    return bool(tool.get("type", "function") == "function")


def tool_of(name: str, function: Any) -> Tool:
    """A tool from OpenAI's {"name", "description", "parameters", "strict"}."""
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid(name, f'{name} needs a function {{"name": ..., "parameters": ...}}')
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise invalid(name, f"{name}.parameters is no JSON schema")
    return Tool(function["name"], str(function.get("description") or ""), parameters, function.get("strict") is True)


def checked_choice(given: str | Mapping[str, Any], tools: Sequence[Tool]) -> ToolChoice:
    """`tool_choice` as a job has it. Refusal for a tool that is not offered."""
    named = given if isinstance(given, str) else (given.get("function") or given).get("name", "")
    if isinstance(given, str) and given in ("auto", "none"):
        return given
    if isinstance(given, str) and given == "required" and tools:
        return "required"
    if isinstance(given, str) or not any(tool.name == named for tool in tools):
        allowed = ", ".join(["auto", "none", "required", *(tool.name for tool in tools)][:20])
        raise invalid("tool_choice", f"tool_choice is {str(given)[:120]}; allowed: {allowed}")
    return str(named)
