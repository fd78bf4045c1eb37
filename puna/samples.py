"""Several samples of one prompt (`n`, `best_of`): requests like others, of which the first computes the prompt for all.

The others wait until its full pages are in the prefix cache, and take them from there; without a prefix cache each computes the
prompt itself. Sample 0 has the seed of the call and sample i one made from it, so each is the same alone with that seed.
"""

from __future__ import annotations

import math
import secrets
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from puna.opening import NO_OPENING, Opening
from puna.philox import block
from puna.processors import LogitsProcessor
from puna.request import Request, SamplingParams
from puna.runner import Call, Handle, Runner, nobody_listens
from puna.sampling import SEED_BITS, TokenSampler, Watcher

SEEDS = 1 << 63  # from this block of a seed's stream on: the draws of no text reach it


def submit(
    runner: Runner,
    prompt_ids: Sequence[int],
    params: SamplingParams,
    sampler: TokenSampler | None = None,
    processors: Sequence[LogitsProcessor] = (),
    opening: Opening = NO_OPENING,
    listener: Callable[[Handle], object] = nobody_listens,
    call: Call | None = None,
    watcher: Watcher | None = None,
) -> Handle:
    """`Runner.submit`, also for several samples: then the handle gives the outputs of all, told apart by their `index`.

    `watcher`: hears of the only sample.
    """
    if params.num_samples == 1:
        own = replace(params, best_of=None)
        return runner.submit(prompt_ids, own, sampler, processors, opening, listener, call=call, watcher=watcher)
    assert watcher is None, "a watcher follows one sample"
    return Samples(runner, prompt_ids, params, sampler, processors, opening, listener, call or Call())


class Samples(Handle):
    """The handles of one prompt's samples as one. It ends with the last of them; their first error is its own."""

    def __init__(
        self,
        runner: Runner,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        sampler: TokenSampler | None,
        processors: Sequence[LogitsProcessor],
        opening: Opening,
        listener: Callable[[Handle], object],
        call: Call,
    ) -> None:
        super().__init__(runner, listener)
        self._params = params
        self._ended: set[int] = set()
        self._each: list[Handle] = []
        for number, own in enumerate(params_of_samples(params)):
            tell, leader = partial(_tell, weakref.ref(self), number), self._each[0] if number else None
            self._each.append(runner.submit(prompt_ids, own, sampler, processors, opening, tell, leader=leader, call=call))

    @property
    def samples(self) -> list[Handle]:
        """By their numbers or, with `best_of`, the n most likely, the best first."""
        if self._params.best_of is None:
            return self._each
        return sorted(self._each, key=_likelihood, reverse=True)[: self._params.n]

    @property
    def keeps_logprobs(self) -> bool:
        """Whether they were asked for; `best_of` makes them to compare the samples."""
        return self._params.logprobs is not None

    def confirm(self) -> Request:
        first, *_ = [handle.confirm() for handle in self._each]
        return first

    def cancel(self) -> None:
        for handle in self._each:
            handle.cancel()

    def end_thinking(self) -> None:
        for handle in self._each:
            handle.end_thinking()

    def close(self) -> None:
        for handle in self._each:
            handle.close()
        self._unread.clear()

    def __del__(self) -> None:
        """Its handles end their requests."""

    def _hear(self, number: int, handle: Handle) -> None:
        while (output := handle.take()) is not None:
            told = replace(output, index=number)
            self.outputs.append(told)
            self._unread.append(told)
        self.request = self.request or self._each[0].request
        self.first_token_at = self.first_token_at or handle.first_token_at
        if handle.ended_at:
            self.error = self.error or handle.error
            self._ended.add(number)
        if len(self._ended) == self._params.num_samples:
            self.ended_at = time.perf_counter()
        self._listener(self)


def _tell(samples: weakref.ref[Samples], number: int, handle: Handle) -> None:
    """The handles do not keep the samples alive: what nobody holds any more ends."""
    if (alive := samples()) is not None:
        alive._hear(number, handle)


def _likelihood(handle: Handle) -> float:
    """The log-probability of a whole sample; a failed one comes last."""
    request = handle.request
    if request is None or request.fault is not None:
        return -math.inf
    return math.fsum(entry.logprob for entry in request.logprobs)


def params_of_samples(params: SamplingParams) -> list[SamplingParams]:
    """The parameters of each sample. Only the first scores the prompt."""
    seed = secrets.randbits(SEED_BITS) if params.seed is None else params.seed
    own = replace(params, n=1, best_of=None, logprobs=0 if params.best_of and params.logprobs is None else params.logprobs)
    scoring = [params.prompt_logprobs, *[None] * (params.num_samples - 1)]
    return [replace(own, seed=seed_of(seed, number), prompt_logprobs=scored) for number, scored in enumerate(scoring)]


def seed_of(seed: int, number: int) -> int:
    """The seed of a sample; the first has the seed itself.

    >>> seed_of(5, 0), seed_of(5, 1) == seed_of(5, 1), len({seed_of(5, i) for i in range(8)})
    (5, True, 8)
    """
    return seed if number == 0 else block(seed, SEEDS + number)[0] >> (64 - SEED_BITS)
