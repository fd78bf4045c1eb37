"""Small vocabularies that are always present, and readers of the real ones where a machine has them."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from puna.formats.base import Checkpoint, TokenizerSpec
from puna.formats.byte_letters import byte_alphabet
from puna.formats.token_types import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

CORPUS = "the llama on the high plain sees the other llamas; the air is thin, isn't it? été, 2024: 日本 日本 🦙🦙 "
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LETTERS = byte_alphabet()


def small_bpe(**changes: object) -> TokenizerSpec:
    """Controls 0..2, one user-defined token, the 256 letters, and 60 merges learnt from CORPUS."""
    words = [[LETTERS[b] for b in word.encode()] for word in CORPUS.replace(" ", "\n ").split("\n")]
    merges: list[tuple[str, str]] = []
    for _ in range(60):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = [joined(word, best) for word in words]
    tokens = [*CONTROLS, "<think>", *LETTERS, *("".join(pair) for pair in merges)]
    types = [CONTROL] * 3 + [USER_DEFINED] + [NORMAL] * (len(tokens) - 4)
    spec = TokenizerSpec(
        "bpe",
        [t.encode() for t in tokens],
        token_types=np.array(types, np.int32),
        merges=[" ".join(pair).encode() for pair in merges],
        pre="smollm",
        bos_id=1,
        eos_id=2,
        source="small.gguf",
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    """`word` with each occurrence of `pair`, from the left, made one."""
    out: list[str] = []
    for letter in word:
        if out and (out[-1], letter) == pair:
            out[-1] += letter
        else:
            out.append(letter)
    return out


def small_spm(**changes: object) -> TokenizerSpec:
    """<unk>, <s>, </s>, the 256 bytes, then pieces of which the earlier have the higher scores, as in Llama 2."""
    pieces = [
        "\u2581",
        "e",
        "t",
        "h",
        "a",
        "l",
        "m",
        "th",
        "\u2581th",
        "la",
        "\u2581the",
        "ma",
        "\u2581l",
        "lama",
        "\u2581llama",
        "日",
    ]
    spec = TokenizerSpec(
        "spm",
        [t.encode() for t in ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]],
        scores=np.array([0.0] * 259 + [-float(i) for i in range(len(pieces))], np.float32),
        token_types=np.array([UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * len(pieces), np.int32),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        add_bos=True,
        source="small.model",
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def llama2c_spec(path: Path, vocab_size: int) -> TokenizerSpec:
    """A tokenizer.bin of llama2.c in GGUF's convention."""
    data, at = path.read_bytes(), 4
    tokens, scores = [], []
    for _ in range(vocab_size):
        score, length = struct.unpack_from("<fi", data, at)
        tokens.append(data[at + 8 : at + 8 + length].replace(b" ", "\u2581".encode()))
        scores.append(score)
        at += 8 + length
    tokens[1:3] = [b"<s>", b"</s>"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (vocab_size - 259)
    return TokenizerSpec(
        "spm",
        tokens,
        scores=np.array(scores, np.float32),
        token_types=np.array(types, np.int32),
        bos_id=1,
        eos_id=2,
        unk_id=0,
        add_bos=True,
        source=str(path),
    )


def default_checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    """The default model, where its file is in the cache."""
    try:
        path = request.getfixturevalue("default_model")
    except pytest.FixtureLookupError:
        pytest.skip("nothing here knows where the default model is")
    from puna.formats.gguf import open_gguf

    return open_gguf(path)


def default_spec(request: pytest.FixtureRequest) -> TokenizerSpec:
    spec = default_checkpoint(request).tokenizer
    assert spec is not None
    return spec
