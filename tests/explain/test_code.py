"""The lines of puna that a tour shows are those of the file, found from the function."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna import filters
from puna.batch import Batch
from puna.explain.code import MOST_LINES, code_of
from puna.llm import LLM
from puna.model import rope

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("function", [filters.top_p, filters._nucleus, Batch.of, rope._frequencies, LLM.generate])
def test_the_lines_stand_in_the_file_at_their_numbers(function: object) -> None:
    code = code_of(function)  # type: ignore[arg-type]
    lines = (ROOT / code.file).read_text("utf-8").splitlines()
    assert code.lines[0][0] == code.line and code.name.split(".")[-1] in lines[code.line - 1]
    for number, line in code.lines[1:]:
        assert line.strip() == lines[number - 1].strip()
    assert not any('"""' in line for _, line in code.lines)


def test_a_long_function_is_cut_and_says_so() -> None:
    code = code_of(LLM)
    assert code.is_cut and len(code.lines) == MOST_LINES
    assert not code_of(filters.top_k).is_cut
