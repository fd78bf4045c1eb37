"""Hostile tokenizer files: each is refused by a named error, or it works; nothing else may happen."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from puna.errors import ModelFormatError, PunaError, UnsupportedModelError
from puna.formats import llama2c_tokenizer, sentencepiece_model
from puna.formats.json_file import COUNTED, read_json
from puna.formats.protobuf import float_field, message_field, number_field, varint
from puna.formats.sentencepiece_model import read_sentencepiece_model
from puna.formats.tiktoken_file import read_tiktoken_file
from puna.formats.token_types import CONTROL
from puna.formats.tokenizer_files import read_tokenizer_file, read_tokenizer_folder
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS
from puna.tokenizers import build_tokenizer
from tests.formats.hostile_tokenizers import MUTANTS, run_mutants
from tests.tokenizers.folders import byte_level_document, sentencepiece_bytes, tiktoken_bytes, write_json
from tests.tokenizers.vocabularies import small_bpe

SEED = 1


@pytest.mark.parametrize("form", MUTANTS)
def test_a_thousand_mutants_work_or_are_refused_by_name(form: str) -> None:
    run_mutants(form, SEED, 1_000)


@pytest.mark.full
@pytest.mark.parametrize("form", MUTANTS)
def test_twenty_thousand_mutants_work_or_are_refused_by_name(form: str) -> None:
    run_mutants(form, SEED + 1, 20_000)


@pytest.mark.parametrize("content", [sentencepiece_bytes(), tiktoken_bytes(), json.dumps(byte_level_document()).encode()])
def test_every_truncation_is_refused_or_works(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    for length in {*range(64), *range(64, len(content), len(content) // 200)}:
        path.write_bytes(content[:length])
        try:
            read_tokenizer_file(path, None)
        except PunaError as error:
            assert isinstance(error, ModelFormatError | UnsupportedModelError)


# ---- SentencePiece --------------------------------------------------------------------------------------------------


def piece(text: bytes = b"a", score: float = 0.0, kind: int = 1) -> bytes:
    return message_field(1, message_field(1, text) + float_field(2, score) + number_field(3, kind))


BPE = message_field(2, number_field(3, 2))


def charsmap(units: list[int], texts: bytes = b"x\0", size: int | None = None) -> bytes:
    trie = struct.pack(f"<{len(units)}I", *units)
    return message_field(3, message_field(2, struct.pack("<I", len(trie) if size is None else size) + trie + texts))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes, but 0 remain"),
        (b"\xff" * 30, "does not end"),
        (b"\x02\x00", "number 0"),
        (b"\x0b", "wire type 3"),
        (BPE, "pieces: are missing"),
        (number_field(1, 5), "is the number 5"),
        (piece(kind=7) + BPE, "is of type 7"),
        (piece(kind=2**62) + BPE, "is of type"),
        (piece(score=float("nan")) + BPE, "score nan"),
        (message_field(1, number_field(1, 3)) + BPE, "field 1 of the wrong type"),
        (piece() + BPE + charsmap([0] * 256, size=2**32 - 1), "does not hold a trie"),
        (piece() + BPE + charsmap([0] * 255), "does not hold a trie"),
        (piece() + BPE + charsmap([0] * 256, b"x"), "does not hold a trie"),
        (piece() + BPE + charsmap([1 << 31 | 5] * 256), "leads outside itself"),
        (piece() + BPE + charsmap([(1 << 31) - 1] * 256), "leads outside itself"),
        (piece() + BPE + charsmap([1 << 20 | 1 << 9] * 256), "leads outside itself"),
    ],
)
def test_a_broken_sentencepiece_model_names_what_is_wrong(content: bytes, problem: str) -> None:
    with pytest.raises(ModelFormatError, match=problem):
        read_sentencepiece_model(Path("x.model"), content)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (piece() + message_field(2, number_field(3, 3)), "type words"),
        (piece() + message_field(2, number_field(3, 2) + number_field(24, 1)), "puts spaces after words"),
        (piece() + BPE + message_field(3, number_field(5, 0)), "keeps spaces as spaces"),
        (piece() + BPE + message_field(5, message_field(2, b"x")), "changes characters when it decodes"),
    ],
)
def test_a_sentencepiece_model_of_another_kind_is_refused_by_name(content: bytes, what: str) -> None:
    with pytest.raises(UnsupportedModelError, match=what):
        read_sentencepiece_model(Path("x.model"), content)


def test_numbers_of_protobuf_are_as_long_as_they_must_be() -> None:
    assert [len(varint(value)) for value in (0, 127, 128, 2**64 - 1, -1)] == [1, 1, 2, 10, 10]


# ---- tiktoken -------------------------------------------------------------------------------------------------------


def b64(token: bytes, rank: int) -> bytes:
    return b"%s %d" % (base64.b64encode(token), rank)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda lines: lines[:255], "there are 255"),
        (lambda lines: lines[1:], "line 1: is"),
        (lambda lines: [*lines[:-1], b"!!!! 263"], "line 264"),
        (lambda lines: [*lines[:-1], b"YQ== 263"], "hold a token twice"),
        (lambda lines: [*lines[:-1], b" 263"], "line 264"),
        (lambda lines: [*lines[:-1], b"YWI= -1"], "line 264"),
        (lambda lines: [*lines[:-1], b"YWI= 0263"], "line 264"),
        (lambda lines: [*lines[:-1], b"YWI= " + b"9" * 5000], "line 264"),
        (lambda lines: [*lines, *(b64(b"%04d" % rank * 1000, rank) for rank in range(264, 270))], "more and longer tokens"),
        (lambda lines: [*lines[:10], b"YWI= 10", *lines[11:]], "lack the byte 0x0A"),
    ],
)
def test_a_broken_tiktoken_file_names_the_line(change: Any, problem: str) -> None:
    content = b"\n".join(change(tiktoken_bytes().splitlines()))
    with pytest.raises(ModelFormatError, match=problem):
        read_tiktoken_file(Path("x.model"), content)


# ---- tokenizer.json -------------------------------------------------------------------------------------------------

SPLIT = {"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated", "invert": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
DOUBLING = {"type": "Replace", "pattern": {"String": "x"}, "content": "xx"}
STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
TWICE = [{"Sequence": {"id": "A", "type_id": 0}}] * 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, BYTE_LEVEL]}}, r"\(a\*\)\*b"),
        ({"pre_tokenizer": {"type": "Lua"}}, "pre-tokenizer holds 'Lua'"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}] * 33}}, "has 33 steps"),
        ({"normalizer": {"type": "Uppercase"}}, "normalizer holds 'Uppercase'"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLING] * 7}}, "let a text grow 256 times"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|a)*b"}, "content": ""}}, r"\(a\|a\)\*b"),
        ({"decoder": {"type": "WordPiece"}}, "'WordPiece'"),
        ({"decoder": {"type": "Sequence", "decoders": [STRIP, {"type": "Fuse"}]}}, "in that place"),
        ({"post_processor": {"type": "Mystery"}}, "'Mystery'"),
        ({"post_processor": {"type": "TemplateProcessing", "single": TWICE}}, "holds the text 2 times"),
        ({"model": {"type": "WordLevel"}}, "'WordLevel'"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "dropout": 0.1}}, "dropout 0.1"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
    ],
)
def test_a_part_that_puna_does_not_do_is_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    path = write_json(tmp_path / "tokenizer.json", byte_level_document() | changes)
    with pytest.raises(UnsupportedModelError, match=what):
        read_tokenizer_file(path, None)


def bpe(**model: Any) -> dict[str, Any]:
    return {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]} | model}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"model": None}, "model: is missing"),
        ({"model": []}, "an object is needed"),
        (bpe(vocab={}), "is missing or empty"),
        (bpe(vocab={"a": -1}), "has the id -1"),
        (bpe(vocab={"a": 2**62}), f"has the id {2**62}"),
        (bpe(vocab={"a": 1.5}), "has the id 1.5"),
        (bpe(vocab={"a": True}), "has the id True"),
        (bpe(vocab={"a": 0, "b": 0}), "has the id 0, as 'a' has"),
        (bpe(merges=["ab"]), r"merges\[0\]"),
        (bpe(merges=[["a", "b", "c"]]), r"merges\[0\]"),
        (bpe(merges=[["a", 1]]), r"merges\[0\]"),
        (bpe(merges="a b"), "a list is needed"),
        ({"model": {"type": "Unigram", "vocab": []}}, "has 0 tokens"),
        ({"model": {"type": "Unigram", "vocab": [["a", "b"]]}}, r"vocab\[0\]: is"),
        ({"model": {"type": "Unigram", "vocab": [["a", 10**400]]}}, r"vocab\[0\]: is"),
        ({"model": {"type": "Unigram", "vocab": [["a", 0]], "unk_id": 1}}, "unk_id: is 1"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 257}}, "at most 256 characters"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "does not hold a trie"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "ab"}}, "one character is needed"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Glob": "*"}}}, "a String or a Regex is needed"),
        ({"post_processor": {"type": "RobertaProcessing", "cls": ["a", 9999], "sep": ["b", 1]}}, "puts the id 9999"),
        ({"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x"}}, TWICE[0]]}}, "lacks 'x'"),
        ({"added_tokens": [{"id": 2**40, "content": "x"}]}, "has the id"),
        ({"added_tokens": [{"id": -1, "content": "x"}]}, "lacks id or content"),
        ({"added_tokens": [{"id": 5}]}, "lacks id or content"),
        ({"added_tokens": [{"id": 400, "content": "Ġthe"}]}, "has two ids"),
        ({"added_tokens": ["x"]}, "an object is needed"),
    ],
)
def test_a_broken_tokenizer_json_names_what_is_wrong(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    path = write_json(tmp_path / "tokenizer.json", byte_level_document() | changes)
    with pytest.raises(ModelFormatError, match=problem):
        read_tokenizer_file(path, None)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": 1, "a": 2}', "occurs twice"),
        (b'{"a": ' + b"1" * 10_000 + b"}", "is not JSON"),
        (b'{"a": [' + b"9" * 4_300 + b"]}", "a number has 4300 digits"),
        (b'{"a": [' + b"1," * 2_200_000 + b"1]}", "holds 2200000 commas; at most 2097152 are read"),
        (b'{"a": [' + b"[" * 1_100_000, "holds 1100001 lists; at most 1048576 are read"),
        (b'{"a": ' * 140_000, "holds 140000 objects; at most 131072 are read"),
        (b'{"a":1' + b',"":1' * 800_000, "holds 800001 keys; at most 786432 are read"),
        (b"\xff{}", "is not UTF-8"),
        (b"[]", "an object is needed"),
        (b"{", "is not JSON"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ModelFormatError, match=problem):
        read_json(tmp_path / "x.json")


def test_a_whole_number_beyond_64_bits_is_no_size(tmp_path: Path) -> None:
    """Many a tokenizer_config.json holds 10**30 for "no limit"."""
    write_json(tmp_path / "x.json", {"model_max_length": 10**30, "shape": [2**63 - 1], "more": [2**63]})
    found = read_json(tmp_path / "x.json")
    assert (found.integer("model_max_length"), found.whole_numbers("shape")) == (10**30, (2**63 - 1,))
    with pytest.raises(ModelFormatError, match="more: holds 9223372036854775808; whole numbers"):
        found.whole_numbers("more")


def test_as_many_tokens_as_real_files_have_are_read(tmp_path: Path) -> None:
    """Gemma 3 has 262,144 tokens and 514,906 merges, each a list of two."""
    counts = (262_144 + 2 * 514_906, 514_906, 262_144 + 10 * 6_500, 6_500)
    assert all(count < limit for count, (_, _, limit) in zip(counts, COUNTED, strict=True))
    assert MAX_TOKENS >= 2 * 262_144


LONG = "x" * (MAX_TOKEN_BYTES + 1)
EMPTY_TOKENS = struct.pack("<I", 1) + struct.pack("<fi", 0.0, 0) * 1001
LARGE: dict[str, tuple[Callable[[], bytes], str]] = {
    "a long added token": (lambda: json_with({"added_tokens": [{"id": 400, "content": LONG}]}), "has 65537 characters"),
    "a long token": (lambda: json_with(bpe(vocab={LONG: 0})), "has 65537 characters"),
    "a long piece": (lambda: piece() + piece(LONG.encode()) + BPE, "has 65537 bytes"),
    "many fields of the trainer": (
        lambda: piece() + message_field(2, number_field(3, 2) + number_field(99, 1) * 70_000),
        "has more than 65536 fields",
    ),
    "many fields of a piece": (lambda: piece() + message_field(1, number_field(3, 1) * 17) + BPE, "has more than 16 fields"),
    "many trainers": (lambda: piece() + BPE * 2, "field 2: occurs twice"),
    "many pieces": (lambda: piece() * 1001, "has more than 1000 fields"),
    "many empty tokens": (lambda: EMPTY_TOKENS, "are more than 1000"),
}


def json_with(changes: dict[str, Any]) -> bytes:
    return json.dumps(byte_level_document() | changes).encode()


@pytest.mark.parametrize("kind", LARGE)
def test_more_than_any_tokenizer_has_is_refused_before_it_is_work(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (llama2c_tokenizer, sentencepiece_model):
        assert module.MAX_TOKENS == MAX_TOKENS
        monkeypatch.setattr(module, "MAX_TOKENS", 1000)
    make, problem = LARGE[kind]
    (tmp_path / "x").write_bytes(make())
    with pytest.raises(ModelFormatError, match=problem):
        read_tokenizer_file(tmp_path / "x", None)


def test_a_tokenizer_of_any_format_is_bounded_before_it_is_built() -> None:
    small = small_bpe()
    control = np.full(len(small.tokens) + 40, CONTROL, np.int32)
    many = [b"<%d>" % number + b"x" * 60_000 for number in range(40)]
    for changes, problem in (
        ({"tokens": [b"x"] * (MAX_TOKENS + 1), "token_types": None}, "are 524289; at most 524288"),
        ({"tokens": [*small.tokens[:-1], LONG.encode()]}, "hold one of 65537 bytes"),
        ({"tokens": [*small.tokens, *many], "token_types": control}, "control and added ones count"),
    ):
        with pytest.raises(ModelFormatError, match=problem):
            build_tokenizer(replace(small, **changes))


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("tokenizer_config", {"bos_token": 5}),
        ("tokenizer_config", {"add_bos_token": "yes"}),
        ("tokenizer_config", {"added_tokens_decoder": {"x": {"content": "y"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"-1": {"content": "y"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"9" * 5000: {"content": "y"}}}),
        ("tokenizer_config", {"added_tokens_decoder": {"5": None}}),
        ("tokenizer_config", {"added_tokens_decoder": [1]}),
        ("tokenizer_config", {"additional_special_tokens": "x"}),
        ("special_tokens_map", {"eos_token": {"content": 7}}),
        ("added_tokens", {"x": -1}),
        ("added_tokens", {"x": 2**40}),
        ("added_tokens", {"x": None}),
        ("added_tokens", {"": 1}),
    ],
)
def test_a_broken_file_beside_the_tokenizer_is_named(tmp_path: Path, name: str, document: dict[str, Any]) -> None:
    write_json(tmp_path / "tokenizer.json", byte_level_document())
    write_json(tmp_path / f"{name}.json", document)
    with pytest.raises(ModelFormatError) as error:
        read_tokenizer_folder(tmp_path, 320)
    assert error.value.message.isprintable()
    assert len(error.value.message) < 600
