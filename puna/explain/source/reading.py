"""A source file as text and syntax tree. A file that does not parse is read up to its error; a notebook, by its code cells."""

from __future__ import annotations

import ast
import codecs
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from puna.errors import PunaError, UsageError
from puna.files import read_small

MAX_BYTES = 2 << 20
MAX_REPARSED = 8 << 20  # characters parsed in search of the part before an error; a dense MiB takes seconds
MAX_NESTING = 200  # brackets and indents; deeper trees exhaust the stack of whoever walks them
BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
COOKIE = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.ASCII)
ENCODINGS = {
    **dict.fromkeys(("utf-8", "utf8", "utf_8", "utf-8-sig", "u8"), "utf-8"),
    **dict.fromkeys(("ascii", "us-ascii"), "ascii"),
    **dict.fromkeys(("latin-1", "latin1", "iso-8859-1", "iso8859-1", "l1"), "latin-1"),
    **dict.fromkeys(("iso-8859-15", "latin-9"), "iso-8859-15"),
    **dict.fromkeys(("cp1252", "windows-1252"), "cp1252"),
    **{name: name for name in ("cp1251", "koi8-r", "gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr")},
}
MAGIC = ("%", "!", "?")  # begin lines of IPython that are no Python; a ? at the end makes one, too
PYTHON_2 = re.compile(r"^[ \t]*(print\s+[^(=\s]|exec\s+[^(=\s]|except\s+[\w.]+\s*,\s*\w+\s*:|raise\s+\w+\s*,)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ParseProblem:
    """Where a file stops being Python, and why. `read_to`: the last line that puna could read; `hint`: what may help."""

    line: int
    column: int
    cause: str
    text: str
    read_to: int
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SourceText:
    """A file's lines and tree. `cells`: of a notebook, the first line of each code cell, and the cell's number."""

    name: str
    lines: tuple[str, ...]
    tree: ast.Module
    problem: ParseProblem | None = None
    cells: tuple[tuple[int, int], ...] = ()

    def cell_of(self, line: int) -> int | None:
        """The cell of a notebook that a line belongs to."""
        found = [number for first, number in self.cells if first <= line]
        return found[-1] if found else None


def read_source(path: Path) -> SourceText:
    """Read a file. PunaError if it is not there, too large, or no text."""
    shown = str(path)
    try:
        data = read_small(path, MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise PunaError(f"there is no file {shown}", hint="Give a Python file, or FILE.py:FUNCTION.") from error
    except IsADirectoryError:
        data = None
    except OSError as error:
        raise PunaError(f"{shown} cannot be read: {error.strerror}") from error
    if data is None:
        raise UsageError(f"{shown} is no file to read", hint="Give a Python file, or FILE.py:FUNCTION.")
    require_small(len(data), shown)
    return source_of(decoded(data, shown), shown)


def require_small(size: int, name: str) -> None:
    """UsageError for a text that is larger than puna takes apart."""
    if size > MAX_BYTES:
        raise UsageError(
            f"{name} has more than {MAX_BYTES >> 20} MiB, which is more than puna reads of a source file",
            hint="Copy the part that you want explained into a file of its own.",
        )


def decoded(data: bytes, name: str) -> str:
    """The text of a source file: UTF-8, or what its mark or its first lines declare. UsageError if it is no text."""
    for mark, encoding in BOMS:
        if data.startswith(mark):
            data = data.removeprefix(mark)
            declared: str | None = encoding
            break
    else:
        declared = _declared(data)
    if declared is None:
        raise UsageError(f"{name} declares an encoding that puna does not read", hint="Save it as UTF-8.")
    if b"\0" in data and not declared.startswith("utf-16"):
        raise UsageError(f"{name} is not a text", hint="Give Python source. For a model: puna inspect FILE")
    try:
        return data.decode(declared)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name} is not {declared} from byte {error.start} on", hint="Save it as UTF-8.") from error


def _declared(data: bytes) -> str | None:
    """The encoding that one of the first two lines declares (PEP 263); UTF-8 if none does."""
    for line in data.split(b"\n", 2)[:2]:
        if found := COOKIE.match(line):
            return ENCODINGS.get(found[1].decode("ascii").lower().replace("_", "-").removesuffix("-unix"))
    return "utf-8"


def source_of(text: str, name: str) -> SourceText:
    """The lines and the tree of a text, whatever is wrong with it.

    >>> source_of("x = 1\\ny = (", "t.py").problem.line
    2
    """
    if name.endswith(".ipynb") or (text.lstrip().startswith("{") and '"cells"' in text and '"nbformat"' in text):
        return _of_notebook(text, name)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ")
    tree, problem = _parsed(text)
    return SourceText(name, tuple(text.split("\n")), tree, problem)


def _parsed(text: str) -> tuple[ast.Module, ParseProblem | None]:
    """The tree of as much of a text as can be read, and where that ends."""
    tree, problem = _tried(text)
    if tree is not None:
        return tree, None
    assert problem is not None
    lines, budget = text.split("\n"), MAX_REPARSED
    for last in _ends(lines, problem.line - 1):
        part = "\n".join(lines[:last])
        budget -= len(part)
        if budget < 0:
            break
        tree, _ = _tried(part)
        if tree is not None:
            return tree, _at_line(problem, last, text)
    return ast.Module([], []), _at_line(problem, 0, text)


def _ends(lines: Sequence[str], last: int) -> Iterator[int]:
    """Numbers of lines after which a text may be cut, from `last` down: each of the nearest, then those before a new statement
    without an indent."""
    near = max(0, last - 60)
    yield from range(last, near, -1)
    yield from (at for at in range(near, 0, -1) if lines[at][:1].strip() and lines[at][0] not in ")]}#")


def _at_line(problem: ParseProblem, read_to: int, text: str) -> ParseProblem:
    hint = "This is Python 2, which puna does not read." if PYTHON_2.search(problem.text) or PYTHON_2.search(text) else ""
    return ParseProblem(problem.line, problem.column, problem.cause, problem.text, read_to, hint)


def _tried(text: str) -> tuple[ast.Module | None, ParseProblem | None]:
    lines = text.split("\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in strings
            tree = ast.parse(text)
        _require_flat(tree)
    except SyntaxError as error:
        line = min(max(error.lineno or 1, 1), len(lines))
        return None, ParseProblem(line, error.offset or 1, str(error.msg), lines[line - 1].strip()[:120], 0)
    except (RecursionError, MemoryError, ValueError) as error:
        cause = str(error) if isinstance(error, ValueError) else "brackets or operators are nested too deeply"
        line = max(range(len(lines)), key=lambda at: len(lines[at])) + 1
        return None, ParseProblem(line, 1, cause, lines[line - 1].strip()[:120], 0)
    return tree, None


def _require_flat(tree: ast.Module) -> None:
    """RecursionError for a tree that is deeper than puna walks. Chains of `elif` are no depth: they are walked as lists."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise RecursionError
        chained = node.orelse if isinstance(node, ast.If) and len(node.orelse) == 1 else []
        waiting += [(one, depth if one in chained else depth + 1) for one in ast.iter_child_nodes(node)]


# ---- notebooks --------------------------------------------------------------------------------------------------------------


def _of_notebook(text: str, name: str) -> SourceText:
    """The code cells of a notebook as one text; lines that only IPython understands become comments."""
    try:
        cells = json.loads(text)["cells"]
        codes = [(number, _cell_text(cell)) for number, cell in enumerate(cells, 1) if cell.get("cell_type") == "code"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UsageError(
            f"{name} is no notebook that puna can read", hint="Save its code as a Python file: File, Save and Export Notebook As."
        ) from None
    if not codes:
        raise UsageError(f"{name} is a notebook without code cells")
    lines: list[str] = []
    starts: list[tuple[int, int]] = []
    for number, code in codes:
        starts.append((len(lines) + 1, number))
        cell_lines = code.replace("\r\n", "\n").split("\n")
        is_foreign = cell_lines[0].startswith("%%")
        lines += [f"# {line}" if is_foreign or _is_magic(line) else line for line in cell_lines]
        lines.append("")
    tree, problem = _parsed("\n".join(lines))
    return SourceText(name, tuple(lines), tree, problem, tuple(starts))


def _is_magic(line: str) -> bool:
    """Whether only IPython understands a line.

    >>> _is_magic("  %timeit f(x)"), _is_magic("torch.topk?"), _is_magic("x = 1  # why?!")
    (True, True, False)
    """
    bare = line.strip()
    return bare.startswith(MAGIC) or bare.endswith("?")


def _cell_text(cell: Any) -> str:
    source = cell["source"]
    return source if isinstance(source, str) else "".join(map(str, source))
