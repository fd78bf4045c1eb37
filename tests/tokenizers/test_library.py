"""A `tokenizer.json` that our own classes do not say exactly: ids and texts are those of the `tokenizers` library."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from puna.tokenizers.base import Tokenizer as OurTokenizer
from tests.tokenizers.libraries import FAMILIES, FLAGS, TOKENS, ours, random_normalizer, random_words, texts

SEED = 13
COMBINATIONS = [dict(zip(FLAGS, values)) for values in itertools.product((False, True), repeat=len(FLAGS))]


def assert_alike(library: Tokenizer, tokenizer: OurTokenizer, samples: list[str], skips: bool = True) -> None:
    """Ids with and without control tokens, with what frames a text, and the texts of the ids. `skips`: the library, too, leaves
    out control tokens (0.23 does not where a normalizer changes them)."""
    for text in samples:
        library.encode_special_tokens = False
        framed = library.encode(text).ids
        ids = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, special=True, bos=False, eos=False) == ids, repr(text)
        assert tokenizer.encode(text, special=True) in (framed, ids), repr(text)
        assert not skips or tokenizer.decode(ids) == library.decode(ids), repr(text)
        assert tokenizer.decode(ids, skip_special=False) == library.decode(ids, skip_special_tokens=False), repr(text)
        library.encode_special_tokens = True
        plain = library.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text, bos=False, eos=False) == plain, repr(text)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_with_every_combination_of_flags_give_the_librarys_ids(tmp_path: Path, family: str) -> None:
    for number, flags in enumerate(COMBINATIONS):
        rng = random.Random(f"{SEED} {family} {number}")
        library = FAMILIES[family]()
        spelled = (
            ("tok", "the") if flags["special"] and "unigram" in family else ()
        )  # puna never gives control tokens to plain text
        library.add_tokens([AddedToken(text, **flags) for text in rng.sample(sorted({*TOKENS} - {*spelled}), 3)])
        print(family, flags)
        skips = not (flags["special"] and flags["normalized"] and library.normalizer)
        assert_alike(library, ours(library, tmp_path / "tokenizer.json"), texts(rng, 40), skips)


@pytest.mark.parametrize("family", FAMILIES)
def test_added_tokens_of_several_kinds_at_once_give_the_librarys_ids(tmp_path: Path, family: str) -> None:
    for number in range(40):
        rng = random.Random(f"{SEED} {family} several {number}")
        library = FAMILIES[family]()
        for text in rng.sample(sorted({*TOKENS} - {"tok", "the"}), 4):
            library.add_tokens([AddedToken(text, **{flag: rng.random() < 0.4 for flag in FLAGS})])
        print(family, number)
        assert_alike(library, ours(library, tmp_path / "tokenizer.json"), texts(rng, 40), skips=library.normalizer is None)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_normalizers_and_pre_tokenizers_give_the_librarys_ids(tmp_path: Path, family: str) -> None:
    """Each of 40 is read: what is refused by name is told by the test of shares."""
    is_byte_level = family == "byte-level"
    for number in range(40):
        rng = random.Random(f"{SEED} {family} parts {number}")
        library = FAMILIES[family]()
        if rng.random() < 0.7:
            library.normalizer = random_normalizer(rng)
        if rng.random() < 0.7:
            library.pre_tokenizer = random_words(rng, is_byte_level)
        for text in ("<|im_end|>", " x ", "<a"):
            library.add_tokens([AddedToken(text, **{flag: rng.random() < 0.4 for flag in FLAGS})])
        print(family, number, library.normalizer, library.pre_tokenizer)
        assert_alike(library, ours(library, tmp_path / "tokenizer.json"), texts(rng, 25), skips=False)
