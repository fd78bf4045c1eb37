"""Cells of a terminal, against two libraries that count them."""

from __future__ import annotations

import random

import pytest
from rich.cells import cell_len

from puna.cli.width import cut, display_width, graphemes, pad

PIECES = ["a", "llama", " ", "日本", "한국", "é", "e\u0301", "🦙", "👨\u200d👩\u200d👧", "🇵🇪", "❤\ufe0f", "。", "क्षि", "½"]
SEED = 20261130


def random_text(random: random.Random) -> str:
    return "".join(random.choices(PIECES, k=random.randint(0, 12)))


def test_cutting_never_splits_a_grapheme_and_never_exceeds_the_width() -> None:
    generator = random.Random(SEED)
    for _ in range(2000):
        text, width = random_text(generator), generator.randint(0, 20)
        short = cut(text, width)
        assert display_width(short) <= width, (SEED, text, width)
        if short != text and short:
            kept = short.removesuffix("…")
            assert text.startswith(kept) and graphemes(text)[: len(graphemes(kept))] == graphemes(kept), (SEED, text, width)


def test_padding_gives_every_cell_of_a_column_the_same_width() -> None:
    generator = random.Random(SEED)
    for _ in range(500):
        text = random_text(generator)
        assert display_width(pad(text, 80)) == 80, (SEED, text)


@pytest.mark.parametrize("text", ["llama", "日本語", "🦙", "e\u0301", "한국", "½ °C"])
def test_widths_are_those_that_rich_counts(text: str) -> None:
    assert display_width(text) == cell_len(text)
