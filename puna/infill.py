"""A gap between two texts -> the ids of a prompt that asks for what stands in it (Bavarian et al. 2022, arXiv 2207.14255).

Code models are trained with three tokens for it: before the beginning, before the end, before the middle, which the model then
writes. Meta's CodeLlama and those that came later differ in the tokens' names only.
"""

from __future__ import annotations

from typing import NamedTuple

from puna.errors import UsageError
from puna.tokenizers.base import Tokenizer


class Marks(NamedTuple):
    """The tokens of a kind of model, as its vocabulary spells them."""

    before: str
    after: str
    middle: str
    ends: tuple[str, ...]  # those that end the middle, beside the end of the text


MARKS: tuple[Marks, ...] = (
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # CodeLlama
    Marks("<PRE>", "<SUF>", "<MID>", ("<EOT>",)),
    Marks(
        "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
    ),  # Qwen2.5-Coder
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<file_sep>",)),  # StarCoder
    Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ()),  # DeepSeek-Coder
)
FOREIGN_LETTER = "☺"  # no word begins with it: what follows it is encoded as inside a text


class InfillPrompt(NamedTuple):
    """Ids to continue, and ids that end the middle."""

    token_ids: list[int]
    stop_ids: tuple[int, ...]


def encode_infill(before: str, after: str, tokenizer: Tokenizer, *, limit: int | None = None) -> InfillPrompt:
    """The prompt for what stands between `before` and `after`. UsageError for a model that knows no such tokens.

    The order is prefix, suffix, middle. `limit`: as of `Tokenizer.encode`, for each of the two.
    """
    ids = {tokenizer.piece(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    marks = next((marks for marks in MARKS if {marks.before, marks.after, marks.middle} <= ids.keys()), None)
    if marks is None:
        raise UsageError(
            "the model knows no tokens for filling a gap, so a suffix has no use",
            hint="Take a code model that was trained for it (CodeLlama, Qwen2.5-Coder), or leave the suffix out.",
        )
    opening = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    row = [*opening, ids[marks.before], *_inner_ids(before, tokenizer, limit)]
    row += [ids[marks.after], *_inner_ids(after, tokenizer, limit), ids[marks.middle]]
    return InfillPrompt(row, tuple(ids[end] for end in marks.ends if end in ids))


def _inner_ids(text: str, tokenizer: Tokenizer, limit: int | None) -> list[int]:
    """Ids of a text that is the inside of another: SentencePiece puts no space of its own before it."""
    lead = tokenizer.encode(FOREIGN_LETTER, bos=False, eos=False) if tokenizer.strips_leading_space() else []
    whole = tokenizer.encode(FOREIGN_LETTER * bool(lead) + text, bos=False, eos=False, limit=limit)
    return whole[len(lead) :]
