from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.gguf_file import read_gguf
from puna.formats.gguf_tokenizer import read_tokenizer
from puna.formats.gguf_values import Values
from puna.formats.piece_order import agree, merges_of, scores_of
from puna.formats.tokenizer_files import read_tokenizer_file, read_tokenizer_folder
from puna.tokenizers import build_tokenizer
from puna.writers.tokenizers import (
    gguf_tokenizer_metadata,
    write_llama2c_tokenizer,
    write_sentencepiece,
    write_tiktoken,
    write_tokenizer_config,
    write_tokenizer_json,
)
from tests.models import Draft, DraftValue
from tests.tokenizers.folders import sentencepiece_bytes, tiktoken_bytes
from tests.tokenizers.texts import texts
from tests.tokenizers.vocabularies import small_bpe, small_spm

SAMPLES = texts(21, 1000)
LEADING = [
    "", " ", "  ", " leading", "  the", "the ", "the  ", " the  llama ",
    "\u2581", "\u2581the", " \u2581the", "\u2581 the", "the\u2581",
    "\nthe", "\n the", " \nthe", "\n\n", "\tthe", "\u3000日本", "🦙 the", " 🦙", "中文 分词", " 中文",
]  # fmt: skip
NO_BPE, NO_SPM = "it is byte-level BPE", "it is SentencePiece"


def trained(tmp_path: Path, **options: Any) -> TokenizerSpec:
    (tmp_path / "trained.model").write_bytes(sentencepiece_bytes(**options))
    return read_tokenizer_file(tmp_path / "trained.model", None)


def small_tiktoken(tmp_path: Path) -> TokenizerSpec:
    (tmp_path / "tiktoken.model").write_bytes(tiktoken_bytes())
    return read_tokenizer_file(tmp_path / "tiktoken.model", None)


def by_merges(spec: TokenizerSpec) -> TokenizerSpec:
    return replace(spec, scores=None, merges=[f"{a} {b}".encode() for a, b in merges_of(spec)])


def assert_same(spec: TokenizerSpec, other: TokenizerSpec, *but: str) -> None:
    """Every field is equal, except the file's name and `but`."""
    for name in {field.name for field in fields(TokenizerSpec)} - {"source", *but}:
        ours, theirs = getattr(spec, name), getattr(other, name)
        if isinstance(ours, np.ndarray) or name in ("tokens", "merges"):
            assert list(ours) == list(theirs), name
        else:
            assert ours == theirs, name


def assert_same_ids(spec: TokenizerSpec, other: TokenizerSpec) -> None:
    ours, theirs = build_tokenizer(spec), build_tokenizer(other)
    for text in SAMPLES:
        assert ours.encode(text) == theirs.encode(text), text


# ---- what is written, read again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True}])
def test_sentencepiece_comes_back_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    from sentencepiece import SentencePieceProcessor

    spec = trained(tmp_path, **options)
    write_sentencepiece(spec, tmp_path / "tokenizer.model")
    assert_same(spec, read_tokenizer_file(tmp_path / "tokenizer.model", None))
    first, second = (SentencePieceProcessor(model_file=str(tmp_path / f"{name}.model")) for name in ("trained", "tokenizer"))
    assert first.encode(SAMPLES) == second.encode(SAMPLES)
    assert [first.bos_id(), first.eos_id(), first.unk_id(), first.pad_id()] == [
        *(second.bos_id(), second.eos_id(), second.unk_id(), second.pad_id())
    ]


def test_sentencepiece_of_merges_cuts_alike(tmp_path: Path) -> None:
    spec = trained(tmp_path)
    write_sentencepiece(by_merges(spec), tmp_path / "tokenizer.model")
    again = read_tokenizer_file(tmp_path / "tokenizer.model", None)
    assert_same(spec, again, "scores")
    assert_same_ids(spec, again)


