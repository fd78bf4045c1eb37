"""puna perplexity: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.llm import LLM
from puna.perplexity import perplexity
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

TEXT = "the llama on the high plain sees the other llamas\n" * 3


@pytest.fixture
def model(tmp_path: Path) -> str:
    config = tiny_config()
    return str(write_gguf(tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


@pytest.fixture
def text(tmp_path: Path) -> str:
    (tmp_path / "text.txt").write_text(TEXT, "utf-8")
    return str(tmp_path / "text.txt")


FLAGS = ("--device", "reference", "--context", "32")


def test_it_prints_the_value_and_its_error_and_json_says_more(puna: Puna, model: str, text: str) -> None:
    with LLM(model, device="reference", report=SILENT) as llm:
        chunked = perplexity(llm, TEXT.removesuffix("\n"), context=32)
        slid = perplexity(llm, TEXT, context=32, stride=10)
    done = puna("perplexity", model, text, *FLAGS)
    assert (done.code, done.out) == (0, f"perplexity {chunked.value:.4f} ± {chunked.error:.4f}\n")
    assert f"{chunked.num_windows} chunks of 32 tokens, {chunked.num_tokens} tokens scored" in done.err
    facts = json.loads(puna("perplexity", model, text, *FLAGS, "--stride", "10", "--json").out)
    assert (facts["perplexity"], facts["error"], facts["tokens_scored"]) == (slid.value, slid.error, slid.num_tokens)
    assert (facts["windows"], facts["context"], facts["stride"]) == (slid.num_windows, 32, 10)


def test_a_text_comes_from_standard_input_and_chunks_are_limited(puna: Puna, model: str, text: str) -> None:
    whole = puna("perplexity", model, "-", *FLAGS, stdin=TEXT)
    assert whole.out == puna("perplexity", model, text, *FLAGS).out
    assert "2 chunks of 32 tokens" in puna("perplexity", model, text, *FLAGS, "--chunks", "2").err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "the FILE is missing"),
        (("a", "b", "c"), "3 words were given; at most two are allowed: [MODEL] FILE"),
        (("no-such-file",), "there is no file no-such-file"),
        (("m.gguf", "TEXT", "--context", "3"), "--context is 3; a whole number of at least 4 is needed"),
        (("m.gguf", "TEXT", "--stride", "0"), "--stride is 0"),
        (("m.gguf", "TEXT", "--context", "16", "--stride", "17"), "stride is 17"),
        (("m.gguf", "TEXT", "--context", "4000"), "context is 4000; the model holds"),
    ],
)
def test_what_is_wrong_is_told(puna: Puna, model: str, text: str, arguments: tuple[str, ...], told: str) -> None:
    places = {"m.gguf": model, "TEXT": text}
    done = puna("perplexity", *(places.get(word, word) for word in arguments), *(("--device", "reference") if arguments else ()))
    assert done.code in (1, 2) and told in done.err and not done.out


def test_a_file_that_is_not_utf8_is_told_with_the_place(puna: Puna, model: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    done = puna("perplexity", model, str(tmp_path / "bad.txt"))
    assert done.code == 2 and "is not UTF-8 at byte 3" in done.err
    assert puna("perplexity", model, str(tmp_path / "gone.txt")).code == 1
