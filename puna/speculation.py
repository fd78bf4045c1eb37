"""Speculation: guesses of the next tokens, which one step checks together. Each guess has a row of its own.

A guess (a draft) is accepted if it is the token that the request's own sampler takes from the row before it. So the results are
the same, bit for bit, greedy or sampled, and only the number of steps changes. (Leviathan et al. 2023, arXiv 2211.17192, accept
more guesses of a draft model by a random test; their tokens have the same distribution, but are others than the seed's.)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, repeat
from operator import mul
from typing import Protocol

from puna.backends.base import Backend
from puna.config import EngineConfig
from puna.ngrams import Answers, Copying
from puna.request import Request

MAX_DRAFT = 11  # guesses of a request in a step
MAX_BATCH = 8  # decoding requests: with more, a row costs what it gives
CHECK_EVERY = 4  # tokens after which a request that has no guess is looked at again
LEAST_GAIN = 1.1  # in tokens per time: less is not worth the risk

# The cost of a decode step of 0, 1, 2 ... rows, in steps of one row: `benchmarks/step_rows.py`, default model, one thread.
COSTS = (0, 1, 1.3, 1.6, 1.7, 2.0, 2.5, 2.8, 3.0, 3.3, 3.6, 3.9, 4.2, 4.6, 5.0, 5.5, 5.9, 6.3, 6.6, 7.0)
LEARN = 1.1  # the factor by which one step corrects the table
FORGET = 0.995  # ... and by which a step without guesses trusts it again: what was dear once, on a busy machine, is tried again
MAX_TENANTS = 8  # whose answers are kept


class Drafter(Protocol):
    """Guesses the next tokens of requests. A wrong guess costs time, and changes no result."""

    def start(self, request: Request) -> None:
        """A request was added. Its `draft_at` is the number of output ids from which on `draft` is asked."""

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        """Set `draft_ids` and `draft_at` of decoding requests. The step has `rows` rows beside the guesses."""

    def note(self, rows: int, seconds: float) -> None:
        """The step after a call of `draft` had so many rows, and took so long."""

    def finish(self, request: Request) -> None:
        """A request has ended."""


class StepCosts:
    """What a step costs by its number of rows: a table of one machine's, which the steps themselves correct by one factor.

    The factor, and the seconds of one row, are running medians: each step moves them by a tenth, however far off it was.

    >>> costs = StepCosts()
    >>> [costs.length(odds, rows=1) for odds in (1.0, 0.9, 0.7, 0.3)]
    [11, 4, 3, 0]
    >>> for _ in range(20):  # here each row costs a whole step
    ...     costs.note(1, 0.01)
    ...     costs.note(4, 0.04)
    >>> costs.length(odds=0.9, rows=1)
    0
    """

    def __init__(self) -> None:
        self._factor = 1.0
        self._one_s = 0.0  # seconds of a step of one row; 0: not known

    def __getitem__(self, rows: int) -> float:
        return 1 + self._factor * (COSTS[rows] - 1)

    @property
    def one_s(self) -> float:
        """Seconds of a step of one row; 0: not known yet."""
        return self._one_s

    def note(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if rows >= len(COSTS):
            return
        expected = self._one_s * self[rows]
        if not expected:
            self._one_s = seconds / self[rows]
        elif rows == 1:
            self._one_s *= LEARN if seconds > expected else 1 / LEARN
            self._factor = max(self._factor * FORGET, min(self._factor, 1.0))
        else:
            self._factor *= LEARN if seconds > expected else 1 / LEARN

    def length(self, odds: float, rows: int, guess: float = 0.0) -> int:
        """How many tokens to guess for one of a step's requests so that the step gives the most tokens per time; 0: none pays.

        `odds` is the probability that a guess is right, and `guess` the cost of making one. With n guesses a request expects
        1 + odds + ... + odds**n tokens (Leviathan et al. 2023, section 3.1). The other rows give a token each.
        """
        least = LEAST_GAIN * rows / self[rows]
        gains = accumulate(repeat(odds, MAX_DRAFT), mul)
        rates = [
            (rows + tokens) / (self[rows + count] + guess * count) for count, tokens in enumerate(accumulate(gains), start=1)
        ]
        best = max(rates)
        return rates.index(best) + 1 if best > least else 0


def drafter_of(config: EngineConfig, backend: Backend) -> Drafter | None:
    """The drafter that the settings ask for. Guesses are checked by the host: unasked, a device that samples keeps doing that."""
    is_on = config.speculation == "ngram" or (config.speculation == "auto" and not backend.filters)
    return NGramDrafter() if is_on else None


class NGramDrafter:
    """Guesses that a text goes on as it did where the last tokens stood before: in itself, or in an earlier answer.

    A request without such a place, or in a large batch, is looked at only now and then.
    """

    def __init__(self) -> None:
        self._costs = StepCosts()
        self._answers: dict[str, Answers] = {}  # cache salt -> what is kept of the answers of that tenant
        self._copying: dict[int, Copying] = {}  # request id -> what it may be copying

    def start(self, request: Request) -> None:
        request.draft_at = CHECK_EVERY

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        for request in requests:
            copying = self._read(request) if rows <= MAX_BATCH else None
            if copying is None or not copying.odds:
                request.draft_at = len(request.output_ids) + CHECK_EVERY
            else:
                request.draft_ids = copying.guess(self._costs.length(copying.odds, rows))
                rows += len(request.draft_ids)

    def note(self, rows: int, seconds: float) -> None:
        self._costs.note(rows, seconds)

    def finish(self, request: Request) -> None:
        if self._copying.pop(request.id, None) is not None:
            self._answers_of(request).append(request.output_ids)

    def _read(self, request: Request) -> Copying:
        copying = self._copying.get(request.id)
        if copying is None:
            copying = self._copying[request.id] = Copying(request.prompt_ids, self._answers_of(request))
        copying.read(request.token_ids(copying.num_read, request.num_tokens))
        return copying

    def _answers_of(self, request: Request) -> Answers:
        """The earlier answers that a request may see: those of its tenant."""
        salt = request.params.cache_salt
        if salt not in self._answers and len(self._answers) >= MAX_TENANTS:
            del self._answers[next(iter(self._answers))]
        return self._answers.setdefault(salt, Answers())
