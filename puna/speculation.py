"""Speculation: guesses of the next tokens, which one step checks together. Each guess has a row of its own.

A guess (a draft) is accepted if it is the token that the request's own sampler takes from the row before it. So the results are
the same, bit for bit, greedy or sampled, and only the number of steps changes. (Leviathan et al. 2023, arXiv 2211.17192, accept
more guesses of a draft model by a random test; their tokens have the same distribution, but are others than the seed's.)
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Protocol

from puna.backends.base import Backend
from puna.config import EngineConfig
from puna.ngrams import Answers, Copying
from puna.request import Request

MAX_DRAFT = 11  # guesses of a request in a step
MAX_BATCH = 8  # decoding requests: with more, a row costs what it gives
CHECK_SOON, CHECK_LATE = 4, 8  # tokens after which a request without a guess is looked at again: one that copies, another
NGRAM_GAIN, MODEL_GAIN = 1.3, 1.1  # the least expected gain in tokens per time; a model's odds are known better than an n-gram's
# What the guesses of a request may lose, in steps: so much for each token of the answer, and for each token that a match has
# foretold, but of these no more than MAX_PROOF. So an answer that never repeats anything loses next to nothing.
LOSS, PROOF, MAX_PROOF = 0.01, 0.2, 0.75

# The cost of a decode step of 0, 1, 2 ... rows, in steps of one row: `benchmarks/step_rows.py`, default model, one thread.
# Kernels take four rows at a time; each row that is left over takes a pass over the weights.
COSTS = (0, 1, 1.6, 2.1, 1.7, 2.4, 2.9, 3.45, 3.45, 4.0, 4.5, 5.0, 5.0, 5.6, 6.1, 6.6, 6.6, 7.1, 7.6, 8.2)
LEARN, LIMIT = 0.05, 2.0  # the least weight of a step in the running means of costs, and the most by which it may differ
KNOWN = 3  # steps that the table counts for
FORGET, FORGET_EVERY = 0.92, 8  # how steps without guesses trust the table again: what a busy machine made dear is tried again
ENOUGH = 0.97  # of the best rate: fewer guesses that give so much are taken, because they risk less
LEAST_ODDS = 0.45  # of the next guess of an n-gram: below it nothing pays, and nothing more is computed
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
    """What a step costs by its number of rows: a table of one machine's, which the steps themselves correct.

    Each number of rows has a factor of its own once a step had it; until then it has that of the nearest one. A step that was
    held up corrects as little as one that took `LIMIT` times as long as expected.

    >>> costs = StepCosts(NGRAM_GAIN)
    >>> [costs.length([odds] * MAX_DRAFT, rows=1) for odds in (1.0, 0.9, 0.7, 0.3)]
    [3, 3, 3, 0]
    >>> for _ in range(20):  # here each row costs a whole step
    ...     costs.note(1, 0.01)
    ...     costs.note(4, 0.04)
    >>> costs.length([0.9] * MAX_DRAFT, rows=1)
    0
    """

    def __init__(self, least_gain: float) -> None:
        """`least_gain`: how many times the tokens per time of a step without guesses a step must be expected to give."""
        self._least_gain = least_gain
        self._costs = list(map(float, COSTS))
        self._one_s = 0.0  # seconds of a step of one row; 0: not known
        self._num_plain = 0  # steps of one row since the last one of more
        self._factors: dict[int, float] = {}  # rows -> by what the table is multiplied, beyond the first row
        self._counts = [KNOWN] * len(COSTS)  # steps of so many rows

    def __getitem__(self, rows: int) -> float:
        return self._costs[rows]

    @property
    def one_s(self) -> float:
        """Seconds of a step of one row; 0: not known yet."""
        return self._one_s

    def note(self, rows: int, seconds: float) -> None:
        """A step of so many rows took so long."""
        if not 0 < rows < len(COSTS):
            return
        if not self._one_s:
            self._one_s = seconds / self[rows]
        elif rows == 1:
            self._note_plain(seconds)
        else:
            self._note_wide(rows, max(0.0, seconds / self._one_s - 1) / (self[rows] - 1))

    def length(self, odds: Sequence[float], rows: int, guess: float = 0.0) -> int:
        """How many tokens to guess for one of a step's requests so that the step gives the most tokens per time; 0: none pays.

        `odds` are the probabilities that the next guesses are right, each if those before it are, and `guess` is the cost of
        making one. A request expects the sum of their products, and one token (Leviathan et al. 2023, section 3.1). The other
        rows give a token each.
        """
        least = self._least_gain * rows / self[rows]
        rates = [
            (rows + tokens) / (self[rows + count] + guess * count)
            for count, tokens in enumerate(accumulate(accumulate(odds, mul)), start=1)
        ]
        best = max(rates, default=0.0)
        return next(count for count, rate in enumerate(rates, 1) if rate >= ENOUGH * best) if best > least else 0

    def _note_plain(self, seconds: float) -> None:
        self._one_s *= _correction(seconds / self._one_s, LEARN)
        self._num_plain += 1
        if self._num_plain % FORGET_EVERY == 0 and self._factors:
            self._factors = {rows: min(factor, factor**FORGET) for rows, factor in self._factors.items()}
            self._apply()

    def _note_wide(self, rows: int, ratio: float) -> None:
        """Rows beyond the first one cost `ratio` times as much as expected."""
        self._num_plain = 0
        self._counts[rows] += 1
        factor = (self[rows] - 1) / (COSTS[rows] - 1)
        self._factors[rows] = factor * _correction(ratio, max(LEARN, 1 / self._counts[rows]))
        self._apply()

    def _apply(self) -> None:
        known = sorted(self._factors)
        borders = [(low + high) / 2 for low, high in pairwise(known)]
        self._costs = [1 + self._factors[known[bisect(borders, rows)]] * (cost - 1) for rows, cost in enumerate(COSTS)]


def _correction(ratio: float, weight: float) -> float:
    """The factor by which a step corrects a mean, if it took `ratio` times what was expected."""
    return float(min(max(ratio, 1 / LIMIT), LIMIT) ** weight)


def drafter_of(config: EngineConfig, backend: Backend) -> Drafter | None:
    """The drafter that the settings ask for. Guesses are checked by the host: unasked, a device that samples keeps doing that."""
    is_on = config.speculation == "ngram" or (config.speculation == "auto" and not backend.filters)
    return NGramDrafter() if is_on else None


class _Followed:
    """A request, what it may be copying, and what its guesses have cost beyond its own row, in steps of one row."""

    def __init__(self, request: Request, answers: Answers) -> None:
        self._request = request
        self.copying = Copying(request.prompt_ids, answers)
        self._paid = 0.0

    def read(self) -> None:
        """Read what is new in the text."""
        self.copying.read(self._request.token_ids(self.copying.num_read, self._request.num_tokens))

    def may_pay(self, cost: float) -> bool:
        """Whether the request can afford guesses that cost so much, should all of them be wrong."""
        lost = self._paid + cost - self._request.num_accepted
        return lost <= LOSS * len(self._request.output_ids) + min(MAX_PROOF, PROOF * self.copying.num_foretold)

    def pay(self, cost: float) -> None:
        self._paid += cost


class NGramDrafter:
    """Guesses that a text goes on as it did where the last tokens stood before: in itself, or in an earlier answer.

    A request without such a place, or in a large batch, is looked at only now and then.
    """

    def __init__(self) -> None:
        self._costs = StepCosts(NGRAM_GAIN)
        self._answers: dict[str, Answers] = {}  # cache salt -> what is kept of the answers of that tenant
        self._followed: dict[int, _Followed] = {}  # by request id

    def start(self, request: Request) -> None:
        request.draft_at = CHECK_SOON

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        for request in requests:
            copying = self._read(request).copying if rows <= MAX_BATCH else None
            if copying is None or copying.odds < LEAST_ODDS:
                request.draft_at = len(request.output_ids) + (CHECK_SOON if copying and copying.is_lively else CHECK_LATE)
            else:
                self._guess(request, rows)
                rows += len(request.draft_ids)

    def note(self, rows: int, seconds: float) -> None:
        self._costs.note(rows, seconds)

    def finish(self, request: Request) -> None:
        if self._followed.pop(request.id, None) is not None:
            self._answers_of(request).append(request.output_ids)

    def _guess(self, request: Request, rows: int) -> None:
        """Guess as much as pays, if the request can afford to be wrong."""
        followed = self._followed[request.id]
        count = self._costs.length(followed.copying.odds_of(MAX_DRAFT), rows)
        cost = self._costs[rows + count] - self._costs[rows]
        if count and followed.may_pay(cost):
            request.draft_ids = followed.copying.guess(count)
            followed.pay(cost)

    def _read(self, request: Request) -> _Followed:
        followed = self._followed.get(request.id)
        if followed is None:
            followed = self._followed[request.id] = _Followed(request, self._answers_of(request))
        followed.read()
        return followed

    def _answers_of(self, request: Request) -> Answers:
        """The earlier answers that a request may see: those of its tenant."""
        salt = request.params.cache_salt
        if salt not in self._answers and len(self._answers) >= MAX_TENANTS:
            del self._answers[next(iter(self._answers))]
        return self._answers.setdefault(salt, Answers())
