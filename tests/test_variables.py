"""The environment variables: one table, of which docs/variables.md is made; a misspelt one is told once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from puna import variables
from puna.config import EngineConfig
from tests.cli.conftest import Puna
from tests.cli.conftest import puna as puna  # a fixture

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "_told", set())


def known() -> set[str]:
    return {*variables.OTHERS, *(f"PUNA_{field.name.upper()}" for field in fields(EngineConfig))}


def named() -> Iterator[str]:
    """Every variable that a source, a document or the Makefile names."""
    places = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "puna").rglob("*.py"), *(ROOT / "docs").glob("[!L]*.*")]
    for path in places:
        if path.suffix != ".png":
            yield from re.findall(r"\bPUNA_[A-Z_]+[A-Z]\b", path.read_text("utf-8"))


def test_the_page_is_what_the_table_says() -> None:
    page = (ROOT / "docs" / "variables.md").read_text("utf-8")
    assert page == variables.markdown(), "write it with: python -m scripts.variables"
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == known()


def test_every_variable_that_is_named_anywhere_is_in_the_table() -> None:
    found = {name for name in named() if not name.startswith(variables.OF_TESTS)}
    assert found - {"PUNA_MAX_CONTXT"} <= known() and len(found) > 10


def test_a_misspelt_one_is_told_once_with_the_nearest_name(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_DEVIEC", "cpu")
    monkeypatch.setenv("PUNA_XYZ", "1")
    told = puna("--version").err.splitlines()
    assert told == [
        "puna: PUNA_DEVIEC has no effect: puna has no such variable. Did you mean PUNA_DEVICE?",
        "puna: PUNA_XYZ has no effect: puna has no such variable. docs/variables.md lists all.",
    ]
    assert puna("--version").err == ""


def test_those_that_puna_reads_are_not_told(puna: Puna, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*known(), "PUNA_TEST_CACHE", "PUNA_REAL_MODELS"):
        monkeypatch.setenv(name, "0")
    assert puna("--version").err == ""
