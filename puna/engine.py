"""The engine: add, abort, step. A step is: schedule, forward, sample, accept, detokenize. It does no arithmetic.

Not thread-safe: one thread calls it. Requests of any kind run together; none changes a bit of another's result.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from puna.backends.base import Backend
from puna.batch import Batch, Logits, Pending, SamplingBatch
from puna.config import EngineConfig
from puna.constraints import Constraint, Constraints
from puna.context_shift import drop_oldest, require_asked
from puna.deadlines import Deadlines
from puna.detokenize import Detokenizer
from puna.errors import ContextLengthError, NumericalError, QueueFullError, UsageError
from puna.logprobs import require_possible, sampled_logprob, spelled
from puna.lora import adapter_number
from puna.model.spec import ModelConfig
from puna.pages import Pages
from puna.plan import Plan
from puna.pooling import Pool
from puna.processors import LogitsProcessor
from puna.request import PLACEHOLDER, FinishReason, PrefixKey, Request, SamplingParams, StepOutput
from puna.sampling import CheckedSampler, History, Sampler, TokenSampler, not_finite, require_finite, token_logprob
from puna.scheduler import PageSource, ScheduledChunk, Scheduler
from puna.speculation import Drafter
from puna.thinking import Thinking, ThinkTags, begin_thinking, control_tags, with_budget
from puna.tokenizers.base import Tokenizer


@dataclass(slots=True)
class _Live:
    """What the engine keeps for a request while it runs."""

    request: Request
    history: History  # shares the request's growing lists
    sampler: Sampler
    custom: TokenSampler | None  # a caller's own, or the constraint: it samples in place of `sampler`
    constraint: Constraint | None  # what the answer must follow
    needs_logits: bool  # whether the host samples, and not the device
    detokenizer: Detokenizer | None
    stop_ids: frozenset[int]
    max_tokens: int  # the request's limit, or what fits the context
    thinking: Thinking | None = None  # None: all text is the answer's
    num_told: int = 0  # output ids that a StepOutput has returned


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A launched step whose sampled tokens the host has not read yet."""

    chunks: list[ScheduledChunk]
    sampled: list[Request]  # one for each token id
    pending: Pending


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
    ) -> None:
        """`drafter` guesses tokens, which steps check; `source` finds pages that are not in memory. Neither changes a result.
        `adapters`: names of the backend's LoRA adapters, by their numbers, and a digest of each.
        """
        self._backend = backend
        self._drafter = drafter
        self.think_tags: ThinkTags | None = None  # those of the chat template in use
        self._is_drafting = False  # whether the drafter was asked for this step
        self._tokenizer = tokenizer
        self._plan = plan
        self._vocab_size = model.vocab_size
        self._model = model
        self._num_texts = 0 if tokenizer is None else tokenizer.vocab_size
        self._config = config
        self._adapters = dict(adapters)
        self.constraints = Constraints(tokenizer)
        self._source = source
        self._in_flight: _InFlight | None = None
        self._scheduler = self._new_scheduler()
        self._live: dict[int, _Live] = {}
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
    ) -> Request:
        """Queue a prompt. The request's `id` names it in the outputs of `step`; its `params.seed` is the seed in use. A given
        `sampler` samples the tokens instead of the one that `params` describe; `processors` change the logits before that one.
        A `pool` receives the prompt's hidden states; then `params.max_tokens` must be 0.

        Raises UsageError for an empty prompt or an id outside the vocabulary, ContextLengthError for a prompt that is too long,
        QueueFullError if too many requests wait.
        """
        if not prompt_ids:
            raise UsageError("the prompt has no tokens", hint="Give at least one token.")
        self._require_ids("token id", prompt_ids)
        self._require_ids("stop id", params.stop_ids)
        self._require_room(prompt_ids, params)
        self._require_queue()
        if params.num_samples > 1:
            raise UsageError("a request makes one sample", hint="LLM.generate and LLM.stream take n and best_of.")
        live = self._make_live(list(prompt_ids), params, sampler, pool, processors)
        self._live[live.request.id] = live
        self._deadlines.add(live.request.id, params.timeout)
        if self._drafter is not None:
            self._drafter.start(live.request)
        if live.max_tokens == 0 and not (live.request.needs_prompt_logprobs or pool):
            self._finish(live, FinishReason.LENGTH)
        else:
            self._scheduler.add(live.request)
        return live.request

    def abort(self, request_id: int) -> None:
        """End a request at any moment. The next step returns its last output, with the held-back text. Idempotent."""
        live = self._live.get(request_id)
        if live is not None:
            self._finish(live, FinishReason.ABORT)

    def outputs(self) -> list[StepOutput]:
        """Outputs not yet returned: the final text of aborted requests."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def abort_all(self) -> None:
        """End every request and free all pages, also after an interrupted step."""
        for request_id in tuple(self._live):
            self.abort(request_id)
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
        batch, sampled = Batch.of(chunks), [chunk.request for chunk in chunks if chunk.is_last]
        pending = self._backend.step(batch, self._sampling_batch(batch, chunks, sampled))
        for request in sampled:
            request.num_in_flight += 1
            request.is_active = len(request.output_ids) + request.num_in_flight < self._live[request.id].max_tokens
        self._scheduler.advance(chunks)
        return _InFlight(chunks, sampled, pending)

    def _finish_step(self) -> None:
        """Read the tokens of the step in flight, and accept them. Requests that have ended in the meantime are skipped."""
        step, self._in_flight = self._in_flight, None
        if step is None:
            return
        self._scheduler.publish(step.chunks)
        for request, token_id in zip(step.sampled, step.pending.token_ids(), strict=True):
            if live := self._live.get(request.id):
                self._use_token(live, token_id)

    # ---- its parts -----------------------------------------------------------------------------------------------------

    def _end_late(self) -> None:
        """End the requests whose time has passed, with the text so far."""
        for request_id in self._deadlines.passed():
            if live := self._live.get(request_id):
                self._finish(live, FinishReason.TIMEOUT)

    def _draft(self) -> None:
        """Let the drafter guess tokens of the decoding requests that are due, none beyond what may still be generated."""
        decoding = [] if self._drafter is None else self._scheduler.decoding()
        due = [request for request in decoding if len(request.output_ids) >= request.draft_at]
        self._is_drafting = bool(due)
        if self._drafter is not None and due:
            self._drafter.draft(due, len(decoding))
            for request in due:
                del request.draft_ids[max(0, self._live[request.id].max_tokens - len(request.output_ids) - 1) :]

    def _forward(self, batch: Batch, chunks: list[ScheduledChunk]) -> list[Logits]:
        """Compute the rows of a step, by sequence, and beside them the masks of constraints. The drafter hears what they cost."""
        start = time.thread_time()
        pending = self._backend.step(batch)
        for chunk in chunks:
            if chunk.is_last and (constraint := self._live[chunk.request.id].constraint) is not None:
                constraint.prepare()
        results = batch.results(pending)
        if self._drafter is not None and self._is_drafting:
            self._drafter.note(len(batch.token_ids), time.thread_time() - start)
        return results

    def _sampling_batch(self, batch: Batch, chunks: list[ScheduledChunk], sampled: list[Request]) -> SamplingBatch:
        """How the device samples for these requests, and which tokens of the batch are still in flight."""
        in_flight = () if self._in_flight is None else self._in_flight.sampled
        index = {request.id: i for i, request in enumerate(in_flight)}
        sources = batch.sources([index.get(chunk.request.id, -1) for chunk in chunks])
        lives = [self._live[request.id] for request in sampled]
        return SamplingBatch.of([live.sampler for live in lives], [live.history for live in lives], sources, batch.logit_rows)

    def _use_rows(self, live: _Live, rows: Logits, chunk: ScheduledChunk) -> None:
        """Use the rows of one request: logits, or hidden states if it has a pool. Score its prompt if requested, then sample the
        next tokens from the last rows."""
        try:
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

    def _use_token(self, live: _Live, token_id: int) -> None:
        """Accept the token that the device sampled; a placeholder says that the logits were not finite."""
        live.request.num_in_flight -= 1
        try:
            if token_id == PLACEHOLDER:
                raise not_finite()
            self._accept(live, token_id)
        except Exception as error:  # noqa: BLE001 - it ends this request; the others go on
            self._fail(live, error)

    def _sample_rows(self, live: _Live, rows: Logits, draft_ids: tuple[int, ...]) -> None:
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

    def _jump_ahead(self, live: _Live) -> bool:
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

    def _sample(self, live: _Live, logits: Logits) -> None:
        """Sample the next token of a request.  # logits: (vocab_size,)"""
        request, sampler = live.request, live.sampler if live.custom is None else live.custom
        token_id = sampler.sample(logits, live.history)
        if entry := sampled_logprob(logits, token_id, live.constraint or live.sampler, live.history, self._tokenizer):
            request.logprobs.append(entry)
        self._accept(live, token_id)

    def _accept(self, live: _Live, token_id: int) -> None:
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

    def _shift(self, live: _Live) -> bool:
        """Go on in a full context without its oldest tokens. False if the request does not ask for it, or has all its tokens."""
        request, wanted = live.request, live.request.params.max_tokens
        is_full = wanted is None or len(request.output_ids) < wanted
        bos_id = None if self._tokenizer is None else self._tokenizer.bos_id
        if not (request.params.context_shift and is_full and drop_oldest(request, bos_id)):
            return False
        request.prefix_key = self._prefix_key(request.params, request.prompt_length)
        self._scheduler.recompute(request)
        live.max_tokens = self._limit(request)
        return True

    def _limit(self, request: Request) -> int:
        """How many tokens the request may have until it ends, or until its context is full."""
        room = len(request.output_ids) + self._plan.max_context - request.num_tokens
        return room if request.params.max_tokens is None else min(request.params.max_tokens, room)

    def _prefix_key(self, params: SamplingParams, prompt_length: int) -> PrefixKey:
        key = self._model.prefix_key(prompt_length)
        apart = (params.cache_salt, self._adapters[params.lora_name]) if params.lora_name else (params.cache_salt,)
        return (key, *apart) if any(apart) else key

    def _text_of(self, live: _Live, token_id: int) -> str:
        """The text that a token adds; "" for a stop id (if it is not to be included) and for a padding id of the vocabulary."""
        detokenizer, is_included = live.detokenizer, live.request.params.include_stop_str_in_output
        if detokenizer is None:
            return ""
        if token_id >= self._num_texts or (token_id in live.stop_ids and token_id not in detokenizer.marks and not is_included):
            detokenizer.skip()
            return ""
        return detokenizer.push(token_id)

    def _fail(self, live: _Live, error: Exception) -> None:
        live.request.fault = error
        self._finish(live, FinishReason.ERROR)

    def _finish(self, live: _Live, reason: FinishReason, text: str = "") -> None:
        """Remove a request. Its last output has the held-back text."""
        live.request.finish_reason = reason
        live.request.num_in_flight = 0
        self._scheduler.remove(live.request, forget=isinstance(live.request.fault, NumericalError))
        if self._drafter is not None:
            self._drafter.finish(live.request)
        del self._live[live.request.id]
        self._tell(live, text + self._held_back(live))

    def _held_back(self, live: _Live) -> str:
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

    def _tell(self, live: _Live, text: str) -> None:
        """Queue an output with what is new in a request: one token, or none if it ended without one."""
        request, new = live.request, slice(live.num_told, None)
        live.num_told = len(request.output_ids)
        reasoning, ids = "", tuple(request.output_ids[new])
        if live.thinking is not None:
            reasoning, text = live.thinking.split(text, len(ids), request.finish_reason is not None)
        self._outputs.append(StepOutput(request.id, text, ids, tuple(request.logprobs[new]), request.finish_reason, reasoning))

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

    def _make_live(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        custom: TokenSampler | None,
        pool: Pool | None,
        processors: Sequence[LogitsProcessor],
    ) -> _Live:
        require_possible(params, len(prompt_ids), custom)
        require_asked(params)
        stop_ids = self._stop_ids(params)
        sampler = Sampler(params, self._vocab_size, stop_ids | self._spelled_ids(params), self._tokenizer, processors)
        self._last_id += 1
        adapter = adapter_number(params.lora_name, list(self._adapters))
        prefix_key = self._prefix_key(params, len(prompt_ids))
        request = Request(self._last_id, prompt_ids, sampler.params, prefix_key=prefix_key, adapter=adapter, pool=pool)
        max_tokens = self._limit(request)
        history = History(request.prompt_ids, request.output_ids)
        custom = None if custom is None else CheckedSampler(custom, self._vocab_size)
        constraint = self.constraints.of(sampler, custom, stop_ids, self._begins_text(prompt_ids))
        custom = custom if constraint is None else constraint
        thinking = begin_thinking(params, prompt_ids, self.think_tags, self._tokenizer, constraint is not None)
        if thinking is not None:
            request.reasoning, custom = thinking.found, with_budget(custom, sampler, thinking, params.thinking_budget)
        needs_logits = any(one is not None for one in (custom, pool, self._drafter)) or self._needs_logits(sampler)
        detokenizer = self._make_detokenizer(request)
        return _Live(request, history, sampler, custom, constraint, needs_logits, detokenizer, stop_ids, max_tokens, thinking)

    def _needs_logits(self, sampler: Sampler) -> bool:
        """Whether the host must sample: for log-probabilities, or because the device does not, or lacks a filter."""
        wants_logprobs = sampler.params.logprobs is not None or sampler.params.prompt_logprobs is not None
        return wants_logprobs or not self._device_samples(sampler)

    def _device_samples(self, sampler: Sampler) -> bool:
        known = self._backend.filters
        return len(known) > 0 and known.issuperset(sampler.filters) and SamplingBatch.describes(sampler.filters)

    def _make_detokenizer(self, request: Request) -> Detokenizer | None:
        """None without a tokenizer; stop texts are then refused."""
        tokenizer, stop = self._tokenizer, request.params.stop
        if tokenizer is None:
            if stop:
                raise UsageError("stop texts need a tokenizer, and the model has none", hint="Use stop_ids.")
            return None
        return Detokenizer(
            tokenizer,
            stop=stop,
            at_start=self._begins_text(request.prompt_ids),
            include_stop=request.params.include_stop_str_in_output,
            min_tokens=request.params.min_tokens,
            shown={} if request.reasoning is None or self.think_tags is None else control_tags(self.think_tags, tokenizer),
        )

    def _begins_text(self, prompt_ids: list[int]) -> bool:
        return self._tokenizer is not None and prompt_ids == [self._tokenizer.bos_id]

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

    def _require_queue(self) -> None:
        limit, num_waiting = self._config.max_queue, len(self._scheduler.waiting)
        if limit and num_waiting >= limit:
            raise QueueFullError.of(num_waiting)

    def _require_room(self, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        needed = len(prompt_ids) + (0 if params.max_tokens == 0 else 1)
        if needed > self._plan.max_context:
            raise ContextLengthError.of(str(len(prompt_ids)), self._plan.max_context)


def _end_of(live: _Live, token_id: int) -> tuple[FinishReason | None, int | str | None]:
    """Why a request ends with this token (None: it goes on), and the caller's stop text or stop id that ended it."""
    if live.detokenizer is not None and live.detokenizer.stopped is not None:
        return FinishReason.STOP, live.detokenizer.stopped
    if token_id in live.stop_ids:
        return FinishReason.STOP, token_id if token_id in live.request.params.stop_ids else None
    if live.constraint is not None and live.constraint.is_over:
        return FinishReason.STOP, None
    return (FinishReason.LENGTH if len(live.request.output_ids) >= live.max_tokens else None), None
