"""GBNF, llama.cpp's notation of grammars (its grammars/README.md), respelled for llguidance's translator to Lark.

The translator takes two names for one if they differ only in case or dashes, and keeps `start` for itself. It makes regular
expressions of classes, in which && and ~~ are operators, and . is no line end; and \\u00e9 loses its zeros. So a name that would
collide is replaced, and every character is spelled in a way that means the same in both notations.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

IS_GBNF = re.compile(r"(?m)^\s*[\w-]+\s*::=")
_RULE = re.compile(r"([\w-]+)\s*::=")
_TOKEN = re.compile(
    r'(?P<literal>"(?:\\.|[^"\\])*")|(?P<characters>\[(?:\\.|[^\]\\])*\])|(?P<comment>#[^\r\n]*)'
    r"|(?P<times>\{[^}]*\})|(?P<name>[\w-]+)|(?P<any>\.)|(?P<group>\()",
    re.DOTALL,
)
_CHARACTER = re.compile(
    r'\\x(?P<x>[0-9a-fA-F]{2})|\\u(?P<u>[0-9a-fA-F]{4})|\\U(?P<U>[0-9a-fA-F]{8})|\\(?P<escaped>[nrt"\\\[\]])|(?P<plain>[^\\])',
    re.DOTALL,
)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_LARK_NAME = re.compile(r"[a-z_][a-z0-9_]*")
ANY_CHARACTER = r"(. | [\n])"
GROUP = '("" '  # of several parts, lest its brackets are lost: the translator writes (a+)? as a+?


def respelled(grammar: str) -> str:
    r"""The same grammar, for the translator. What is no GBNF stays as it is, for the translator to refuse.

    >>> respelled('root ::= start [&-.] # both\nstart ::= "é" .')
    'root ::= rule0 [\\x26-\\x2e] \nrule0 ::= "\\xe9" (. | [\\n])'
    """
    names = _new_names(grammar)

    def changed(token: re.Match[str]) -> str:
        kind, text = token.lastgroup, token[0]
        if kind == "literal":
            return f'"{_spelled(text[1:-1])}"'
        if kind == "characters":
            return _class(text[1:-1])
        return {"comment": "", "any": ANY_CHARACTER, "group": GROUP, "name": names.get(text, text)}.get(kind or "", text)

    return _TOKEN.sub(changed, grammar)


def _new_names(grammar: str) -> dict[str, str]:
    """The rules that need another name -> that name."""
    bare = _TOKEN.sub(lambda token: token[0] if token.lastgroup == "name" else "", grammar)
    rules = dict.fromkeys(_RULE.findall(bare))
    kept: dict[str, str] = {"start": "root"}  # the name in Lark -> the rule
    replaced = [rule for rule in rules if rule != "root" and not _is_kept(rule, kept)]
    free = (name for name in map("rule{}".format, count()) if name not in kept)
    return dict(zip(replaced, free))


def _is_kept(rule: str, kept: dict[str, str]) -> bool:
    """Whether the translator may have a rule under its own name, which it then takes."""
    name = re.sub(r"([a-z])([A-Z])", r"\1_\2", rule.replace("-", "_")).lower()
    return name != "root" and _LARK_NAME.fullmatch(name) is not None and kept.setdefault(name, rule) == rule


def _characters(text: str) -> Iterator[str]:
    """What a text with escapes stands for. ValueError for an escape that GBNF lacks."""
    position = 0
    while position < len(text):
        found = _CHARACTER.match(text, position)
        if found is None:
            raise ValueError(text[position:])
        code = found["x"] or found["u"] or found["U"]
        yield chr(int(code, 16)) if code else _ESCAPED.get(found["escaped"], found["escaped"] or found["plain"])
        position = found.end()


def _spelled(text: str) -> str:
    """The characters of a literal, none of which is special in Lark or in a regular expression."""
    try:
        return "".join(map(_plain, _characters(text)))
    except ValueError:
        return text


def _plain(character: str) -> str:
    is_plain = ord(character) > 0xFF or (character.isascii() and (character.isalnum() or character == " "))
    return character if is_plain else f"\\x{ord(character):02x}"


def _class(text: str) -> str:
    """A class: characters and ranges, after a ^ if it is what they leave out."""
    is_negated = text.startswith("^")
    try:
        found = list(_characters_and_dashes(text[is_negated:]))
    except ValueError:
        return f"[{text}]"
    return f"[{'^' * is_negated}{''.join(found)}]"


def _characters_and_dashes(text: str) -> Iterator[str]:
    """The parts of a class; a dash between two characters makes a range, and any other is a character."""
    parts = list(_CHARACTER.finditer(text))
    is_dash = [part[0] == "-" for part in parts]
    spelled = list(map(_plain, _characters(text)))
    place = 0
    while place < len(parts):
        is_range = place + 2 < len(parts) and is_dash[place + 1]
        yield f"{spelled[place]}-{spelled[place + 2]}" if is_range else spelled[place]
        place += 3 if is_range else 1
