"""What a filter reads of a request: a row of logits, the ids so far, and how often each occurred."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Row = npt.NDArray[np.float32]  # (vocab_size,)
EVERYTHING = -1  # a window over all tokens


@dataclass(frozen=True, slots=True)
class History:
    """The ids so far, which the penalties count."""

    prompt_ids: Sequence[int] = ()
    output_ids: Sequence[int] = ()

    @property
    def num_generated(self) -> int:
        return len(self.output_ids)

    def last(self, window: int) -> History:
        """The last `window` tokens of prompt and output; EVERYTHING: all of them.

        >>> History([1, 2, 3], [4, 5]).last(3), History([1], [2, 3]).last(2)
        (History(prompt_ids=[3], output_ids=[4, 5]), History(prompt_ids=[], output_ids=[2, 3]))
        """
        if window == EVERYTHING:
            return self
        prompt, output = max(window - len(self.output_ids), 0), min(window, len(self.output_ids))
        return History(_end(self.prompt_ids, prompt), _end(self.output_ids, output))

    def ids(self, window: int = EVERYTHING) -> list[int]:
        """The last `window` tokens as one list."""
        last = self.last(window)
        return [*last.prompt_ids, *last.output_ids]


def _end(ids: Sequence[int], count: int) -> Sequence[int]:
    """The last `count` ids, all if there are fewer."""
    return ids[max(len(ids) - count, 0) :]


class Occurrences:
    """The ids of one request, each once, and how often each was generated. An update costs time for the new ids only.

    >>> seen = Occurrences([5, 9, 9])
    >>> seen.count([9, 7]), seen.count([9, 7, 9])
    (None, None)
    >>> seen.ids.tolist(), seen.counts.tolist()
    ([5, 9, 7], [0, 2, 1])
    """

    def __init__(self, prompt_ids: Iterable[int] = ()) -> None:
        self.ids = array("i", dict.fromkeys(prompt_ids))
        self.counts = array("i", bytes(self.ids.itemsize * len(self.ids)))
        self._slots = {token_id: slot for slot, token_id in enumerate(self.ids)}
        self._num_counted = 0

    @classmethod
    def of(cls, history: History, counts_prompt: bool) -> Occurrences:
        """The occurrences in a history; those in its prompt only `counts_prompt`."""
        seen = cls(history.prompt_ids if counts_prompt else ())
        seen.count(history.output_ids)
        return seen

    def count(self, output_ids: Sequence[int]) -> None:
        """Count the ids that `output_ids` has beyond those of the last call."""
        for token_id in output_ids[self._num_counted :]:
            slot = self._slots.setdefault(token_id, len(self.ids))
            if slot == len(self.ids):
                self.ids.append(token_id)
                self.counts.append(0)
            self.counts[slot] += 1
        self._num_counted = len(output_ids)
