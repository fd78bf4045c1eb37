"""Llama 3's `tokenizer.model`: each line is a token in base64 and its rank (tiktoken's format) -> TokenizerSpec.

The file holds no merges: tiktoken joins the two neighbours whose joint token has the lowest rank. A list of pairs gives the same
result, with one pair for each token: the two parts that the merges of lower rank leave of it.
The file does not hold the special tokens; they are those of Meta's package, 256 after the others.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from puna.errors import DamagedFileError, ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.byte_letters import LETTERS
from puna.formats.token_types import CONTROL, NORMAL
from puna.formats.vocabulary import MAX_TOKENS

LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} [0-9]{1,7}\r?(\n|\Z)")
MAX_TOKEN_BYTES = 4096  # the longest of Llama 3 has 128
MAX_SQUARES = 1 << 26  # of the tokens' lengths, in all: finding the merges takes up to 10 ns for each; Llama 3 has 7 million

NUM_SPECIAL = 256
NAMED_SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)
SPECIAL = (*NAMED_SPECIAL, *(f"<|reserved_special_token_{2 + i}|>" for i in range(NUM_SPECIAL - len(NAMED_SPECIAL))))

RESERVED = b"<|reserved_special_token_"
# Positions, among the special tokens, of those that every model of the family has under the same name.
ALWAYS_NAMED = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
REQUIRED_SPECIAL = {name: SPECIAL.index(name) for name in ALWAYS_NAMED}


def same_but_reserved(tokens: Sequence[bytes], others: Sequence[bytes]) -> bool:
    """Whether two vocabularies differ only in reserved special tokens: the file has no names, and Meta's package and its
    tokenizer.json name those differently.
    """
    pairs = zip(tokens, others)
    return len(tokens) == len(others) and all(a == b or RESERVED in (a[: len(RESERVED)], b[: len(RESERVED)]) for a, b in pairs)


def matches(head: bytes) -> bool:
    """Whether a file that begins with `head` holds lines of base64 and a rank."""
    return LINE.match(head) is not None


def read_tiktoken_file(path: Path, data: bytes) -> TokenizerSpec:
    """Llama 3's tokenizer, its special tokens included: kind "bpe", with the splitter "llama-bpe"."""
    tokens = _read_tokens(path, data)
    spelled = [token.decode("latin-1").translate(LETTERS) for token in tokens]
    first = len(tokens)
    ids = {name: first + number for number, name in enumerate(SPECIAL)}
    types = np.full(first + NUM_SPECIAL, NORMAL, np.int32)
    types[first:] = CONTROL
    return TokenizerSpec(
        kind="bpe",
        tokens=[*map(str.encode, spelled), *map(str.encode, SPECIAL)],
        token_types=types,
        merges=merges_of_ranks(spelled),
        pre="llama-bpe",
        bos_id=ids["<|begin_of_text|>"],
        eos_id=ids["<|end_of_text|>"],
        eot_id=ids["<|eot_id|>"],
        pad_id=ids["<|finetune_right_pad_id|>"],
        add_bos=True,
        add_space_prefix=False,
        source=str(path),
    )


def _read_tokens(path: Path, data: bytes) -> list[bytes]:
    """The tokens by rank. Ranks are 0, 1, 2, ... in the order of the lines."""
    lines = data.splitlines()
    if not 256 <= len(lines) <= MAX_TOKENS:
        raise ModelFormatError(path, "lines", None, f"there are {len(lines)}; 256 to {MAX_TOKENS} are possible")
    tokens = []
    for rank, line in enumerate(lines):
        text, _, number = line.partition(b" ")
        try:
            token = base64.b64decode(text, validate=True)
        except binascii.Error:
            token = b""
        if not 1 <= len(token) <= MAX_TOKEN_BYTES or number != b"%d" % rank:
            raise DamagedFileError(
                path, f"line {rank + 1}", None, f"is {line[:60]!r}; a token in base64 and the rank {rank} are needed"
            )
        tokens.append(token)
    if sum(len(token) ** 2 for token in tokens) > MAX_SQUARES:
        raise ModelFormatError(path, "lines", None, "hold more and longer tokens than any tokenizer has")
    if len(set(tokens)) < len(tokens):
        raise ModelFormatError(path, "lines", None, "hold a token twice")
    if missing := {bytes([byte]) for byte in range(256)} - set(tokens):
        raise ModelFormatError(path, "lines", None, f"lack the byte 0x{min(missing).hex().upper()}")
    return tokens


def merges_of_ranks(tokens: list[str]) -> list[bytes]:
    """The pairs that make tokens, in the order of the ranks. A token that no two others make has none."""
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = (_parts(token, rank, ranks) for token, rank in ranks.items() if len(token) > 1)
    return [" ".join(parts).encode() for parts in pairs if len(parts) == 2]


def _parts(token: str, rank: int, ranks: dict[str, int]) -> list[str]:
    """What merging with tokens of lower rank leaves of `token`. The ranks of all pairs are kept: a file has 128 thousand."""
    parts = list(token)
    found = [ranks.get(a + b, rank) for a, b in pairwise(parts)]
    while len(found) > 1 and (lowest := min(found)) < rank:
        at = found.index(lowest)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del found[at]
        if at:
            found[at - 1] = ranks.get(parts[at - 1] + parts[at], rank)
        if at < len(found):
            found[at] = ranks.get(parts[at] + parts[at + 1], rank)
    return parts
