"""Two defects of Meta's `generate`, reproduced for those who must compare with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from puna.compat.session import Session
from puna.llm import LLM
from puna.sampling import History, Row, require_finite, token_logprob


class BatchRandom:
    """One stream of numbers for all rows of all batches: one number per row and step, whether the row uses it or not.

    So a row's samples depend on the rows beside it, and on their lengths. The numbers themselves are puna's: torch's differ
    even between two devices.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed % (1 << 64)
        self._num_drawn = 0

    def sampler(self, row: int, num_rows: int, first_step: int, temperature: float, top_p: float) -> RowSampler:
        """The sampler for a row whose prompt leaves it the steps from `first_step` on."""
        bits = np.random.PCG64(self._seed).advance(self._num_drawn + first_step * num_rows + row)
        return RowSampler(bits, num_rows, temperature, top_p)

    def advance(self, num_steps: int, num_rows: int) -> None:
        """Skip the numbers of a batch."""
        self._num_drawn += num_steps * num_rows


class RowSampler:
    """Temperature, then top-p: keeps the token at which the sum passes p, and the next one if the sum is exactly p."""

    def __init__(self, bits: np.random.PCG64, num_rows: int, temperature: float, top_p: float) -> None:
        self._bits, self._num_rows = bits, num_rows
        self._temperature, self._top_p = np.float32(temperature), top_p

    def sample(self, logits: Row, history: History) -> int:
        require_finite(logits)
        powers = np.exp((logits - logits.max()) / self._temperature)
        probabilities = powers / powers.sum()
        ids = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[ids]
        kept = ranked[np.cumsum(ranked) - ranked <= self._top_p]
        cumulative = np.cumsum(kept, dtype=np.float64)
        return int(ids[min(np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right"), len(kept) - 1)])

    def _uniform(self) -> float:
        number = (int(self._bits.random_raw()) >> 11) * 2.0**-53
        self._bits.advance(self._num_rows - 1)
        return number


def unshifted_logprobs(llm: LLM, ids: Sequence[int]) -> list[float]:
    """Each token's log-probability of occurring a second time: what Meta's `generate` returns if it generates nothing."""
    rows = llm.runner.alone(lambda: Session(llm).feed(ids, every=True))
    return [token_logprob(row, token_id, 0).logprob for row, token_id in zip(rows, ids, strict=True)]
