from __future__ import annotations

import re
import threading
import unicodedata
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import ModelFormatError, UnsupportedModelError, UsageError
from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import byte_alphabet
from puna.formats.pretokenizers import PRE_TOKENIZERS
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.tokenizers.vocabularies import default_spec, joined, small_bpe

LETTERS = byte_alphabet()


# The slow twin: GPT-2's encoder, written so that it can be checked by eye.


def shadow(text: str) -> str:
    """`text` with one ASCII character of the same class for each character, so that `re` needs no Unicode classes."""
    return "".join(c if c in "'streveslmd " else _class(c) for c in text)


def _class(c: str) -> str:
    category = unicodedata.category(c)
    if category[0] == "Z" or c in "\t\n\v\f\r\x85":
        return "\n"
    return {"L": "a", "N": "0"}.get(category[0], "!")


def cut(texts: list[str], pattern: str) -> list[str]:
    """Each text cut into matches of `pattern` and what lies between."""
    out = []
    for text in texts:
        marks = [m.span() for m in re.finditer(pattern, shadow(text))]
        edges = sorted({0, len(text), *(edge for span in marks for edge in span)})
        out += [text[a:b] for a, b in pairwise(edges)]
    return out


WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-z]+| ?0+| ?[^\sa-z0]+|\s+(?!\S)|\s+"
STAGES = {"smollm": ["0", WORDS], "gpt-2": [WORDS]}


def slow_encode(spec: TokenizerSpec, text: str) -> list[int]:
    ids = {token.decode(): i for i, token in enumerate(spec.tokens)}
    ranks = {tuple(merge.decode().split(" ")): rank for rank, merge in enumerate(spec.merges)}
    words = [text]
    for stage in STAGES[spec.pre]:
        words = cut(words, stage)
    out = []
    for word in words:
        parts = [LETTERS[b] for b in word.encode()]
        while known := [pair for pair in pairwise(parts) if pair in ranks]:
            parts = joined(parts, min(known, key=lambda pair: ranks[pair]))
        out += [ids[part] for part in parts]
    return out


def is_settled(c: str) -> bool:
    """Whether Unicode 3.2 and today agree on `c`: libraries differ in how new their tables are."""
    return unicodedata.category(c) == unicodedata.ucd_3_2_0.category(c) != "Cn"


AWKWARD = [
    "",
    " ",
    "  two  spaces ",
    "a   b\n\n  c\t\td \r\n",
    "12345 6 78,9",
    "  7 \n8",
    "It's we'll THEY'RE isn't 'tis",
    "naïve Größe été",
    "日本語のテキスト",
    "🦙 👩‍👩‍👧‍👦 é\u0301",
    "def f(x):\n    return x**2  # ok\n",
    "\u00a0nbsp \u3000wide",
    "\0nul\0",
    "the llama's high plain",
]
texts = st.text(st.characters(exclude_categories=["Cs", "Cn"]).filter(is_settled)) | st.text(
    " \n\t'asdtrevlm0159é日.,", max_size=60
)


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return build_tokenizer(small_bpe())


@pytest.mark.parametrize("pre", STAGES)
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_is_encoded_as_by_the_slow_twin(pre: str, text: str) -> None:
    spec = small_bpe(pre=pre)
    assert build_tokenizer(spec).encode(text) == slow_encode(spec, text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=texts)
def test_any_text_is_encoded_as_by_the_slow_twin(small: Tokenizer, text: str) -> None:
    assert small.encode(text) == slow_encode(small_bpe(), text)


@pytest.mark.parametrize("text", AWKWARD)
def test_the_default_model_encodes_awkward_text_as_the_slow_twin(request: pytest.FixtureRequest, text: str) -> None:
    spec = default_spec(request)
    assert build_tokenizer(spec).encode(text) == slow_encode(spec, text)


def test_the_default_model_knows_its_turns(request: pytest.FixtureRequest) -> None:
    tokenizer = build_tokenizer(default_spec(request))
    assert tokenizer.encode("<|im_start|>user\nhi<|im_end|>", special=True) == [1, 4093, 198, 6004, 2]
    assert tokenizer.stop_ids == {0, 2}
    assert tokenizer.encode("Hello, world!") == [19556, 28, 905, 17]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("text", [t for t in AWKWARD if t])
def test_every_pre_tokenizer_keeps_every_character(pre: str, text: str) -> None:
    tokenizer = build_tokenizer(small_bpe(pre=pre))
    assert tokenizer.decode(tokenizer.encode(text)) == text


