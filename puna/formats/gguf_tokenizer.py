"""The tokenizer's keys of a GGUF file -> TokenizerSpec. Defaults of absent keys are llama.cpp's.

The keys `puna.tokenizer.` are those of files that puna wrote: what GGUF has no key for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.gguf_values import Values
from puna.formats.json_file import parse_json
from puna.formats.library_parts import checked_pipeline
from puna.formats.mapped import shown
from puna.formats.sentencepiece_model import checked_charsmap
from puna.formats.token_types import USER_DEFINED

# GGUF's tokenizer.ggml.model -> our kind.
KINDS = {"gpt2": "bpe", "llama": "spm", "t5": "unigram"}
SPACED = ("spm", "unigram")
NO_TOKENIZER = (None, "none", "no_vocab")

# Pre-tokenizers of byte-level BPE whose models expect BOS although their file does not say so.
LLAMA3_SPLITTERS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano")
BOS_BY_DEFAULT = {*LLAMA3_SPLITTERS, "tekken", "chameleon"}

# Our field -> key; and what a SentencePiece model has where the key is absent.
SPECIAL_IDS = {
    "bos_id": "tokenizer.ggml.bos_token_id",
    "eos_id": "tokenizer.ggml.eos_token_id",
    "eot_id": "tokenizer.ggml.eot_token_id",
    "unk_id": "tokenizer.ggml.unknown_token_id",
    "pad_id": "tokenizer.ggml.padding_token_id",
}
DEFAULT_IDS = {
    "bpe": {},
    "spm": {"bos_id": 1, "eos_id": 2, "unk_id": 0},
    "unigram": {"eos_id": 1, "unk_id": 2, "pad_id": 0},
}

BYTE_TYPE, LAST_TYPE = 6, 6
BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")

TOKENS, SCORES, TYPES, MERGES = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges"))


def read_tokenizer(values: Values, vocab_size: int) -> TokenizerSpec | None:
    """The tokenizer of a file; None where it has none. `vocab_size`: rows of the embedding."""
    model = values.text("tokenizer.ggml.model")
    if model in NO_TOKENIZER:
        return None
    if model not in KINDS:
        raise UnsupportedModelError(f"{values.file}: the tokenizer is {shown(model)}; puna knows: {', '.join(KINDS)}")
    kind = KINDS[model]
    tokens = _tokens(values, vocab_size)
    pre = values.text("tokenizer.ggml.pre") or "default"
    special = {name: _special_id(values, kind, name, vocab_size) for name in SPECIAL_IDS}
    pipeline, added_flags = _pipeline(values, vocab_size)
    return TokenizerSpec(
        kind=kind,
        tokens=tokens,
        scores=_scores(values, kind, vocab_size),
        token_types=_types(values, kind, tokens),
        merges=_merges(values, kind),
        pre=pre,
        add_bos=values.flag("tokenizer.ggml.add_bos_token", kind == "spm" or pre in BOS_BY_DEFAULT),
        add_eos=values.flag("tokenizer.ggml.add_eos_token", kind == "unigram"),
        add_space_prefix=values.flag("tokenizer.ggml.add_space_prefix", kind == "spm"),
        source=str(values.file),
        charsmap=_charsmap(values),
        remove_extra_spaces=values.flag("tokenizer.ggml.remove_extra_whitespaces", False),
        normalizer=values.text("puna.tokenizer.normalizer") or "",
        prefix_first_only=values.flag("puna.tokenizer.prefix_first_only", False),
        prefix_unless_space=values.flag("puna.tokenizer.prefix_unless_space", False),
        whole_words=_whole_words(values),
        stop_ids=_stop_ids(values, vocab_size),
        found_first=_found_first(values, kind, vocab_size),
        pipeline=pipeline,
        added_flags=added_flags,
        bos_id=special["bos_id"],
        eos_id=special["eos_id"],
        eot_id=special["eot_id"],
        unk_id=special["unk_id"],
        pad_id=special["pad_id"],
    )


def _tokens(values: Values, vocab_size: int) -> list[bytes]:
    tokens: list[bytes] | None = values.array(TOKENS, "string")
    if tokens is None:
        values.fail(TOKENS, "is missing")
    if len(tokens) != vocab_size:
        values.fail(TOKENS, f"holds {len(tokens)} tokens, but the embedding has {vocab_size} rows")
    return tokens


def _scores(values: Values, kind: str, vocab_size: int) -> npt.NDArray[np.float32] | None:
    scores: npt.NDArray[np.float32] | None = values.array(SCORES, "float32", vocab_size)
    if scores is None and kind in SPACED:
        values.fail(SCORES, "is missing; a SentencePiece tokenizer needs it")
    if scores is not None and not np.isfinite(scores).all():
        values.fail(SCORES, "holds a number that is not finite")
    return scores


def _types(values: Values, kind: str, tokens: Sequence[bytes]) -> npt.NDArray[np.int32] | None:
    types: npt.NDArray[np.int32] | None = values.array(TYPES, "int32", len(tokens))
    if types is None:
        return None
    if types.min() < 0 or types.max() > LAST_TYPE:
        values.fail(TYPES, f"holds {types.min()} to {types.max()}; 0 to {LAST_TYPE} are known")
    for token_id in np.flatnonzero(types == BYTE_TYPE).tolist() if kind in SPACED else []:
        if not BYTE_TOKEN.fullmatch(tokens[token_id]):
            values.fail(TOKENS, f"token {token_id} is a byte by its type, but its text is {shown(tokens[token_id])}, not <0xNN>")
    return types


def _merges(values: Values, kind: str) -> list[bytes]:
    merges: list[bytes] | None = values.array(MERGES, "string")
    if merges is None and kind == "bpe":
        values.fail(MERGES, "is missing; a byte-level BPE tokenizer needs it")
    return merges or []


def _charsmap(values: Values) -> bytes:
    charsmap = values.array("tokenizer.ggml.precompiled_charsmap", "uint8")
    return b"" if charsmap is None else checked_charsmap(values.file, charsmap.tobytes())


def _whole_words(values: Values) -> bool | None:
    key = "puna.tokenizer.whole_words"
    return None if values.scalar(key) is None else values.flag(key, False)


def _found_first(values: Values, kind: str, vocab_size: int) -> tuple[int, ...]:
    """llama.cpp looks for every user-defined token before it adds a space."""
    kept = values.array("puna.tokenizer.found_first", "int32")
    if kind == "bpe" or kept is not None:
        return () if kept is None else tuple(i for i in kept.tolist() if 0 <= i < vocab_size)
    types = values.array(TYPES, "int32", vocab_size)
    return () if types is None else tuple(np.flatnonzero(types == USER_DEFINED).tolist())


def _pipeline(values: Values, vocab_size: int) -> tuple[str, tuple[tuple[int, str], ...]]:
    """What puna kept of a tokenizer.json that the other keys do not say."""
    key = "puna.tokenizer.pipeline"
    text = values.text(key)
    return ("", ()) if text is None else checked_pipeline(parse_json(values.file, text.encode("utf-8", "replace")), vocab_size)


def _stop_ids(values: Values, vocab_size: int) -> tuple[int, ...]:
    key = "puna.tokenizer.stop_ids"
    ids = values.array(key, "int32")
    if ids is None:
        return ()
    if len(ids) and not 0 <= ids.min() <= ids.max() < vocab_size:
        values.fail(key, f"holds {ids.min()} to {ids.max()}; the vocabulary has {vocab_size} tokens")
    return tuple(ids.tolist())


def _special_id(values: Values, kind: str, name: str, vocab_size: int) -> int | None:
    key = SPECIAL_IDS[name]
    token_id = values.integer(key)
    if token_id is None:
        default = DEFAULT_IDS[kind].get(name)
        return default if default is not None and default < vocab_size else None
    if not 0 <= token_id < vocab_size:
        values.fail(key, f"is {token_id}; the vocabulary has {vocab_size} tokens")
    return token_id
