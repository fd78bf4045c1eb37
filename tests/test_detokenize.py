"""D7 and D8 of the reliability plan: no half character, no piece of a stop string, nothing lost. No model is needed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from puna.config import EngineConfig
from puna.detokenize import Detokenizer
from puna.engine import Engine
from puna.formats.base import TokenizerSpec
from puna.request import SamplingParams
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.sentencepiece import EACH_BYTE
from tests.fakes import EOS, VOCAB_SIZE, ByteTokenizer, FakeBackend, make_plan, tiny_config
from tests.fakes import run as run_engine
from tests.tokenizers.vocabularies import small_bpe, small_spm


class Parts(ByteTokenizer):
    """A tokenizer whose ids stand for given bytes."""

    def __init__(self, parts: Sequence[bytes], own_space: bool = False, utf8_errors: str = "replace") -> None:
        self.parts = parts
        self.utf8_errors = utf8_errors
        self.own_space = own_space
        self.vocab_size = len(parts)

    def token_bytes(self, token_id: int) -> bytes:
        return self.parts[token_id]

    def strips_leading_space(self) -> bool:
        return self.own_space


def run(parts: Sequence[bytes], stop: Sequence[str] = (), **given: Any) -> tuple[list[str], str | None]:
    """Every piece of text that `parts` give, the flush last, and the stop string."""
    detokenizer = Detokenizer(Parts(parts, own_space=True), stop, **given)
    pieces = [detokenizer.push(i) for i in range(len(parts))]
    return [*pieces, detokenizer.flush()], detokenizer.stopped


def partitions(data: bytes, *cuts: Sequence[int]) -> list[list[bytes]]:
    """`data` whole, in single bytes, in pairs, and cut at each of the given lists of places."""
    ways = [[], range(len(data)), range(0, len(data), 2), *cuts]
    edges = [sorted({0, len(data), *(place % (len(data) + 1) for place in way)}) for way in ways]
    return [[data[a:b] for a, b in pairwise(places)] for places in edges]


def slow_cut(text: str, stop: Sequence[str], after: int = 0) -> tuple[str, str | None]:
    """`text` before the stop string that is complete first, beyond `after` letters, letter by letter."""
    for end in range(after + 1, len(text) + 1):
        if ends := [s for s in stop if text[:end].endswith(s)]:
            longest = max(ends, key=len)
            return text[: end - len(longest)], longest
    return text, None


cuts = st.lists(st.integers(0, 100), max_size=12)
letters = st.sampled_from("ab\n🦙é")
stops = st.lists(st.text(letters, min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(text=st.text(max_size=20), some=cuts, others=cuts)
@example(text="\ufeffé🦙\u0301", some=[], others=[3])
def test_text_in_any_partition_is_never_half_a_character(text: str, some: list[int], others: list[int]) -> None:
    for parts in partitions(text.encode(), some, others):
        pieces, _ = run(parts)
        assert "".join(pieces) == text
        assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    data=st.binary(max_size=16) | st.lists(st.sampled_from(b"A\xe2\x82\xac\xf0\x9f\xed\xa0\xc0"), max_size=16).map(bytes),
    some=cuts,
)
def test_bytes_that_are_not_utf_8_become_the_same_as_at_once(data: bytes, some: list[int]) -> None:
    for parts in partitions(data, some):
        assert "".join(run(parts)[0]) == data.decode("utf-8", "replace")
        each = Detokenizer(Parts(parts, utf8_errors=EACH_BYTE))
        assert "".join([each.push(i) for i in range(len(parts))]) + each.flush() == data.decode("utf-8", EACH_BYTE)


@settings(max_examples=2000, deadline=None, derandomize=True)
@given(text=st.text(letters, max_size=20), some=cuts, others=cuts, stop=stops)
@example(text="abcd", some=[3], others=[], stop=["abcd", "bc"])
def test_text_ends_before_the_first_stop_string_in_any_partition(
    text: str, some: list[int], others: list[int], stop: list[str]
) -> None:
    for parts in partitions(text.encode(), some, others):
        pieces, stopped = run(parts, stop)
        assert ("".join(pieces), stopped) == slow_cut(text, stop)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(text=st.text(letters, max_size=20), stop=stops)
def test_no_more_is_held_back_than_may_begin_a_stop_string(text: str, stop: list[str]) -> None:
    detokenizer = Detokenizer(Parts([c.encode() for c in text]), stop)
    seen = ""
    for i in range(len(text)):
        seen += detokenizer.push(i)
        held = text[len(seen) : i + 1]
        if detokenizer.stopped is None and held:
            assert any(s.startswith(held) and s != held for s in stop)


def test_held_text_is_released_at_the_end() -> None:
    assert run([b"yes\n", b"User"], ["\nUser:"]) == (["yes", "", "\nUser"], None)


def test_a_control_token_that_is_shown_has_its_text() -> None:
    detokenizer = Detokenizer(Parts([b"a", b"", b"", b"b"]), shown={1: b"[ARGS]"})
    assert [detokenizer.push(i) for i in range(4)] == ["a", "[ARGS]", "", "b"]


def test_nothing_follows_a_stop_string_even_in_the_same_token() -> None:
    assert run([b"a STOP b", b"c"], ["STOP"]) == (["a ", "", ""], "STOP")


def test_half_a_character_at_the_end_is_shown_as_such() -> None:
    assert run([b"a\xe2", b"\x82"]) == (["a", "", "\ufffd"], None)
    assert run([b"a\xe2\x82"], ["\ufffd"]) == (["a", ""], "\ufffd")


@pytest.mark.parametrize(("at_start", "expected"), [(True, "the  x"), (False, " the  x")])
def test_the_tokenizers_own_space_goes_only_at_the_start(at_start: bool, expected: str) -> None:
    pieces, _ = run([b"", b" the", b" ", b" x"], at_start=at_start)
    assert "".join(pieces) == expected


@pytest.mark.parametrize("tokenizer", [build_tokenizer(small_bpe()), build_tokenizer(small_spm())], ids=["bpe", "spm"])
@settings(max_examples=400, deadline=None, derandomize=True)
@given(ids=st.lists(st.integers(0, 270) | st.sampled_from([1, 2, 3 + 0x20, 3 + 0xE2, 3 + 0x82, 3 + 0xAC, 3 + 0xF0, 259])))
def test_any_ids_give_the_text_of_the_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    detokenizer = Detokenizer(tokenizer, at_start=True)
    assert "".join([detokenizer.push(i) for i in ids]) + detokenizer.flush() == tokenizer.decode(ids)


# ---- a stop text that spells control tokens -----------------------------------------------------------------------------


class Controls(Parts):
    """Ids 0 and 1 are control tokens; the others stand for given bytes."""

    special_tokens = {"<end>": 0, "<end>x": 1}  # noqa: RUF012

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__([b"", b"", *parts])


SPELLED = {0: "<end>", 1: "<end>x"}
control_stops = ["<end>", "a<end>", "<end>b", "<end><end>", "<end>xa", "b<end>x<end>", "ab"]


@given(
    st.lists(st.sampled_from([0, 1, 2, 3, 3, 2, 4]), max_size=12),
    st.lists(st.sampled_from(control_stops), min_size=1, max_size=3, unique=True),
)
def test_a_stop_text_ends_where_control_tokens_spell_it_and_they_are_never_shown(ids: list[int], stop: list[str]) -> None:
    """Against a search from the front in rows of letters, in which a control token that a stop text spells is one letter."""
    tokenizer = Controls([b"a", b"b", "é".encode()])
    plain = {2: "a", 3: "b", 4: "é"}

    def letters(text: str) -> tuple[str, ...]:  # the longer control token is looked for first
        for number in (1, 0):
            before, found, after = text.partition(SPELLED[number])
            if found:
                return (*letters(before), SPELLED[number], *letters(after))
        return tuple(text)

    heard = {i: text for i, text in SPELLED.items() if any(text in one for one in stop)}
    row = [heard.get(i) or plain[i] for i in ids if i in heard or i in plain]
    needles = [(letters(one), one) for one in stop]
    expected: tuple[str, str | None] = ("".join(one for one in row if one not in SPELLED.values()), None)
    for end in range(len(row) + 1):
        if ends := [(needle, one) for needle, one in needles if tuple(row[:end])[-len(needle) :] == needle]:
            needle, one = max(ends, key=lambda pair: len(pair[0]))
            expected = "".join(one for one in row[: end - len(needle)] if one not in SPELLED.values()), one
            break
    detokenizer = Detokenizer(tokenizer, stop)
    text = "".join(detokenizer.push(i) for i in ids) + detokenizer.flush()
    assert (text, detokenizer.stopped) == expected


def test_half_a_character_before_a_control_token_that_ends_the_text_is_told_as_such() -> None:
    tokenizer = Controls(["é".encode()[:1], b"a"])
    detokenizer = Detokenizer(tokenizer, ["<end>"])
    assert [detokenizer.push(i) for i in (3, 2, 0)] == ["a", "", "\ufffd"] and detokenizer.stopped == "<end>"
    other = Detokenizer(tokenizer, ["b<end>"])
    assert [other.push(i) for i in (3, 2, 0, 3)] == ["a", "", "", "\ufffda"] and other.stopped is None


# ---- the plan's numbers: any partition (D7), any stop texts on two routes (D8) ----------------------------------------------

ALPHABETS = ("ab", "ab\n ", "aé€🦙", "日本語é", "abc<>/|", "🦙👩\u200d🚀e\u0301")


def random_text(rng: random.Random, most: int) -> str:
    letters = rng.choice(ALPHABETS)
    return "".join(rng.choice(letters) for _ in range(rng.randint(0, most)))


def random_parts(rng: random.Random, data: bytes) -> list[bytes]:
    places = sorted({0, len(data), *(rng.randint(0, len(data)) for _ in range(rng.choice([0, 2, 8, 40])))})
    return [data[a:b] for a, b in pairwise(places)]


def random_stops(rng: random.Random, text: str) -> list[str]:
    """1 to 4 stop texts: pieces of the text (also its end), beginnings and ends of one another, and others."""
    stop: list[str] = []
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, max(len(text) - 1, 0))
        kinds = [text[at : at + rng.randint(1, 6)], text[-rng.randint(1, 4) :], random_text(rng, 4)]
        kinds += [own for one in stop for own in (one[: rng.randint(1, len(one))], one[rng.randrange(len(one)) :], one + "a")]
        stop.append(rng.choice(kinds) or "b")
    return stop


def random_ids(rng: random.Random, data: bytes, ids_of: dict[bytes, int]) -> list[int]:
    """Tokens whose bytes are `data`, each of a random length that the vocabulary has."""
    ids: list[int] = []
    while data:
        length = rng.choice([n for n in range(1, min(len(data), 12) + 1) if data[:n] in ids_of])
        ids.append(ids_of[data[:length]])
        data = data[length:]
    return ids


CASES_OF_D7 = [pytest.param(500), pytest.param(5_000, marks=pytest.mark.full)]
CASES_OF_D8 = [pytest.param(1_000), pytest.param(10_000, marks=pytest.mark.full)]


@pytest.mark.parametrize("count", CASES_OF_D7)
@pytest.mark.parametrize("make", [small_bpe, small_spm])
def test_d7_a_text_in_any_tokens_of_a_vocabulary_is_never_half_a_character(make: Callable[[], TokenizerSpec], count: int) -> None:
    tokenizer, rng = build_tokenizer(make()), random.Random(7)
    controls = set(tokenizer.special_tokens.values())
    ids_of = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size) if i not in controls}
    for number in range(count):
        text = "".join(random_text(rng, 12) for _ in range(2))
        ids = random_ids(rng, text.encode(), ids_of)
        detokenizer = Detokenizer(tokenizer)
        pieces = [detokenizer.push(i) for i in ids]
        assert "".join(pieces) + detokenizer.flush() == text, (number, ids)
        assert "\ufffd" not in "".join(pieces)
        started = Detokenizer(tokenizer, at_start=True)
        assert "".join([started.push(i) for i in ids]) + started.flush() == tokenizer.decode(ids), (number, ids)


@pytest.mark.parametrize("count", CASES_OF_D8)
def test_d8_a_text_ends_before_the_first_stop_text_and_leaks_none(count: int) -> None:
    rng = random.Random(8)
    for number in range(count):
        text = random_text(rng, 24)
        stop, parts = random_stops(rng, text), random_parts(rng, text.encode())
        pieces, stopped = run(parts, stop)
        expected = slow_cut(text, stop)
        assert ("".join(pieces), stopped) == expected, (number, text, stop, parts)
        for n in range(len(pieces)):
            assert expected[0].startswith("".join(pieces[: n + 1])), "a piece that was told is taken back"


@pytest.mark.parametrize("count", CASES_OF_D8)
def test_d8_with_min_tokens_and_with_the_stop_text_included(count: int) -> None:
    rng = random.Random(88)
    for number in range(count):
        text = random_text(rng, 24)
        stop, parts = random_stops(rng, text), random_parts(rng, text.encode())
        min_tokens, include = rng.randint(0, len(parts) + 1), rng.random() < 0.5
        pieces, stopped = run(parts, stop, include_stop=include, min_tokens=min_tokens)
        before = b"".join(parts[:min_tokens]).decode(errors="ignore")  # what is whole by then cannot end it
        expected, found = slow_cut(text, stop, len(before))
        assert ("".join(pieces), stopped) == (expected + (found or "") * include, found), (number, text, stop, parts, min_tokens)


def next_part(count: int, ids: list[int]) -> int:
    """After a prompt of one id: 0, 1, 2 ... to `count`, then EOS."""
    return len(ids) - 1 if len(ids) <= count else EOS


@pytest.mark.parametrize("count", [pytest.param(150), pytest.param(10_000, marks=pytest.mark.full)])
def test_d8_the_engine_gives_the_same_on_its_own_route(count: int) -> None:
    rng = random.Random(888)
    for number in range(count):
        text = random_text(rng, 16)
        stop, parts = random_stops(rng, text), random_parts(rng, text.encode())
        tokenizer = Parts([*parts, *[b""] * (VOCAB_SIZE - len(parts))])
        plan = make_plan()
        backend = FakeBackend(plan, partial(next_part, len(parts)))
        engine = Engine(backend, tokenizer, plan, EngineConfig(), tiny_config(vocab_size=VOCAB_SIZE))
        request = engine.add([VOCAB_SIZE - 3], SamplingParams(stop=stop))
        told = "".join(output.text for outputs in run_engine(engine).values() for output in outputs)
        assert (told, request.stop_reason) == slow_cut(text, stop), (number, text, stop, parts)
        assert request.finish_reason == "stop"


def test_min_tokens_lets_a_stop_text_that_begins_early_end_the_text_later() -> None:
    parts = [b"a ST", b"OP b", b" STO", b"P c"]
    assert run(parts, ["STOP"], min_tokens=1) == (["a ", "", "", "", ""], "STOP")
    assert run(parts, ["STOP"], min_tokens=2) == (["a ", "STOP b", " ", "", ""], "STOP")
    assert run(parts, ["STOP"], min_tokens=4)[1] is None


def test_a_control_token_that_a_stop_text_spells_is_included_as_spelled_and_exempt_within_min_tokens() -> None:
    def told(**given: Any) -> tuple[str, str | None]:
        detokenizer = Detokenizer(Controls([b"a"]), ["a<end>"], **given)
        return "".join(detokenizer.push(i) for i in (2, 0, 2, 0)) + detokenizer.flush(), detokenizer.stopped

    assert told() == ("", "a<end>") and told(include_stop=True) == ("a<end>", "a<end>")
    assert told(min_tokens=2) == ("a", "a<end>") and told(min_tokens=4) == ("aa", None)
