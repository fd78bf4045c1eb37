"""puna rm: names what it would remove, asks, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.hub import DEFAULT_MODEL
from puna.paths import models_dir
from tests.cli.conftest import Puna


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puna.cli.rm.is_terminal", lambda: True)


def put(*names: str) -> Path:
    path = models_dir().joinpath(*names)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 2_000_000)
    return path


def test_it_names_size_and_path_and_asks(puna: Puna, at_a_terminal: None) -> None:
    path = put("mine.gguf")
    for answer in ("n\n", "\n"):
        done = puna("rm", "mine", stdin=answer)
        assert done.code == 1 and path.exists() and done.out == ""
        assert f"2 MB  mine: {path}" in done.err and "Remove it? [y/N]" in done.err and "nothing was removed" in done.err
    done = puna("rm", "mine", stdin="maybe\ny\n")
    assert (done.code, done.out) == (0, "removed mine, 2 MB\n") and not path.exists() and "press Enter for no" in done.err


def test_without_a_terminal_it_wants_yes(puna: Puna) -> None:
    path = put("mine.gguf")
    done = puna("rm", "mine")
    assert done.code == 2 and path.exists() and done.err.endswith("\npuna rm --yes mine\n")
    assert puna("rm", "--yes", "mine").code == 0 and not path.exists()


def test_names_are_those_that_puna_models_lists_and_several_go_together(puna: Puna) -> None:
    put(f"{DEFAULT_MODEL}.gguf")
    put("hub", "Qwen", "Qwen3-4B-GGUF", "Qwen3-4B-Q4_K_M.gguf")
    put("mine.gguf")
    done = puna("rm", "-y", "--json", "smollm2-135m", "qwen3-4b", "hf:Qwen/Qwen3-4B-GGUF", "mine")
    removed = json.loads(done.out)["removed"]
    assert [one["bytes"] for one in removed] == [2_000_000] * 3, "a model of two names goes once"
    assert [path for path in models_dir().rglob("*")] == []  # noqa: C416


def test_a_wrong_name_among_several_removes_nothing(puna: Puna) -> None:
    path = put("mine.gguf")
    done = puna("rm", "-y", "mine", "mien")
    assert done.code == 2 and path.exists()
    assert done.err.startswith("puna: mien is not here, so there is nothing to remove\nDid you mean mine?")


def test_a_name_is_needed(puna: Puna) -> None:
    assert puna("rm").err.startswith("puna: MODEL ... is missing\nThe form is: puna rm MODEL ...")
