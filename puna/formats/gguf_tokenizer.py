"""The tokenizer's keys of a GGUF file -> TokenizerSpec. Absent keys have llama.cpp's defaults.

puna's own files use keys `puna.tokenizer.` for what GGUF has no key for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from puna.errors import UnsupportedModelError
from puna.formats.added_tokens import padded
from puna.formats.base import TokenizerSpec
from puna.formats.gguf_values import Values
from puna.formats.json_file import parse_json
from puna.formats.library_parts import checked_pipeline
from puna.formats.mapped import shown
from puna.formats.notices import Doubt
from puna.formats.sentencepiece_model import checked_charsmap
from puna.formats.token_types import USER_DEFINED
from puna.formats.vocabulary_size import fits, without_excess

# GGUF's tokenizer.ggml.model -> our kind.
KINDS = {"gpt2": "bpe", "llama": "spm", "t5": "unigram"}
SPACED = ("spm", "unigram")
NO_TOKENIZER = (None, "none", "no_vocab")

# Pre-tokenizers of byte-level BPE whose models need BOS although their file does not say so.
LLAMA3_SPLITTERS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano")
BOS_BY_DEFAULT = {*LLAMA3_SPLITTERS, "tekken", "chameleon"}

# Our field -> key; and the default of a SentencePiece model.
SPECIAL_IDS = {
    "bos_id": "tokenizer.ggml.bos_token_id",
    "eos_id": "tokenizer.ggml.eos_token_id",
    "eot_id": "tokenizer.ggml.eot_token_id",
    "unk_id": "tokenizer.ggml.unknown_token_id",
    "pad_id": "tokenizer.ggml.padding_token_id",
}
END_OF_MESSAGE = "tokenizer.ggml.eom_token_id"
DEFAULT_IDS = {
    "bpe": {},
    "spm": {"bos_id": 1, "eos_id": 2, "unk_id": 0},
    "unigram": {"eos_id": 1, "unk_id": 2, "pad_id": 0},
}

HARMLESS_IDS = ("pad_id", "unk_id")  # puna never uses the former, and few texts need the latter

BYTE_TYPE, LAST_TYPE = 6, 6
BYTE_TOKEN = re.compile(rb"<0x[0-9A-Fa-f]{2}>")

TOKENS, SCORES, TYPES, MERGES, PRE = (f"tokenizer.ggml.{name}" for name in ("tokens", "scores", "token_type", "merges", "pre"))


def read_tokenizer(values: Values, vocab_size: int) -> TokenizerSpec | None:
    """The tokenizer of a file, or None. `vocab_size`: rows of the embedding."""
    model = values.text("tokenizer.ggml.model")
    if model in NO_TOKENIZER:
        return None
    if model not in KINDS:
        raise UnsupportedModelError(f"{values.file}: the tokenizer is {shown(model)}; puna knows: {', '.join(KINDS)}")
    kind = KINDS[model]
    tokens = _tokens(values)
    types = _types(values, kind, tokens)
    pre = _pre(values, kind)
    special = {name: _special_id(values, kind, name, min(vocab_size, len(tokens))) for name in SPECIAL_IDS}
    pipeline, added_flags = _pipeline(values, vocab_size)
    spec = TokenizerSpec(
        kind=kind,
        tokens=tokens,
        scores=_scores(values, kind, len(tokens)),
        token_types=types,
        merges=_merges(values, kind),
        pre=pre,
        add_bos=_adds(values, "bos", kind == "spm" or pre in BOS_BY_DEFAULT, special["bos_id"]),
        add_eos=_adds(values, "eos", kind == "unigram", special["eos_id"]),
        add_space_prefix=values.flag("tokenizer.ggml.add_space_prefix", kind == "spm"),
        source=str(values.file),
        charsmap=_charsmap(values),
        remove_extra_spaces=values.flag("tokenizer.ggml.remove_extra_whitespaces", False),
        normalizer=values.text("puna.tokenizer.normalizer") or "",
        prefix_first_only=values.flag("puna.tokenizer.prefix_first_only", False),
        prefix_unless_space=values.flag("puna.tokenizer.prefix_unless_space", False),
        whole_words=_whole_words(values),
        stop_ids=_stop_ids(values, min(vocab_size, len(tokens))),
        found_first=_found_first(values, kind, types, min(vocab_size, len(tokens))),
        pipeline=pipeline,
        added_flags=added_flags,
        bos_id=special["bos_id"],
        eos_id=special["eos_id"],
        eot_id=special["eot_id"],
        unk_id=special["unk_id"],
        pad_id=special["pad_id"],
    )
    return _sized(values, spec, vocab_size)


def _pre(values: Values, kind: str) -> str:
    """The name of the splitter; files from before May 2024 have none and get llama.cpp's guess."""
    pre = values.text(PRE)
    if not pre and kind == "bpe":
        values.notices.append(Doubt(
            f"{PRE} is missing (a file from before May 2024): puna splits text as llama.cpp guesses, 'default', perhaps not as "
            "in training; use a newer conversion"
        ))  # fmt: skip
    return pre or "default"


def _adds(values: Values, name: str, default: bool, token_id: int | None) -> bool:
    """Whether a text begins with BOS, or ends with EOS."""
    key = f"tokenizer.ggml.add_{name}_token"
    adds = values.flag(key, default)
    if adds and token_id is None:
        values.notices.append(Doubt(f"{key} is true, but the file names no {name.upper()} token; puna adds none"))
    return adds and token_id is not None


