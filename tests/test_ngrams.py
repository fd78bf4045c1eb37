"""Prompt lookup finds what followed the same tokens, counts how often that was right, and forgets what is old."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from puna.ngrams import LENGTHS, MOST_TOKENS, PRIORS, WEIGHT, Answers, Copying, Text


def last_place(ids: Sequence[int], ending: Sequence[int]) -> tuple[int, int]:
    """The slow twin of `Text.find`."""
    for length in LENGTHS:
        for index in range(len(ids) - 1, length - 1, -1):
            if length <= len(ending) and list(ids[index - length : index]) == list(ending[-length:]):
                return length, index
    return 0, 0


@pytest.mark.parametrize("seed", range(5))
def test_the_latest_longest_ngram_is_found(seed: int) -> None:
    rng = random.Random(seed)
    text, ids = Text(), [rng.randrange(4) for _ in range(120)]
    for count, token_id in enumerate(ids):
        assert text.find(ids[max(0, count - 4) : count]) == last_place(ids[:count], ids[:count])
        text.append(token_id)


def test_a_guess_copies_and_a_text_that_repeats_itself_goes_on() -> None:
    assert Copying([1, 2, 3, 4, 9, 1, 2], Answers()).guess(3) == [3, 4, 9]
    assert Copying([7, 8, 7, 8], Answers()).guess(5) == [7, 8, 7, 8, 7]
    assert Copying([1, 2, 3], Answers()).guess(3) == []


def test_the_odds_are_counted_whether_or_not_anybody_asks() -> None:
    copying = Copying([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2], Answers())
    (prior, *_), (_, longer_prior, _) = PRIORS[:2]
    assert copying.odds == pytest.approx(prior)
    copying.read([3, 4])  # matches of two and three tokens, both right
    assert copying.odds == pytest.approx(longer_prior)
    copying.read([0])
    assert copying.odds == 0 and copying.guess(4) == []
    copying.read([1, 2])
    assert copying.odds == pytest.approx((WEIGHT * prior + 2) / (WEIGHT + 2))


def test_an_answer_of_another_request_is_copied_to_its_end() -> None:
    answers = Answers()
    answers.append([5, 6, 7, 8])
    copying = Copying([1, 5, 6], answers)
    assert copying.guess(9) == [7, 8]
    copying.read([7, 8])
    assert copying.odds == 0


def test_what_is_kept_of_answers_is_bounded_and_keeps_the_latest() -> None:
    answers = Answers()
    for i in range(10):
        answers.append([*range(100 * i, 100 * i + 3), *[9999] * MOST_TOKENS])
    assert sum(len(text.ids) for text in answers.texts) <= 3 * MOST_TOKENS
    for i in range(5):
        answers.append(list(range(4 * i, 4 * i + 4)))
    assert Copying([16, 17], answers).guess(2) == [18, 19]


def test_a_match_that_grows_is_trusted_more() -> None:
    copying = Copying([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2], Answers())
    odds = copying.odds_of(14)
    assert odds == sorted(odds) and odds[0] == copying.odds < odds[-1]


def test_tokens_that_a_match_foretold_are_counted_though_nobody_guessed_them() -> None:
    copying = Copying([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2], Answers())
    copying.read([3, 4, 5])
    assert (copying.num_foretold, copying.is_lively) == (3, True)
    copying.read(range(20, 60))
    assert (copying.num_foretold, copying.is_lively) == (3, False)
