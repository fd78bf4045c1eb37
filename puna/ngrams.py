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

from bisect import bisect
from collections.abc import Sequence

LENGTHS = (4, 2)  # of n-grams; the longest one that is found counts
MOST_TOKENS = 1 << 14  # in one of the two texts of earlier answers

# The odds that a match goes on, by its length (rows: 2 to 3, 4 to 7, 8 to 15, 16 or more tokens) and by the share of the last
# tokens that matches have foretold (columns: below 0.1, below 0.3, more). Counted in answers of two models: docs/LOG.md.
PRIORS = ((0.4, 0.5, 0.6), (0.6, 0.65, 0.75), (0.8, 0.8, 0.85), (0.95, 0.95, 0.95))
SHARES = (0.1, 0.3)
WEIGHT = 6  # guesses that a prior counts for
MEMORY = 16  # tokens over which the share is a running mean


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
    (Mahoney 2005, PAQ), and by how much of the text was copied lately.
    """

    def __init__(self, prompt_ids: Sequence[int], answers: Answers) -> None:
        self._text = Text(prompt_ids)
        self._answers = answers
        self._source = self._text  # where the match is, its length (0: there is none), and the index of the id after it
        self._length = self._index = 0
        self.num_foretold = 0  # tokens of the text that a match foretold, whether a step had guessed them or not
        self._share = 0.0  # of the last tokens, those that were foretold
        self._right = [[WEIGHT * prior for prior in row] for row in PRIORS]
        self._all = [[float(WEIGHT)] * len(row) for row in PRIORS]
        self._find()

    @property
    def num_read(self) -> int:
        return len(self._text.ids)

    @property
    def is_lively(self) -> bool:
        """Whether matches have foretold some of the last tokens."""
        return self._share >= SHARES[0]

    @property
    def odds(self) -> float:
        """The probability that the next guess is right; 0 if there is none."""
        return self._odds_at(self._length) if self._length else 0.0

    def odds_of(self, count: int) -> list[float]:
        """The odds of each of the next guesses, if those before it are right: a match that grows is likelier to go on."""
        return [self._odds_at(self._length + number) for number in range(count)]

    def read(self, ids: Sequence[int]) -> None:
        """Take in the next ids of the text."""
        for token_id in ids:
            self._judge(token_id)
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

    def _odds_at(self, length: int) -> float:
        kind, share = self._kind(length)
        return self._right[kind][share] / self._all[kind][share]

    def _kind(self, length: int) -> tuple[int, int]:
        """The row and the column of a match in `PRIORS`."""
        return min(length.bit_length() - 2, len(PRIORS) - 1), bisect(SHARES, self._share)

    def _judge(self, token_id: int) -> None:
        """Compare the match with the token that came."""
        is_right = self._length > 0 and token_id == self._source.ids[self._index]
        if self._length:
            kind, share = self._kind(self._length)
            self._right[kind][share] += is_right
            self._all[kind][share] += 1
        self.num_foretold += is_right
        self._share += (is_right - self._share) / MEMORY
        self._length, self._index = (self._length + 1, self._index + 1) if is_right else (0, 0)

    def _find(self) -> None:
        ending = self._text.ids[-LENGTHS[0] :]
        found = [(text, *text.find(ending)) for text in (self._text, *self._answers.texts)]
        self._source, self._length, self._index = max(found, key=lambda one: one[1])
