"""Runs one prompt and traces it: what `LLM.trace` and `LLM.chat_trace` do once the prompt is encoded."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from puna.completion import Completion
from puna.detokenize import token_text
from puna.errors import UsageError
from puna.filters import FILTERS, needed_filters
from puna.glassbox.layers import LayerLook
from puna.glassbox.recorder import CONSTRAINT, MAX_CANDIDATES, StepRecorder
from puna.glassbox.trace import FORMAT, PaddedBatch, Trace, TracedPrompt, TracedStep, TracedToken, UsedFilter
from puna.opening import NO_OPENING, Opening
from puna.processors import PROCESSORS, LogitsProcessor
from puna.request import CONSTRAINTS, FinishReason, SamplingParams
from puna.runner import Call, Handle, Runner, nobody_listens
from puna.sampling import TokenSampler
from puna.schemas import JsonSchema
from puna.tokenizers.base import Tokenizer
from puna.version import __version__

MAX_PROMPT_TOKENS = 10_000  # that a trace shows
PAD_ID = -1  # Meta's


@dataclass(frozen=True, slots=True)
class TracedModel:
    """The model that is traced."""

    path: str
    backend: str
    tokenizer: Tokenizer | None
    max_context: int
    kv_bytes_per_token: int
    weights_bytes: int  # that computing one token reads

    def token(self, token_id: int) -> TracedToken:
        tokenizer = self.tokenizer
        if tokenizer is None or token_id >= tokenizer.vocab_size:
            return TracedToken(token_id, "", "", "", is_control=False)
        data, text = tokenizer.token_bytes(token_id), token_text(tokenizer, token_id)
        return TracedToken(token_id, tokenizer.piece(token_id), text, data.hex(), is_control=not data)

    def text(self, ids: Sequence[int]) -> str:
        return "" if self.tokenizer is None else self.tokenizer.decode(ids, skip_special=False)


# A prompt's ids, how it is sampled, and what its answer begins with.
TracedJob = tuple[Sequence[int], SamplingParams, TokenSampler | None, Sequence[LogitsProcessor], Opening]


class Recording:
    """Prompts that run together, each with a watcher. `begin` submits them; `traces` tells of them when all have ended.

    `top`: the candidates that each stage shows; `max_candidates`: those that a trace holds; `tokenizer_s`: what encoding took.
    """

    def __init__(
        self,
        runner: Runner,
        model: TracedModel,
        jobs: Sequence[TracedJob],
        *,
        given: Sequence[str | None],
        tokenizer_s: float,
        top: int,
        max_candidates: int = MAX_CANDIDATES,
        look: LayerLook | None = None,
    ) -> None:
        for prompt_ids, params, *_ in jobs:
            if look is not None:
                look.require(len(prompt_ids), params)
            if params.num_samples > 1:
                raise UsageError("a trace follows one sample", hint="Leave n and best_of out.")
        self._runner, self._model, self._jobs, self._look, self._top = runner, model, jobs, look, top
        self._given, self._tokenizer_s = given, tokenizer_s
        self._recorders = [step_recorder(model, top, max_candidates) for _ in jobs]
        self._handles: list[Handle] = []

    def begin(self, listener: Callable[[Handle], object] = nobody_listens) -> list[Handle]:
        """Submit all. Who gives them up closes the handles."""
        call = Call()
        pairs = zip(self._jobs, self._recorders, strict=True)
        self._handles = [self._runner.submit(*job, listener, call=call, watcher=recorder) for job, recorder in pairs]
        return self._handles

    def traces(self) -> list[Trace]:
        """One for each prompt. All must have ended."""
        return [self._trace(number) for number in range(len(self._jobs))]

    def _trace(self, number: int) -> Trace:
        _, params, sampler, processors, _ = self._jobs[number]
        used = () if sampler is not None else tuple(used_filters(params, has_processors=bool(processors)))
        completion, model = Completion.of(self._handles[number]), self._model
        given, seconds = self._given[number], self._tokenizer_s
        trace = trace_of(completion, params, self._recorders[number], model, used, given=given, tokenizer_s=seconds)
        layers = None if self._look is None else self._look.of(completion, trace.steps, cache(model.token), self._top)
        prompt = dataclasses.replace(trace.prompt, padded=dataclasses.replace(self._padded, row=number))
        return dataclasses.replace(trace, prompt=prompt, layers=layers)

    @cached_property
    def _padded(self) -> PaddedBatch:
        """All prompts of the call in Meta's rectangle. Its `max_gen_len` is one for all: the largest."""
        limits = [params.max_tokens for _, params, *_ in self._jobs]
        most = max((limit for limit in limits if limit is not None), default=None)
        return padded([len(ids) for ids, *_ in self._jobs], None if None in limits else most, self._model.max_context)


