"""The result of one prompt, and how far it is."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from puna.errors import ConstraintError, UsageError
from puna.keywords import in_python
from puna.request import FinishReason, Reasoning, Request, SamplingParams, TokenLogprob
from puna.runner import Handle
from puna.units import counted


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one prompt. `token_ids` include the id that ended the text; `text` does not."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: int | str | None  # the stop id or stop text that ended it; None: the model's own end, or no stop
    logprobs: tuple[TokenLogprob, ...]  # one per token id, if requested
    prompt_logprobs: tuple[TokenLogprob | None, ...]  # one per prompt id, if requested; None before the start
    prompt_ids: tuple[int, ...]
    num_cached: int  # prompt tokens whose K and V were found in the prefix cache
    seed: int | None  # the seed that was used; None for greedy sampling
    error: str  # why it failed, if finish_reason is "error"
    timing: Timing
    num_given: int = 0  # the first tokens of the answer, which were given as its opening
    num_dropped: int = 0  # tokens of prompt and answer that context shift left out, the oldest ones
    reasoning: str | None = None  # what the model thought before its answer, without the tags; None: it did not
    raw_text: str = ""  # `reasoning` and `text` as the model wrote them, with the tags
    num_reasoning_tokens: int = 0
    is_reasoning_cut: bool = False  # whether `thinking_budget` or `Handle.end_thinking` ended the reasoning
    others: tuple[Completion, ...] = ()  # if n is above 1: the other samples
    params: SamplingParams | None = field(default=None, compare=False, repr=False)  # as they were used, with the seed
    own_code: str = field(default="", compare=False, repr=False)  # as in Handle: no receipt can hold such functions
    read: Callable[[str], Any] | None = field(default=None, compare=False, repr=False)  # what `parsed` is read with

    @property
    def parsed(self) -> Any:
        """The answer as an instance of the pydantic model that was its schema; as a plain JSON value under any other schema.

        Raises ConstraintError for an answer that was cut or broke off before its end, UsageError if no JSON was asked for, and
        whatever the model raises that demands more than its schema says.
        """
        if self.read is None:
            raise UsageError("there is nothing to parse: no JSON was asked for", hint="Give a schema, or json_object=True.")
        if self.finish_reason is not FinishReason.STOP or isinstance(self.stop_reason, str):
            raise ConstraintError(f"the answer is not whole: {self._why_not_whole()}")
        return self.read(self.text)

    def _why_not_whole(self) -> str:
        if self.finish_reason is FinishReason.LENGTH:
            return f"it was cut after {counted(len(self.token_ids), 'token')} (--max-tokens, or the context, is too small)"
        return self.error or ("it was given up" if self.stop_reason is None else f"the stop text {self.stop_reason!r} ended it")

    @classmethod
    def of(cls, handle: Handle | None) -> Self:
        """The completion of a request that has ended, with its samples if there are several; UsageError until then."""
        if handle is None or handle.request is None or not handle.ended_at:
            raise UsageError("the completion is not finished", hint="Read the stream to its end, or close it.")
        first, *others = [cls._of_one(sample, handle.keeps_logprobs) for sample in handle.samples]
        if not others:
            return first
        scored = next((one.prompt_logprobs for one in (first, *others) if one.prompt_logprobs), ())
        first, *others = [replace(one, prompt_logprobs=scored) for one in (first, *others)]
        return replace(first, others=tuple(others))

    @property
    def choices(self) -> tuple[Completion, ...]:
        """All samples, in order of their numbers or, with best_of, of their likelihood; the first is this completion."""
        return (self, *self.others)

    @classmethod
    def _of_one(cls, handle: Handle, keeps_logprobs: bool) -> Self:
        request = handle.confirm()
        text, found = "".join(output.text for output in handle.outputs), request.reasoning or Reasoning()
        return cls(
            text=text,
            token_ids=tuple(request.output_ids),
            finish_reason=request.finish_reason or FinishReason.ABORT,
            stop_reason=request.stop_reason,
            logprobs=tuple(request.logprobs) if keeps_logprobs else (),
            prompt_logprobs=tuple(request.prompt_logprobs),
            prompt_ids=tuple(request.prompt_ids),
            num_cached=request.num_cached,
            seed=request.params.seed if request.params.temperature > 0 else None,
            error=in_python(request.error),
            timing=Timing.of(handle, request),
            num_given=min(request.num_given, len(request.output_ids)),
            num_dropped=request.num_dropped,
            reasoning="".join(output.reasoning for output in handle.outputs) if found.is_present else None,
            raw_text="".join(found.raw) if request.reasoning else text,
            num_reasoning_tokens=found.num_tokens,
            is_reasoning_cut=found.is_cut,
            params=request.params,
            own_code=handle.own_code,
            read=_reader(request.params),
        )


def _reader(params: SamplingParams) -> Callable[[str], Any] | None:
    """What reads an answer; None if it need not be JSON."""
    if params.json_schema is not None:
        return params.json_schema.read  # type: ignore[no-any-return]
    return json.loads if params.json_object else None


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of wall-clock time, including what other requests took in the same steps."""

    first_token_s: float  # from the request to its first token
    total_s: float
    num_prefilled: int  # prompt tokens that were computed, not found in the prefix cache
    num_generated: int
    num_drafted: int = 0  # guesses of tokens that steps have checked (`EngineConfig.speculation`)
    num_accepted: int = 0  # of those, guesses that were right: tokens that took no step of their own

    @classmethod
    def of(cls, handle: Handle, request: Request, now: float = 0.0) -> Self:
        """The timing of a request that has ended; of one that has not, until `now` (`time.perf_counter`)."""
        ended_at = handle.ended_at or now
        first_token_s = (handle.first_token_at or ended_at) - handle.submitted_at
        num_known = len(request.prompt_ids) + request.num_opened
        num_prefilled = num_known - request.num_cached if handle.first_token_at else 0
        total_s, counts = ended_at - handle.submitted_at, (request.num_drafted, request.num_accepted)
        return cls(first_token_s, total_s, num_prefilled, len(request.output_ids) - request.num_opened, *counts)

    @property
    def prefill_per_s(self) -> float:
        """Prompt tokens per second until the first token."""
        return self.num_prefilled / self.first_token_s if self.first_token_s > 0 else 0.0

    @property
    def decode_per_s(self) -> float:
        """Tokens per second after the first one."""
        decode_s = self.total_s - self.first_token_s
        return (self.num_generated - 1) / decode_s if self.num_generated > 1 and decode_s > 0 else 0.0


def state_of(handle: Handle) -> str:
    """How far a request is, in one line."""
    request = handle.request
    if request is None:
        return "waiting"
    state = "running" if request.finish_reason is None else f"ended: {request.finish_reason}"
    prompt, answer = (counted(len(ids), "token") for ids in (request.prompt_ids, request.output_ids))
    return f"prompt {prompt}, answer {answer}, {state}, {reprlib.repr(''.join(output.text for output in handle.outputs))}"
