"""puna bench: its table in plain words, its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from puna.cli.width import display_width
from tests.cli.conftest import Puna
from tests.models import bpe_tokenizer, random_tensors, tiny_config, write_gguf

BRIEF = ("--repeat", "1", "--prompt-tokens", "4", "--decode-tokens", "2", "--threads", "1")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    config = tiny_config()
    return str(write_gguf(tmp_path / "tiny.gguf", config, random_tensors(config, 1), "F32", bpe_tokenizer()))


@pytest.mark.parametrize("device", ["reference", "torch"])
def test_a_person_reads_words_and_each_fact_once(puna: Puna, model: str, device: str) -> None:
    done = puna("bench", model, "--device", device, *BRIEF)
    assert done.code == 0, done.err
    path, where, _, prompt, answer, *_ = done.out.splitlines()
    assert path == model and where.count("1 thread") == (device == "torch")
    assert prompt.startswith("prompt     4 tokens ") and answer.startswith("answer     2 tokens ")
    assert "Medians (slowest..fastest) of 1 run, in tokens per second; a token is a word" in " ".join(done.out.split())
    for jargon in ("pp4", "tg2", "ttft", "None"):
        assert jargon not in done.out
    assert max(map(display_width, done.out.splitlines()[1:])) <= 80


def test_it_says_how_many_threads_were_found_best_and_why(puna: Puna, model: str) -> None:
    done = puna("bench", model, "--device", "cpu", "--json", *BRIEF)
    threads = json.loads(done.out)["threads"]
    assert threads == {"prompt": 1, "answer": 1, "of": [1], "first": 1, "why": "as --threads says"}
    words = "threads: 1 for the prompt and 1 for the answer were found best of 1; begun with 1, as --threads says"
    assert words in " ".join(done.err.split())


def test_programs_find_the_names_of_other_benchmarks(puna: Puna, model: str) -> None:
    facts = json.loads(puna("bench", model, "--device", "reference", "--json", *BRIEF).out)
    assert [(facts[part]["test"], facts[part]["tokens"]) for part in ("prefill", "decode")] == [("pp4", 4), ("tg2", 2)]
