"""The engine: add, abort, step. A step is: schedule, forward, sample, accept, detokenize. It does no arithmetic.

Not thread-safe: one thread calls it. Requests of any kind run together; none changes a bit of another's result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from types import MappingProxyType

from puna.admission import Admission, LiveRequest
from puna.backends.base import Backend
from puna.batch import Batch, Logits, Pending, SamplingBatch
from puna.config import EngineConfig
from puna.context_shift import drop_oldest
from puna.deadlines import Deadlines
from puna.errors import NumericalError, QueueFullError, first_line
from puna.logprobs import sampled_logprob, spelled
from puna.model.spec import ModelConfig
from puna.opening import NO_OPENING, Opening
from puna.pages import Pages
from puna.plan import Plan
from puna.pooling import Pool
from puna.processors import LogitsProcessor
from puna.progress import SILENT, Reporter
from puna.request import PLACEHOLDER, FinishReason, Request, SamplingParams, StepOutput
from puna.sampling import TokenSampler, Watcher, not_finite, require_finite, token_logprob
from puna.scheduler import PageSource, ScheduledChunk, Scheduler
from puna.speculation import Drafter
from puna.stored_pages import INFINITIES, is_finite
from puna.thinking import without_thoughts
from puna.tokenizers.base import Tokenizer


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A launched step whose sampled tokens the host has not read yet."""

    chunks: list[ScheduledChunk]
    sampled: list[Request]  # one for each token id
    pending: Pending
    num_tokens: int
    launched_at: float  # on the clock of time.perf_counter


