"""Word wrap: the same text whatever its pieces, no line too wide, no word broken that fits, nothing lost."""

from __future__ import annotations

import random
import textwrap

import pytest

from puna.cli.width import display_width, graphemes
from puna.cli.word_wrap import WordWrap, wrapped

SEED = 20261130
PIECES = [
    "a",
    "llama",
    "grass.",
    " ",
    " ",
    " ",
    "\n",
    "日本",
    "語。",
    "한국어",
    "e\u0301",
    "🦙",
    "👨\u200d👩\u200d👧",
    "🇵🇪",
    "x" * 30,
]


def all_of(text: str, width: int, sizes: random.Random | None = None) -> str:
    """`text` wrapped, fed in pieces of random sizes (by code point) or in one."""
    wrap, out, start = WordWrap(lambda: width), "", 0
    while start < len(text):
        end = len(text) if sizes is None else start + sizes.randint(1, 4)
        out += wrap.feed(text[start:end])
        start = end
    return out + wrap.finish()


def test_latin_text_breaks_where_the_standard_library_breaks_it() -> None:
    generator = random.Random(SEED)
    words = ["llama", "a", "eats", "grass", "mountains", "Peru,"]
    for _ in range(300):
        text = " ".join(generator.choices(words, k=generator.randint(1, 30)))
        for width in (9, 12, 20, 80):
            assert all_of(text, width).split("\n") == textwrap.wrap(text, width), (SEED, text, width)


def test_pieces_of_any_size_give_the_same_lines() -> None:
    generator = random.Random(SEED)
    for _ in range(1000):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 20)))
        width = generator.randint(2, 30)
        assert all_of(text, width, generator) == all_of(text, width), (SEED, text, width)


def test_no_line_is_wider_than_the_terminal_and_no_grapheme_is_split_or_lost() -> None:
    generator = random.Random(SEED)
    for _ in range(1000):
        text = "".join(generator.choices(PIECES, k=generator.randint(1, 20)))
        width = generator.randint(2, 30)
        out = all_of(text, width, generator)
        assert max(map(display_width, out.split("\n"))) <= width, (SEED, text, width)
        assert [g for g in graphemes(out) if not g.isspace()] == [g for g in graphemes(text) if not g.isspace()], (SEED, text)


def test_a_word_that_fits_a_line_is_never_broken() -> None:
    generator = random.Random(SEED)
    for _ in range(500):
        words = ["x" * generator.randint(1, 12) for _ in range(generator.randint(1, 20))]
        assert all_of(" ".join(words), 12, generator).split() == words, SEED


def test_chinese_breaks_between_characters_but_not_before_a_full_stop() -> None:
    assert all_of("羊驼吃草。羊驼", 8) == "羊驼吃\n草。羊驼"


def test_code_between_fences_keeps_its_lines_and_its_spaces() -> None:
    code = "```python\nif x:\n    return  a_rather_long_name + another_name  \n```\n"
    assert all_of(code, 20) == code
    assert all_of(code + "and words after it go on", 20) == code + "and words after it\ngo on"


def test_indentation_and_empty_lines_stay() -> None:
    assert all_of("- one\n  - two\n\nthree", 20) == "- one\n  - two\n\nthree"


def test_a_window_that_becomes_narrower_counts_from_the_next_word() -> None:
    width = 20
    wrap = WordWrap(lambda: width)
    out = wrap.feed("a llama eats g")
    width = 10
    assert out + wrap.feed("rass in Peru") + wrap.finish() == "a llama eats\ngrass in\nPeru"


@pytest.mark.parametrize(
    ("text", "shown"), [("\x1b[2J", r"\x1b[2J"), ("a\x07", r"a\x07"), ("\u202eabc", r"\u202eabc"), ("a\r\nb", "a\nb")]
)
def test_what_would_drive_the_terminal_is_escaped(text: str, shown: str) -> None:
    assert all_of(text, 40) == shown


def test_a_word_is_written_as_soon_as_it_is_whole() -> None:
    wrap = WordWrap(lambda: 80)
    assert [wrap.feed(piece) for piece in ("Hel", "lo", " the", "re.\n", "x")] == ["", "", "Hello", " there.\n", ""]


def test_a_path_in_a_sentence_is_not_broken() -> None:
    path = "/" + "x" * 40
    assert wrapped(f"see {path} there", 20) == ["see", path, "there"]