def _tokens(values: Values) -> list[bytes]:
    tokens: list[bytes] | None = values.array(TOKENS, "string")
    if tokens is None:
        values.fail(TOKENS, "is missing")
    return tokens


def _sized(values: Values, spec: TokenizerSpec, vocab_size: int) -> TokenizerSpec:
    """`spec` with a token for each row of the embedding, if only spare rows or spare tokens differ."""
    shorter, dropped = without_excess(spec, vocab_size)
    values.notices.extend(dropped)
    if not fits(shorter, vocab_size):
        problem = f"holds {len(spec.tokens)} tokens, but the embedding has {vocab_size} rows"
        values.fail(TOKENS, problem)
    if len(shorter.tokens) < vocab_size:
        values.notices.append(
            f"the embedding has {vocab_size} rows, the vocabulary {len(spec.tokens)} tokens: the rows after them are never used"
        )
    return padded(shorter, vocab_size)


def _scores(values: Values, kind: str, num_tokens: int) -> npt.NDArray[np.float32] | None:
    scores: npt.NDArray[np.float32] | None = _for_each_token(values, SCORES, "float32", num_tokens)
    if scores is None and kind in SPACED:
        values.fail(SCORES, "is missing; a SentencePiece tokenizer needs it")
    if scores is not None and not np.isfinite(scores).all():
        values.fail(SCORES, "holds a number that is not finite")
    return scores


def _for_each_token(values: Values, key: str, kind: str, num_tokens: int) -> npt.NDArray[Any] | None:
    """An array with an entry for each token. As in llama.cpp it may be longer; the rest is not used."""
    array: npt.NDArray[Any] | None = values.array(key, kind)
    if array is not None and len(array) < num_tokens:
        values.fail(key, f"holds {len(array)} elements; the vocabulary has {num_tokens}")
    if array is not None and len(array) > num_tokens:
        values.notices.append(f"{key} holds {len(array)} elements for {num_tokens} tokens; puna ignores the rest")
    return None if array is None else array[:num_tokens]


def _types(values: Values, kind: str, tokens: Sequence[bytes]) -> npt.NDArray[np.int32] | None:
    types: npt.NDArray[np.int32] | None = _for_each_token(values, TYPES, "int32", len(tokens))
    if types is None:
        return None
    if types.min() < 0 or types.max() > LAST_TYPE:
        values.fail(TYPES, f"holds {types.min()} to {types.max()}; 0 to {LAST_TYPE} are known")
    for token_id in np.flatnonzero(types == BYTE_TYPE).tolist() if kind in SPACED else []:
        if not BYTE_TOKEN.fullmatch(tokens[token_id]):
            values.fail(TOKENS, f"token {token_id} has the type byte, but its text is {shown(tokens[token_id])}, not <0xNN>")
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


def _found_first(values: Values, kind: str, types: npt.NDArray[np.int32] | None, vocab_size: int) -> tuple[int, ...]:
    """The user-defined tokens that match before a space is added: in llama.cpp all of them."""
    kept = values.array("puna.tokenizer.found_first", "int32")
    if kind == "bpe" or kept is not None:
        return () if kept is None else tuple(i for i in kept.tolist() if 0 <= i < vocab_size)
    return () if types is None else tuple(np.flatnonzero(types[:vocab_size] == USER_DEFINED).tolist())


def _pipeline(values: Values, vocab_size: int) -> tuple[str, tuple[tuple[int, str], ...]]:
    """The parts of a tokenizer.json that puna kept because the other keys do not say them."""
    key = "puna.tokenizer.pipeline"
    text = values.text(key)
    return ("", ()) if text is None else checked_pipeline(parse_json(values.file, text.encode("utf-8", "replace")), vocab_size)


def _stop_ids(values: Values, vocab_size: int) -> tuple[int, ...]:
    """The ids of puna's own key, and the end of a message (a tool call), at which llama.cpp ends an answer too."""
    message = values.integer(END_OF_MESSAGE)
    own = () if message is None or not 0 <= message < vocab_size else (message,)
    key = "puna.tokenizer.stop_ids"
    ids = values.array(key, "int32")
    if ids is None:
        return own
    known = [token_id for token_id in ids.tolist() if 0 <= token_id < vocab_size]
    if len(known) < len(ids):
        values.notices.append(Doubt(f"{key} holds {shown(ids.tolist())}; the vocabulary has {vocab_size} tokens"))
    return tuple(dict.fromkeys((*own, *known)))


def _special_id(values: Values, kind: str, name: str, vocab_size: int) -> int | None:
    """The id of a role; if the vocabulary does not have it, the default if there is one, as in llama.cpp."""
    key = SPECIAL_IDS[name]
    token_id = values.integer(key)
    if token_id is not None and 0 <= token_id < vocab_size:
        return token_id
    default = DEFAULT_IDS[kind].get(name)
    usual = default if default is not None and default < vocab_size else None
    if token_id is not None:
        instead = "it is not used" if usual is None else f"puna uses {usual}, as llama.cpp does"
        told = f"{key} is {token_id}, but the vocabulary has {vocab_size} tokens: {instead}"
        values.notices.append(told if name in HARMLESS_IDS else Doubt(told))
    return usual
