"""Functions and classes are found by the names that a person types; others are answered with what is there."""

from __future__ import annotations

import ast

import pytest

from puna.errors import UsageError
from puna.explain.source.symbols import definitions, find, split_target

SOURCE = """
class Llama:
    def generate(self): pass
    def chat(self): pass
class Other:
    def generate(self): pass
def sample(): pass
if True:
    def sample(x): pass
async def stream():
    def inner(): pass
"""
KNOWN = definitions(ast.parse(SOURCE))


def test_a_chain_of_elif_is_not_deep() -> None:
    chain = "def f(x):\n if x: pass\n" + " elif x: pass\n" * 1200 + "def g(): 0"
    assert [one.name for one in definitions(ast.parse(chain))] == ["f", "g"]


def found(wanted: str) -> list[tuple[str, str, int]]:
    return [(one.name, one.kind, one.node.lineno) for one in find(KNOWN, wanted, "t.py")]


def test_names_are_found_whole_and_by_their_ends() -> None:
    assert found("Llama.generate") == [("Llama.generate", "method", 3)]
    assert found("chat") == [("Llama.chat", "method", 4)]
    assert found("Llama") == [("Llama", "class", 2)]
    assert found("inner") == [("stream.inner", "function", 11)]


def test_several_of_one_name_are_all_found() -> None:
    assert found("sample") == [("sample", "function", 7), ("sample", "function", 9)]


def test_a_name_of_several_classes_must_be_said_whole() -> None:
    with pytest.raises(UsageError) as told:
        find(KNOWN, "generate", "t.py")
    assert told.value.typed == (
        "t.py has 2 of the name generate: Llama.generate (line 3), Other.generate (line 6)",
        "Say which: puna explain t.py:Llama.generate",
    )


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("sampel", "Did you mean sample?"),
        ("Lama", "Did you mean Llama?"),
        ("generat", "Did you mean"),
        ("xyzzy", "It has Llama, Llama.generate"),
    ],
)
def test_an_unknown_name_gets_similar_ones(wanted: str, hint: str) -> None:
    with pytest.raises(UsageError) as told:
        find(KNOWN, wanted, "t.py")
    assert told.value.hint.startswith(hint)


def test_a_file_without_functions_says_so() -> None:
    with pytest.raises(UsageError) as told:
        find([], "f", "t.py")
    assert told.value.typed == ("t.py has no function or class f", "It has no functions: puna explain t.py")


@pytest.mark.parametrize(
    ("target", "path", "symbol"),
    [
        ("a.py", "a.py", None),
        ("a.py:f", "a.py", "f"),
        ("a.py:A.f", "a.py", "A.f"),
        ("/x/y:z.py", "/x/y", "z.py"),
        ("C:\\code\\x.py", "C:\\code\\x.py", None),
        ("-:f", "-:f", None),
    ],
)
def test_a_target_is_a_file_and_perhaps_a_name(target: str, path: str, symbol: str | None) -> None:
    found_path, found_symbol = split_target(target)
    assert (str(found_path), found_symbol) == (path, symbol)
