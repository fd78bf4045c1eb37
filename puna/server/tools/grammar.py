"""The grammar of an answer that may call tools, for every layout. llguidance's Lark is spelled here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from puna.constraints import in_lark
from puna.server.tools.base import Tool, ToolUse
from puna.server.tools.layout import CallLayout

ANYTHING = "(?s:.*)"
STARTS = {"auto": "TEXT | before calls", "none": "TEXT"}
FORCED = "SPACE begin calls"
SPACE = r"SPACE: /\n{0,2}/"  # models write line ends between their thoughts and a call


def grammar_of(layout: CallLayout, use: ToolUse, controls: Mapping[str, int]) -> str:
    """As `ToolFormat.grammar` says."""
    spell = LarkTerms({mark: controls[mark] for mark in layout.marks if mark in controls})
    more = [f"({spell(layout.between)} call)*"] if use.may_repeat else []
    rules = {
        "start": STARTS.get(use.choice, FORCED),
        "begin": spell(layout.begin),
        "calls": " ".join([spell(layout.open), "call", *more, spell(layout.close)]),
        **_calls_of(use.callable_tools, layout, spell),
    }
    if use.answer is not None and not use.is_forced:
        rules |= {"start": f"answer | {FORCED}", "answer": in_lark(use.answer)}
    lines = [f"{name}: {rule}" for name, rule in rules.items()]
    return "\n".join([*lines, *_texts(layout.begin, layout.begin in controls), SPACE, ""])


def _calls_of(tools: Sequence[Tool], layout: CallLayout, spell: LarkTerms) -> dict[str, str]:
    """The rules of a call of one of the tools."""
    rules = {"call": " | ".join(f"call_{number}" for number in range(len(tools)))}
    for number, tool in enumerate(tools):
        rules[f"call_{number}"] = f"{spell(layout.head_of(tool.name))} arguments_{number} {spell(layout.tail)}"
        rules[f"arguments_{number}"] = in_lark(tool.arguments())
    return rules


def _texts(begin: str, is_control: bool) -> list[str]:
    """TEXT: in which no call begins. before: text, and what begins a call."""
    if is_control:  # no text holds a control token
        return [f"TEXT: /{ANYTHING}/", "before: TEXT begin"]
    marker = "".join(f"\\x{byte:02x}" for byte in begin.encode())
    return [f"TEXT: /{ANYTHING}/ & ~/{ANYTHING}{marker}{ANYTHING}/", f"before[suffix={json.dumps(begin)}]: /{ANYTHING}/"]


class LarkTerms:
    """Spells a layout's text for a grammar: control tokens by their ids, all else as strings.

    >>> LarkTerms({"[A]": 7})("[A]x")
    '<[7]> "x"'
    """

    def __init__(self, controls: Mapping[str, int]) -> None:
        self._controls = controls
        self._borders = re.compile("(" + "|".join(map(re.escape, controls)) + ")" if controls else "(?!)")

    def __call__(self, text: str) -> str:
        return " ".join(map(self._term, filter(None, self._borders.split(text))))

    def _term(self, piece: str) -> str:
        return f"<[{self._controls[piece]}]>" if piece in self._controls else json.dumps(piece)