def record(
    runner: Runner,
    model: TracedModel,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    sampler: TokenSampler | None,
    processors: Sequence[LogitsProcessor],
    opening: Opening = NO_OPENING,
    *,
    given: str | None,
    tokenizer_s: float,
    top: int,
    max_candidates: int = MAX_CANDIDATES,
    look: LayerLook | None = None,
) -> Trace:
    """Run one prompt to its end, with the arguments of Recording."""
    job = (prompt_ids, params, sampler, processors, opening)
    limits = {"top": top, "max_candidates": max_candidates}
    (trace,) = run(Recording(runner, model, [job], given=[given], tokenizer_s=tokenizer_s, look=look, **limits))
    return trace


def run(recording: Recording) -> list[Trace]:
    """Run a recording to the end of its last prompt. If one is refused, none goes on."""
    handles = recording.begin()
    try:
        for handle in handles:
            handle.confirm()
        for handle in handles:
            for _ in handle:
                pass
    finally:
        for handle in handles:
            handle.close()
    return recording.traces()


def step_recorder(model: TracedModel, top: int, max_candidates: int = MAX_CANDIDATES) -> StepRecorder:
    """The watcher of a request whose trace `trace_of` makes."""
    return StepRecorder(cache(model.token), model.kv_bytes_per_token, top, max_candidates)


def trace_of(
    completion: Completion,
    params: SamplingParams,
    recorder: StepRecorder,
    model: TracedModel,
    filters: tuple[UsedFilter, ...],
    *,
    given: str | None,
    tokenizer_s: float,
) -> Trace:
    """The trace of a finished request that `recorder` has watched."""
    steps = steps_of(recorder, completion, model)
    return trace_with(steps, completion, params, model, filters, given=given, tokenizer_s=tokenizer_s)


def trace_with(
    steps: tuple[TracedStep, ...],
    completion: Completion,
    params: SamplingParams,
    model: TracedModel,
    filters: tuple[UsedFilter, ...],
    *,
    given: str | None,
    tokenizer_s: float,
) -> Trace:
    """The trace of a finished request, with the steps that are known of it."""
    return Trace(
        format=FORMAT,
        engine=__version__,
        model=model.path,
        backend=model.backend,
        settings=settings_of(params),
        seed=completion.seed,
        filters=filters,
        prompt=_prompt(model, completion, params, given, tokenizer_s),
        steps=steps,
        num_left_out=len(completion.token_ids) - len(steps),
        token_ids=completion.token_ids,
        text=completion.text,
        finish_reason=completion.finish_reason.value,
        stop_reason=completion.stop_reason,
        why=why_it_ended(completion, params, model),
        first_token_s=completion.timing.first_token_s,
        total_s=completion.timing.total_s,
        weights_bytes=model.weights_bytes,
    )


def steps_of(recorder: StepRecorder, completion: Completion, model: TracedModel) -> tuple[TracedStep, ...]:
    """The steps up to the last recorded one. A token that nobody sampled is one that a form leaves no choice of."""
    end = len(completion.token_ids) if recorder.has_room else max(recorder.steps, default=-1) + 1
    own = enumerate(completion.token_ids[:end])
    return tuple(recorder.steps.get(index) or TracedStep(index, model.token(token_id)) for index, token_id in own)


def _prompt(
    model: TracedModel, completion: Completion, params: SamplingParams, given: str | None, tokenizer_s: float
) -> TracedPrompt:
    ids = completion.prompt_ids
    return TracedPrompt(
        given=given,
        text=model.text(ids),
        num_tokens=len(ids),
        tokens=tuple(map(model.token, ids[:MAX_PROMPT_TOKENS])),
        num_left_out=max(0, len(ids) - MAX_PROMPT_TOKENS),
        num_cached=completion.num_cached,
        tokenizer_s=tokenizer_s,
        padded=padded([len(ids)], params.max_tokens, model.max_context),
    )


def text_of(given: object) -> str | None:
    """A prompt or a conversation as the text that a person typed last.

    >>> text_of("Why?"), text_of([{"role": "user", "content": "Why?"}]), text_of([1, 2])
    ('Why?', 'Why?', None)
    """
    if isinstance(given, Sequence) and not isinstance(given, str) and given and isinstance(given[-1], Mapping):
        given = given[-1].get("content")
    return given if isinstance(given, str) else None


