"""A file's expressions run only if their form proves that they end in time."""

from __future__ import annotations

import random
import time

import pytest
from tokenizers import Regex, normalizers, pre_tokenizers

from puna.formats import patterns
from puna.formats.expressions import MAX_LENGTH, TooCostly, require_tame, shortest_match

SEED = 41
PUBLISHED = [value for name, value in vars(patterns).items() if name.isupper() and isinstance(value, str) and name != "CASED"]
HARMLESS = [
    r"(?=(\d{3})+(?!\d))",
    r"\p{N}{1,3}",
    r"(?i:'s|'t)|\p{N}{1,3}+| x",
    r"[\p{L}&&[^\p{Han}]]+(?i:'s|'t)?|[\p{Han}]+",
    r"\d{1,2}(?=(?:\d{3})*(?:\D|$))|\d{3}",
    r"(?<=a)b|(?<!a)c|(?>a+)b",
    r"(?i)ab(?-i:c)",
    r"[[:alpha:]\]\[x-]+|\x{1F600}|\u4e00|\x41|\\|\.",
    "a{2}b{,3}c{1,}|{|}",
    "(a|b)+",
]
COSTLY = [
    "(a*)*b",
    "(?:a|aa)+b",
    "a*a*a*b",
    "(a|a)*c",
    "a?" * 30 + "a" * 30,
    "(a+)+$",
    "(.*)(.*)(.*)x",
    "(?:a?){20}b",
    "(?=(a*)*b)",
    "(a{1,9}){1,9}b",
    "(x+x+)+y",
    "((a|b|ab)*)*c",
    "(a|b|c|d|e|f|g|h){1,9}i",
    "a{1,99}a{1,99}b",
]
UNKNOWN = [
    r"(a)\1",
    r"(?<n>a)\k<n>",
    "(a",
    "a)",
    "[a",
    "(?R)",
    "(?~a)",
    "(?(1)a|b)",
    "*a",
    r"\Ka",
    "(" * 40 + ")" * 40,
    "\\",
    "(?x: a)",
    r"\w*(?i)[b-d]|\w*(?i)[e-h]|\w*(?i)[i-k]|\w*(?i)[l-n]",
    "a(?i)b|c",
    "(?:(?i)a|b)",
    "(?i)(?m)a",
    r"\cA",
    r"[\cA]",
    r"\M-a",
    "[]a]",
    "[a[^]b]]",
    "[[:aaaaaaaaaaaaaaaaaaaaaaaa:]|]",
]


@pytest.mark.parametrize("expression", [*PUBLISHED, *HARMLESS])
def test_a_harmless_expression_is_taken(expression: str) -> None:
    require_tame(expression)
    pre_tokenizers.Split(Regex(expression), "isolated").pre_tokenize_str("a b")  # and the library can read it


@pytest.mark.parametrize("expression", [*COSTLY, *UNKNOWN, "a" * (MAX_LENGTH + 1)])
def test_an_expression_that_can_take_for_ever_or_is_not_understood_is_refused(expression: str) -> None:
    with pytest.raises(TooCostly):
        require_tame(expression)


def random_expression(rng: random.Random, depth: int) -> str:
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(["a", "b", "[ab]", ".", r"\w", "a", "a"]) + rng.choice(
            ["", "", "*", "+", "?", "{1,3}", "{2}", "*?", "++", "{1,20}"]
        )
    kind = rng.randrange(4)
    inner = [random_expression(rng, depth - 1) for _ in range(rng.randint(1, 3))]
    if kind == 0:
        return f"({'|'.join(inner)})" + rng.choice(["", "*", "+", "?", "{1,2}"])
    if kind == 1:
        return f"(?{rng.choice('=!:>')}{''.join(inner)})"
    return "".join(inner)


def test_random_expressions_that_are_taken_end_in_quadratic_time() -> None:
    """A text of 300 characters that nearly matches: cubic time would be 27 million steps, exponential time for ever."""
    rng = random.Random(SEED)
    taken = 0
    for _ in range(1500):
        expression = random_expression(rng, 3) + rng.choice(["", "c", "$", "(?!a)"])
        try:
            require_tame(expression)
        except TooCostly:
            continue
        taken += 1
        cut = pre_tokenizers.Split(Regex(expression), "isolated")
        start = time.process_time()
        for text in ("a" * 300, "ab" * 150, "a" * 299 + "d"):
            cut.pre_tokenize_str(text)
        assert time.process_time() - start < 0.5, expression
    print(f"seed {SEED}: {taken} of 1500 were taken")
    assert 200 < taken < 1300


def test_no_match_is_shorter_than_the_form_says() -> None:
    """The library's own matches in random texts: where it is cut at them, the pieces of all matches."""
    rng = random.Random(SEED)
    seen = 0
    for _ in range(1500):
        expression = (
            rng.choice(["", "", "(?i)"]) + random_expression(rng, 3) + rng.choice(["", "", r"\b", "a{2}?", "b{3,2}", "$"])
        )
        try:
            shortest = shortest_match(expression)
        except TooCostly:
            continue
        text = "".join(rng.choice("aabbd ") for _ in range(12))
        replaced = normalizers.Replace(Regex(expression), "\x00").normalize_str(text)
        count = replaced.count("\x00")
        seen += count
        if shortest:
            assert len(text) - (len(replaced) - count) >= shortest * count, (expression, text)
    print(f"seed {SEED}: {seen} matches")
    assert seen > 1000
