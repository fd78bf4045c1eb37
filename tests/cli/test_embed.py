"""puna embed: what it prints for one text, for lines, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from puna.llm import LLM
from puna.progress import SILENT
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

ON_REFERENCE = ("--device", "reference")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = tiny_config()
    path = tmp_path_factory.mktemp("embed") / "m.gguf"
    return str(write_gguf(path, config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size)))


def test_a_text_becomes_a_line_of_numbers(model: str, puna: Puna) -> None:
    done = puna("embed", model, "the day", *ON_REFERENCE)
    assert done.code == 0 and "1 text, " in done.err
    with LLM(model, device="reference", report=SILENT) as llm:
        assert np.array(done.out.split(), np.float32).tobytes() == llm.embed("the day").tobytes()


def test_each_line_is_a_text_and_json_says_how_it_was_pooled(model: str, puna: Puna) -> None:
    done = puna("embed", model, "one day\n\nlily\n", "--lines", "--pooling", "mean", "--dimensions", "5", "--json", *ON_REFERENCE)
    found = json.loads(done.out)
    assert found["pooling"] == "mean" and found["dimensions"] == 5
    assert [len(one["embedding"]) for one in found["embeddings"]] == [5, 5]
    assert all(abs(np.linalg.norm(one["embedding"]) - 1) < 1e-6 for one in found["embeddings"])


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("  ",), "there is no text to embed"),
        (("x", "--pooling", "max"), "pooling is 'max'; allowed: mean, last, cls"),
        (("x", "--dimensions", "0"), "dimensions is 0; a whole number in 1..64 is needed"),
        ((), "the text to embed is missing"),
    ],
)
def test_what_is_not_allowed_is_refused(model: str, puna: Puna, words: tuple[str, ...], problem: str) -> None:
    done = puna("embed", model, *words, *ON_REFERENCE)
    assert done.code == 2 and problem in done.err


def test_the_file_says_how_to_pool(puna: Puna, tmp_path: Path) -> None:
    from tests.models import DraftValue

    config = tiny_config()
    kind = DraftValue(f"{config.architecture}.pooling_type".encode(), "uint32", 1)
    path = write_gguf(
        tmp_path / "m.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer(config.vocab_size), extra=[kind]
    )
    assert json.loads(puna("embed", str(path), "a day", "--json", *ON_REFERENCE).out)["pooling"] == "mean"
