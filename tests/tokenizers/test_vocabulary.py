from __future__ import annotations

import numpy as np
import pytest

from puna.errors import ContextLengthError, ModelFormatError, UnsupportedModelError, UsageError
from puna.formats.token_types import BYTE, NORMAL
from puna.tokenizers import build_tokenizer
from tests.tokenizers.vocabularies import small_bpe, small_spm

BUILDERS = {"bpe": small_bpe, "spm": small_spm}


def test_an_unknown_kind_is_named_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match=r"'wpm'.*bpe, spm"):
        build_tokenizer(small_bpe(kind="wpm"))


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_tokenizer_and_its_description_name_their_sizes_in_one_short_line(kind: str) -> None:
    spec = BUILDERS[kind]()
    tokenizer = build_tokenizer(spec)
    named = [f"BOS 1 {tokenizer.piece(1)!r}", f"EOS 2 {tokenizer.piece(2)!r}"]
    assert repr(tokenizer) == f"<{type(tokenizer).__name__}: {', '.join([f'{tokenizer.vocab_size} tokens', *named])}>"
    assert repr(spec).startswith(f"<TokenizerSpec {kind}: {len(spec.tokens)} tokens, ")
    assert all("\n" not in text and len(text) < 200 for text in map(repr, (tokenizer, spec)))


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("token_id", [-1, 10**6, 2**63])
def test_an_id_outside_the_vocabulary_is_named(kind: str, token_id: int) -> None:
    tokenizer = build_tokenizer(BUILDERS[kind]())
    for call in (tokenizer.token_bytes, tokenizer.piece, lambda i: tokenizer.decode([i])):
        with pytest.raises(UsageError, match=rf"{token_id} .*0\.\.{tokenizer.vocab_size - 1}"):
            call(token_id)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_lone_surrogate_is_an_error_and_not_a_crash(kind: str) -> None:
    tokenizer = build_tokenizer(BUILDERS[kind]())
    with pytest.raises(UsageError, match=r"U\+D83E at character 1"):
        tokenizer.encode("a\ud83e")
    with pytest.raises(UsageError, match="surrogate"):
        tokenizer.encode("\udc80", special=True)


@pytest.mark.parametrize("kind", BUILDERS)
def test_bos_and_eos_follow_the_file_unless_told_and_are_never_doubled(kind: str) -> None:
    tokenizer = build_tokenizer(BUILDERS[kind](add_bos=True, add_eos=True))
    plain = tokenizer.encode("the", bos=False, eos=False)
    assert tokenizer.encode("the") == [1, *plain, 2]
    assert tokenizer.encode("the", bos=True, eos=False) == [1, *plain]
    written = f"{tokenizer.piece(1)}the{tokenizer.piece(2)}"
    assert tokenizer.encode(written, special=True) == [1, *plain, 2]
    assert tokenizer.encode(written)[0:2] != [1, 1]
    assert tokenizer.encode("") == [1, 2]


def test_asking_for_a_bos_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(UsageError, match="BOS"):
        build_tokenizer(small_bpe(bos_id=None)).encode("a", bos=True)
    with pytest.raises(ModelFormatError, match="bos_token_id"):
        build_tokenizer(small_bpe(bos_id=None, add_bos=True))


@pytest.mark.parametrize("name", ["bos", "eos", "eot"])
@pytest.mark.parametrize("token_id", [-1, 10**6])
def test_a_special_id_outside_the_vocabulary_is_refused(name: str, token_id: int) -> None:
    with pytest.raises(ModelFormatError, match=f"{name}_token_id: is {token_id}"):
        build_tokenizer(small_bpe(**{f"{name}_id": token_id}))


def test_stop_ids_are_eos_eot_and_control_tokens_that_end_turns() -> None:
    assert build_tokenizer(small_bpe(eos_id=None)).stop_ids == {0, 2}
    assert build_tokenizer(small_bpe(eos_id=7, eot_id=8)).stop_ids == {0, 2, 7, 8}
    only_text = build_tokenizer(small_bpe(token_types=None, eos_id=None))
    assert only_text.stop_ids == set()
    assert only_text.special_tokens == {}


def test_special_tokens_are_shown_only_when_asked_for() -> None:
    tokenizer = build_tokenizer(small_bpe())
    ids = tokenizer.encode("<|im_start|>the<|im_end|>", special=True)
    assert tokenizer.decode(ids) == "the"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>the<|im_end|>"


@pytest.mark.parametrize("types", [np.zeros(3, np.int32), np.full(340, 7, np.int32), np.full(340, -1, np.int32)])
def test_token_types_must_be_one_per_token_and_known(types: np.ndarray) -> None:
    with pytest.raises(ModelFormatError, match="token_types"):
        build_tokenizer(small_bpe(token_types=types))


def test_an_empty_vocabulary_and_tokens_that_are_not_utf_8_are_refused() -> None:
    with pytest.raises(ModelFormatError, match="tokens: is empty"):
        build_tokenizer(small_bpe(tokens=[]))
    with pytest.raises(ModelFormatError, match="token 1"):
        build_tokenizer(small_bpe(tokens=[b"a", b"\xff"]))


def test_a_longer_control_token_wins_over_one_that_it_begins_with() -> None:
    tokens = [b"<a>", b"<a><b>", *small_bpe().tokens[2:]]
    tokenizer = build_tokenizer(small_bpe(tokens=tokens))
    assert tokenizer.encode("<a><b><a>", special=True) == [1, 0]


def test_a_control_token_of_one_letter_is_never_looked_for() -> None:
    tokenizer = build_tokenizer(small_bpe(tokens=[b"t", *small_bpe().tokens[1:]]))
    assert tokenizer.special_tokens["t"] == 0
    assert 0 not in tokenizer.encode("the", special=True)


TEXTS = ["x" * 5000, " the llama" * 400, "<|endoftext|>" * 300, "\u2581" * 3000, "日🦙" * 500, " " * 4000, "<think>" * 500]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:3]))
@pytest.mark.parametrize("kind", BUILDERS)
def test_a_limit_refuses_only_what_has_more_ids(kind: str, text: str) -> None:
    tokenizer = build_tokenizer(BUILDERS[kind]())
    for special in (False, True):
        ids = tokenizer.encode(text, special=special)
        for limit in (len(ids), len(ids) + 1, 2**27):
            assert tokenizer.encode(text, special=special, limit=limit) == ids
        with pytest.raises(ContextLengthError, match=r"at least [0-9]+ tokens; the context holds 2,"):
            tokenizer.encode(text, special=special, limit=2)


def test_a_guard_does_not_count() -> None:
    tokenizer = build_tokenizer(small_bpe())
    assert tokenizer.encode("|" * 5000 + "a", guard="|", limit=1) == tokenizer.encode("a")


def test_where_one_id_may_be_any_number_of_characters_nothing_is_refused_early() -> None:
    spec = small_spm()
    kinds = [NORMAL if kind == BYTE else kind for kind in spec.token_types]  # type: ignore[union-attr]
    tokenizer = build_tokenizer(small_spm(token_types=np.array(kinds, np.int32)))
    assert len(tokenizer.encode("日" * 5000 + "🦙" * 5000, limit=1)) > 0
