from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puna.cli.inspect import _config_lines, config_facts
from tests.cli.conftest import Puna
from tests.models import TinyTokenizer, bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf


@pytest.mark.parametrize(
    ("kind", "template", "guessed", "words"),
    [
        ("bpe", None, "chatml", "none in the model; puna uses chatml"),
        ("spm", None, None, "none in the model, and no built-in fits its vocabulary"),
        ("bpe", "{{ messages }}", None, "{{ messages }}"),
    ],
)
def test_the_template_that_would_be_used_is_shown(
    kind: str, template: str | None, guessed: str | None, words: str, puna: Puna, tmp_path: Path
) -> None:
    config = tiny_config()
    tokenizer = {"bpe": bpe_tokenizer, "spm": spm_tokenizer}[kind](config.vocab_size)
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", tokenizer, template)
    facts = json.loads(puna("inspect", str(path), "--json").out)
    assert (facts["chat_template"], facts["guessed_template"]) == (template, guessed)
    assert f"chat template\n  {words}" in puna("inspect", str(path)).out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, ["sliding_window   none"]),
        ({"sliding_window": 16}, ["sliding_window   16 tokens"]),
        ({"sliding_window": 16, "windowed_layers": (1,)}, ["sliding_window   16 tokens", "windowed_layers  1"]),
    ],
)
def test_the_config_is_in_plain_words(more: dict[str, Any], words: list[str]) -> None:
    lines = list(_config_lines(config_facts(tiny_config(**more))))
    assert [line for line in lines if "window" in line] == words
    assert "tie_embeddings   no" in lines and not any(word in line for line in lines for word in ("None", "False", "True"))


@pytest.mark.parametrize("kind", [bpe_tokenizer, spm_tokenizer])
def test_none_is_never_shown(kind: Callable[[int], TinyTokenizer], puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", kind(config.vocab_size))
    out = puna("inspect", str(path), "--tensors").out
    assert "None" not in out and "(begins a text)" in out
