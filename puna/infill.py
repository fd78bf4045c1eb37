"""Infill: the ids of a prompt that asks for the text between two texts (Bavarian et al. 2022, arXiv 2207.14255).

Code models know three tokens for it: before the prefix, before the suffix, and before the middle, which the model then writes.
CodeLlama and later models differ only in the names of the tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from puna.errors import UsageError
from puna.tokenizers.base import Tokenizer


class Marks(NamedTuple):
    """The infill tokens of a model family, as its vocabulary spells them."""

    before: str
    after: str
    middle: str
    ends: tuple[str, ...]  # tokens that end the middle, in addition to end of text


MARKS: tuple[Marks, ...] = (
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # CodeLlama
    Marks("<PRE>", "<SUF>", "<MID>", ("<EOT>",)),
    Marks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
    ),  # Qwen2.5-Coder
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<file_sep>",)),  # StarCoder
    Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ()),  # DeepSeek-Coder
)
FOREIGN_LETTER = "☺"  # no word begins with it, so the text after it is encoded as the inside of a text


class InfillPrompt(NamedTuple):
    """Ids to continue, and ids that end the middle."""

    token_ids: list[int]
    stop_ids: tuple[int, ...]


def has_infill(tokenizer: Tokenizer) -> bool:
    """Whether a model's vocabulary has infill tokens."""
    return _marks_of(_ids_of_pieces(tokenizer)) is not None


def _ids_of_pieces(tokenizer: Tokenizer) -> dict[str, int]:
    return {tokenizer.piece(token_id): token_id for token_id in range(tokenizer.vocab_size)}


def _marks_of(ids: Collection[str]) -> Marks | None:
    return next((marks for marks in MARKS if all(mark in ids for mark in (marks.before, marks.after, marks.middle))), None)


def encode_infill(before: str, after: str, tokenizer: Tokenizer, *, limit: int | None = None) -> InfillPrompt:
    """The prompt for the text between `before` and `after`. UsageError for a model without infill tokens.

    The order is prefix, suffix, middle. `limit`: as in `Tokenizer.encode`, for each of the two.
    """
    ids = _ids_of_pieces(tokenizer)
    marks = _marks_of(ids)
    if marks is None:
        raise UsageError(
            "the model has no infill tokens, so it cannot use a suffix",
            hint="Take a code model that was trained for it (CodeLlama, Qwen2.5-Coder), or leave the suffix out.",
        )
    opening = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    row = [*opening, ids[marks.before], *_inner_ids(before, tokenizer, limit)]
    row += [ids[marks.after], *_inner_ids(after, tokenizer, limit), ids[marks.middle]]
    return InfillPrompt(row, tuple(ids[end] for end in marks.ends if end in ids))


def _inner_ids(text: str, tokenizer: Tokenizer, limit: int | None) -> list[int]:
    """Ids of the inside of a text: SentencePiece adds no space before it."""
    lead = tokenizer.encode(FOREIGN_LETTER, bos=False, eos=False) if tokenizer.strips_leading_space() else []
    whole = tokenizer.encode(FOREIGN_LETTER * bool(lead) + text, bos=False, eos=False, limit=limit)
    return whole[len(lead) :]
