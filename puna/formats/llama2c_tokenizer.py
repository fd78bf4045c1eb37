"""llama2.c's `tokenizer.bin`: the longest text's length, then (score, length, text) of each token. It has no magic."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import Cursor, file_size, map_file
from puna.formats.vocabulary import MAX_TOKEN_BYTES, MAX_TOKENS

UINT32 = struct.Struct("<I")
PIECE = struct.Struct("<fi")  # score, bytes of the text
MAX_TOKENIZER_BYTES = 32 << 20  # a vocabulary of 128 thousand takes 2 MB
NORMAL, UNKNOWN, CONTROL, BYTE_TYPE = 1, 2, 3, 6
UNK_ID, BOS_ID, EOS_ID, FIRST_BYTE_ID = 0, 1, 2, 3
PADDED_NAMES = {b"\n<s>\n": b"<s>", b"\n</s>\n": b"</s>"}  # the exporter's spelling of the two control tokens


def matches_tokenizer(head: bytes) -> bool:
    """Whether a file that begins with `head` may be a tokenizer.bin, which has no magic: its first token is possible."""
    if len(head) < UINT32.size + PIECE.size:
        return False
    (longest,), (score, length) = UINT32.unpack_from(head), PIECE.unpack_from(head, UINT32.size)
    return bool(0 < longest <= MAX_TOKEN_BYTES and 0 <= length <= longest and math.isfinite(score))


def read_tokenizer(path: Path, vocab_size: int | None = None) -> TokenizerSpec:
    """A `tokenizer.bin` in SentencePiece's spelling: a space is "▁", control tokens are bare."""
    if file_size(path) > MAX_TOKENIZER_BYTES:
        raise ModelFormatError(
            path, "file", None, f"is {file_size(path)} bytes long; a tokenizer has at most {MAX_TOKENIZER_BYTES}"
        )
    cursor = Cursor(map_file(path), path)
    tokens, scores = _read_pieces(cursor)
    if vocab_size is not None and len(tokens) != vocab_size:
        raise ModelFormatError(
            path,
            "tokens",
            None,
            f"there are {len(tokens)}, but the model's vocabulary has {vocab_size}",
            hint="This tokenizer belongs to another model; give the right one with --tokenizer.",
        )
    return _spec(tokens, scores, str(path))


def _read_pieces(cursor: Cursor) -> tuple[list[bytes], npt.NDArray[np.float32]]:
    """Read every (score, length, text) up to the file's end. A tight loop, as in `Cursor.strings`."""
    longest: int = cursor.number("max_token_length", UINT32)
    longest = min(longest, MAX_TOKEN_BYTES)
    data, at, end, unpack = cursor.data, cursor.position, cursor.end, PIECE.unpack_from
    tokens: list[bytes] = []
    scores: list[float] = []
    while at < end:
        start = at + PIECE.size
        score, length = unpack(data, at) if start <= end else (0.0, -1)
        if not (0 <= length <= min(longest, end - start) and math.isfinite(score)):
            _refuse_piece(cursor, len(tokens), at, longest)
        if len(tokens) == MAX_TOKENS:
            cursor.fail("tokens", f"are more than {MAX_TOKENS}", at)
        at = start + length
        tokens.append(data[start:at])
        scores.append(score)
    return tokens, np.array(scores, np.float32)


def _refuse_piece(cursor: Cursor, token_id: int, at: int, longest: int) -> NoReturn:
    cursor.position = at
    field = f"token {token_id}"
    cursor.require(field, PIECE.size)
    score, length = PIECE.unpack_from(cursor.data, at)
    most = min(longest, cursor.remaining - PIECE.size)
    cursor.damaged(field, f"has the score {score} and {length} bytes; a finite score and 0 to {most} bytes are possible")


def _spec(tokens: list[bytes], scores: npt.NDArray[np.float32], source: str) -> TokenizerSpec:
    types = np.full(len(tokens), NORMAL, np.int32)
    types[UNK_ID : UNK_ID + 1] = UNKNOWN
    types[BOS_ID : EOS_ID + 1] = CONTROL
    for byte in range(min(256, max(0, len(tokens) - FIRST_BYTE_ID))):
        if tokens[FIRST_BYTE_ID + byte].upper() == b"<0X%02X>" % byte:
            types[FIRST_BYTE_ID + byte] = BYTE_TYPE
    return TokenizerSpec(
        kind="spm",
        tokens=[PADDED_NAMES.get(token, token.replace(b" ", "▁".encode())) for token in tokens],
        scores=scores,
        token_types=types,
        bos_id=BOS_ID,
        eos_id=EOS_ID,
        unk_id=UNK_ID,
        add_bos=True,
        source=source,
    )