def test_tiktoken_comes_back_whole(tmp_path: Path) -> None:
    spec = small_tiktoken(tmp_path)
    write_tiktoken(spec, tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == tiktoken_bytes()


def test_llama2c_comes_back_whole(tmp_path: Path) -> None:
    spec = trained(tmp_path)
    write_llama2c_tokenizer(spec, tmp_path / "tokenizer.bin")
    assert_same(spec, read_tokenizer_file(tmp_path / "tokenizer.bin", None))


LIBRARY_KINDS = ["bpe", "qwen", "tiktoken", "spm", "merges", "first only", "no space", "metaspace", "metaspace, first only"]
SPACED = [kind for kind in LIBRARY_KINDS if kind not in ("bpe", "qwen", "tiktoken")]


@pytest.mark.parametrize("kind", [*LIBRARY_KINDS, "found first"])
def test_tokenizer_json_comes_back_whole(tmp_path: Path, kind: str) -> None:
    spec = SPECS[kind](tmp_path)
    write_tokenizer_json(spec, tmp_path / "tokenizer.json")
    write_tokenizer_config(spec, None, tmp_path / "tokenizer_config.json")
    again, notices = read_tokenizer_folder(tmp_path, len(spec.tokens))
    assert again is not None
    assert notices == ()
    by_library = ["pipeline", "added_flags"] if kind == "found first" else []
    assert_same(spec, again, "eot_id", *(["scores", "merges"] if spec.kind == "spm" else []), *by_library)
    assert_same_ids(spec, again)


def test_an_order_that_tokenizer_json_cannot_say_is_refused(tmp_path: Path) -> None:
    """SentencePiece looks for "<x>" behind the space that it adds, `tokenizers` before it."""
    spec = SPECS["user-defined"](tmp_path)
    assert build_tokenizer(spec).encode("<x>", bos=False) == [spec.tokens.index("▁".encode()), 4]
    with pytest.raises(UnsupportedModelError, match="looks for '<x>' after the space"):
        write_tokenizer_json(spec, tmp_path / "tokenizer.json")
    write_sentencepiece(spec, tmp_path / "tokenizer.model")
    write_tokenizer_config(spec, None, tmp_path / "tokenizer_config.json")
    (tmp_path / "trained.model").unlink()
    again, _ = read_tokenizer_folder(tmp_path, len(spec.tokens))
    assert again is not None
    assert_same_ids(spec, again)


SPECS: dict[str, Callable[[Path], TokenizerSpec]] = {
    "bpe": lambda _: small_bpe(add_space_prefix=False),
    "qwen": lambda _: small_bpe(pre="qwen2", normalizer="NFC", add_eos=True, whole_words=True, add_space_prefix=False),
    "tiktoken": small_tiktoken,
    "spm": lambda path: trained(path),
    "merges": lambda path: by_merges(trained(path)),
    "first only": lambda path: replace(trained(path), prefix_first_only=True),
    "no space": lambda path: replace(trained(path), add_space_prefix=False, add_bos=False),
    "metaspace": lambda path: replace(trained(path), prefix_unless_space=True),
    "metaspace, first only": lambda path: replace(trained(path), prefix_unless_space=True, prefix_first_only=True),
    "user-defined": lambda path: trained(path, user_defined_symbols=["<x>"], control_symbols=["<c>"]),
    "found first": lambda path: replace(SPECS["user-defined"](path), found_first=(4,)),
}


@pytest.mark.parametrize("kind", LIBRARY_KINDS)
def test_the_libraries_read_tokenizer_json_with_equal_ids(tmp_path: Path, kind: str) -> None:
    """`tokenizers` itself and `transformers`."""
    from tokenizers import Tokenizer as Library

    spec = SPECS[kind](tmp_path)
    write_tokenizer_json(spec, tmp_path / "tokenizer.json")
    write_tokenizer_config(spec, "{{ messages }}", tmp_path / "tokenizer_config.json")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        transformer = AutoTokenizer.from_pretrained(str(tmp_path))
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    ours = build_tokenizer(spec)
    some = [text for text in SAMPLES if "<" not in text] + LEADING
    ids = [ours.encode(text) for text in some]
    assert [encoding.ids for encoding in library.encode_batch(some)] == ids
    assert transformer(some).input_ids == ids
    assert [transformer.decode(i, skip_special_tokens=True) for i in ids] == [ours.decode(i) for i in ids]
    assert (transformer.bos_token_id, transformer.eos_token_id) == (spec.bos_id, spec.eos_id)
    assert transformer.chat_template == "{{ messages }}"


@pytest.mark.parametrize("kind", SPACED)
def test_spaces_beside_control_tokens_are_those_of_the_library(tmp_path: Path, kind: str) -> None:
    """500 and more texts with control tokens in between. A BOS that a text already has is doubled by the library only."""
    from tokenizers import Tokenizer as Library

    spec = SPECS[kind](tmp_path)
    write_tokenizer_json(spec, tmp_path / "tokenizer.json")
    library, ours = Library.from_file(str(tmp_path / "tokenizer.json")), build_tokenizer(spec)
    plain = [text for text in SAMPLES if "<" not in text] + LEADING
    some = [f"{first}{control}{second}" for control in ("</s>", "<s></s>") for first, second in pairwise(plain)]
    assert len(some) > 500
    expected = [encoding.ids for encoding in library.encode_batch(some, add_special_tokens=False)]
    assert [ours.encode(text, bos=False, special=True) for text in some] == expected


def gguf_values(path: Path, metadata: dict[str, object]) -> Values:
    """As a file gives them back."""
    path.write_bytes(Draft([gguf_value(key.encode(), value) for key, value in metadata.items()], []).to_bytes())
    return Values(path, read_gguf(path, lambda *_: None).values)


def gguf_value(key: bytes, value: object) -> DraftValue:
    if isinstance(value, np.ndarray):
        return DraftValue(key, f"array of {value.dtype.name}", value.tolist())
    if isinstance(value, list):
        return DraftValue(key, "array of string", value)
    return DraftValue(key, {bool: "bool", int: "uint32", str: "string"}[type(value)], value)


@pytest.mark.parametrize("kind", [*SPECS, "normalizing"])
def test_gguf_keys_come_back_whole(tmp_path: Path, kind: str) -> None:
    if kind == "normalizing":
        spec = trained(tmp_path, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True)
    else:
        spec = replace(SPECS[kind](tmp_path), stop_ids=(5, 7))
    again = read_tokenizer(gguf_values(tmp_path / "x.gguf", gguf_tokenizer_metadata(spec)), len(spec.tokens))
    assert again is not None
    assert_same(spec, again, *(["scores", "merges"] if spec.kind == "spm" else []))
    assert_same_ids(spec, again)


# ---- real tokenizers ------------------------------------------------------------------------------------------------


def test_llama_2_is_written_byte_for_byte_as_llama2c_has_it(shared_data: Path, tmp_path: Path) -> None:
    spec = read_tokenizer_file(shared_data / "llama2" / "tokenizer.model", 32000)
    write_llama2c_tokenizer(spec, tmp_path / "tokenizer.bin")
    assert (tmp_path / "tokenizer.bin").read_bytes() == (shared_data / "llama2" / "tokenizer.bin").read_bytes()
    write_sentencepiece(spec, tmp_path / "tokenizer.model")
    assert_same(spec, read_tokenizer_file(tmp_path / "tokenizer.model", None))


def test_llama_3_is_written_byte_for_byte_as_meta_has_it(llama3_tokenizer: Path, tmp_path: Path) -> None:
    spec = read_tokenizer_file(llama3_tokenizer, 128256)
    write_tiktoken(spec, tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == llama3_tokenizer.read_bytes()


# ---- what a form cannot hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("write", "spec", "why"),
    [
        (write_sentencepiece, small_bpe(), NO_BPE),
        (write_llama2c_tokenizer, small_bpe(), NO_BPE),
        (write_tiktoken, small_spm(), NO_SPM),
        (write_tiktoken, small_bpe(), "not the special tokens of Llama 3"),
        (write_llama2c_tokenizer, small_spm(eos_id=None), "does not begin with"),
        (write_llama2c_tokenizer, small_spm(add_space_prefix=False), "treats spaces"),
        (write_llama2c_tokenizer, small_spm(prefix_unless_space=True), "treats spaces"),
        (write_sentencepiece, small_spm(prefix_unless_space=True), "adds no space to a text that begins with one"),
        (
            write_llama2c_tokenizer,
            small_spm(token_types=np.array([2, 3, 3, *[6] * 256, *[1] * 15, 3], np.int32)),
            "not plain text",
        ),
        (write_tokenizer_json, small_spm(remove_extra_spaces=True), "changes characters or spaces"),
        (write_tokenizer_json, small_spm(tokens=[*small_spm().tokens[:-1], b"e"]), "'e' is a token twice"),
        (write_tokenizer_json, small_spm(scores=np.zeros(275, np.float32)), "have the same score"),
    ],
)
def test_what_a_form_cannot_hold_is_refused_and_nothing_is_written(
    tmp_path: Path, write: Callable[[TokenizerSpec, Path], None], spec: TokenizerSpec, why: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=why) as error:
        write(spec, tmp_path / "x")
    assert error.value.hint
    assert not (tmp_path / "x").exists()


def test_tiktoken_takes_every_pair_that_makes_a_token(tmp_path: Path) -> None:
    """As in the tokenizer.json of Llama 3."""
    spec = small_tiktoken(tmp_path)
    texts = [token.decode() for token in spec.tokens[:264]]
    halves = ((text[:at], text[at:]) for text in texts for at in range(1, len(text)))
    merges = [f"{a} {b}".encode() for a, b in halves if a in texts and b in texts]
    assert len(merges) > len(spec.merges)
    write_tiktoken(replace(spec, merges=merges), tmp_path / "tokenizer.model")
    assert (tmp_path / "tokenizer.model").read_bytes() == tiktoken_bytes()


def test_tiktoken_needs_merges_in_the_order_of_the_tokens(tmp_path: Path) -> None:
    spec = small_tiktoken(tmp_path)
    with pytest.raises(UnsupportedModelError, match="merges are not in the order"):
        write_tiktoken(replace(spec, merges=[*spec.merges[1:], spec.merges[0]]), tmp_path / "x")


# ---- the order of merging -------------------------------------------------------------------------------------------


def test_runs_of_spaces_with_one_score_become_merges_that_cut_alike() -> None:
    """Llama 2 has runs of 2 to 16 spaces, all with the score -1e9."""
    spec = small_spm()
    runs = ["\u2581" * count for count in range(2, 17)]
    longer = replace(
        spec,
        tokens=[*spec.tokens, *map(str.encode, runs)],
        scores=np.append(np.asarray(spec.scores), np.full(15, -1e9, np.float32)),
        token_types=np.append(np.asarray(spec.token_types), np.ones(15, np.int32)),
    )
    assert agree(longer, by_merges(longer))
    ours, theirs = build_tokenizer(longer), build_tokenizer(by_merges(longer))
    for count in range(100):
        text = " " * count + "the" + " " * (count // 2) + "la"
        assert ours.encode(text) == theirs.encode(text), count


def with_runs(letters: list[str], counts: Callable[[int], list[int]]) -> TokenizerSpec:
    """The small vocabulary, and runs of each letter, those of one letter with one score."""
    spec = small_spm()
    runs = [(letter * count, -1e6 if count == 1 else -1000.0 - at) for at, letter in enumerate(letters) for count in counts(at)]
    return replace(
        spec,
        tokens=[*spec.tokens, *(text.encode() for text, _ in runs)],
        scores=np.append(np.asarray(spec.scores), np.array([score for _, score in runs], np.float32)),
        token_types=np.append(np.asarray(spec.token_types), np.ones(len(runs), np.int32)),
        source="odd.model",
    )


LETTERS = [chr(0x4E00 + number) for number in range(4000)]


def test_runs_of_thousands_of_letters_take_no_time() -> None:
    spec = with_runs(LETTERS, lambda _: [1, 2, 4])
    began = time.process_time()
    assert len(merges_of(spec)) == 8000 + len(merges_of(small_spm()))
    assert time.process_time() - began < 5


def test_runs_of_many_patterns_are_refused_before_they_are_tried() -> None:
    """Each letter lacks one run, so that none is like another."""
    spec = with_runs(LETTERS[:60], lambda at: [count for count in range(1, 65) if count != 3 + at])
    began = time.process_time()
    with pytest.raises(UnsupportedModelError, match=r"runs of .* have the same score"):
        merges_of(spec)
    assert time.process_time() - began < 10


def test_runs_of_one_letter_that_merges_would_cut_otherwise_are_refused() -> None:
    spec = with_runs(["a"], lambda _: [1, 2, 3, 4, 6])
    with pytest.raises(UnsupportedModelError, match="runs of 'a' have the same score"):
        merges_of(spec)


def test_merges_that_scores_cannot_say_are_refused() -> None:
    spec = by_merges(small_spm())
    for merges, why in (
        (spec.merges[:-1], "not all the pairs"),
        ([*spec.merges[1:], spec.merges[0], spec.merges[1]], "are not adjacent"),
    ):
        with pytest.raises(UnsupportedModelError, match=why):
            scores_of(replace(spec, merges=merges))


def test_unused_tokens_on_the_way_are_refused() -> None:
    types = np.array(small_spm().token_types)
    types[266] = 5  # "th", of which "▁th" is made
    with pytest.raises(UnsupportedModelError, match="marked as unused"):
        merges_of(small_spm(token_types=types))


@pytest.mark.parametrize(("length", "why"), [(10_000, "more and longer tokens than any"), (200, "the same score")])
def test_tokens_of_absurd_length_take_no_time(length: int, why: str) -> None:
    spec = small_spm()
    tokens = [*spec.tokens[:-2], b"e" * length, b"e" * (length // 2)]
    scores = np.append(np.asarray(spec.scores)[:-2], np.full(2, -99, np.float32))
    odd = replace(spec, tokens=tokens, scores=scores, source="odd.model")
    assert not agree(odd, by_merges(spec))
    with pytest.raises(UnsupportedModelError, match=why):
        merges_of(replace(odd, tokens=[*tokens[:-3], b"e" * (length // 4), *tokens[-2:]] if length < 1000 else tokens))


def test_the_config_holds_what_transformers_looks_for(tmp_path: Path) -> None:
    write_tokenizer_config(small_bpe(), None, tmp_path / "tokenizer_config.json")
    config = json.loads((tmp_path / "tokenizer_config.json").read_text("utf-8"))
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert config["added_tokens_decoder"]["3"] == {
        "content": "<think>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }
    assert "chat_template" not in config
