"""Ten thousand texts of each real tokenizer, against the library that it was made for."""

from __future__ import annotations

import base64
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from puna.detokenize import Detokenizer
from puna.formats.base import TokenizerSpec
from puna.formats.llama2c_tokenizer import read_tokenizer
from puna.formats.tiktoken_file import SPECIAL
from puna.formats.tokenizer_files import read_tokenizer_file
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from puna.writers.tokenizers import write_tiktoken, write_tokenizer_config, write_tokenizer_json
from tests.tokenizers.test_sentencepiece import slow_encode
from tests.tokenizers.texts import texts
from tests.tokenizers.vocabularies import default_spec

COUNT = 10_000
SEED = 20260

# As in Meta's package, written again here: what puna has must be the same.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def assert_equal_ids(tokenizer: Tokenizer, encode: Callable[[list[str]], list[list[int]]], samples: list[str]) -> None:
    """Without BOS; and each text comes back, but for U+2581, which SentencePiece takes for a space."""
    for text, expected in zip(samples, encode(samples), strict=True):
        ids = tokenizer.encode(text, bos=False, eos=False)
        assert ids == expected, f"seed {SEED}: {text!r}"
        spoken = text.replace("\u2581", " ") if tokenizer.strips_leading_space() else text
        assert tokenizer.decode(ids) == spoken, f"seed {SEED}: {text!r}"


@pytest.fixture(scope="module")
def samples() -> list[str]:
    return texts(SEED, COUNT)


@pytest.fixture(scope="module")
def llama2(shared_data: Path) -> Path:
    return shared_data / "llama2" / "tokenizer.model"


@pytest.fixture(scope="module")
def llama3_spec(llama3_tokenizer: Path) -> TokenizerSpec:
    """Read once: to find the merges of 128,000 ranks takes seconds."""
    return read_tokenizer_file(llama3_tokenizer, 128256)


@pytest.fixture(scope="module")
def llama3(llama3_spec: TokenizerSpec) -> Tokenizer:
    return build_tokenizer(llama3_spec)


def test_llama_2_is_as_in_sentencepiece(llama2: Path, samples: list[str]) -> None:
    from sentencepiece import SentencePieceProcessor

    oracle = SentencePieceProcessor(model_file=str(llama2))
    assert_equal_ids(build_tokenizer(read_tokenizer_file(llama2, 32000)), oracle.encode, samples)


def test_llama_2_by_merges_is_as_in_sentencepiece(llama2: Path, samples: list[str], tmp_path: Path) -> None:
    from sentencepiece import SentencePieceProcessor

    write_tokenizer_json(read_tokenizer_file(llama2, None), tmp_path / "tokenizer.json")
    spec = read_tokenizer_file(tmp_path / "tokenizer.json", 32000)
    assert spec.scores is None
    assert_equal_ids(build_tokenizer(spec), SentencePieceProcessor(model_file=str(llama2)).encode, samples)


def test_llama_3_is_as_in_tiktoken(llama3_tokenizer: Path, llama3: Tokenizer, samples: list[str]) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    lines = llama3_tokenizer.read_bytes().split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, _, rank in (line.partition(b" ") for line in lines) if token}
    oracle = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    assert_equal_ids(llama3, lambda batch: [oracle.encode_ordinary(text) for text in batch], samples)


