"""puna run --receipt and puna replay: verified, or the step that differs; other weights are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ON_REFERENCE = ("--device", "reference")
DRAWN = ("--temperature", "0.8", "--top-p", "0.9", "-n", "6", "--ignore-eos", "--raw")


def write_model(path: Path, seed: int) -> str:
    config = tiny_config()
    return str(write_gguf(path, config, random_tensors(config, seed), "F32", bpe_tokenizer(config.vocab_size)))


@pytest.fixture
def receipt(tmp_path: Path, puna: Puna) -> Path:
    model, path = write_model(tmp_path / "m.gguf", 1), tmp_path / "r.json"
    done = puna("run", model, "the big", *DRAWN, *ON_REFERENCE, "--receipt", str(path))
    assert done.code == 0, done.err
    return path


def test_a_receipt_is_verified(receipt: Path, puna: Puna) -> None:
    done = puna("replay", str(receipt), *ON_REFERENCE)
    assert done.code == 0 and done.out == "verified: 6 tokens of 6 are the same on reference\n"
    facts = json.loads(puna("replay", str(receipt), *ON_REFERENCE, "--json").out)
    assert facts["is_verified"] and facts["token_ids"] == json.loads(receipt.read_text("utf-8"))["token_ids"]


def test_each_sample_has_a_receipt_of_its_own(tmp_path: Path, puna: Puna) -> None:
    model, path = write_model(tmp_path / "m.gguf", 1), tmp_path / "r.json"
    done = puna("run", model, "the big", *DRAWN, *ON_REFERENCE, "--n", "2", "--receipt", str(path), "--json")
    choices = json.loads(done.out)["choices"]
    for number, choice in enumerate(choices, 1):
        file = tmp_path / f"r-{number}.json"
        assert json.loads(file.read_text("utf-8"))["token_ids"] == choice["token_ids"]
        assert puna("replay", str(file), *ON_REFERENCE).code == 0
    assert not path.exists()


def test_a_difference_is_shown(receipt: Path, puna: Puna) -> None:
    facts = json.loads(receipt.read_text("utf-8"))
    facts["token_ids"][4] = (facts["token_ids"][4] + 1) % 256
    receipt.write_text(json.dumps(facts), "utf-8")
    done = puna("replay", str(receipt), *ON_REFERENCE)
    assert done.code == 1 and done.out.startswith("differs: 4 tokens of 6 are the same on reference")
    assert all(part in done.out for part in ("step 5\n", "  receipt ", "  here    ", "the number", "margin"))


def test_a_receipt_drives_no_terminal(receipt: Path, puna: Puna) -> None:
    facts = json.loads(receipt.read_text("utf-8"))
    facts["token_ids"][4] = (facts["token_ids"][4] + 1) % 256
    receipt.write_text(json.dumps(facts | {"backend": "cpu\x1b]0;x\x07", "engine": "\x1b[2J"}), "utf-8")
    done = puna("replay", str(receipt), *ON_REFERENCE)
    assert done.code == 1 and all(letter.isprintable() or letter == "\n" for letter in done.out), done.out


def test_other_weights_are_refused(receipt: Path, tmp_path: Path, puna: Puna) -> None:
    done = puna("replay", str(receipt), write_model(tmp_path / "other.gguf", 2), *ON_REFERENCE)
    facts = json.loads(receipt.read_text("utf-8"))
    assert done.code == 2 and f"the digest of its weights is {facts['weights']}, and that of " in done.err
    (tmp_path / "m.gguf").rename(tmp_path / "moved.gguf")
    assert puna("replay", str(receipt), str(tmp_path / "moved.gguf"), *ON_REFERENCE).code == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("replay", "nothing.json"), "nothing.json cannot be read"),
        (("replay", "."), "is no file of up to"),
        (("replay", "text.json"), "text.json is no JSON"),
    ],
)
def test_what_is_no_receipt_is_refused(
    tmp_path: Path, puna: Puna, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.json").write_text("a llama", "utf-8")
    done = puna(*words)
    assert done.code == 2 and problem in done.err