def words(pre: str, text: str) -> list[str]:
    """The words of `text` under `pre`, seen through a vocabulary without merges, in which only words are tokens."""
    from tokenizers import Regex, pre_tokenizers

    cuts = [pre_tokenizers.Split(Regex(stage), "isolated") for stage in PRE_TOKENIZERS[pre].stages]
    return [word for word, _ in pre_tokenizers.Sequence(cuts).pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("llama-bpe", "I'LL pay 12345  €!\n\n x", ["I", "'LL", " pay", " ", "123", "45", " ", " €!\n\n", " x"]),
        ("qwen2", "12 34\n", ["1", "2", " ", "3", "4", "\n"]),
        ("smollm", "a  12 'tis", ["a", "  ", "1", "2", " '", "tis"]),
        ("gpt-2", "a  12\n\nb", ["a", " ", " 12", "\n", "\n", "b"]),
        ("tekken", "HelloWORLD日本 a//", ["Hello", "WORLD日本", " a", "//"]),
        ("default", "1234 a++b", ["123", "4", " a", "++", "b"]),
    ],
)
def test_words_are_cut_as_each_family_cuts_them(pre: str, text: str, expected: list[str]) -> None:
    assert words(pre, text) == expected


def test_llama_3_takes_a_word_that_is_a_token_whole() -> None:
    spec = small_bpe()
    spec = replace(spec, tokens=[*spec.tokens, b"zq"], token_types=np.append(spec.token_types, 1).astype(np.int32))  # type: ignore[arg-type]
    whole = len(spec.tokens) - 1
    assert build_tokenizer(replace(spec, pre="llama-bpe")).encode("zq") == [whole]
    assert build_tokenizer(spec).encode("zq") != [whole]


def test_control_tokens_are_text_unless_asked_for(small: Tokenizer) -> None:
    text = "a<|im_end|>"
    assert small.encode(text, special=True) == [*small.encode("a"), 2]
    assert 2 not in small.encode(text)
    assert small.decode(small.encode(text)) == text


def test_user_defined_tokens_always_count(small: Tokenizer) -> None:
    assert small.encode("a<think>b") == [*small.encode("a"), 3, *small.encode("b")]
    assert small.token_bytes(3) == b"<think>"


def test_a_guard_keeps_a_typed_control_token_text_and_leaves_no_trace(small: Tokenizer) -> None:
    guarded = "<|im_start|>the <|\ufdd0im_end|> llama<|im_end|>"
    assert small.encode(guarded, special=True, guard="\ufdd0") == [1, *small.encode("the <|im_end|> llama"), 2]


def test_token_bytes_are_exact(small: Tokenizer) -> None:
    assert [small.token_bytes(4 + b) for b in range(256)] == [bytes([b]) for b in range(256)]
    assert [small.token_bytes(i) for i in range(3)] == [b"", b"", b""]


def test_bytes_outside_the_alphabet_are_spelled_as_they_stand() -> None:
    spec = small_bpe()
    spec = replace(spec, tokens=[*spec.tokens, "a b­".encode()], token_types=np.append(spec.token_types, 1).astype(np.int32))  # type: ignore[arg-type]
    assert build_tokenizer(spec).token_bytes(len(spec.tokens) - 1) == "a b­".encode()


def test_a_byte_without_a_token_is_named() -> None:
    spec = small_bpe()
    types = np.array(spec.token_types)
    types[4 + 0x16] = 3  # that letter is no longer a token of text
    with pytest.raises(UsageError, match="0x16"):
        build_tokenizer(replace(spec, token_types=types)).encode("a\x16b")
    assert build_tokenizer(replace(spec, token_types=types)).encode("ab")


def test_an_unknown_pre_tokenizer_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'evil'.*llama-bpe.*smollm"):
        build_tokenizer(small_bpe(pre="evil"))


@pytest.mark.parametrize("merge", [b"", b"a", b"a b c", b"zz q", b"\xff \xfe", b" a", b"a "])
def test_a_merge_of_what_is_no_token_is_refused(merge: bytes) -> None:
    with pytest.raises(ModelFormatError, match="merge 1"):
        build_tokenizer(small_bpe(merges=[small_bpe().merges[0], merge]))


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    """The library's `encode` holds the GIL, so that an event loop would stand still."""
    tokenizer, ticks, ended = build_tokenizer(small_bpe()), [0], threading.Event()

    def tick() -> None:
        while not ended.wait(0.001):
            ticks[0] += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    tokenizer.encode("the quick brown fox " * 20_000)
    ended.set()
    ticker.join()
    assert ticks[0] > 10
