"""The merges that a tour shows end where the tokenizer ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from puna.explain.merging import merge_steps
from puna.formats.base import TokenizerSpec
from tests.explain.live_models import live_model, tiny_file
from tests.models import spm_tokenizer


@pytest.mark.parametrize("word", ["the", "big", "strawberry", "é"])
def test_of_byte_pairs(tmp_path: Path, word: str) -> None:
    live = live_model(tiny_file(tmp_path))
    steps = list(merge_steps(live.spec, f" {word}"))
    assert steps[-1] == [live.tokenizer.piece(one) for one in live.tokenizer.encode(f" {word}")]
    assert [len(step) for step in steps] == list(range(len(steps[0]), len(steps[-1]) - 1, -1))


@pytest.mark.parametrize("word", ["the", "tiger"])
def test_of_sentence_pieces(tmp_path: Path, word: str) -> None:
    live = live_model(tiny_file(tmp_path, tokenizer=spm_tokenizer()))
    assert list(merge_steps(live.spec, f" {word}"))[-1] == [live.tokenizer.piece(one) for one in live.plain_ids(word)]


def test_of_the_default_model(default_model: Path) -> None:
    live = live_model(default_model)
    for word in ("strawberry", "Donaudampfschiff", "llama", "1234"):
        assert (
            list(merge_steps(live.spec, f" {word}"))[-1]
            == [live.tokenizer.piece(one) for one in live.tokenizer.encode(f" {word}")]
            or word.isdigit()
        )


def test_a_tokenizer_that_merges_nothing_shows_nothing() -> None:
    assert list(merge_steps(TokenizerSpec("unigram", []), "the")) == []
