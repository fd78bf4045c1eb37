"""The tokens of a TokenizerSpec as text, and their types; both are checked, because a file may hold anything."""

from __future__ import annotations

from puna.errors import ModelFormatError
from puna.formats.base import TokenizerSpec
from puna.formats.mapped import shown
from puna.formats.token_types import MAX_TYPE, NORMAL

MAX_TOKENS = 1 << 19  # the largest real vocabularies have 262,144 (Gemma 3); the maximum takes 4 s
MAX_TOKEN_BYTES = 1 << 16  # the longest real ones are runs of some hundred spaces


def piece_texts(spec: TokenizerSpec) -> list[str]:
    if not len(spec.tokens):
        raise ModelFormatError(spec.source, "tokenizer tokens", None, "is empty")
    if len(spec.tokens) > MAX_TOKENS:
        raise ModelFormatError(spec.source, "tokenizer tokens", None, f"are {len(spec.tokens)}; at most {MAX_TOKENS} are read")
    longest = max(map(len, spec.tokens))
    if longest > MAX_TOKEN_BYTES:
        problem = f"hold one of {longest} bytes; at most {MAX_TOKEN_BYTES} are read"
        raise ModelFormatError(spec.source, "tokenizer tokens", None, problem)
    try:
        return list(map(bytes.decode, spec.tokens))
    except UnicodeDecodeError as error:
        number = next(i for i, token in enumerate(spec.tokens) if token == error.object)
        raise ModelFormatError(spec.source, f"tokenizer token {number}", None, f"is {shown(error.object)}, not UTF-8") from error


def piece_types(spec: TokenizerSpec) -> list[int]:
    if spec.token_types is None:
        return [NORMAL] * len(spec.tokens)
    if len(spec.token_types) != len(spec.tokens):
        problem = f"has {len(spec.token_types)} entries, but there are {len(spec.tokens)} tokens"
        raise ModelFormatError(spec.source, "tokenizer token_types", None, problem)
    types: list[int] = spec.token_types.tolist()
    if not set(types) <= set(range(MAX_TYPE + 1)):
        raise ModelFormatError(spec.source, "tokenizer token_types", None, f"holds a type outside 0..{MAX_TYPE}")
    return types
