"""The result of one prompt, and how far it is."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import Self

from puna.errors import UsageError
from puna.request import FinishReason, Request, TokenLogprob
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
    others: tuple[Completion, ...] = ()  # if n is above 1: the other samples

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
        return cls(
            text="".join(output.text for output in handle.outputs),
            token_ids=tuple(request.output_ids),
            finish_reason=request.finish_reason or FinishReason.ABORT,
            stop_reason=request.stop_reason,
            logprobs=tuple(request.logprobs) if keeps_logprobs else (),
            prompt_logprobs=tuple(request.prompt_logprobs),
            prompt_ids=tuple(request.prompt_ids),
            num_cached=request.num_cached,
            seed=request.params.seed if request.params.temperature > 0 else None,
            error=request.error,
            timing=Timing.of(handle, request),
        )


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of wall-clock time, including what other requests took in the same steps."""

    first_token_s: float  # from the request to its first token
    total_s: float
    num_prefilled: int  # prompt tokens that were computed, not found in the prefix cache
    num_generated: int

    @classmethod
    def of(cls, handle: Handle, request: Request) -> Self:
        first_token_s = (handle.first_token_at or handle.ended_at) - handle.submitted_at
        num_prefilled = len(request.prompt_ids) - request.num_cached if handle.first_token_at else 0
        return cls(first_token_s, handle.ended_at - handle.submitted_at, num_prefilled, len(request.output_ids))

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