def padded(prompt_lengths: Sequence[int], max_gen_len: int | None, max_seq_len: int) -> PaddedBatch:
    """How Meta's `generate` lays out prompts (facebookresearch/llama, `llama/generation.py`).

    >>> padded([3, 5], max_gen_len=4, max_seq_len=128)
    PaddedBatch(shape=(2, 9), pad_id=-1, num_pads=(6, 4), num_prefilled=3, num_forced=(0, 2), row=0)
    """
    longest, shortest = max(prompt_lengths), min(prompt_lengths)
    total = max_seq_len if max_gen_len is None else min(max_seq_len, longest + max_gen_len)
    return PaddedBatch(
        shape=(len(prompt_lengths), total),
        pad_id=PAD_ID,
        num_pads=tuple(total - length for length in prompt_lengths),
        num_prefilled=shortest,
        num_forced=tuple(length - shortest for length in prompt_lengths),
    )


# ---- words ------------------------------------------------------------------------------------------------------------------

BESIDE_FILTERS = {
    PROCESSORS: "The caller's own functions change the logits.",
    CONSTRAINT: "Only tokens that the form of the answer allows stay.",
}


def used_filters(params: SamplingParams, *, has_processors: bool) -> list[UsedFilter]:
    """What runs at each step, in this order. The docstring of a filter explains it: a new filter needs no word here."""
    constraint = {name: jsonable(value) for name in CONSTRAINTS if (value := getattr(params, name))}
    first = [UsedFilter(CONSTRAINT, constraint, BESIDE_FILTERS[CONSTRAINT])] if constraint else []
    first += [UsedFilter(PROCESSORS, {}, BESIDE_FILTERS[PROCESSORS])] if has_processors else []
    return [*first, *(UsedFilter(name, _read_by(name, params), explanation(name)) for name in needed_filters(params))]


def _read_by(name: str, params: SamplingParams) -> dict[str, Any]:
    """The settings that a filter reads and that are not at their defaults."""
    own, every = (*FILTERS[name].fields, *FILTERS[name].details), settings_of(params)
    return {field: every[field] for field in own if field in every}


def explanation(name: str) -> str:
    """What a filter does: the first paragraph of its docstring.

    >>> explanation("top_k")
    'Keep the k most likely tokens; on a tie, the lower id.'
    """
    text = inspect.getdoc(FILTERS[name].step or FILTERS[name].make) or ""
    return " ".join(textwrap.dedent(text).split("\n\n")[0].split())


def settings_of(params: SamplingParams) -> dict[str, Any]:
    """The parameters that are not at their defaults, as JSON types.

    >>> settings_of(SamplingParams(temperature=0.5, logit_bias={3: 1.0}))
    {'temperature': 0.5, 'logit_bias': {'3': 1.0}}
    """
    off = SamplingParams()
    own = {field.name: getattr(params, field.name) for field in dataclasses.fields(SamplingParams)}
    return {name: jsonable(value) for name, value in own.items() if value != getattr(off, name)}


def jsonable(value: Any) -> Any:
    """A checked value of SamplingParams as JSON types."""
    if isinstance(value, JsonSchema):
        return value.text
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, tuple) else value


def why_it_ended(completion: Completion, params: SamplingParams, model: TracedModel) -> str:
    """Why a run ended, in words."""
    return _WHY[completion.finish_reason](completion, params, model)


def _stopped(completion: Completion, params: SamplingParams, model: TracedModel) -> str:
    if isinstance(completion.stop_reason, str):
        return f"the text reached the stop text {completion.stop_reason!r}"
    last = completion.token_ids[-1] if completion.token_ids else -1
    name = f"token {last} ({model.token(last).piece})" if last >= 0 else "nothing"
    if completion.stop_reason is not None:
        return f"{name} is one of the caller's stop ids"
    ends = frozenset() if model.tokenizer is None else model.tokenizer.stop_ids
    return f"{name} is the model's sign of the end" if last in ends else "the form of the answer is complete"


def _too_long(completion: Completion, params: SamplingParams, model: TracedModel) -> str:
    if len(completion.token_ids) == params.max_tokens:
        return f"max_tokens is {params.max_tokens}"
    return f"the context of {model.max_context} tokens is full"


_WHY: Mapping[FinishReason, Callable[[Completion, SamplingParams, TracedModel], str]] = {
    FinishReason.STOP: _stopped,
    FinishReason.LENGTH: _too_long,
    FinishReason.ABORT: lambda completion, params, model: "it was given up",
    FinishReason.TIMEOUT: lambda completion, params, model: f"timeout={params.timeout} s have passed",
    FinishReason.ERROR: lambda completion, params, model: f"it failed: {completion.error}",
}
