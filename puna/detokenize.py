"""Token ids -> text while they are still being made: never half a character, never a piece of a stop string.

Knows the bytes of tokens. Knows no models, no requests.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from puna.tokenizers.base import Tokenizer


class Detokenizer:
    r"""The text of one sequence, piece by piece. All pieces together, with `flush()`, are the whole decoded text.

    Bytes become text when they can no longer be part of a longer character; those that are not UTF-8 become U+FFFD, in the
    tokenizer's own way.

    >>> class Bytes:  # id = byte
    ...     token_bytes = first_bytes = staticmethod(lambda i: bytes([i]))
    ...     utf8_errors, controls_part_bytes = "replace", False
    >>> euro = Detokenizer(Bytes())
    >>> [euro.push(byte) for byte in b"\xe2\x82\xac"]
    ['', '', '€']

    The text ends before the first stop string to be complete; what may still become one is held back.

    >>> chat = Detokenizer(Bytes(), stop=["\nUser:"])
    >>> [chat.push(byte) for byte in b"Yes\nUser: and"], chat.flush(), chat.stopped
    (['Y', 'e', 's', '', '', '', '', '', '', '', '', '', ''], '', '\nUser:')
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = (), at_start: bool = False) -> None:
        """`at_start`: the sequence begins a text, so that the tokenizer's own first space (SentencePiece) is not shown."""
        self.stopped: str | None = None  # the stop string that ended the text
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._at_start = at_start  # and nothing was said yet
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.utf8_errors)
        self._held = ""  # decoded, but may be the beginning of a stop string

    def push(self, token_id: int) -> str:
        """The text that this id makes certain; always empty once `stopped` is set."""
        data = self._tokenizer.token_bytes(token_id)
        ends_bytes = not data and self._tokenizer.controls_part_bytes
        if data and self._at_start:
            data, self._at_start = self._tokenizer.first_bytes(token_id), False
        return self._release(self._utf8.decode(data, final=ends_bytes))

    def flush(self) -> str:
        """What was held back, at the end of the sequence."""
        text = self._release(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, new: str) -> str:
        if self.stopped is not None:
            return ""
        text = self._held + new
        if found := first_match(text, self._stop):
            start, self.stopped = found
            self._held = ""
            return text[:start]
        keep = len(text) - longest_beginning(text, self._stop)
        self._held = text[keep:]
        return text[:keep]


def first_match(text: str, stop: Sequence[str]) -> tuple[int, str] | None:
    """Start and text of the stop string that is complete first; of two that end together, the longer.

    >>> first_match("abcd", ["cd", "bc", "abc"])
    (0, 'abc')
    """
    starts = [(text.find(s), s) for s in stop if s]
    matches = [(start + len(s), start, s) for start, s in starts if start >= 0]
    return min(matches)[1:] if matches else None


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """Length of the longest end of `text` with which one of the stop strings begins.

    >>> longest_beginning("so a", ["a b", " a b"])
    2
    """
    lengths = (n for s in stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n]))
    return max(lengths, default=0)
