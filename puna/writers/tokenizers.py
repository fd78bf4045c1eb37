"""TokenizerSpec -> each format's files and keys for its tokenizer.

Each function raises UnsupportedModelError, and writes nothing, if its form cannot hold the tokenizer.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from puna.errors import UnsupportedModelError
from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import BYTES
from puna.formats.library_parts import as_text
from puna.formats.llama2c_tokenizer import BOS_ID, EOS_ID, PADDED_NAMES, PIECE, UINT32, UNK_ID
from puna.formats.mapped import shown
from puna.formats.piece_order import scores_of
from puna.formats.sentencepiece_model import sentencepiece_model
from puna.formats.tiktoken_file import NUM_SPECIAL, REQUIRED_SPECIAL, merges_of_ranks
from puna.formats.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from puna.formats.vocabulary import piece_texts, piece_types
from puna.writers.tokenizer_json import added_tokens, changes_text, found_behind_space, tokenizer_json

SPACE = "\u2581".encode()


SENTENCEPIECE = "SentencePiece's tokenizer.model"


def write_sentencepiece(spec: TokenizerSpec, path: Path) -> None:
    """SentencePiece's `tokenizer.model`."""
    _require_kind(spec, ("spm", "unigram"), SENTENCEPIECE, "A folder with tokenizer.json can hold it.")
    _require_fields(spec, SENTENCEPIECE)
    if spec.prefix_unless_space:
        _refuse(spec, SENTENCEPIECE, "it adds no space to a text that begins with one", "gguf and tokenizer.json can hold it.")
    path.write_bytes(sentencepiece_model(spec, _scores(spec)))


def write_tokenizer_json(spec: TokenizerSpec, path: Path) -> None:
    """`tokenizer.json` of Hugging Face's `tokenizers`."""
    path.write_text(json.dumps(tokenizer_json(spec), ensure_ascii=False), "utf-8")


# ---- tokenizer_config.json ------------------------------------------------------------------------------------------

CONFIG_TOKENS = {"bos_token": "bos_id", "eos_token": "eos_id", "unk_token": "unk_id", "pad_token": "pad_id"}


def write_tokenizer_config(spec: TokenizerSpec, chat_template: str | None, path: Path) -> None:
    """`tokenizer_config.json` of `transformers`, for a `tokenizer.json` beside it, or a `tokenizer.model` alone."""
    ids = {key: getattr(spec, name) for key, name in CONFIG_TOKENS.items()}
    texts = piece_texts(spec)
    needs_model = changes_text(spec) or found_behind_space(spec) is not None
    config: dict[str, Any] = {key: texts[token_id] for key, token_id in ids.items() if token_id is not None}
    config |= {
        "tokenizer_class": "LlamaTokenizer" if needs_model else "PreTrainedTokenizerFast",
        "add_bos_token": spec.add_bos,
        "add_eos_token": spec.add_eos,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(token.pop("id")): token for token in added_tokens(spec)},
    }
    if spec.kind == "spm":
        config |= {"legacy": not spec.prefix_first_only, "add_prefix_space": spec.add_space_prefix}
    if chat_template is not None:
        config["chat_template"] = chat_template
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", "utf-8")


# ---- tiktoken -------------------------------------------------------------------------------------------------------


def write_tiktoken(spec: TokenizerSpec, path: Path) -> None:
    """Llama 3's `tokenizer.model`. It does not hold the special tokens: they must be Llama 3's, except reserved ones."""
    _require_kind(spec, ("bpe",), TIKTOKEN, "A folder with tokenizer.json can hold it.")
    _require_fields(spec, TIKTOKEN)
    count = len(spec.tokens) - NUM_SPECIAL
    tokens = piece_texts(spec)
    types = _types(spec)
    wrong = [name for name, index in REQUIRED_SPECIAL.items() if tokens[count + index : count + index + 1] != [name]]
    if count < 256 or wrong or set(types[:count]) != {NORMAL} or not set(types[count:]) <= {CONTROL, USER_DEFINED}:
        _refuse(spec, TIKTOKEN, f"its last {NUM_SPECIAL} tokens are not the special tokens of Llama 3")
    if not _follow_ranks(spec.merges, tokens[:count]):
        _refuse(spec, TIKTOKEN, "its merges are not in the order of its tokens")
    spelled = (base64.b64encode(_bytes_of(token)) for token in tokens[:count])
    path.write_bytes(b"".join(b"%s %d\n" % (token, rank) for rank, token in enumerate(spelled)))


TIKTOKEN = "Llama 3's tokenizer.model"


def _follow_ranks(merges: Sequence[bytes], tokens: list[str]) -> bool:
    """Whether merging by these pairs is merging by rank. There may be more pairs than needed (the tokenizer.json of Llama 3 has
    every pair that makes a token), but not in another order.
    """
    ranks = {token.encode(): rank for rank, token in enumerate(tokens)}
    made = [ranks.get(merge.replace(b" ", b""), -1) for merge in merges]
    return made == sorted(made) and made[:1] != [-1] and set(merges_of_ranks(tokens)) <= set(merges)


def _bytes_of(token: str) -> bytes:
    return token.translate(BYTES).encode("latin-1")


# ---- llama2.c -------------------------------------------------------------------------------------------------------

LLAMA2C = "llama2.c's tokenizer.bin"


