"""A draft model: a smaller model of the same vocabulary guesses the next tokens (Chen et al. 2023, arXiv 2302.01318).

It has a backend, a plan and pages of its own. It takes the likeliest token each time. It reads one chunk of a prompt per step, so
that a long prompt holds nobody up, and guesses once it has caught up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from puna.backends.base import Backend
from puna.batch import Batch
from puna.errors import UsageError
from puna.pages import Pages
from puna.plan import Plan
from puna.request import Request, SamplingParams
from puna.scheduler import ScheduledChunk
from puna.speculation import MAX_BATCH, MAX_DRAFT, MODEL_GAIN, StepCosts
from puna.tokenizers.base import Tokenizer

PRIOR, WEIGHT = 0.9, 5.0  # the odds of a guess before anything is known, and how many guesses that counts for
FORGET = 0.02  # how a request without any guess trusts `PRIOR` again: the next ones may be of another kind
GUESS_COST = 0.2  # of one guess, in steps of one row of the large model, until it is measured


@dataclass(slots=True)
class _Shadow:
    """A request as the draft model sees it: the pages and `num_computed` are the draft model's, the last ids its guesses."""

    request: Request
    right: float  # right guesses and all guesses, the prior's included
    count: float = WEIGHT
    num_known: int = 0  # output ids that are not guesses
    guess: list[int] = field(default_factory=list)

    def follow(self, output_ids: Sequence[int]) -> None:
        """Judge the last guesses by what came, and go on from there."""
        came = output_ids[self.num_known :]
        num_right = next(
            (n for n, (one, other) in enumerate(zip(self.guess, came)) if one != other), min(len(self.guess), len(came))
        )
        self.right += num_right
        self.count += num_right + (num_right < min(len(self.guess), len(came)))
        valid = len(self.request.prompt_ids) + self.num_known + num_right
        self.request.num_computed = min(self.request.num_computed, valid)
        self.request.output_ids = list(output_ids)
        self.num_known, self.guess = len(output_ids), []


class ModelDrafter:
    """The contract is `speculation.Drafter`. Only requests whose guesses pay keep pages."""

    def __init__(self, backend: Backend, plan: Plan, vocab_size: int) -> None:
        """`vocab_size`: the large model's; only its ids are guessed."""
        self._backend, self._plan, self._vocab_size = backend, plan, vocab_size
        self._pages = Pages(plan.num_pages, plan.page_size)
        self._costs = StepCosts(MODEL_GAIN)
        self._odds = PRIOR  # of a guess in the last requests: what a new one begins with
        self._guess_s = 0.0  # seconds of a guess: a running mean; 0: not known
        self._shadows: dict[int, _Shadow] = {}

    def start(self, request: Request) -> None:
        request.draft_at = 1

    def draft(self, requests: Sequence[Request], rows: int) -> None:
        wanted: list[tuple[Request, _Shadow, int]] = []
        for request in requests:
            shadow = self._followed(request)
            odds = [shadow.right / shadow.count] * (MAX_DRAFT if rows <= MAX_BATCH else 0)
            count = self._costs.length(odds, rows, self._guess_cost)
            if count and self._reserve(shadow.request, request.num_tokens + count):
                wanted.append((request, shadow, count))
                rows += count
            else:
                self._release(shadow.request)
        for number in range(max((count for *_, count in wanted), default=0)):
            self._step([shadow for _, shadow, count in wanted if len(shadow.guess) == number < count])
        for request, shadow, _ in wanted:
            request.draft_ids = list(shadow.guess)

    def note(self, rows: int, seconds: float) -> None:
        self._costs.note(rows, seconds)

    def finish(self, request: Request) -> None:
        if (shadow := self._shadows.pop(request.id, None)) is not None:
            self._release(shadow.request)
            self._learn(shadow)

    def close(self) -> None:
        self._backend.close()

    @property
    def _guess_cost(self) -> float:
        """The cost of a guess, in steps of one row of the large model."""
        return self._guess_s / self._costs.one_s if self._guess_s and self._costs.one_s else GUESS_COST

    def _learn(self, shadow: _Shadow) -> None:
        """What a request's guesses say of the next request's."""
        if shadow.count > WEIGHT:
            self._odds = shadow.right / shadow.count
        else:
            self._odds += FORGET * (PRIOR - self._odds)

    def _followed(self, request: Request) -> _Shadow:
        shadow = self._shadows.get(request.id)
        if shadow is None:
            shadow = self._shadows[request.id] = _Shadow(
                Request(request.id, request.prompt_ids, SamplingParams()), right=WEIGHT * self._odds
            )
        shadow.follow(request.output_ids)
        return shadow

    def _step(self, shadows: Sequence[_Shadow]) -> None:
        """Compute a chunk of each, and guess a token of those that have caught up."""
        chunks, left = [], self._plan.max_tokens
        for shadow in shadows:
            own = shadow.request
            last = min(own.num_tokens, own.num_computed + left)
            if last > own.num_computed:
                is_last = last == own.num_tokens
                chunks.append((shadow, ScheduledChunk(own, own.num_computed, last, int(is_last), is_last)))
                left -= last - own.num_computed
        if not chunks:
            return
        start = time.thread_time()
        batch = Batch.of([chunk for _, chunk in chunks])
        logits = batch.by_sequence(self._backend.step(batch).logits())
        if len(batch.token_ids) == len(chunks):
            seconds = (time.thread_time() - start) / len(chunks)
            self._guess_s += (seconds - self._guess_s) / 8 if self._guess_s else seconds
        for (shadow, chunk), rows in zip(chunks, logits, strict=True):
            shadow.request.num_computed = chunk.last
            if chunk.is_last:
                shadow.guess.append(int(rows[-1][: self._vocab_size].argmax()))
                shadow.request.output_ids.append(shadow.guess[-1])

    def _reserve(self, own: Request, num_tokens: int) -> bool:
        """Whether the draft model has pages for so many tokens of a request."""
        missing = self._pages.pages_for(num_tokens) - len(own.page_ids)
        if num_tokens > self._plan.max_context or missing > self._pages.num_available:
            return False
        own.page_ids.extend(self._pages.reserve() for _ in range(missing))
        return True

    def _release(self, own: Request) -> None:
        self._pages.release(own.page_ids)
        own.page_ids, own.num_computed = [], 0


def require_same_vocabulary(model: Tokenizer | None, draft: Tokenizer | None) -> None:
    """UsageError if an id of the draft model is another token than the model's."""
    hint = "A draft model is a smaller one of the same family and version. Leave it out, or take another."
    if model is None or draft is None:
        raise UsageError(
            f"a draft model needs tokenizers to compare, and {'the model' if model is None else 'it'} has none", hint=hint
        )
    if problem := vocabulary_difference(model, draft, "the model", "the draft model"):
        raise UsageError(problem, hint=hint)


def vocabulary_difference(model: Tokenizer, other: Tokenizer, name: str, other_name: str) -> str:
    """In which token two vocabularies differ, in words with these names; "" if in none."""
    if model.vocab_size != other.vocab_size:
        return f"{other_name} has {other.vocab_size} tokens, and {name} {model.vocab_size}"
    for token_id in range(model.vocab_size):
        ours, theirs = model.piece(token_id), other.piece(token_id)
        if ours != theirs or model.token_bytes(token_id) != other.token_bytes(token_id):
            return f"token {token_id} is {theirs!r} in {other_name}, and {ours!r} in {name}"
    return ""
