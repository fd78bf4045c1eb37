"""puna tokenize: what it prints of each token, which tokenizer it takes, and a message in the chat template of the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, spm_tokenizer, tiny_config, write_gguf

TEXT = "héllo  日本 🦙\n"


@pytest.mark.parametrize("kind", ["bpe", "spm"])
def test_a_folder_with_a_tokenizer_needs_no_model(kind: str, puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    tokenizer = {"bpe": bpe_tokenizer, "spm": spm_tokenizer}[kind](config.vocab_size)
    model = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", tokenizer)
    folder = tmp_path / "folder"
    assert puna("convert", str(model), str(folder), "--to", "safetensors").code == 0
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    expected = json.loads(puna("tokenize", str(model), TEXT, "--json").out)["ids"]
    for has_config in (True, False):
        done = puna("tokenize", "--tokenizer", str(folder), TEXT, "--json")
        assert json.loads(done.out)["ids"] == expected, (has_config, done.err)
        (folder / "config.json").unlink(missing_ok=True)


def test_a_folder_without_a_tokenizer_is_refused(puna: Puna, tmp_path: Path) -> None:
    done = puna("tokenize", "--tokenizer", str(tmp_path), TEXT)
    assert done.code == 2 and "holds no tokenizer" in done.err


def test_half_a_character_is_shown_as_its_bytes(puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    model = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size))
    out = puna("tokenize", str(model), "a🦙").out
    assert [line.split()[1:] for line in out.splitlines()] == [
        ["a", "61"],
        ["<F0>", "f0"],
        ["<9F>", "9f"],
        ["<A6>", "a6"],
        ["<99>", "99"],
    ]


@pytest.mark.parametrize(("kind", "space"), [("bpe", "Ġ"), ("spm", "▁")])
def test_the_signs_of_the_vocabulary_are_explained(puna: Puna, tmp_path: Path, kind: str, space: str) -> None:
    config = tiny_config()
    tokenizer = {"bpe": bpe_tokenizer, "spm": spm_tokenizer}[kind](config.vocab_size)
    model = str(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", tokenizer))
    done = puna("tokenize", model, "a b")
    assert space in done.out and f"In a piece, {space} is a space." in done.err.splitlines()
    assert "In a piece" not in puna("tokenize", model, "a b", "--json").err


def test_a_byte_order_mark_before_the_text_is_not_a_token(puna: Puna, tmp_path: Path) -> None:
    config = tiny_config()
    model = write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size))
    assert puna("tokenize", str(model), "-", stdin="\ufeffa").out == puna("tokenize", str(model), "a").out


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = tiny_config(vocab_size=300)
    template = "[{{ messages[0].role }}] {{ messages[0].content }}{% if mood %} {{ mood }}{% endif %}"
    return str(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, seed=1), chat_template=template))


def ids(puna: Puna, *arguments: str) -> list[int]:
    done = puna("tokenize", *arguments, "--json")
    assert done.code == 0, done.err
    found: list[int] = json.loads(done.out)["ids"]
    return found


def test_a_message_is_shown_in_the_template_of_the_model(model: str, puna: Puna) -> None:
    assert ids(puna, model, "hi", "--chat") == ids(puna, model, "[user] hi")
    assert ids(puna, model, "hi", "--chat", "--template-arg", "mood=glad") == ids(puna, model, "[user] hi glad")


def test_a_variable_that_has_no_effect_is_told_or_refused(model: str, puna: Puna) -> None:
    done = puna("tokenize", model, "hi", "--chat", "--template-arg", "mod=glad")
    assert done.code == 0 and "does not read mod: it has no effect" in done.err
    done = puna("tokenize", model, "hi", "--template-arg", "mood=glad")
    assert done.code == 2 and "Add --chat." in done.err
    done = puna("tokenize", model, "hi", "--special", "--chat")
    assert done.code == 2 and "--special has no effect with --chat" in done.err