def write_llama2c_tokenizer(spec: TokenizerSpec, path: Path) -> None:
    """llama2.c's `tokenizer.bin`: <unk>, <s>, </s>, the 256 bytes, then text only."""
    _require_kind(spec, ("spm",), LLAMA2C, "llama2.c can hold only tokenizers like Llama 2's.")
    _require_fields(spec, LLAMA2C)
    expected = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256]
    types = _types(spec)
    if (spec.unk_id, spec.bos_id, spec.eos_id) != (UNK_ID, BOS_ID, EOS_ID) or types[: len(expected)] != expected:
        _refuse(spec, LLAMA2C, "it does not begin with an unknown token, BOS, EOS and the 256 bytes")
    if other := next((i for i, kind in enumerate(types[len(expected) :], len(expected)) if kind not in (NORMAL, UNUSED)), None):
        _refuse(spec, LLAMA2C, f"token {other}, {shown(piece_texts(spec)[other])}, is not plain text")
    other_spaces = spec.remove_extra_spaces or spec.prefix_unless_space or not spec.add_space_prefix
    if spec.charsmap or other_spaces or not spec.add_bos:
        _refuse(spec, LLAMA2C, "it treats spaces, characters or BOS in another way")
    padded = {name: written for written, name in PADDED_NAMES.items()}
    texts = [padded.get(token, token.replace(SPACE, b" ")) for token in spec.tokens]
    entries = (PIECE.pack(score, len(text)) + text for score, text in zip(scores_of(spec).tolist(), texts))
    path.write_bytes(UINT32.pack(max(map(len, texts))) + b"".join(entries))


# ---- GGUF -----------------------------------------------------------------------------------------------------------

GGUF_MODELS = {"bpe": "gpt2", "spm": "llama", "unigram": "t5"}
GGUF_IDS = {"bos": "bos_id", "eos": "eos_id", "eot": "eot_id", "unknown": "unk_id", "padding": "pad_id"}


def gguf_tokenizer_metadata(spec: TokenizerSpec) -> dict[str, object]:
    """The keys of a GGUF file about a tokenizer: text, true or false, ids as int, arrays of NumPy's type or lists of bytes.

    The keys `puna.tokenizer.` hold what GGUF has no key for; other programs ignore them.
    """
    if spec.only_json:
        _refuse(spec, "GGUF", spec.only_json, "Convert to safetensors, whose tokenizer.json can hold it.")
    keys: dict[str, object] = {"model": GGUF_MODELS[spec.kind], "tokens": list(spec.tokens)}
    keys["token_type"] = np.array(_types(spec), np.int32)
    if spec.kind in ("spm", "unigram"):
        keys |= {"scores": np.array(_scores(spec), np.float32), "add_space_prefix": spec.add_space_prefix}
    else:
        keys |= {"pre": spec.pre, "merges": list(spec.merges)}
    ids = {f"{key}_token_id": getattr(spec, name) for key, name in GGUF_IDS.items()}
    keys |= {key: token_id for key, token_id in ids.items() if token_id is not None}
    keys |= {"add_bos_token": spec.add_bos, "add_eos_token": spec.add_eos}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()} | _more_gguf_keys(spec)


def _more_gguf_keys(spec: TokenizerSpec) -> dict[str, object]:
    """Keys that only some tokenizers need."""
    keys: dict[str, object] = {}
    if spec.charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(spec.charsmap, np.uint8)
    if spec.remove_extra_spaces:
        keys["tokenizer.ggml.remove_extra_whitespaces"] = True
    if spec.normalizer:
        keys["puna.tokenizer.normalizer"] = spec.normalizer
    if spec.prefix_first_only:
        keys["puna.tokenizer.prefix_first_only"] = True
    if spec.prefix_unless_space:
        keys["puna.tokenizer.prefix_unless_space"] = True
    if spec.whole_words is not None:
        keys["puna.tokenizer.whole_words"] = spec.whole_words
    user_defined = [i for i, kind in enumerate(piece_types(spec)) if kind == USER_DEFINED]
    if spec.kind != "bpe" and set(user_defined) - set(spec.found_first):  # other programs look for all of them first
        keys["puna.tokenizer.found_first"] = np.array(spec.found_first, np.int32)
    if spec.pipeline:
        keys["puna.tokenizer.pipeline"] = as_text(json.loads(spec.pipeline) | {"added_flags": spec.added_flags})
        if spec.kind == "spm":
            keys["tokenizer.ggml.merges"] = list(spec.merges)
    if spec.stop_ids:
        keys["puna.tokenizer.stop_ids"] = np.array(spec.stop_ids, np.int32)
    return keys


# ---- all ------------------------------------------------------------------------------------------------------------


def _types(spec: TokenizerSpec) -> list[int]:
    return [kind or NORMAL for kind in piece_types(spec)]


def _scores(spec: TokenizerSpec) -> list[float]:
    """Log probabilities, or the scores that order the merging."""
    scores = scores_of(spec) if spec.kind == "spm" or spec.scores is None else spec.scores
    values: list[float] = scores.tolist()
    return values


KIND_NAMES = {"bpe": "byte-level BPE", "spm": "SentencePiece BPE", "unigram": "SentencePiece Unigram"}


def _require_kind(spec: TokenizerSpec, kinds: tuple[str, ...], form: str, hint: str) -> None:
    if spec.kind not in kinds:
        _refuse(spec, form, f"it is {KIND_NAMES.get(spec.kind, spec.kind)}", hint)


def _require_fields(spec: TokenizerSpec, form: str) -> None:
    """Refuse a tokenizer that only the parts of a tokenizer.json can express."""
    if spec.pipeline:
        why = spec.only_json or "its added tokens match in another way"
        _refuse(spec, form, why, "A folder with tokenizer.json can hold it.")


def _refuse(spec: TokenizerSpec, form: str, why: str, hint: str = "Convert to gguf, which can hold it.") -> NoReturn:
    raise UnsupportedModelError(f"{spec.source}: {form} cannot hold this tokenizer: {why}", hint=hint)
