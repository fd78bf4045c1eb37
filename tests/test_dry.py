"""DRY: repetitions, breakers, and what one token costs. tests/conformance/test_llama_cpp_samplers.py compares with llama.cpp."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from puna.dry import Dry, repetitions
from puna.errors import UsageError
from puna.history import History
from puna.request import SamplingParams
from puna.sampling import Sampler
from tests.test_bans import Pieces

LETTERS = "abcd\n:"


def penalties(text: str, prompt: str = "", **settings: Any) -> dict[str, float]:
    """What each letter loses after a text."""
    params = SamplingParams(**{"dry_multiplier": 1.0, "dry_base": 2.0, **settings})
    tokenizer = Pieces([letter.encode() for letter in LETTERS])
    ids = [list(map(LETTERS.index, one)) for one in (prompt, text)]
    row = Dry(params, tokenizer)(np.zeros(len(LETTERS), np.float32), params, History(*ids))  # type: ignore[arg-type]
    return {letter: -float(value) for letter, value in zip(LETTERS, row, strict=True) if value}


@pytest.mark.parametrize(
    ("text", "settings", "lost"),
    [
        ("abcab", {}, {"c": 1.0}),
        ("abcdabc", {}, {"d": 2.0}),
        ("ab", {}, {}),
        ("acab", {}, {}),  # one token is repeated: two are allowed
        ("acab", {"dry_allowed_length": 1}, {}),
        ("acba", {"dry_allowed_length": 1}, {"c": 1.0}),
        ("abcdabdab", {}, {"c": 1.0, "d": 2.0}),
        ("aaaa", {}, {"a": 2.0}),
        ("abcabcab", {}, {"c": 8.0}),  # five tokens are repeated: 2 ** 3
        ("abcabcab", {"dry_penalty_last_n": 5}, {"c": 1.0}),
        ("abcabcab", {"dry_penalty_last_n": -1, "dry_multiplier": 0.5}, {"c": 4.0}),
        ("ab\ncab", {}, {"\n": 0.0}),
        ("abcab\n", {}, {}),
        ("abc\nab", {}, {"c": 1.0}),
        ("b:cb:", {}, {}),  # a breaker ends it
        ("abdcabd", {"dry_sequence_breakers": ["bd"]}, {}),  # that two tokens make
        ("abdcabd", {"dry_sequence_breakers": []}, {"c": 2.0}),
    ],
    ids=str,
)
def test_a_token_that_continues_a_repetition_loses_exactly_this(
    text: str, settings: dict[str, Any], lost: dict[str, float]
) -> None:
    expected = {letter: value for letter, value in lost.items() if value}
    assert penalties(text, **settings) == expected == penalties(text[3:], text[:3], **settings)


@pytest.mark.parametrize("seed", range(10))
def test_repetitions_are_those_of_a_plain_search(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        ids, most = rng.choices(range(rng.randint(1, 4)), k=rng.randint(1, 40)), rng.randint(1, 12)
        expected: dict[int, int] = {}
        for end in range(1, len(ids)):
            length = max(n for n in range(end + 1) if n == 0 or ids[end - n : end] == ids[len(ids) - n :])
            if length:
                expected[ids[end]] = max(expected.get(ids[end], 0), min(length, most))
        assert repetitions(np.array(ids), most) == expected, f"seed {seed}: {ids}, {most}"


def test_a_power_that_no_float_holds_is_the_largest_that_one_does() -> None:
    assert 1e38 < penalties("a" * 600, dry_penalty_last_n=-1)["a"] < 3.5e38


def test_breakers_need_a_tokenizer_and_a_length() -> None:
    with pytest.raises(UsageError, match="dry_sequence_breakers need a tokenizer"):
        Sampler(SamplingParams(dry_multiplier=1.0, dry_sequence_breakers=["x"]), 4)
    Sampler(SamplingParams(dry_multiplier=1.0), 4)
    with pytest.raises(UsageError, match=r"dry_sequence_breakers 0 .* has 42 bytes; 1 to 40"):
        SamplingParams(dry_sequence_breakers=["é" * 21])
    with pytest.raises(UsageError, match="65 texts; at most 64"):
        SamplingParams(dry_sequence_breakers=["x"] * 65)
