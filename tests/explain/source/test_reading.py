"""Sources that are broken, foreign or hostile are read as far as they can be, and what is wrong is named with its line."""

from __future__ import annotations

import ast
import json
import time
from pathlib import Path

import pytest

from puna.errors import PunaError, UsageError
from puna.explain.source.explained import Dissection
from puna.explain.source.reading import MAX_BYTES, SourceText, decoded, read_source, source_of

GOOD = "import os\n\n\ndef f(x):\n    return x + 1\n\n\n"


@pytest.mark.parametrize(
    ("broken", "line", "cause"),
    [
        ("def g(:\n    pass\n", 8, "invalid syntax"),
        ("y = (1,\n", 8, "'(' was never closed"),
        ("class A:\n    def m(self):\n        return 1\n\n    def n(self)\n        return 2\n", 12, "expected ':'"),
        ("  x = 1\n", 8, "unindent does not match"),
        ("if x:\ny = 1\n", 9, "expected an indented block"),
        ("s = 'abc\n", 8, "unterminated string literal"),
        ("x = 0777\n", 8, "leading zeros"),
        ("return = 5\n", 8, "invalid syntax"),
        ("\u201cx\u201d = 1\n", 8, "invalid character"),
    ],
)
def test_a_file_is_read_up_to_its_error(broken: str, line: int, cause: str) -> None:
    found = source_of(GOOD + broken, "t.py")
    assert found.problem is not None and found.problem.line == line and cause in found.problem.cause, found.problem
    assert found.problem.column >= 1 and 5 <= found.problem.read_to < line + 1
    assert "f" in [one.name for one in found.tree.body if isinstance(one, ast.FunctionDef)]


def test_a_method_before_the_error_is_read_too() -> None:
    found = source_of("class A:\n    def m(self):\n        return 1\n\n    def n(self)\n        return 2\n", "t.py")
    (known,) = found.tree.body
    assert isinstance(known, ast.ClassDef) and [one.name for one in known.body if isinstance(one, ast.FunctionDef)] == ["m"]


def test_python_2_is_named() -> None:
    for line in ("print 'x'", "except ValueError, e:"):
        found = source_of(f"try:\n    x = 1\n{line}\n" if line.startswith("except") else f"x = 1\n{line}\n", "t.py")
        assert found.problem is not None and found.problem.hint.startswith("This is Python 2"), found.problem


NESTED = {
    "brackets": "x = " + "(" * 5000 + ")" * 5000,
    "lists": "x = " + "[" * 150 + "]" * 150,
    "operators": "x = " + "-" * 20000 + "1",
    "sums": "x = " + "+".join("1" * 30000),
    "calls": "x = f" + "()" * 20000,
    "attributes": "x = a" + ".b" * 20000,
    "blocks": "\n".join(" " * depth + "if x:" for depth in range(99)) + "\n" + " " * 99 + "pass",
    "numbers": "x = " + "9" * 100_000,
}


@pytest.mark.parametrize("kind", NESTED)
def test_deep_nesting_is_told_or_read_but_never_a_crash(kind: str) -> None:
    found = source_of(f"import os\n{NESTED[kind]}\n", "t.py")
    assert isinstance(found.tree.body[0], ast.Import)
    assert found.problem is None or (found.problem.line == 2 and found.problem.cause)


def test_a_long_chain_of_elif_is_read() -> None:
    chain = "if x == 0:\n    pass\n" + "".join(f"elif x == {number}:\n    pass\n" for number in range(1, 150))
    assert source_of(chain, "t.py").problem is None


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("x = 'é'".encode(), "x = 'é'"),
        (b"\xef\xbb\xbfx = 1", "x = 1"),
        (b"# -*- coding: latin-1 -*-\nx = '\xe9'", "# -*- coding: latin-1 -*-\nx = 'é'"),
        ("x = 1".encode("utf-16"), "x = 1"),
    ],
)
def test_encodings_are_those_that_python_knows(data: bytes, text: str) -> None:
    assert decoded(data, "t.py") == text


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x7fELF\x00\x00\x01", "is not a text"),
        (b"x = '\xff\xfe'", "is not utf-8 from byte 5 on"),
        (b"# coding: unicode_escape\nx = 1", "declares an encoding that puna does not read"),
        (b"# coding: zip\nx = 1", "declares an encoding"),
        (b"# coding: ../../evil\nx = 1", "declares an encoding"),
    ],
)
def test_bytes_that_are_no_source_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        decoded(data, "t.py")


def test_paths_that_lead_to_no_file_are_refused(tmp_path: Path) -> None:
    for path, told in ((tmp_path / "no.py", "there is no file"), (tmp_path, "is no file to read")):
        with pytest.raises(PunaError, match=told):
            read_source(path)
    (tmp_path / "huge.py").write_bytes(b"x = 1\n" * (MAX_BYTES // 6 + 1))
    with pytest.raises(UsageError, match="more than 2 MiB"):
        read_source(tmp_path / "huge.py")


def test_the_time_grows_with_the_text_alone() -> None:
    started = time.monotonic()
    assert source_of("(" + "\n" * 500_000, "t.py").problem is not None
    assert not notebook({"cell_type": "code", "source": "x = 1\n" + " " * 300_000 + "x"}).cells[1:]
    many = "".join(f"def f{number}(): 0\n" for number in range(4000))
    assert len(Dissection(source_of(many, "t.py")).outline()) == 4000
    lines = " torch.softmax(logits, -1).multinomial(1)\n" * 500
    wide = f"def f({', '.join(f'a{number}' for number in range(500))}, logits):\n{lines}"
    assert Dissection(source_of(wide, "t.py")).outline()[0].loop == "sampling step"
    assert time.monotonic() - started < 20  # with squares of these numbers: minutes


def notebook(*cells: object) -> SourceText:
    return source_of(json.dumps({"nbformat": 4, "cells": list(cells)}), "t.ipynb")


def test_a_notebook_is_read_by_its_code_cells() -> None:
    found = notebook(
        {"cell_type": "markdown", "source": ["# Title"]},
        {"cell_type": "code", "source": ["%matplotlib inline\n", "x = 1\n", "!pip install y"]},
        {"cell_type": "code", "source": "def f(x):\n    return x"},
        {"cell_type": "code", "source": "%%bash\nrm -rf nothing"},
    )
    assert found.problem is None and [type(one) for one in found.tree.body] == [ast.Assign, ast.FunctionDef]
    assert (found.cell_of(1), found.cell_of(2), found.cell_of(5)) == (2, 2, 3)


@pytest.mark.parametrize("text", ['{"cells": 5, "nbformat": 4}', "{", '{"cells": [{"cell_type": "code"}], "nbformat": 4}', "[]"])
def test_a_broken_notebook_says_what_to_do(text: str) -> None:
    with pytest.raises(UsageError) as told:
        source_of(text, "t.ipynb")
    assert "notebook" in told.value.message


def test_warnings_of_the_source_are_not_ours() -> None:
    assert source_of("x = '\\d'\nassert (1, 'x')\n", "t.py").problem is None
