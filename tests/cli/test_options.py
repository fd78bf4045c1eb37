"""A model that cannot do what is asked is refused before its weights are read."""

from __future__ import annotations

from pathlib import Path

import pytest

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
