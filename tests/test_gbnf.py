"""GBNF: a grammar allows what llama.cpp's notation says, whatever its rules are named and however its characters are spelled."""

from __future__ import annotations

import random
import re

import pytest

from puna.constraints import Constraints
from puna.gbnf import respelled
from puna.request import SamplingParams
from tests.fakes import ByteTokenizer
from tests.test_constraints import accepts

NAMES = (
    "start",
    "Start",
    "START",
    "foo-bar",
    "foo_bar",
    "fooBar",
    "FOO-BAR",
    "1a",
    "rule0",
    "rule1",
    "a.b"[:1],
    "_x",
    "ignore",
    "Root",
)
LETTERS = "ab&~-^]/.\\\"'#{}|é日\n\t $"
ESCAPES = {"\n": "\\n", "\t": "\\t", '"': '\\"', "\\": "\\\\", "[": "\\[", "]": "\\]"}


def spelled(rng: random.Random, letter: str, must: str = "") -> str:
    """A letter in one of GBNF's ways; `must`: letters that have to be escaped."""
    code = ord(letter)
    ways = [f"\\u{code:04x}", f"\\U{code:08X}", *([f"\\x{code:02x}"] if code < 256 else []), ESCAPES.get(letter, letter)]
    if letter in must and letter not in ESCAPES:
        ways.pop()
    return rng.choice(ways)


def random_part(rng: random.Random, depth: int, rules: dict[str, str]) -> tuple[str, str]:
    """A part of a rule: in GBNF, and as a regex."""
    kind = rng.choice(
        ["literal", "class", "any", "rule", "rule", "group", "or", "times"] if depth else ["literal", "class", "any"]
    )
    if kind == "literal":
        text = "".join(rng.choices(LETTERS, k=rng.randint(1, 2)))
        return f'"{"".join(spelled(rng, letter) for letter in text)}"', re.escape(text)
    if kind == "class":
        found, is_negated = rng.choices(LETTERS, k=rng.randint(1, 4)), rng.random() < 0.3
        inside = "".join(spelled(rng, letter, "-^") for letter in found) + rng.choice(["", "a-c", "\\u0061-\\u0063", "-"])
        letters = "".join(map(re.escape, found)) + (
            "a-c" if inside.endswith(("a-c", "63")) else "\\-" if inside.endswith("-") else ""
        )
        return f"[{'^' * is_negated}{inside}]", f"[{'^' * is_negated}{letters}]"
    if kind == "any":
        return ".", "(?s:.)"
    if kind == "rule" and rules:
        name = rng.choice(list(rules))
        return name, f"(?:{rules[name]})"
    one, other = random_part(rng, depth - 1, rules), random_part(rng, depth - 1, rules)
    if kind == "or":
        return f"({one[0]} | {other[0]})", f"(?:{one[1]}|{other[1]})"
    if kind == "times":
        times = rng.choice(["*", "+", "?", "{2}", "{1,2}", "{0, 2}"])
        return f"({one[0]}){times}", f"(?:{one[1]}){times.replace(' ', '')}"
    return f"({one[0]} {other[0]})", one[1] + other[1]


def random_grammar(rng: random.Random) -> tuple[str, str]:
    """A grammar without recursion, and its regex."""
    rules: dict[str, str] = {}
    lines = []
    for name in rng.sample(NAMES, rng.randint(1, 6)):
        text, rules[name] = random_part(rng, 2, dict(rules))
        lines.append(f"{name} ::= {text}{rng.choice(['', ' # a comment: start ::= [', ' '])}")
    text, regex = random_part(rng, 3, rules)
    lines.insert(rng.randint(0, len(lines)), f"root ::= {text}")
    return "\n".join(lines), regex


@pytest.mark.parametrize("times", [40, pytest.param(600, marks=pytest.mark.full)])
def test_a_random_grammar_allows_what_its_regex_matches(times: int) -> None:
    """llguidance reads the longest run that a rule without recursion allows, and never goes back. So it refuses some texts
    where two such rules overlap, as in `a* "ab"`; it accepts none too many.
    """
    rng, constraints, num_right, num_missed = random.Random(31), Constraints(ByteTokenizer()), 0, 0
    for _ in range(times):
        grammar, regex = random_grammar(rng)
        for _ in range(30):
            text = "".join(rng.choices(LETTERS, k=rng.randint(0, 4)))
            found, expected = accepts(constraints, SamplingParams(grammar=grammar), text), re.fullmatch(regex, text) is not None
            assert expected or not found, (grammar, regex, text)
            num_right += found
            num_missed += expected and not found
    print(f"{30 * times} texts, {num_right} of them allowed, {num_missed} missed")
    assert num_right > times and num_missed * 50 < num_right


def test_what_is_no_gbnf_stays_as_it_is() -> None:
    """The translator refuses it, and says where."""
    for text in ('root ::= "a', "root ::= [a", 'root ::= "\\q" [\\q]', "root ::= {", 'start: "a"'):
        assert respelled(text) == text


def test_rules_keep_the_names_that_the_translator_can_tell_apart() -> None:
    kept = 'root ::= item "x"\nitem ::= fooBar\nfooBar ::= "y"'
    assert respelled(kept) == kept
    assert respelled("root ::= foo-bar fooBar\nfooBar ::= [a]\nfoo-bar ::= [b]").count("rule0") == 2


def test_a_text_that_is_certain_and_never_ends_hangs_nobody() -> None:
    """`A A` needs a second run of x, which the first has always taken already: no answer is whole, and none is waited for."""
    params = SamplingParams(grammar='start: "(" A A\nA: "x"+')
    assert not accepts(Constraints(ByteTokenizer()), params, "(xxxx")
