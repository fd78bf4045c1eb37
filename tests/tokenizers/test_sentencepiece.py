from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.tokenizer_files import read_tokenizer_file
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from puna.writers.tokenizers import gguf_tokenizer_metadata
from tests.tokenizers.folders import sentencepiece_bytes
from tests.tokenizers.vocabularies import llama2c_spec, small_spm
from tests.writers.test_tokenizers import gguf_values

DATA = Path(os.environ.get("PUNA_TEST_DATA", str(Path(__file__).parents[2] / "../shared/data")))


def read(name: str, vocab_size: int) -> TokenizerSpec:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not on this machine")
    return llama2c_spec(DATA / name, vocab_size)


@pytest.fixture(scope="module")
def llama2() -> Tokenizer:
    return build_tokenizer(read("llama2/tokenizer.bin", 32000))


@pytest.fixture(scope="module")
def small() -> Tokenizer:
    return build_tokenizer(small_spm())


@lru_cache(maxsize=2)
def ids_of(tokens: tuple[bytes, ...]) -> dict[str, int]:
    return {token.decode(): i for i, token in enumerate(tokens)}


def slow_encode(spec: TokenizerSpec, text: str) -> list[int]:
    """llama2.c's encoder: characters or their bytes, then the best pair, again and again."""
    ids, scores = ids_of(tuple(spec.tokens)), spec.scores
    assert scores is not None
    parts: list[int] = []
    for c in "\u2581" + text.replace(" ", "\u2581") if text else "":
        parts += [ids[c]] if c in ids else [ids[f"<0x{b:02X}>"] for b in c.encode()]
    while True:
        pairs = [(ids.get((spec.tokens[a] + spec.tokens[b]).decode()), at) for at, (a, b) in enumerate(pairwise(parts))]
        known = [(scores[merged], -at, merged) for merged, at in pairs if merged is not None]
        if not known:
            return parts
        _, at, merged = max(known)
        parts[-at : -at + 2] = [merged]


# The goldens of llama2.c's own test and of sentencepiece 0.2.3 with Meta's tokenizer.model.
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", [1]),
        ("I believe the meaning of life is", [1, 306, 4658, 278, 6593, 310, 2834, 338]),
        (
            "Simply put, the theory of relativity states that ",
            [1, 3439, 17632, 1925, 29892, 278, 6368, 310, 14215, 537, 5922, 393, 29871],
        ),
        ("Hello, world!", [1, 15043, 29892, 3186, 29991]),
        ("  two spaces", [1, 259, 1023, 8162]),
        ("naïve 🦙 日本語", [1, 1055, 30085, 345, 29871, 243, 162, 169, 156, 29871, 30325, 30346, 30968]),
    ],
)
def test_llama_2_encodes_as_meta_does(llama2: Tokenizer, text: str, ids: list[int]) -> None:
    assert llama2.encode(text) == ids
    assert llama2.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("One day, Lily met a", [1, 385, 328, 432, 317, 284, 316, 261]),
        ("hello 🦙", [1, 281, 306, 414, 410, 243, 162, 169, 156]),
    ],
)
def test_stories_encode_as_in_llama2c(text: str, ids: list[int]) -> None:
    assert build_tokenizer(read("stories260K/tok512.bin", 512)).encode(text) == ids


AWKWARD = [
    " ",
    "   ",
    " a",
    "a ",
    "a\tb\n\nc\r\n",
    "\u2581\u2581x",
    "\0 nul",
    "e\u0301 é ﬁ ①",
    "ＡＢＣ　全角",
    "👩‍👩‍👧‍👦🦙",
    "0123456789 1,000.5",
    "<s> </s> <unk> <0x41>",
    "def f(x):\n    return x",
    "Größenmaßstäbe",
    "\ufeff\u200b\u00a0",
]


@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_is_encoded_as_by_metas_tokenizer_model(llama2: Tokenizer, text: str) -> None:
    from sentencepiece import SentencePieceProcessor

    path = DATA / "llama2/tokenizer.model"
    if not path.exists():
        pytest.skip("llama2/tokenizer.model is not on this machine")
    assert llama2.encode(text, bos=False) == SentencePieceProcessor(model_file=str(path)).encode(text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("  thelamq日é🦙\n"), max_size=40))
def test_any_text_is_encoded_as_by_the_slow_twin(small: Tokenizer, text: str) -> None:
    assert small.encode(text, bos=False) == slow_encode(small_spm(), text)


