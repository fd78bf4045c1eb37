"""The contract of a tokenizer: text <-> ids. Immutable after construction and safe to share between threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Tokenizer(Protocol):
    """Text to ids and back, with the exact bytes of each id.

    `decode(encode(x)) == x` for every text, up to the added space that a SentencePiece model documents.
    """

    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    stop_ids: frozenset[int]  # every id that ends a turn or the text: eos, end of turn, end of message
    add_bos: bool  # the file's rule
    add_eos: bool
    special_tokens: dict[str, int]  # control tokens by their text
    utf8_errors: str  # the `bytes.decode` handler for invalid bytes
    controls_part_bytes: bool  # bytes on both sides of a control token never make one character (SentencePiece)

    def encode(
        self,
        text: str,
        *,
        bos: bool | None = None,
        eos: bool | None = None,
        special: bool = False,
        guard: str = "",
        limit: int | None = None,
    ) -> list[int]:
        """Ids of `text`.

        `bos`, `eos`: None follows the file's rule; BOS is never doubled if the text already begins with it.
        `special`: True turns the text of control tokens into their ids; False (the default) keeps it text.
        `guard`: a string that the tokenizer removes after matching control tokens, so that a caller can break up those that a
        user typed (`chat.py`).
        `limit`: raise ContextLengthError, at once, for a text that surely has more ids; other texts may exceed it unnoticed.
        """

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of `ids`, as at the beginning of a text; bytes that are not UTF-8 become U+FFFD (`utf8_errors`)."""

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes that the id adds in running text (b"" for a control token)."""

    def first_bytes(self, token_id: int) -> bytes:
        """Bytes that the id adds at the beginning of a text: without a space that the tokenizer added."""

    def piece(self, token_id: int) -> str:
        """The id in the vocabulary's spelling, for people."""

    def strips_leading_space(self) -> bool:
        """Whether the tokenizer, not the text, adds the first space (SentencePiece)."""
