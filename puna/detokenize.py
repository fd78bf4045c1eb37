"""Streams token ids as text: never half a character, never a piece of a stop string.

Knows the bytes of tokens, but no models and no requests.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from puna.tokenizers.base import Tokenizer
from puna.tokenizers.vocabulary import cutter

FIRST_MARK = 0xD800  # a surrogate, which neither decoded bytes nor a stop text can hold
NUM_MARKS = 0x800


class Detokenizer:
    r"""The text of one sequence, piece by piece. All pieces and `flush()` together are the whole decoded text.

    Bytes become text once they cannot be part of a longer character. Bytes that are not UTF-8 become U+FFFD, as in the tokenizer.

    >>> class Bytes:  # id = byte; 256 is a control token
    ...     token_bytes = first_bytes = staticmethod(lambda i: bytes([i]) if i < 256 else b"")
    ...     utf8_errors, controls_part_bytes, special_tokens = "replace", False, {"<end>": 256}
    >>> euro = Detokenizer(Bytes())
    >>> [euro.push(byte) for byte in b"\xe2\x82\xac"]
    ['', '', '€']

    The text ends before the stop string that is complete first. Text that may become one is held back.

    >>> chat = Detokenizer(Bytes(), stop=["\nUser:"])
    >>> [chat.push(byte) for byte in b"Yes\nUser: and"], chat.flush(), chat.stopped
    (['Y', 'e', 's', '', '', '', '', '', '', '', '', '', ''], '', '\nUser:')

    A control token has no text, but a stop text that spells it ends the text there.

    >>> control = Detokenizer(Bytes(), stop=["!<end>"])
    >>> [control.push(i) for i in (*b"a!", 256)], control.stopped
    (['a', '', ''], '!<end>')

    `include_stop` keeps the stop string at the end of the text. Within the first `min_tokens` tokens none is looked for: one
    that they complete stays in the text. `shown` are control tokens that have a text here.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        at_start: bool = False,
        include_stop: bool = False,
        min_tokens: int = 0,
        shown: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """`at_start`: the sequence begins a text, so the space that SentencePiece adds is not shown."""
        self.stopped: str | None = None  # the stop string that ended the text
        self.marks = control_marks(stop, tokenizer.special_tokens) if stop else {}
        self._tokenizer = tokenizer
        self._stop = spelled_stops(stop, tokenizer.special_tokens, self.marks)
        self._unmarked = dict.fromkeys(map(ord, self.marks.values()))  # for `str.translate`: marks are not shown
        self._include_stop = include_stop
        self._num_exempt = min_tokens if stop else 0  # tokens to come that no stop string ends
        self._shown = shown
        self._at_start = at_start  # and there is no text yet
        self._utf8 = codecs.getincrementaldecoder("utf-8")(tokenizer.utf8_errors)
        self._held = ""  # decoded text that may begin a stop string

    def push(self, token_id: int) -> str:
        """The text that this id completes; always "" once `stopped` is set."""
        data = self._tokenizer.token_bytes(token_id) or self._shown.get(token_id, b"")
        ends_bytes = not data and self._tokenizer.controls_part_bytes
        if data and self._at_start:
            data, self._at_start = self._shown.get(token_id) or self._tokenizer.first_bytes(token_id), False
        text = self._utf8.decode(data, final=ends_bytes)
        if token_id in self.marks:
            text = self._marked(text, self.marks[token_id])
        text = self._release(text)
        self.skip()
        return text

    def skip(self) -> None:
        """Count a token that has no text."""
        if self._num_exempt:
            self._num_exempt -= 1

    def _marked(self, text: str, mark: str) -> str:
        """The text with the mark of a control token; an incomplete character before it is decoded as it is."""
        state = self._utf8.getstate()
        whole = text + self._utf8.decode(b"", final=True) + mark
        if self._match(whole):
            return whole
        self._utf8.setstate(state)
        return text + mark

    def flush(self) -> str:
        """The held-back text, at the end of the sequence."""
        text = self._release(self._utf8.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held.translate(self._unmarked)

    def _match(self, new: str) -> tuple[int, str] | None:
        """(start, text) of the stop string that `new` completes, in the held text and `new` together."""
        return None if self._num_exempt else first_match(self._held + new, tuple(self._stop), len(self._held))

    def _release(self, new: str) -> str:
        if self.stopped is not None:
            return ""
        text = self._held + new
        if found := self._match(new):
            start, needle = found
            self.stopped, self._held = self._stop[needle], ""
            return text[:start].translate(self._unmarked) + (self.stopped if self._include_stop else "")
        keep = len(text) - longest_beginning(text, tuple(self._stop))
        self._held = text[keep:]
        return text[:keep].translate(self._unmarked)


def token_text(tokenizer: Tokenizer | None, token_id: int) -> str:
    """The text of a single id: U+FFFD for a part of a character, the vocabulary's spelling for a control token.

    "" without a tokenizer, and for a padding id of the model's vocabulary.
    """
    if tokenizer is None or token_id >= tokenizer.vocab_size:
        return ""
    data = tokenizer.token_bytes(token_id)
    return data.decode(errors="replace") if data else tokenizer.piece(token_id)


def control_marks(stop: Sequence[str], control_tokens: Mapping[str, int]) -> dict[int, str]:
    """Id of each control token that a stop text spells -> the letter that replaces it in the searched text."""
    spelled = [token_id for text, token_id in control_tokens.items() if any(text in one for one in stop)]
    return {token_id: chr(FIRST_MARK + number) for number, token_id in enumerate(spelled[:NUM_MARKS])}


def spelled_stops(stop: Sequence[str], control_tokens: Mapping[str, int], marks: Mapping[int, str]) -> dict[str, str]:
    """Text to search -> its stop text. Each stop text occurs as it is, and with marks instead of control tokens.

    >>> spelled_stops(["a", "b<s>"], {"<s>": 1}, {1: "|"})
    {'a': 'a', 'b<s>': 'b<s>', 'b|': 'b<s>'}
    """
    if not marks:
        return {one: one for one in stop}
    cut = cutter({text: token_id for text, token_id in control_tokens.items() if token_id in marks})
    marked = {"".join(piece if i is None else marks[i] for piece, i in cut(one)): one for one in stop}
    return {one: one for one in stop} | marked


def first_match(text: str, stop: Sequence[str], after: int = 0) -> tuple[int, str] | None:
    """(start, text) of the stop string that is complete first, beyond `after`; of two that end together, the longer one.

    >>> first_match("abcd", ["cd", "bc", "abc"]), first_match("abcd", ["cd", "bc", "abc"], after=3)
    ((0, 'abc'), (2, 'cd'))
    """
    starts = [(text.find(s, max(after - len(s) + 1, 0)), s) for s in stop if s]
    matches = [(start + len(s), start, s) for start, s in starts if start >= 0]
    return min(matches)[1:] if matches else None


def longest_beginning(text: str, stop: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that is a prefix of a stop string.

    >>> longest_beginning("so a", ["a b", " a b"])
    2
    """
    lengths = (n for s in stop for n in range(min(len(s) - 1, len(text)), 0, -1) if text.endswith(s[:n]))
    return max(lengths, default=0)
