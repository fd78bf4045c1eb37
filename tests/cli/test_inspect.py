from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf


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
