"""What is checked of a request before it is queued, and what the engine keeps of it while it runs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from puna.batch import SamplingBatch
from puna.constraints import Constraint, Constraints, Matcher, wanted_by
from puna.context_shift import require_asked
from puna.detokenize import Detokenizer
from puna.errors import ContextLengthError, UsageError
from puna.history import History
from puna.logprobs import require_possible
from puna.lora import adapter_number
from puna.model.spec import ModelConfig
from puna.opening import NO_OPENING, OpenedSampler, Opening
from puna.pooling import Pool
from puna.processors import LogitsProcessor
from puna.request import PrefixKey, Request, SamplingParams
from puna.sampling import CheckedSampler, Sampler, TokenSampler, WatchedSampler, Watcher
from puna.thinking import Thinking, ThinkTags, begin_thinking, control_tags, with_budget
from puna.thinking_first import ThinkingFirst
from puna.tokenizers.base import Tokenizer
from puna.units import counted

if TYPE_CHECKING:
    from llguidance import LLMatcher


@dataclass(slots=True)
class LiveRequest:
    """A request, and what the engine keeps of it while it runs."""

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
    watcher: Watcher | None = None  # hears how its tokens come to be
    num_told: int = 0  # output ids that a StepOutput has returned
    opening: tuple[int, ...] = ()  # the ids that its answer begins with
    num_unsampled: int = 0  # of those, the first ones, which are accepted without being sampled


class Admission:
    """Admits requests to a model. `filters`: those of a device that samples. `host_samples`: it does so for every request.
    `adapters`: names of the backend's LoRA adapters, by their numbers, and a digest of each.
    """

    def __init__(
        self,
        model: ModelConfig,
        tokenizer: Tokenizer | None,
        max_context: int,
        *,
        filters: frozenset[str],
        host_samples: bool,
        adapters: Mapping[str, str],
    ) -> None:
        self.constraints = Constraints(tokenizer)
        self.think_tags: ThinkTags | None = None  # those of the chat template in use
        self._model = model
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._filters = filters
        self._host_samples = host_samples
        self._adapters = dict(adapters)

    def admit(
        self,
        request_id: int,
        prompt_ids: list[int],
        params: SamplingParams,
        custom: TokenSampler | None,
        pool: Pool | None,
        processors: Sequence[LogitsProcessor],
        watcher: Watcher | None = None,
        opening: Opening = NO_OPENING,
    ) -> LiveRequest:
        """The arguments are those of `Engine.add`. Raises UsageError, or ContextLengthError for a prompt that is too long."""
        self._require(prompt_ids, params, custom, opening.token_ids)
        stop_ids, sampler = self._stop_ids(params), self.sampler(params, processors, watcher)
        adapter = adapter_number(params.lora_name, list(self._adapters))
        prefix_key = self.prefix_key(params, len(prompt_ids))
        request = Request(request_id, prompt_ids, sampler.params, prefix_key=prefix_key, adapter=adapter, pool=pool)
        request.num_given = len(opening.token_ids)
        custom = None if custom is None else CheckedSampler(custom, self._model.vocab_size)
        given, needs_all = opening.token_ids, sampler.has_state or params.logprobs is not None
        num_unsampled = 0 if needs_all else len(given) if opening.sampled_from is None else opening.sampled_from
        if num_unsampled < len(given):
            custom = OpenedSampler(sampler, given)
        is_constrained = wanted_by(params) is not None
        thinking = begin_thinking(params, prompt_ids, self.think_tags, self._tokenizer, is_constrained)
        first = None if thinking is None else self._thinking_first(thinking)
        constraint = self.constraints.of(sampler, custom, stop_ids, self._begins_text(prompt_ids), first)
        custom = custom if constraint is None else constraint
        if thinking is not None:
            request.reasoning, custom = thinking.found, with_budget(custom, sampler, thinking, params.thinking_budget)
        if watcher is not None:
            custom = WatchedSampler(custom or sampler, watcher)
        return LiveRequest(
            request=request,
            history=History(request.prompt_ids, request.output_ids),
            sampler=sampler,
            custom=custom,
            constraint=constraint,
            needs_logits=custom is not None or pool is not None or self._needs_logits(sampler),
            detokenizer=self._make_detokenizer(request),
            stop_ids=stop_ids,
            max_tokens=self.limit(request),
            thinking=thinking,
            watcher=watcher,
            opening=given,
            num_unsampled=min(num_unsampled, len(given)),
        )

    def sampler(
        self, params: SamplingParams, processors: Sequence[LogitsProcessor] = (), watcher: Watcher | None = None
    ) -> Sampler:
        """What samples the tokens of a request with these parameters, but for the form of its answer and its thoughts."""
        suppressed = self._stop_ids(params) | self._spelled_ids(params)
        return Sampler(params, self._model.vocab_size, suppressed, self._tokenizer, processors, watcher)

    def _thinking_first(self, thinking: Thinking) -> Callable[[LLMatcher, Collection[int]], Matcher]:
        """What lets a constraint begin after the thoughts."""
        assert self._tokenizer is not None  # `begin_thinking` needs it too
        tags, is_open, tokenizer = thinking.tags, thinking.is_inside, self._tokenizer
        return lambda answer, ends: ThinkingFirst(answer, ends, tags, is_open, tokenizer)

    def limit(self, request: Request) -> int:
        """How many tokens the request may have until it ends, or until its context is full."""
        room = len(request.output_ids) + self._max_context - request.num_tokens
        return room if request.params.max_tokens is None else min(request.params.max_tokens, room)

    def prefix_key(self, params: SamplingParams, prompt_length: int) -> PrefixKey:
        """Requests with equal keys share the pages of equal tokens."""
        key = self._model.prefix_key(prompt_length)
        apart = (params.cache_salt, self._adapters[params.lora_name]) if params.lora_name else (params.cache_salt,)
        return (key, *apart) if any(apart) else key

    def require_ids(self, what: str, ids: Collection[int]) -> None:
        """UsageError for an id outside the vocabulary."""
        outside = [i for i in ids if not 0 <= i < self._model.vocab_size]
        if outside:
            raise UsageError(f"{what} {outside[0]} is not in the vocabulary, which has ids 0..{self._model.vocab_size - 1}")

    # ---- what is checked ---------------------------------------------------------------------------------------------

    def _require(
        self, prompt_ids: Sequence[int], params: SamplingParams, custom: TokenSampler | None, opening: Sequence[int]
    ) -> None:
        if not prompt_ids:
            raise UsageError("the prompt has no tokens", hint="Give at least one token.")
        self.require_ids("token id", prompt_ids)
        self.require_ids("answer id", opening)
        self.require_ids("stop id", params.stop_ids)
        self.require_ids("shown id", params.shown_ids)
        # What does not fit of an opening shifts the context, as it did in the run that it comes from.
        at_once = min(len(opening), 1) if params.context_shift else len(opening)
        needed = len(prompt_ids) + (at_once or (0 if params.max_tokens == 0 else 1))
        if needed > self._max_context:
            raise ContextLengthError.of(str(len(prompt_ids) + len(opening)), self._max_context)
        if params.max_tokens is not None and params.max_tokens < len(opening):
            raise UsageError(f"the answer opens with {counted(len(opening), 'token')}, and max_tokens is {params.max_tokens}")
        if custom is not None and opening:
            raise UsageError("an answer of a sampler of your own cannot open with given tokens", hint="Give one of the two.")
        if params.num_samples > 1:
            raise UsageError("a request makes one sample", hint="LLM.generate and LLM.stream take n and best_of.")
        require_possible(params, len(prompt_ids), custom)
        require_asked(params)

    # ---- what follows from the parameters ----------------------------------------------------------------------------

    def _needs_logits(self, sampler: Sampler) -> bool:
        """Whether the host must sample: for log-probabilities, or because the device does not, or lacks a filter."""
        wants_logprobs = sampler.params.logprobs is not None or sampler.params.prompt_logprobs is not None
        return self._host_samples or wants_logprobs or not self._device_samples(sampler)

    def _device_samples(self, sampler: Sampler) -> bool:
        has_all = len(self._filters) > 0 and self._filters.issuperset(sampler.filters)
        return has_all and SamplingBatch.describes(sampler.filters)

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
            shown=self._shown(request, tokenizer),
        )

    def _shown(self, request: Request, tokenizer: Tokenizer) -> Mapping[int, bytes]:
        """Control tokens that have a text in this request's answer."""
        tags = {} if request.reasoning is None or self.think_tags is None else control_tags(self.think_tags, tokenizer)
        if not (wanted := request.params.shown_ids):
            return tags
        return {**tags, **{i: text.encode() for text, i in tokenizer.special_tokens.items() if i in wanted}}

    def _begins_text(self, prompt_ids: list[int]) -> bool:
        return self._tokenizer is not None and prompt_ids == [self._tokenizer.bos_id]

    def _stop_ids(self, params: SamplingParams) -> frozenset[int]:
        own = frozenset(params.stop_ids)
        return own if self._tokenizer is None or params.ignore_eos else own | self._tokenizer.stop_ids

    def _spelled_ids(self, params: SamplingParams) -> frozenset[int]:
        """Ids of the control tokens that stop texts spell exactly."""
        control = {} if self._tokenizer is None else self._tokenizer.special_tokens
        return frozenset(control[text] for text in params.stop if text in control)
