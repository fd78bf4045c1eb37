"""A model that cannot do what is asked is refused before its weights are read."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from puna.cli.main import app
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, llama2c_bytes, random_tensors, spm_tokenizer, tiny_config, write_gguf


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a backend was made: the weights come next")

    monkeypatch.setattr("puna.loading.create_backend", refuse)
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))


def model(folder: Path, *, tokenizer: str) -> str:
    config = tiny_config()
    if not tokenizer:
        (folder / "m.bin").write_bytes(llama2c_bytes(config, random_tensors(config, 1)))
        return str(folder / "m.bin")
    made = {"bpe": bpe_tokenizer, "spm": spm_tokenizer}[tokenizer](config.vocab_size)
    return str(write_gguf(folder / "m.gguf", config, random_tensors(config, 1), "F32", made, None))


@pytest.mark.parametrize("command", [("run", "hi"), ("run", "hi", "--raw"), ("chat",), ("chat", "--raw")])
def test_a_model_without_a_tokenizer_is_refused(puna: Puna, tmp_path: Path, command: tuple[str, ...]) -> None:
    name, *rest = command
    done = puna(name, model(tmp_path, tokenizer=""), *rest)
    assert done.code == 2 and "has no tokenizer, so it cannot read text" in done.err and "--tokenizer" in done.err


@pytest.mark.parametrize("command", [("run", "hi"), ("chat",)])
def test_a_model_without_a_template_is_refused_for_a_conversation(puna: Puna, tmp_path: Path, command: tuple[str, ...]) -> None:
    name, *rest = command
    done = puna(name, model(tmp_path, tokenizer="spm"), *rest)
    assert done.code != 0 and "has no chat template" in done.err and "--raw" in done.err


def test_a_template_that_is_named_or_guessed_or_not_needed_is_enough(puna: Puna, tmp_path: Path) -> None:
    for kind, flags in (("spm", ("--template", "chatml")), ("spm", ("--raw",)), ("bpe", ())):
        with pytest.raises(AssertionError, match="the weights come next"):
            puna("run", model(tmp_path, tokenizer=kind), "hi", *flags)


@pytest.mark.parametrize("name", ["run", "chat"])
def test_the_help_lists_each_option_once_under_a_heading_in_one_line(
    puna: Puna, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    command = app.get_command(click.Context(app), name)
    assert command is not None
    sections = re.findall(r"^(\w[\w ]*):\n((?:  .*\n)+)", puna(name, "--help").out, re.MULTILINE)
    listed = [flag for _, rows in sections for flag in re.findall(r"^  (?:-\w, )?(--[\w-]+)", rows, re.MULTILINE)]
    options = [param for param in command.get_params(click.Context(command)) if isinstance(param, click.Option)]
    assert sorted(listed) == sorted(max(one.opts, key=len) for one in options)
    headings = [heading for heading, _ in sections]
    assert headings[0] in ("Prompt", "Conversation") and headings[1:5] == [
        "Answer",
        "Sampling",
        "Penalties and bans",
        "Form of the answer",
    ]
    assert headings[-4:] == ["Device and memory", "Model", "Cache", "Output"]
    two_lines = [row for _, rows in sections for row in rows.splitlines() if row.startswith("   ")]
    assert len(two_lines) <= 2, "only of flags that are longer than their column"
