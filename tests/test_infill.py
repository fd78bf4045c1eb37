"""Infill: the order of the parts, no extra space from the tokenizer, and the models that support it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from puna.errors import UsageError
from puna.formats.base import TokenizerSpec
from puna.infill import MARKS, Marks, encode_infill
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer
from tests.tokenizers.vocabularies import small_bpe, small_spm

SPECS = {"bpe": small_bpe, "spm": small_spm}


def with_marks(spec: TokenizerSpec, marks: Marks) -> TokenizerSpec:
    names = [marks.before, marks.after, marks.middle, *marks.ends]
    types = np.ones(len(spec.tokens), np.int32) if spec.token_types is None else spec.token_types
    scores = None if spec.scores is None else np.append(spec.scores, np.zeros(len(names), np.float32))
    return replace(
        spec,
        tokens=[*spec.tokens, *(name.encode() for name in names)],
        token_types=np.append(types, np.full(len(names), 3, np.int32)),
        scores=scores,
    )


def inner(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Text of ids as it stands inside a text."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode()


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: str(marks.before))
@pytest.mark.parametrize("kind", SPECS)
def test_prefix_suffix_middle_are_marked_and_hold_the_texts(kind: str, marks: Marks) -> None:
    spec = with_marks(SPECS[kind](), marks)
    tokenizer = build_tokenizer(spec)
    prompt = encode_infill("the day\n  ", " and a", tokenizer)
    before, after, middle, *ends = range(len(spec.tokens) - 3 - len(marks.ends), len(spec.tokens))
    first, second = prompt.token_ids.index(before), prompt.token_ids.index(after)
    assert prompt.token_ids[:first] == ([tokenizer.bos_id] if tokenizer.add_bos else [])
    assert inner(tokenizer, prompt.token_ids[first + 1 : second]) == "the day\n  "
    assert inner(tokenizer, prompt.token_ids[second + 1 : -1]) == " and a"
    assert prompt.token_ids[-1] == middle and prompt.stop_ids == tuple(ends)


@pytest.mark.parametrize("kind", SPECS)
def test_a_mark_in_a_text_stays_text(kind: str) -> None:
    spec = with_marks(SPECS[kind](), MARKS[0])
    ids = encode_infill("▁<PRE>", "<MID>", build_tokenizer(spec)).token_ids
    assert ids.count(len(spec.tokens) - 4) == 1


def test_a_model_without_the_tokens_is_refused() -> None:
    with pytest.raises(UsageError, match="the model has no infill tokens"):
        encode_infill("a", "b", build_tokenizer(small_spm()))