class Engine:
    """Runs requests on a loaded backend. Without a `tokenizer` it makes only token ids, and every text is empty."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Tokenizer | None,
        plan: Plan,
        config: EngineConfig,
        model: ModelConfig,
        drafter: Drafter | None = None,
        source: PageSource | None = None,
        adapters: Mapping[str, str] = MappingProxyType({}),
        report: Reporter = SILENT,
    ) -> None:
        """`drafter` guesses tokens, which steps check; `source` finds pages that are not in memory. Neither changes a result.
        `adapters`: names of the backend's LoRA adapters, by their numbers, and a digest of each. `report` hears if the drafter
        fails.
        """
        self._backend = backend
        self._report = report
        self._drafter = drafter
        self._is_drafting = False  # whether the drafter was asked for this step
        self._tokenizer = tokenizer
        self._plan = plan
        self._num_texts = 0 if tokenizer is None else tokenizer.vocab_size
        self._config = config
        self.admission = Admission(
            model,
            tokenizer,
            plan.max_context,
            filters=backend.filters,
            host_samples=drafter is not None,
            adapters=adapters,
        )
        self._source = source
        self._in_flight: _InFlight | None = None
        self._finished_at = 0.0  # when the last step's results were there
        self._scheduler = self._new_scheduler()
        self._live: dict[int, LiveRequest] = {}
        self._outputs: list[StepOutput] = []  # not yet returned; an interrupted step loses none
        self._last_id = 0
        self._deadlines = Deadlines()

    @property
    def has_work(self) -> bool:
        return bool(self._outputs) or self._in_flight is not None or self._scheduler.has_work

    @property
    def num_free_pages(self) -> int:
        """Pages that no sequence holds; all of them if nothing runs."""
        return self._scheduler.pages.num_available

    def add(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sampler: TokenSampler | None = None,
        pool: Pool | None = None,
        processors: Sequence[LogitsProcessor] = (),
        is_expected: bool = False,
        watcher: Watcher | None = None,
        opening: Opening = NO_OPENING,
    ) -> Request:
        """Queue a prompt. The request's `id` names it in the outputs of `step`; its `params.seed` is the seed in use. A given
        `sampler` samples the tokens instead of the one that `params` describe; `processors` change the logits before that one.
        A `pool` receives the prompt's hidden states; then `params.max_tokens` must be 0. `is_expected`: it belongs to a call
        whose first request the queue has taken. A `watcher` hears how each token comes to be; then the host samples. The answer
        begins with the tokens of an `opening`.

        Raises UsageError for an empty prompt or an id outside the vocabulary, ContextLengthError for a prompt that is too long,
        QueueFullError if too many requests wait and this one is not expected.
        """
        if not is_expected:
            self._require_queue()
        self._last_id += 1
        live = self.admission.admit(self._last_id, list(prompt_ids), params, sampler, pool, processors, watcher, opening)
        self._live[live.request.id] = live
        self._deadlines.add(live.request.id, params.timeout)
        self._guess(lambda drafter: drafter.start(live.request))
        if live.max_tokens == 0 and not (live.request.needs_prompt_logprobs or pool):
            self._finish(live, FinishReason.LENGTH)
        elif self._open(live):
            self._scheduler.add(live.request)
        return live.request

    def abort(self, request_id: int) -> None:
        """End a request at any moment. The next step returns its last output, with the held-back text. Idempotent."""
        live = self._live.get(request_id)
        if live is not None:
            self._give_up(live, FinishReason.ABORT)

    def end_thinking(self, request_id: int) -> None:
        """End a request's thoughts, as if its budget were used up: its answer is next. Does nothing if it thinks no more."""
        live = self._live.get(request_id)
        if live is not None and live.thinking is not None and not live.thinking.has_ended:
            live.custom = without_thoughts(live.custom, live.sampler, live.thinking)
            live.needs_logits = True

    def outputs(self) -> list[StepOutput]:
        """Outputs not yet returned: the final text of aborted requests."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def abort_all(self) -> None:
        """End every request and free all pages, also after an interrupted step."""
        for live in tuple(self._live.values()):
            self._finish(live, FinishReason.ABORT)
        self._in_flight = None
        self._scheduler = self._new_scheduler()

    # ---- one step ------------------------------------------------------------------------------------------------------

    def step(self) -> list[StepOutput]:
        """Compute the next token of each running request, and return what is new.

        An exception that belongs to one request ends only that one, with ERROR. One of the whole step ends the running requests
        with ERROR and is raised; Ctrl-C ends all with ABORT. The engine can be used again.
        """
        try:
            if self._deadlines.is_needed:
                self._end_late()
            if any(live.needs_logits for live in self._live.values()):
                self._plain_step()
            else:
                self._overlapped_step()
        except BaseException as error:
            self._recover(error)
            raise
        return self.outputs()

    def _plain_step(self) -> None:
        """Compute logits, and wait for them: the host samples."""
        self._finish_step()
        self._draft()
        if chunks := self._scheduler.schedule():
            batch = Batch.of(chunks)
            results = self._forward(batch, chunks)
            self._scheduler.advance(chunks)
            self._scheduler.publish(chunks)
            for chunk, rows in zip(chunks, results, strict=True):
                self._use_rows(self._live[chunk.request.id], rows, chunk)

    def _overlapped_step(self) -> None:
        """Launch the next step before the last one's tokens are read: the device samples, and never idles."""
        chunks = self._scheduler.schedule()
        launched = self._launch(chunks) if chunks else None
        self._finish_step()
        self._in_flight = launched

    def _launch(self, chunks: list[ScheduledChunk]) -> _InFlight:
        """Launch a step in which the device samples. Until the host reads a token, it is a placeholder in its request."""
        start, batch, sampled = time.perf_counter(), Batch.of(chunks), [chunk.request for chunk in chunks if chunk.is_last]
        pending = self._backend.step(batch, self._sampling_batch(batch, chunks, sampled))
        for request in sampled:
            request.num_in_flight += 1
            request.is_active = len(request.output_ids) + request.num_in_flight < self._live[request.id].max_tokens
        self._scheduler.advance(chunks)
        return _InFlight(chunks, sampled, pending, len(batch.token_ids), start)

    def _finish_step(self) -> None:
        """Read the tokens of the step in flight, and accept them. Requests that have ended in the meantime are skipped."""
        step, self._in_flight = self._in_flight, None
        if step is None:
            return
        self._scheduler.publish(step.chunks)
        token_ids = step.pending.token_ids()
        self._note_step(step.num_tokens, step.launched_at)
        for request, token_id in zip(step.sampled, token_ids, strict=True):
            if live := self._live.get(request.id):
                self._use_token(live, token_id)

    # ---- its parts -----------------------------------------------------------------------------------------------------

    def _open(self, live: LiveRequest) -> bool:
        """Accept the tokens that the answer opens with; False if the request has ended with them."""
        try:
            for token_id in live.opening[: live.num_unsampled]:
                if live.request.finish_reason is None:
                    if live.constraint is not None:
                        live.constraint.require(token_id)
                    self._accept(live, token_id)
            if live.num_unsampled == len(live.opening) > 0:
                self._jump_ahead(live)
            live.request.num_opened = len(live.request.output_ids)
        except Exception as error:  # noqa: BLE001 - it ends this request; the others go on
            self._fail(live, error)
        return live.request.finish_reason is None

    def _end_late(self) -> None:
        """End the requests whose time has passed, with the text so far."""
        for request_id in self._deadlines.passed():
            if live := self._live.get(request_id):
                self._give_up(live, FinishReason.TIMEOUT)

    def _draft(self) -> None:
        """Let the drafter guess tokens of the decoding requests that are due, none beyond what may still be generated."""
        forced = self._draft_forced()
        decoding = [] if self._drafter is None else self._scheduler.decoding()
        due = [one for one in decoding if len(one.output_ids) >= one.draft_at and one not in forced]
        self._is_drafting = bool(due)
        if due:
            self._guess(lambda drafter: drafter.draft(due, len(decoding)))
        for request in (*due, *forced):
            del request.draft_ids[max(0, self._live[request.id].max_tokens - len(request.output_ids) - 1) :]

    def _draft_forced(self) -> list[Request]:
        """Draft the tokens of openings that are still to be sampled: these guesses are right, so one step samples many."""
        if self._backend.prompts_apart:
            return []
        drafted = []
        for live in self._live.values():
            if len(live.opening) > len(live.request.output_ids):
                live.request.draft_ids = list(live.opening[len(live.request.output_ids) :])
                drafted.append(live.request)
        return drafted

    def _guess(self, use: Callable[[Drafter], None]) -> None:
        """Use the drafter, if there is one. It is dropped when it fails: no result needs it."""
        try:
            if self._drafter is not None:
                use(self._drafter)
        except Exception as error:  # noqa: BLE001 - it is nobody's
            self._drafter = None
            self._report.notice(f"no more tokens are guessed: {first_line(error, with_kind=True)}")

    def _forward(self, batch: Batch, chunks: list[ScheduledChunk]) -> list[Logits]:
        """Compute the rows of a step, by sequence, and beside them the masks of constraints. The drafter hears what they cost."""
        start, launched_at = time.thread_time(), time.perf_counter()
        pending = self._backend.step(batch)
        for chunk in chunks:
            if chunk.is_last and (constraint := self._live[chunk.request.id].constraint) is not None:
                with suppress(Exception):  # `sample` computes it again, and what fails there ends this request only
                    constraint.prepare()
        results = batch.results(pending)
        self._note_step(len(batch.token_ids), launched_at)
        if self._is_drafting:
            self._guess(lambda drafter: drafter.note(len(batch.token_ids), time.thread_time() - start))
        return results

    def _note_step(self, num_tokens: int, launched_at: float) -> None:
        """Tell the source of pages what a step costs. A step that waited for the one before it began when that one ended."""
        now, begun_at = time.perf_counter(), max(launched_at, self._finished_at)
        self._finished_at = now
        if self._source is not None:
            self._source.note(num_tokens, now - begun_at)

    def _sampling_batch(self, batch: Batch, chunks: list[ScheduledChunk], sampled: list[Request]) -> SamplingBatch:
        """How the device samples for these requests, and which tokens of the batch are still in flight."""
        in_flight = () if self._in_flight is None else self._in_flight.sampled
        index = {request.id: i for i, request in enumerate(in_flight)}
        sources = batch.sources([index.get(chunk.request.id, -1) for chunk in chunks])
        lives = [self._live[request.id] for request in sampled]
        return SamplingBatch.of([live.sampler for live in lives], [live.history for live in lives], sources, batch.logit_rows)

    def _use_rows(self, live: LiveRequest, rows: Logits, chunk: ScheduledChunk) -> None:
        """Use the rows of one request: logits, or hidden states if it has a pool. Score its prompt if requested, then sample the
        next tokens from the last rows."""
        try:
            if live.watcher is not None:
                live.watcher.computed(chunk.first, chunk.last, len(chunk.draft_ids))
            if live.request.pool is not None:
                live.request.pool.add(rows)
            if live.request.needs_prompt_logprobs:
                self._score_prompt(live.request, rows)
            if chunk.is_last and live.max_tokens > 0:
                self._sample_rows(live, rows[-1 - len(chunk.draft_ids) :], chunk.draft_ids)
            elif chunk.is_last:
                self._finish(live, FinishReason.LENGTH)
        except Exception as error:  # noqa: BLE001 - it ends this request; the others go on
            self._fail(live, error)

    def _use_token(self, live: LiveRequest, token_id: int) -> None:
        """Accept the token that the device sampled; a placeholder says that the logits were not finite."""
        live.request.num_in_flight -= 1
        try:
            if token_id == PLACEHOLDER:
                raise not_finite()
            self._accept(live, token_id)
        except Exception as error:  # noqa: BLE001 - it ends this request; the others go on
            self._fail(live, error)

    def _sample_rows(self, live: LiveRequest, rows: Logits, draft_ids: tuple[int, ...]) -> None:
        """Sample a token from each row, up to the first that is not the draft: later rows continue what the text is not."""
        request = live.request
        request.num_drafted += len(draft_ids)
        for row, draft_id in zip(rows, (*draft_ids, PLACEHOLDER), strict=True):
            self._sample(live, row)
            is_right = request.output_ids[-1] == draft_id and request.finish_reason is None
            if is_right:
                self._scheduler.accept_draft(request)
            if self._jump_ahead(live) or not is_right:
                break
        if draft_ids:
            self._scheduler.drop_drafts(request)

    def _jump_ahead(self, live: LiveRequest) -> bool:
        """Append the tokens that the constraint forces, if any. The next step computes them together, as after a preemption."""
        if live.constraint is None or live.request.finish_reason is not None:
            return False
        forced = live.constraint.forced()
        for token_id in forced:
            if live.request.finish_reason is None:
                self._accept(live, token_id)
        return len(forced) > 0

    def _score_prompt(self, request: Request, rows: Logits) -> None:
        """Log-probabilities of the next unscored prompt tokens: row i predicts the i-th of them."""
        for token_id, row in zip(request.prompt_ids[len(request.prompt_logprobs) :], rows):
            require_finite(row)
            entry = token_logprob(row, token_id, request.params.prompt_logprobs or 0)
            request.prompt_logprobs.append(spelled(entry, self._tokenizer))

    def _sample(self, live: LiveRequest, logits: Logits) -> None:
        """Sample the next token of a request.  # logits: (vocab_size,)"""
        request, sampler = live.request, live.sampler if live.custom is None else live.custom
        token_id = sampler.sample(logits, live.history)
        if entry := sampled_logprob(logits, token_id, live.constraint or live.sampler, live.history, self._tokenizer):
            request.logprobs.append(entry)
        self._accept(live, token_id)

    def _accept(self, live: LiveRequest, token_id: int) -> None:
        """Append the next token, and finish the request if it ends there."""
        live.request.output_ids.append(token_id)
        if live.constraint is not None:
            live.constraint.accept(token_id)
        text = self._text_of(live, token_id)
        reason, live.request.stop_reason = _end_of(live, token_id)
        if reason is None or (reason is FinishReason.LENGTH and self._shift(live)):
            self._tell(live, text)
        else:
            self._finish(live, reason, text)

    def _shift(self, live: LiveRequest) -> bool:
        """Go on in a full context without its oldest tokens. False if the request does not ask for it, or has all its tokens."""
        request, wanted = live.request, live.request.params.max_tokens
        is_full = wanted is None or len(request.output_ids) < wanted
        bos_id = None if self._tokenizer is None else self._tokenizer.bos_id
        if not (request.params.context_shift and is_full and drop_oldest(request, bos_id)):
            return False
        request.prefix_key = self.admission.prefix_key(request.params, request.prompt_length)
        self._scheduler.recompute(request)
        live.max_tokens = self.admission.limit(request)
        return True

    def _text_of(self, live: LiveRequest, token_id: int) -> str:
        """The text that a token adds; "" for a stop id (if it is not to be included) and for a padding id of the vocabulary."""
        detokenizer, is_included = live.detokenizer, live.request.params.include_stop_str_in_output
        if detokenizer is None:
            return ""
        if token_id >= self._num_texts or (token_id in live.stop_ids and token_id not in detokenizer.marks and not is_included):
            detokenizer.skip()
            return ""
        return detokenizer.push(token_id)

    def _give_up(self, live: LiveRequest, reason: FinishReason) -> None:
        """End a request from outside. The prefix cache keeps what was computed of an unfinished prompt."""
        if self._config.prefix_cache and self._backend.kv_arithmetic:
            with suppress(Exception):  # no result needs it
                self._keep_prompt(live.request)
        self._finish(live, reason)

    def _keep_prompt(self, request: Request) -> None:
        """Publish the full pages of a prompt, as far as their numbers are finite: there are no logits that would show it."""
        in_flight = () if self._in_flight is None else self._in_flight.chunks
        computed = min((chunk.first for chunk in in_flight if chunk.request is request), default=request.num_computed)
        first, last = request.num_published, computed // self._plan.page_size
        pages = takewhile(self._is_finite, request.page_ids[first:last])
        self._scheduler.keep(request, (first + sum(1 for _ in pages)) * self._plan.page_size)

    def _is_finite(self, page: int) -> bool:
        kv_type = self._plan.kv_type
        return kv_type in INFINITIES and is_finite(self._backend.read_pages([page])[0], kv_type)

    def _fail(self, live: LiveRequest, error: Exception) -> None:
        live.request.fault = error
        self._finish(live, FinishReason.ERROR)

    def _finish(self, live: LiveRequest, reason: FinishReason, text: str = "") -> None:
        """Remove a request. Its last output has the held-back text."""
        live.request.finish_reason = reason
        live.request.num_in_flight = 0
        self._scheduler.remove(live.request, forget=isinstance(live.request.fault, NumericalError))
        self._guess(lambda drafter: drafter.finish(live.request))
        del self._live[live.request.id]
        self._tell(live, text + self._held_back(live))

    def _held_back(self, live: LiveRequest) -> str:
        """The text that may have begun a stop text; a detokenizer that fails turns the end into ERROR."""
        try:
            return "" if live.detokenizer is None else live.detokenizer.flush()
        except Exception as error:  # noqa: BLE001 - the last output must be told
            live.request.finish_reason, live.request.fault = FinishReason.ERROR, live.request.fault or error
            return ""

    def _recover(self, error: BaseException) -> None:
        """After a failed step: end the requests that it may have touched, and take back all pages. The others wait on.

        An error that is no Exception, such as Ctrl-C, ends all.
        """
        if not isinstance(error, Exception):
            self.abort_all()
            return
        self._in_flight = None
        waiting = self._scheduler.disband()
        self._scheduler = self._new_scheduler()
        for request in waiting:
            self._scheduler.add(request)
        for live in tuple(self._live.values()):
            if live.request not in waiting:
                self._fail(live, error)

    def _tell(self, live: LiveRequest, text: str) -> None:
        """Queue an output with what is new in a request: one token, or none if it ended without one."""
        request, new = live.request, slice(live.num_told, None)
        live.num_told = len(request.output_ids)
        reasoning, ids = "", tuple(request.output_ids[new])
        if live.thinking is not None:
            reasoning, text = live.thinking.split(text, len(ids), request.finish_reason is not None)
        self._outputs.append(StepOutput(request.id, text, ids, tuple(request.logprobs[new]), request.finish_reason, reasoning))

    def _require_queue(self) -> None:
        limit, num_waiting = self._config.max_queue, len(self._scheduler.waiting)
        if limit and num_waiting >= limit:
            raise QueueFullError.of(num_waiting)

    def _new_scheduler(self) -> Scheduler:
        plan = self._plan
        return Scheduler(
            Pages(plan.num_pages, plan.page_size),
            max_tokens=plan.max_tokens,
            max_sequences=plan.max_sequences,
            max_logits=plan.max_logits,
            prefix_cache=self._config.prefix_cache,
            prompts_apart=self._backend.prompts_apart,
            source=self._source,
        )


def _end_of(live: LiveRequest, token_id: int) -> tuple[FinishReason | None, int | str | None]:
    """Why a request ends with this token (None: it goes on), and the caller's stop text or stop id that ended it."""
    if live.detokenizer is not None and live.detokenizer.stopped is not None:
        return FinishReason.STOP, live.detokenizer.stopped
    if token_id in live.stop_ids:
        return FinishReason.STOP, token_id if token_id in live.request.params.stop_ids else None
    if live.constraint is not None and live.constraint.is_over:
        return FinishReason.STOP, None
    return (FinishReason.LENGTH if len(live.request.output_ids) >= live.max_tokens else None), None
