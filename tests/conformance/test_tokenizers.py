"""Requirements for every tokenizer: return every text, in linear time, from many threads at once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.formats.piece_order import merges_of
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.tokenizers.vocabularies import default_spec, small_bpe, small_spm

KINDS = ["bpe", "llama-bpe", "tekken", "spm", "spm by merges", "default model"]
RUNS = [" ", "A", "日", "🦙", "1", "\n", "\t", "\u0301", "e\u0301", "<", "'s", "ab ", " 1", "\ufffd"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    if request.param == "default model":
        return build_tokenizer(default_spec(request))
    if request.param == "spm":
        return build_tokenizer(small_spm())
    if request.param == "spm by merges":
        merges = [f"{a} {b}".encode() for a, b in merges_of(small_spm())]
        return build_tokenizer(small_spm(scores=None, merges=merges))
    return build_tokenizer(small_bpe(pre="smollm" if request.param == "bpe" else request.param))


def assert_round_trip(tokenizer: Tokenizer, text: str) -> None:
    expected = text.replace("\u2581", " ") if tokenizer.strips_leading_space() else text
    assert tokenizer.decode(tokenizer.encode(text)) == expected


# The default model has no token for six control characters and for the empty planes 4 to 11 of Unicode.
texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\4\6\x13\x14\x16\x1d").filter(lambda c: c < "\U00040000")
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=texts)
def test_every_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert_round_trip(tokenizer, text)


@pytest.mark.full
@settings(max_examples=20_000, deadline=None, derandomize=True)
@given(text=texts)
def test_twenty_thousand_texts_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert_round_trip(tokenizer, text)


def seconds(tokenizer: Tokenizer, text: str) -> float:
    start = time.process_time()
    ids = tokenizer.encode(text, special=True)
    spent = time.process_time() - start
    assert tokenizer.decode(ids) == text
    return spent


@pytest.mark.parametrize("run", RUNS)
def test_a_long_run_of_one_thing_is_encoded_in_linear_time(tokenizer: Tokenizer, run: str) -> None:
    assert seconds(tokenizer, run * (200_000 // len(run.encode()))) < 2


@pytest.mark.full
@pytest.mark.parametrize("run", RUNS)
def test_a_megabyte_of_one_thing_takes_about_twice_as_long_as_half_of_it(tokenizer: Tokenizer, run: str) -> None:
    half = run * (500_000 // len(run.encode()))
    once, twice = seconds(tokenizer, half), seconds(tokenizer, half * 2)
    assert twice < 4, f"{twice:.1f} s"
    assert twice < 3 * once + 0.2, f"{once:.2f} s, then {twice:.2f} s"


def test_sixteen_threads_share_one_tokenizer(tokenizer: Tokenizer) -> None:
    samples = [f"thread {i}: the llama's {i * 7919} 日本 🦙" * (1 + i % 3) for i in range(50)]
    expected = [tokenizer.encode(text) for text in samples]
    with ThreadPoolExecutor(16) as pool:
        for got in pool.map(lambda _: [tokenizer.encode(text) for text in samples], range(16 * 10)):
            assert got == expected
        assert list(pool.map(tokenizer.decode, expected)) == samples