def test_the_added_space_goes_only_from_the_start_of_a_text(small: Tokenizer) -> None:
    assert small.strips_leading_space()
    assert small.decode(small.encode("the llama")) == "the llama"
    assert small.decode(small.encode(" the")) == " the"
    assert small.token_bytes(small.encode("the", bos=False)[0]) == b" the"
    assert small.decode([1, *small.encode("the", bos=False)], skip_special=False) == "<s>the"


def test_without_the_added_space_nothing_is_stripped() -> None:
    tokenizer = build_tokenizer(small_spm(add_space_prefix=False))
    assert not tokenizer.strips_leading_space()
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"
    assert tokenizer.decode(tokenizer.encode("the")) == "the"


def test_text_after_a_control_token_gets_the_added_space_too(small: Tokenizer) -> None:
    assert small.encode("<s>the</s>the", special=True) == [
        1,
        *small.encode("the", bos=False),
        2,
        *small.encode("the", bos=False),
    ]


def test_control_and_byte_tokens_typed_in_a_text_are_text(small: Tokenizer) -> None:
    for text in ("<s>", "</s>", "<unk>", "<0x41>"):
        ids = small.encode(text, bos=False)
        assert small.decode(ids) == text
        assert not set(ids) & {0, 1, 2, 3 + 0x41}


def test_byte_tokens_make_characters(small: Tokenizer) -> None:
    assert small.token_bytes(3 + 0xE2) == b"\xe2"
    assert small.decode([3 + 0xE2, 3 + 0x82, 3 + 0xAC]) == "€"
    assert small.decode([3 + 0xE2, 3 + 0x82, 3 + 0x41]) == "\ufffd\ufffdA"  # one for each, as in sentencepiece
    assert small.decode([3 + 0xE2, 2, 3 + 0x82, 3 + 0xAC]) == "\ufffd\ufffd\ufffd"  # a control token stands between
    assert small.decode([2, 3 + 0x20, 259, 260]) == "  e"  # the space of a byte token is the text's


def broken(**changes: object) -> TokenizerSpec:
    return small_spm(**changes)


def with_token(number: int, token: bytes, kind: int) -> TokenizerSpec:
    spec = small_spm()
    tokens, types = list(spec.tokens), np.array(spec.token_types)
    tokens[number], types[number] = token, kind
    return replace(spec, tokens=tokens, token_types=types)


@pytest.mark.parametrize(
    "spec",
    [
        broken(scores=None),
        broken(scores=np.zeros(3, np.float32)),
        broken(scores=np.full(275, np.nan, np.float32)),
        broken(token_types=None),
        with_token(260, b"", 1),
        with_token(260, b"t", 1),  # a second time
        broken(token_types=np.ones(275, np.int32)),  # neither an unknown token nor bytes
        with_token(5, b"<unk2>", 2),  # two of them, and a byte missing
        with_token(5, b"<0xZZ>", 6),
        with_token(5, b"<0x-1>", 6),
        with_token(5, b"<0x41>", 6),  # a second 0x41
        with_token(260, b"\xff\xfe", 1),
    ],
)
def test_a_vocabulary_that_contradicts_itself_is_refused(spec: TokenizerSpec) -> None:
    with pytest.raises(ModelFormatError, match=r"small\.model"):
        build_tokenizer(spec)


def test_user_defined_tokens_of_gguf_are_found_before_a_space_is_added(tmp_path: Path) -> None:
    """As llama.cpp does it: it parts a text at them first, and gives each part its space. SentencePiece adds the space first."""
    (tmp_path / "x.model").write_bytes(sentencepiece_bytes(user_defined_symbols=["<x>"]))
    spec = read_tokenizer_file(tmp_path / "x.model", None)
    token_id, space = spec.tokens.index(b"<x>"), spec.tokens.index("▁".encode())
    keys = gguf_tokenizer_metadata(spec)
    ours = read_tokenizer(gguf_values(tmp_path / "x.gguf", dict(keys)), len(spec.tokens))
    del keys["puna.tokenizer.found_first"]
    others = read_tokenizer(gguf_values(tmp_path / "x.gguf", keys), len(spec.tokens))
    assert ours is not None
    assert others is not None
    word = build_tokenizer(spec).encode("the", bos=False)
    inside = build_tokenizer(replace(spec, add_space_prefix=False)).encode("the", bos=False)
    assert build_tokenizer(ours).encode("<x>the", bos=False) == [space, token_id, *inside]
    assert build_tokenizer(others).encode("<x>the<x>", bos=False) == [token_id, *word, token_id]
    assert build_tokenizer(replace(others, prefix_first_only=True)).encode("the<x>the", bos=False) == [*word, token_id, *inside]
