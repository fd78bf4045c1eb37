from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from puna.cli.inspect import _config_lines, config_facts
from puna.model.spec import Experts
from tests.cli.conftest import Puna
from tests.models import DraftValue, TinyTokenizer, bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf


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


def test_the_parameters_that_a_token_uses_are_told_apart(puna: Puna, tmp_path: Path) -> None:
    """Half of the experts are chosen, so half of their weights are active; everything else is."""
    experts = Experts(size=32, count=4, top_k=2)
    plain = tiny_config(ffn_size=32)
    config = replace(plain, layers=tuple(replace(layer, ffn=experts) for layer in plain.layers))
    counts = [DraftValue(b"llama.expert_count", "uint32", 4), DraftValue(b"llama.expert_used_count", "uint32", 2)]
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), extra=counts)
    facts = json.loads(puna("inspect", str(path), "--json").out)
    of_experts = config.num_layers * 3 * 4 * 32 * config.hidden_size
    assert facts["active_parameters"] == facts["parameters"] - of_experts // 2
    assert (facts["config"]["num_experts"], facts["config"]["experts_per_token"]) == (4, 2)
    assert "0.1 M parameters, 0.1 M active" in puna("inspect", str(path)).out


@pytest.mark.parametrize("kind", [bpe_tokenizer, spm_tokenizer])
def test_none_is_never_shown(kind: Callable[[int], TinyTokenizer], puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    path = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", kind(config.vocab_size))
    out = puna("inspect", str(path), "--tensors").out
    assert "None" not in out and "(begins a text)" in out
