"""The grammar of an answer that may call tools, for every layout. llguidance's Lark is spelled here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from puna.constraints import in_lark
from puna.server.tools.base import ToolUse
from puna.server.tools.lark import ANYTHING, LarkTerms
from puna.server.tools.layout import SPACES, CallLayout, any_of, literal, named, up_to_name
from puna.server.tools.notation import Notation

LINE_ENDS = r"/\n{0,2}/"  # what models write between their thoughts and a call


def grammar_of(
    layout: CallLayout, loose: CallLayout | None, notation: Notation, use: ToolUse, controls: Mapping[str, int]
) -> str:
    """As `ToolFormat.grammar` says. `loose`: a layout without `begin` that an answer may follow from its start, if it likes."""
    tools = use.callable_tools
    forced = "SPACE begin calls" if layout.needs_begin else "SPACE calls"
    rules = {"start": _start(use, forced, loose is not None), "SPACE": LINE_ENDS}
    starts = [] if loose is None else _starts(loose, use)
    rules |= _texts(layout, starts, controls)
    rules |= _calls(layout, [tool.name for tool in tools], use.may_repeat, LarkTerms(controls))
    if loose is not None:
        rules |= _loose_calls(loose, [tool.name for tool in tools], use.may_repeat)
    if use.answer is not None:
        rules["answer"] = in_lark(use.answer)
    for number, tool in enumerate(tools):
        rules |= notation.rules(f"arguments_{number}", tool, LarkTerms(controls))
    return "".join(f"{name}: {rule}\n" for name, rule in rules.items())


def _start(use: ToolUse, forced: str, has_loose: bool) -> str:
    if use.choice == "none":
        return "TEXT"
    if use.is_forced:
        return forced
    if use.answer is not None:
        return f"answer | {forced}"
    return "TEXT | before calls" + (" | loose_calls" if has_loose else "")


def _starts(loose: CallLayout, use: ToolUse) -> list[str]:
    """What text may not start with. Where no call may come, not even with an object: then the model turns to words at once."""
    if use.choice == "none":
        return [text.partition("{")[0] + "{" for text in loose.first]
    return named([up_to_name(text) for text in loose.first], [tool.name for tool in use.tools])


def _texts(layout: CallLayout, starts: Sequence[str], controls: Mapping[str, int]) -> dict[str, str]:
    """TEXT: where no call begins; `before`: text, and what begins a call. Neither has one of `starts` at its start."""
    others = f" & ~/{SPACES}{any_of(starts)}{ANYTHING}/" if starts else ""
    if layout.begin in controls:  # no text holds a control token
        return {"begin": LarkTerms(controls)(layout.begin), "TEXT": f"/{ANYTHING}/{others}", "before": "TEXT begin"}
    begin = literal(layout.begin)
    return {
        "begin": json.dumps(layout.begin),
        "TEXT": f"/{ANYTHING}/ & ~/{ANYTHING}{begin}{ANYTHING}/{others}",
        "before[lazy]": "BEFORE",
        "BEFORE": f"/{ANYTHING}{begin}/{others}",
    }


def _calls(layout: CallLayout, names: Sequence[str], may_repeat: bool, spell: LarkTerms) -> dict[str, str]:
    """Calls as they are usually written, to the letter."""
    more = f"({spell(layout.between)} call)*" if may_repeat else ""
    heads = {number: " | ".join(map(spell, named(layout.heads, [name]))) for number, name in enumerate(names)}
    return {
        "calls": f"({' | '.join(map(spell, layout.opens))}) call {more} {spell(layout.close)} ({spell(layout.after)})?",
        "call": " | ".join(f"({head}) arguments_{number} {spell(layout.tail)}" for number, head in heads.items()),
    }


def _loose_calls(loose: CallLayout, names: Sequence[str], may_repeat: bool) -> dict[str, str]:
    """Calls that begin as text does: FIRST is one terminal, which the lexer holds beside TEXT until it is decided."""
    rules = {"loose_calls": f"first {'more*' if may_repeat else ''} CLOSE"}
    for rule, heads in (("first", loose.first), ("more", [loose.between + head for head in loose.heads])):
        rules[rule] = " | ".join(f"{rule.upper()}_{number} arguments_{number} TAIL" for number in range(len(names)))
        for number, name in enumerate(names):
            rules[f"{rule.upper()}_{number}"] = f"/{SPACES}{any_of(named(heads, [name]))}/"
    return rules | {"TAIL": f"/{any_of([loose.tail])}/", "CLOSE": f"/{any_of([loose.close])}?/"}
