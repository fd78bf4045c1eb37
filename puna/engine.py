"""The engine: add, abort, step. A step is: schedule, forward, sample, accept, detokenize. It does no arithmetic.

Not thread-safe: one thread calls it. Requests of any kind run together; none changes a bit of another's result.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from puna.backends.base import Backend, Chosen, LooksAhead
from puna.config import EngineConfig
from puna.detokenize import Detokenizer, token_text
from puna.errors import ContextLengthError, NumericalError, UsageError
from puna.model.spec import ModelConfig
from puna.pages import Pages
from puna.plan import Plan
from puna.request import (
    UNREAD,
    Batch,
    Choices,
    FinishReason,
    IntArray,
    Logits,
    Request,
    SamplingParams,
    StepOutput,
    TokenLogprob,
)
from puna.sampling import Chooser, History, Sampler, make_choices, make_edits, not_finite, require_finite, token_logprob
from puna.scheduler import Scheduler, Work
from puna.tokenizers.base import Tokenizer


@dataclass(slots=True)
class _Live:
    """What the engine keeps for a request while it runs."""

    request: Request
    history: History  # shares the request's growing lists
    sampler: Chooser
    detokenizer: Detokenizer | None
    stop_ids: frozenset[int]
    max_tokens: int  # the request's limit, or what fits the context
    num_told: int = 0  # output ids that a StepOutput has returned

    @property
    def is_plain(self) -> bool:
        """Whether the device can sample the next token: the request needs no log-probabilities."""
        return isinstance(self.sampler, Sampler) and self.sampler.is_plain


@dataclass(frozen=True, slots=True)
class _Begun:
    """The in-flight step: its scheduled work, and its logits or the token ids that the device samples from them."""

    works: list[Work]
    whole: list[bool]  # per work: whether it reaches the end of its request, so that a token is sampled
    logits: Logits | None = None
    chosen: Chosen | None = None

    @property
    def choosing(self) -> list[Request]:
        """The requests that get a sampled token, in the order of the ids."""
        return [work.request for work, is_whole in zip(self.works, self.whole, strict=True) if is_whole]


class Engine:
    """Runs requests on a loaded backend. Without a `tokenizer` it makes only token ids, and every text is empty."""

    def __init__(
        self, backend: Backend, tokenizer: Tokenizer | None, plan: Plan, config: EngineConfig, model: ModelConfig
    ) -> None:
        self._backend = backend
        self._tokenizer = tokenizer
        self._plan = plan
        self._vocab_size = model.vocab_size
        self._model = model
        self._num_texts = 0 if tokenizer is None else tokenizer.vocab_size
        self._config = config
        self._ahead = backend if isinstance(backend, LooksAhead) else None
        self._begun: _Begun | None = None  # the in-flight step, whose token ids are not read yet
        self._scheduler = self._new_scheduler()
        self._live: dict[int, _Live] = {}
        self._outputs: list[StepOutput] = []  # not yet returned; an interrupted step loses none
        self._last_id = 0

    @property
    def has_work(self) -> bool:
        return bool(self._outputs) or self._begun is not None or self._scheduler.has_work

    @property
    def num_free_pages(self) -> int:
        """Pages that no sequence holds; all of them if nothing runs."""
        return self._scheduler.pages.num_available

    def add(self, prompt_ids: Sequence[int], params: SamplingParams, sampler: Chooser | None = None) -> Request:
        """Queue a prompt. The request's `id` names it in the outputs of `step`; its `params.seed` is the seed in use. A given
        `sampler` samples the tokens instead of the one that `params` describe.

        Raises UsageError for an empty prompt or an id outside the vocabulary, ContextLengthError for a prompt that is too long.
        """
        if not prompt_ids:
            raise UsageError("the prompt has no tokens", hint="Give at least one token.")
        self._require_ids("token id", prompt_ids)
        self._require_ids("stop id", params.stop_ids)
        self._require_room(prompt_ids, params)
        live = self._make_live(list(prompt_ids), params, sampler)
        self._live[live.request.id] = live
        if live.max_tokens == 0 and not live.request.owes_prompt:
            self._finish(live, FinishReason.LENGTH)
        else:
            self._scheduler.add(live.request)
        return live.request

    def abort(self, request_id: int) -> None:
        """End a request at any moment. The next step returns its last output, with the held-back text. Idempotent."""
        live = self._live.get(request_id)
        if live is not None:
            self._finish(live, FinishReason.ABORT)

    def step(self) -> list[StepOutput]:
        """Compute the next token of each running request, and return what is new.

        If the device samples, launch the next step before returning the last step's tokens, so that the device never idles.
        An exception, Ctrl-C included, ends all requests with ABORT and is raised; the engine can be used again.
        """
        try:
            ahead = self._looks_ahead()
            if not ahead:
                self._settle()
            works = self._scheduler.schedule()
            begun = self._begin(works, ahead) if works else None
            self._settle()
            self._begun = begun
            if not ahead:
                self._settle()
        except BaseException:
            self.abort_all()
            raise
        return self.outputs()

    def outputs(self) -> list[StepOutput]:
        """Outputs not yet returned: the final text of aborted requests."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def abort_all(self) -> None:
        """End every request and free all pages, also after an interrupted step."""
        for request_id in tuple(self._live):
            self.abort(request_id)
        self._begun = None
        self._scheduler = self._new_scheduler()

    # ---- one step: launched, then finished ----------------------------------------------------------------------------

    def _looks_ahead(self) -> bool:
        """Whether the device can sample for every running request. A request that needs log-probabilities needs host logits."""
        return self._ahead is not None and all(live.is_plain for live in self._live.values())

    def _begin(self, works: list[Work], ahead: bool) -> _Begun:
        """Launch a step. A token that the device samples is a placeholder (UNREAD) in its request until the host reads it."""
        batch, whole = make_batch(works), [work.is_whole for work in works]
        if self._ahead is None or not ahead:
            begun = _Begun(works, whole, logits=self._backend.forward(batch))
        else:
            begun = _Begun(works, whole, chosen=self._ahead.choose(batch, self._choices(works, whole, batch)))
            for request in begun.choosing:
                request.num_unread += 1
                request.wants_more = len(request.output_ids) + request.num_unread < self._live[request.id].max_tokens
        self._scheduler.advance(works)
        return begun

    def _choices(self, works: list[Work], whole: list[bool], batch: Batch) -> Choices:
        """The sampling batch; its `sources` say which tokens of the batch the previous step sampled."""
        places = {} if self._begun is None else {request.id: i for i, request in enumerate(self._begun.choosing)}
        sources = np.full(len(batch.token_ids), -1, np.int32)
        for end, work in zip(batch.starts[1:], works, strict=True):
            if batch.token_ids[end - 1] == UNREAD:
                sources[end - 1] = places[work.request.id]
        lives = [self._live[work.request.id] for work, is_whole in zip(works, whole, strict=True) if is_whole]
        samplers = [live.sampler for live in lives if isinstance(live.sampler, Sampler)]
        edits = make_edits(samplers, [live.history for live in lives], sources[batch.logit_rows])
        return make_choices(sources, samplers, edits)

    def _settle(self) -> None:
        """Finish a step: use its logits or sampled tokens. Requests that ended in the meantime are skipped."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        self._scheduler.publish(begun.works)
        if begun.logits is not None:
            for work, is_whole, rows in zip(begun.works, begun.whole, split_rows(begun.works, begun.logits), strict=True):
                self._take(work, is_whole, rows)
        elif begun.chosen is not None:
            for request, token_id in zip(begun.choosing, begun.chosen.read(), strict=True):
                self._learn(request, token_id)

    def _learn(self, request: Request, token_id: int) -> None:
        """Accept a request's sampled token, unless the request has ended in the meantime."""
        live = self._live.get(request.id)
        if live is None:
            return
        request.num_unread -= 1
        if token_id == UNREAD:
            request.error = not_finite().line
            self._finish(live, FinishReason.ERROR)
        else:
            self._accept(live, token_id)

    def _take(self, work: Work, is_whole: bool, rows: Logits) -> None:
        """Use the logits of one request: score its prompt if requested, then sample the next token from the last row."""
        live = self._live[work.request.id]
        try:
            if live.request.owes_prompt:
                self._score_prompt(live.request, rows)
            if is_whole and live.max_tokens > 0:
                self._choose(live, rows[-1])
            elif is_whole:
                self._finish(live, FinishReason.LENGTH)
        except NumericalError as error:
            live.request.error = error.line
            self._finish(live, FinishReason.ERROR)

    def _score_prompt(self, request: Request, rows: Logits) -> None:
        """Log-probabilities of the next unscored prompt tokens: row i predicts the i-th of them."""
        for token_id, row in zip(request.prompt_ids[len(request.prompt_logprobs) :], rows):
            require_finite(row)
            request.prompt_logprobs.append(self._spelled(token_logprob(row, token_id, request.params.prompt_logprobs or 0)))

    def _choose(self, live: _Live, logits: Logits) -> None:
        """Sample the next token of a request.  # logits: (vocab_size,)"""
        request = live.request
        token_id = live.sampler.choose(logits, live.history)
        if request.params.logprobs is not None:
            request.logprobs.append(self._spelled(token_logprob(logits, token_id, request.params.logprobs)))
        self._accept(live, token_id)

    def _accept(self, live: _Live, token_id: int) -> None:
        """Append the next token, and finish the request if it ends there."""
        live.request.output_ids.append(token_id)
        text = self._text_of(live, token_id)
        reason, live.request.stop_reason = _end_of(live, token_id)
        if reason is None:
            self._tell(live, text)
        else:
            self._finish(live, reason, text)

    def _text_of(self, live: _Live, token_id: int) -> str:
        """The text that a token adds; "" for a stop id and for a padding id of the model's vocabulary."""
        detokenizer = live.detokenizer
        if detokenizer is None or token_id >= self._num_texts:
            return ""
        if token_id in live.stop_ids and token_id not in detokenizer.marks:
            return ""
        return detokenizer.push(token_id)

    def _spelled(self, entry: TokenLogprob) -> TokenLogprob:
        """The entry, with the text of its ids."""
        text, *top_texts = (token_text(self._tokenizer, i) for i in (entry.token_id, *(i for i, _ in entry.top)))
        return replace(entry, text=text, top_texts=tuple(top_texts))

    def _finish(self, live: _Live, reason: FinishReason, text: str = "") -> None:
        """Remove a request. Its last output has the held-back text."""
        live.request.finish_reason = reason
        live.request.num_unread = 0
        self._scheduler.remove(live.request, forget=reason is FinishReason.ERROR)
        del self._live[live.request.id]
        if live.detokenizer is not None:
            text += live.detokenizer.flush()
        self._tell(live, text)

    def _tell(self, live: _Live, text: str) -> None:
        """Queue an output with what is new in a request: one token, or none if it ended without one."""
        request, new = live.request, slice(live.num_told, None)
        live.num_told = len(request.output_ids)
        output = StepOutput(request.id, text, tuple(request.output_ids[new]), tuple(request.logprobs[new]), request.finish_reason)
        self._outputs.append(output)

    def _new_scheduler(self) -> Scheduler:
        plan = self._plan
        return Scheduler(
            Pages(plan.num_pages, plan.page_size),
            max_tokens=plan.max_tokens,
            max_sequences=plan.max_sequences,
            max_logits=plan.max_logits,
            prefix_cache=self._config.prefix_cache,
        )

    def _make_live(self, prompt_ids: list[int], params: SamplingParams, given: Chooser | None) -> _Live:
        stop_ids = self._stop_ids(params)
        sampler = Sampler(params, self._vocab_size, stop_ids | self._spelled_ids(params))
        self._last_id += 1
        request = Request(self._last_id, prompt_ids, sampler.params, family=self._model.prefix_key(len(prompt_ids)))
        room = self._plan.max_context - len(prompt_ids)
        max_tokens = room if params.max_tokens is None else min(params.max_tokens, room)
        history = History(request.prompt_ids, request.output_ids)
        return _Live(request, history, given or sampler, self._make_detokenizer(request), stop_ids, max_tokens)

    def _make_detokenizer(self, request: Request) -> Detokenizer | None:
        """None without a tokenizer; stop texts are then refused."""
        tokenizer, stop = self._tokenizer, request.params.stop
        if tokenizer is None:
            if stop:
                raise UsageError("stop texts need a tokenizer, and the model has none", hint="Use stop_ids.")
            return None
        return Detokenizer(tokenizer, stop=stop, at_start=request.prompt_ids == [tokenizer.bos_id])

    def _stop_ids(self, params: SamplingParams) -> frozenset[int]:
        own = frozenset(params.stop_ids)
        return own if self._tokenizer is None or params.ignore_eos else own | self._tokenizer.stop_ids

    def _spelled_ids(self, params: SamplingParams) -> frozenset[int]:
        """Ids of the control tokens that stop texts spell exactly."""
        control = {} if self._tokenizer is None else self._tokenizer.special_tokens
        return frozenset(control[text] for text in params.stop if text in control)

    def _require_ids(self, what: str, ids: Collection[int]) -> None:
        outside = [i for i in ids if not 0 <= i < self._vocab_size]
        if outside:
            raise UsageError(f"{what} {outside[0]} is not in the vocabulary, which has ids 0..{self._vocab_size - 1}")

    def _require_room(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        needed = len(prompt_ids) + (0 if params.max_tokens == 0 else 1)
        if needed > self._plan.max_context:
            raise ContextLengthError.of(str(len(prompt_ids)), self._plan.max_context)


def make_batch(works: Sequence[Work]) -> Batch:
    """The arrays that a backend receives. Lists become arrays once, not per request: that costs time with 256 requests."""
    token_ids: list[int] = []
    positions: list[int] = []
    logit_rows: list[int] = []
    starts = [0]
    for work in works:
        token_ids += work.request.token_ids(work.first, work.last)
        positions += range(work.first, work.last)
        starts.append(len(positions))
        logit_rows += range(len(positions) - work.num_logits, len(positions))
    return Batch(
        token_ids=np.array(token_ids, np.int32),
        positions=np.array(positions, np.int32),
        starts=np.array(starts, np.int32),
        page_tables=_page_tables([work.request.page_ids for work in works]),
        logit_rows=np.array(logit_rows, np.int32),
        prompt_lengths=np.array([len(work.request.prompt_ids) for work in works], np.int32),
    )


def _page_tables(page_ids: Sequence[Sequence[int]]) -> IntArray:
    """The page ids as rows, padded with -1.

    >>> _page_tables([[4], [2, 0]]).tolist()
    [[4, -1], [2, 0]]
    """
    lengths = np.array(list(map(len, page_ids)))
    tables = np.full((len(lengths), lengths.max()), -1, np.int32)
    tables[np.arange(lengths.max()) < lengths[:, None]] = list(chain.from_iterable(page_ids))
    return tables


def split_rows(works: Sequence[Work], logits: Logits) -> list[Logits]:
    """Split the logits by request.  # (num_logits, vocab_size) each"""
    return np.split(logits, np.cumsum([work.num_logits for work in works])[:-1])


def _end_of(live: _Live, token_id: int) -> tuple[FinishReason | None, int | str | None]:
    """Why a request ends with this token (None: it goes on), and the caller's stop text or stop id that ended it."""
    if live.detokenizer is not None and live.detokenizer.stopped is not None:
        return FinishReason.STOP, live.detokenizer.stopped
    if token_id in live.stop_ids:
        return FinishReason.STOP, token_id if token_id in live.request.params.stop_ids else None
    return (FinishReason.LENGTH if len(live.request.output_ids) >= live.max_tokens else None), None
