"""Short names of models that are not cached: at a terminal puna asks; without one it prints the command."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from puna import hub
from puna.cli import fetch
from puna.report import Reporter
from tests.cli.conftest import FakeLLM, Puna


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """At a terminal; what is pulled is kept here."""
    pulled: list[str] = []

    def pull(name: str, report: Reporter) -> Path:
        pulled.append(name)
        return tmp_path / "m.gguf"

    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "is_terminal", lambda: True)
    monkeypatch.setattr("puna.cli.pull.is_terminal", lambda: True)
    monkeypatch.setattr(hub, "pull", pull)
    return pulled


@pytest.mark.parametrize("command", [("run", "llama-2-7b", "hi"), ("chat", "llama-2-7b"), ("pull", "llama-2-7b")], ids=str)
def test_a_person_is_asked_with_size_and_licence_before_it_is_fetched(
    puna: Puna, fake: FakeLLM, asked: list[str], command: tuple[str, ...]
) -> None:
    done = puna(*command, stdin="y\n")
    assert asked == ["llama-2-7b"]
    source = "from hf:TheBloke/Llama-2-7B-Chat-GGUF/llama-2-7b-chat.Q4_K_M.gguf"
    for words in ("llama-2-7b: about 4.1 GB; licence: Llama 2", source, "Fetch it?"):
        assert words in done.err
    assert "https://huggingface.co/meta-llama/Llama-2-7b-chat-hf" in done.err


@pytest.mark.parametrize("command", [("run", "llama-2-7b", "hi"), ("pull", "llama-2-7b")], ids=str)
def test_nothing_is_fetched_where_the_answer_is_no(puna: Puna, fake: FakeLLM, asked: list[str], command: tuple[str, ...]) -> None:
    done = puna(*command, stdin="n\n")
    assert asked == [] and done.code == 1 and "To fetch it later: puna pull llama-2-7b" in done.err


def test_pull_does_not_ask_where_it_is_told_not_to(puna: Puna, asked: list[str]) -> None:
    assert puna("pull", "--yes", "llama-2-7b").code == 0 and asked == ["llama-2-7b"]


def test_the_terms_of_a_gated_repository_are_named(puna: Puna, asked: list[str]) -> None:
    assert "Its owner requires an agreement first" in puna("pull", "llama-3.1-405b", stdin="n\n").err


def test_other_names_and_models_that_are_here_are_not_asked_about(
    puna: Puna, fake: FakeLLM, asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "m.gguf").touch()
    for model in (str(tmp_path / "m.gguf"), "hf:o/r/m.gguf", "smollm2-135m-instruct", "smollm2-135m"):
        assert "Fetch it?" not in puna("run", model, "hi").err
    assert asked == []


def test_without_a_terminal_the_command_is_named(puna: Puna, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path))
    for command in (("run", "llama-2-7b", "hi"), ("chat", "llama-2-7b"), ("inspect", "llama-2-7b"), ("bench", "llama-2-7b")):
        done = puna(*command)
        assert done.code == 2 and done.err.splitlines()[-1] == "Fetch it: puna pull llama-2-7b", command


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_person_can_be_asked_where_both_ends_are_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for stdin, stderr in ((Terminal(), Terminal()), (Terminal(), io.StringIO()), (io.StringIO(), Terminal())):
        monkeypatch.setattr("sys.stdin", stdin)
        monkeypatch.setattr("sys.stderr", stderr)
        assert fetch.is_terminal() == (stdin.isatty() and stderr.isatty())
