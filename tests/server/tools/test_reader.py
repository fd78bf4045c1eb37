"""Readers of calls: the same parts in whatever pieces an answer comes; no marker is told as text, and no text is lost."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations

import pytest

from puna.server.tools.base import CallPart, CallReader, TextPart, Tool
from puna.server.tools.hermes import HERMES
from puna.server.tools.layout import CallLayout
from puna.server.tools.notation import JSON
from puna.server.tools.reader import LayoutReader

TOOLS = (Tool("a"), Tool("b.c"))
Found = tuple[str, list[tuple[str, str]]]  # the text, and of each call its name and arguments

A, B = '{"name": "a", "arguments": {"x": "}\\"<"}}', '{"name": "b.c", "arguments": {}}'
CALL_A, CALL_B = ("a", '{"x": "}\\"<"}'), ("b.c", "{}")
HERMES_TABLE: dict[str, Found] = {
    "Hello.": ("Hello.", []),
    "": ("", []),
    " a <tool_call b \n": (" a <tool_call b \n", []),
    f"<tool_call>\n{A}\n</tool_call>": ("", [CALL_A]),
    f"<tool_call>{A}</tool_call>": ("", [CALL_A]),
    f"Well.\n\n<tool_call>\n{A}\n</tool_call>\n<tool_call>\n{B}\n</tool_call>\n": ("Well.", [CALL_A, CALL_B]),
    f"\n\n<tool_call>\n{B}\n</tool_call>": ("", [CALL_B]),
    f"<tool_call>\n{A[:-5]}": ("", [("a", '{"x": "}\\')]),  # cut: a part of the arguments
    f"<tool_call>\n{A}\n</tool": ("", [CALL_A]),
    f"<tool_call>\n{A[:-1]}": ("", [CALL_A]),
    "x \n<tool_call>\n{" + '"name": "a': ("x", []),  # cut before it is known who is called
    f"<tool_call>\n{A}\n</tool_call>\n<tool_call>\n{{": ("", [CALL_A]),
    f"<tool_call>\n{A}\n</tool_call>\nbut": ("but", [CALL_A]),  # not this layout
    f"```json\n{A}\n```": ("", [CALL_A]),
    f" {A}": ("", [CALL_A]),
    f"{A}\n{B}\n": ("", [CALL_A, CALL_B]),
    '```\n{\n  "name": "a",\n  "arguments": {\n    "x": 1 }\n}\n': ("", [("a", '{\n    "x": 1 }')]),
    f"```json\n{A}\n": ("", [CALL_A]),
    f"{A}\n{{": ("", [CALL_A]),
    '```json\n{"name": "a", "argum': ("", []),
    '```json\n{"name": "c", "arguments": {}}': ('```json\n{"name": "c", "arguments": {}}', []),  # no tool
    '{"name': ('{"name', []),
    '{          "name": "a", "arguments": {}}': ('{          "name": "a", "arguments": {}}', []),  # more than nine spaces
    f"See:\n{A}": (f"See:\n{A}", []),  # only at the start
    "<tool_call>\nget_weather(1)\n</tool_call>": ("<tool_call>\nget_weather(1)\n</tool_call>", []),  # not this layout
}


def partitions(text: str, rng: random.Random, count: int) -> Iterator[list[str]]:
    yield [text]
    yield list(text)
    for _ in range(count):
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(8)))
        yield [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


def read(reader: CallReader, pieces: Sequence[str]) -> Found:
    """Also checks that each call tells its name once, and first."""
    text, calls = "", list[tuple[str, str]]()
    parts = [*(part for piece in pieces for part in reader.feed(piece)), *reader.end()]
    for part in parts:
        if isinstance(part, TextPart):
            text += part.text
            assert part.text
        elif part.name:
            assert part.call == len(calls)
            calls.append((part.name, part.arguments))
        else:
            assert part.call == len(calls) - 1 and part.arguments
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return text, calls


@pytest.mark.parametrize("text", HERMES_TABLE)
def test_hermes_is_read_in_any_pieces(text: str) -> None:
    rng = random.Random(7)
    for pieces in partitions(text, rng, 200):
        assert read(HERMES.reader(TOOLS), pieces) == HERMES_TABLE[text], pieces


SMALL = CallLayout("<", ("",), ('"NAME":',), ";", "<", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('x <"f":{};', ("x", [("f", "{}")])),
        ('<"f":{};<"', ("", [("f", "{}")])),
        ('<"f":{ }  ', ("", [("f", "{ }")])),
        (" a < ;  ", (" a < ;  ", [])),
    ],
)
def test_every_partition_of_a_small_text(text: str, expected: Found) -> None:
    for count in range(len(text)):
        for cuts in combinations(range(1, len(text)), count):
            pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
            assert read(LayoutReader(SMALL, None, [Tool("f")], JSON), pieces) == expected, pieces


def test_arguments_are_told_as_soon_as_they_come() -> None:
    reader = HERMES.reader(TOOLS)
    assert reader.feed('<tool_call>\n{"name": "a", "arguments": ') == []
    assert reader.feed('{"x') == [CallPart(0, name="a"), CallPart(0, '{"x')]
    inside = [reader.is_inside]
    assert reader.feed('": 1}}\n</to') == [CallPart(0, '": 1}')]
    assert [*inside, reader.is_inside] == [True, False]
    assert reader.feed("ol_call>") == [] and reader.end() == []


def test_text_is_told_at_once_but_for_what_may_begin_a_call() -> None:
    reader = HERMES.reader(TOOLS)
    assert reader.feed("Hm ") == [TextPart("Hm")]
    assert reader.feed("<tool") == []
    assert reader.feed("s> ok") == [TextPart(" <tools> ok")]
