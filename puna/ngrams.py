"""Prompt lookup: what followed the last tokens where they stood before (Saxena 2023, "Prompt Lookup Decoding").

An n-gram is a run of n tokens. Reading a token, and finding what followed the last ones, take constant time.

>>> copying = Copying([5, 6, 7, 8, 9, 6, 7], Answers())
>>> copying.guess(3)
[8, 9, 6]
>>> copying.read([8])
>>> copying.guess(2)
[9, 6]
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTHS = (4, 3, 2)  # of n-grams; the longest one that is found counts
MOST_TOKENS = 1 << 14  # in one of the two texts of earlier answers

# For matches of 2 to 3, 4 to 7, 8 to 15, and 16 or more tokens: right guesses and all guesses that a request begins with.
PRIORS = ((1.0, 4.0), (2.0, 5.0), (3.0, 4.0), (9.0, 10.0))


class Text:
    """Ids, and what followed each n-gram where it last stood."""

    def __init__(self, ids: Sequence[int] = ()) -> None:
        self.ids: list[int] = []
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> the index of the id after it
        for token_id in ids:
            self.append(token_id)

    def append(self, token_id: int) -> None:
        count = len(self.ids)
        for length in LENGTHS:
            if length <= count:
                self._next[tuple(self.ids[count - length :])] = count
        self.ids.append(token_id)

    def find(self, ids: Sequence[int]) -> tuple[int, int]:
        """The longest n-gram at the end of `ids` that stands here: its length, and the index of the id after it. (0, 0): none."""
        for length in LENGTHS:
            index = self._next.get(tuple(ids[-length:]))
            if index is not None:
                return length, index
        return 0, 0


class Answers:
    """The answers of finished requests: the latest 16 to 32 thousand tokens."""

    def __init__(self) -> None:
        self.texts = Text(), Text()  # the first one grows

    def append(self, ids: Sequence[int]) -> None:
        if len(self.texts[0].ids) >= MOST_TOKENS:
            self.texts = Text(), self.texts[0]
        for token_id in ids[-MOST_TOKENS:]:
            self.texts[0].append(token_id)


class Copying:
    """One request's text, and the place that it may be copying: in itself, or in earlier answers.

    Every new token is compared with the next one at that place, whether a step had guessed it or not. So the odds of a guess are
    known before it costs anything. They are counted apart by the length of the match, as match models of data compression do
    (Mahoney 2005, PAQ).
    """

    def __init__(self, prompt_ids: Sequence[int], answers: Answers) -> None:
        self._text = Text(prompt_ids)
        self._answers = answers
        self._source = self._text  # where the match is, its length (0: there is none), and the index of the id after it
        self._length = self._index = 0
        self._right = [right for right, _ in PRIORS]
        self._all = [count for _, count in PRIORS]
        self._find()

    @property
    def num_read(self) -> int:
        return len(self._text.ids)

    @property
    def odds(self) -> float:
        """The probability that the next guess is right; 0 if there is none."""
        return self._right[self._kind] / self._all[self._kind] if self._length else 0.0

    def read(self, ids: Sequence[int]) -> None:
        """Take in the next ids of the text."""
        for token_id in ids:
            if self._length:
                self._judge(token_id == self._source.ids[self._index])
            self._text.append(token_id)
            if not self._length or self._index == len(self._source.ids):
                self._find()

    def guess(self, count: int) -> list[int]:
        """The next ids, if the text goes on copying; a text that repeats itself goes on with that."""
        if not self._length:
            return []
        guess = self._source.ids[self._index : self._index + count]
        period = len(self._text.ids) - self._index
        while self._source is self._text and len(guess) < count:
            guess.append(guess[len(guess) - period])
        return guess

    @property
    def _kind(self) -> int:
        return min(self._length.bit_length() - 2, len(PRIORS) - 1)

    def _judge(self, is_right: bool) -> None:
        self._right[self._kind] += is_right
        self._all[self._kind] += 1
        self._length, self._index = (self._length + 1, self._index + 1) if is_right else (0, 0)

    def _find(self) -> None:
        ending = self._text.ids[-LENGTHS[0] :]
        found = [(text, *text.find(ending)) for text in (self._text, *self._answers.texts)]
        self._source, self._length, self._index = max(found, key=lambda one: one[1])
