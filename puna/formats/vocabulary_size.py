"""A vocabulary and an embedding of different sizes: spare rows, and padding tokens without a row."""

from __future__ import annotations

import re
from dataclasses import replace

from puna.errors import ModelFormatError
from puna.formats.added_tokens import padded
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.notices import ConversionLoss
from puna.formats.token_types import UNUSED
from puna.formats.vocabulary import piece_types

# Tokens that a decoder's text never holds. One that was added without a row of the embedding is common, and never used.
SPARE = re.compile(
    rb"\[(PAD|UNK|CLS|SEP|MASK)\d*\]|<\|?(pad|PAD|padding|mask|sep|cls|unused|reserved|dummy|placeholder|extra)(_?(id|token|special_"
    rb"token))?_?\d*\|?>"
)
WRONG_TOKENIZER = "This tokenizer belongs to another model: use the one that came with the weights."


def fitted(spec: TokenizerSpec, vocab_size: int) -> TokenizerSpec:
    """`spec` with as many tokens as the embedding has rows. An embedding often has a few more, to make a round number; with more
    than an eighth, the weights are another model's.
    """
    if not fits(spec, vocab_size):
        problem = f"there are {len(spec.tokens)} tokens; the model has {vocab_size} (the rows of its embedding)"
        raise ModelFormatError(spec.source, "tokenizer", None, problem, hint=WRONG_TOKENIZER)
    return padded(spec, vocab_size)


def fits(spec: TokenizerSpec, vocab_size: int) -> bool:
    return vocab_size * 7 <= len(spec.tokens) * 8 and len(spec.tokens) <= vocab_size


def without_excess(spec: TokenizerSpec, vocab_size: int) -> tuple[TokenizerSpec, tuple[ConversionLoss, ...]]:
    """`spec` without the spare tokens after the last row of the embedding; unchanged if one of them is not spare."""
    excess = spec.tokens[vocab_size:]
    types = piece_types(spec)[vocab_size:]
    if not excess or not all(kind == UNUSED or SPARE.fullmatch(token) for token, kind in zip(excess, types)):
        return spec, ()
    ids = {name: getattr(spec, name) for name in ("bos_id", "eos_id", "eot_id", "unk_id", "pad_id")}
    shorter = replace(
        spec,
        tokens=spec.tokens[:vocab_size],
        token_types=None if spec.token_types is None else spec.token_types[:vocab_size],
        scores=None if spec.scores is None else spec.scores[:vocab_size],
        added_flags=tuple((token_id, flags) for token_id, flags in spec.added_flags if token_id < vocab_size),
        found_first=tuple(token_id for token_id in spec.found_first if token_id < vocab_size),
        **{name: None if token_id is None or token_id >= vocab_size else token_id for name, token_id in ids.items()},  # type: ignore[arg-type]
    )
    more = f" (and {len(excess) - 1} more)" if len(excess) > 1 else ""
    first = shown(excess[0].decode("utf-8", "replace"))
    return shorter, (
        ConversionLoss(f"{first}{more} has the id {vocab_size}, but the embedding has {vocab_size} rows: puna drops it"),
    )