def smollm2_library(spec: TokenizerSpec) -> Callable[[list[str]], list[list[int]]]:
    """The library with the parts that the published tokenizer.json names."""
    from tokenizers import Tokenizer as Library
    from tokenizers import models, pre_tokenizers

    vocabulary = {token.decode(): token_id for token_id, token in enumerate(spec.tokens)}
    merges = [(a, b) for a, _, b in (merge.decode().partition(" ") for merge in spec.merges)]
    library = Library(models.BPE(vocabulary, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    library.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    return lambda batch: [encoding.ids for encoding in library.encode_batch(batch)]


def test_smollm2_is_as_in_tokenizers(request: pytest.FixtureRequest, samples: list[str]) -> None:
    """It has no token for six control characters: those are left out."""
    spec = default_spec(request)
    without = str.maketrans("", "", "\4\6\x13\x14\x16\x1d")
    assert_equal_ids(build_tokenizer(spec), smollm2_library(spec), [text.translate(without) for text in samples])


def test_stories_are_as_in_llama2c(shared_data: Path, samples: list[str]) -> None:
    spec = read_tokenizer(shared_data / "stories260K" / "tok512.bin", 512)
    assert_equal_ids(build_tokenizer(spec), lambda batch: [slow_encode(spec, text) for text in batch], samples)


LOOKALIKES = ["<s>", "</s>", "<unk>", "<0x41>", "<|begin_of_text|>", "<|eot_id|>", "<|im_end|>", "<|endoftext|>", "[PAD5]"]


@pytest.mark.parametrize("name", ["llama 2", "llama 3", "smollm2"])
def test_text_that_looks_like_a_special_token_never_becomes_one(name: str, request: pytest.FixtureRequest) -> None:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "llama 2": lambda: build_tokenizer(read_tokenizer_file(request.getfixturevalue("llama2"), None)),
        "llama 3": lambda: request.getfixturevalue("llama3"),
        "smollm2": lambda: build_tokenizer(default_spec(request)),
    }
    tokenizer = makers[name]()
    for text in [*LOOKALIKES, *tokenizer.special_tokens]:
        ids = tokenizer.encode(f"a {text} b", bos=False)
        assert not set(ids) & set(tokenizer.special_tokens.values())
        assert tokenizer.decode(ids) == f"a {text} b"


def test_llama_3_in_transformers_has_equal_ids(
    llama3_spec: TokenizerSpec, llama3: Tokenizer, samples: list[str], tmp_path: Path
) -> None:
    """Through our tokenizer.json and tokenizer_config.json."""
    write_tokenizer_json(llama3_spec, tmp_path / "tokenizer.json")
    write_tokenizer_config(llama3_spec, None, tmp_path / "tokenizer_config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        oracle = AutoTokenizer.from_pretrained(str(tmp_path))
    some = [text for text in samples if "<|" not in text][:2000]
    assert [llama3.encode(text) for text in some] == oracle(some).input_ids


def test_llama_3_as_transformers_converts_it_has_equal_ids(llama3_tokenizer: Path, samples: list[str], tmp_path: Path) -> None:
    """Its tokenizer.json has all 280,147 pairs that make a token, as the published one; ids and file come out the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.convert_slow_tokenizer import TikTokenConverter

        converter = TikTokenConverter(str(llama3_tokenizer), pattern=LLAMA3_PATTERN, extra_special_tokens=list(SPECIAL))
        oracle = converter.converted()
    oracle.save(str(tmp_path / "tokenizer.json"))
    spec = read_tokenizer_file(tmp_path / "tokenizer.json", 128256)
    assert len(spec.merges) == 280_147
    ours = build_tokenizer(spec)
    some = [text for text in samples if "<|" not in text][:2000]
    expected = [encoding.ids for encoding in oracle.encode_batch(some, add_special_tokens=False)]
    assert [ours.encode(text, bos=False) for text in some] == expected
    write_tiktoken(spec, tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == llama3_tokenizer.read_bytes()


def random_ids(seed: int, count: int, vocab_size: int, often: Sequence[int]) -> Iterator[list[int]]:
    """Rows of any ids, many of `often` among them."""
    rng = random.Random(seed)
    for _ in range(count):
        share = rng.choice((0.0, 0.5, 0.95))
        yield [
            rng.choice(often) if rng.random() < share else rng.randrange(1, vocab_size)  # 0: <unk>, which is shown as U+2047
            for _ in range(rng.randint(1, 24))
        ]


def streamed(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    detokenizer = Detokenizer(tokenizer, at_start=True)
    return "".join([detokenizer.push(token_id) for token_id in ids]) + detokenizer.flush()


def test_any_ids_of_llama_2_are_decoded_as_in_sentencepiece(llama2: Path) -> None:
    """Bytes that are no characters, control tokens between them, spaces at the beginning: at once and piece by piece."""
    from sentencepiece import SentencePieceProcessor

    oracle = SentencePieceProcessor(model_file=str(llama2))
    tokenizer = build_tokenizer(read_tokenizer_file(llama2, 32000))
    often = [1, 2, *(3 + byte for byte in (*range(256), *b" \xe2\x82\xac\xf0\x9f\xa6\x99\xed\xa0\x80\xc3" * 40)), *[29871] * 40]
    for ids in random_ids(SEED, 3000, 32000, often):
        expected = oracle.decode(ids)
        assert tokenizer.decode(ids) == expected, ids
        assert streamed(tokenizer, ids) == expected, ids


def test_any_ids_of_llama_3_are_decoded_as_in_tiktoken_and_tokenizers(
    llama3_tokenizer: Path, llama3_spec: TokenizerSpec, llama3: Tokenizer, tmp_path: Path
) -> None:
    tiktoken = pytest.importorskip("tiktoken")
    from tokenizers import Tokenizer as Library

    lines = llama3_tokenizer.read_bytes().split(b"\n")
    ranks = {base64.b64decode(token): int(rank) for token, _, rank in (line.partition(b" ") for line in lines) if token}
    oracle = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    write_tokenizer_json(llama3_spec, tmp_path / "tokenizer.json")
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    for ids in random_ids(SEED, 2000, 128000, range(256)):
        expected = oracle.decode(ids)
        assert llama3.decode(ids) == expected == library.decode(ids), ids
        assert streamed(llama3, ids) == expected, ids
