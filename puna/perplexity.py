"""Perplexity: how surprised a model is by a text, e to the power of the mean negative log-probability of its tokens.

The figure depends on how much context a token has, so two ways that others publish figures by are exact here:

* `chunks`: llama.cpp's `llama-perplexity`. Chunks of `context` tokens that do not overlap; the first half of each is context
  only; a model whose file asks for a BOS gets it in place of each chunk's first token; a shorter rest is left out.
* `strides`: the sliding window of transformers' documentation. Windows of `context` tokens begin `stride` tokens apart; each
  scores the tokens that the one before did not see. A window's first token has no context and is not scored.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from puna import checks
from puna.errors import ContextLengthError, PunaError, UsageError
from puna.llm import LLM, Stream
from puna.request import SamplingParams
from puna.runner import Call
from puna.units import counted

CONTEXT = 512  # llama.cpp's default, by which figures are mostly published
NUM_AHEAD = 4  # windows that run at once: enough that no step is half empty, and their scores are few


class Window(NamedTuple):
    """Tokens to run, and the first of them to score."""

    token_ids: list[int]
    first: int


@dataclass(frozen=True, slots=True)
class Perplexity:
    """The sums over all scored tokens. `nll` is a negative natural-log probability.

    >>> sure = Perplexity().after([0.5, 1.5])
    >>> round(sure.value, 4), round(sure.error, 4), sure.num_tokens
    (2.7183, 1.3591, 2)
    """

    num_tokens: int = 0
    num_windows: int = 0
    sum_nll: float = 0.0
    sum_squares: float = 0.0

    @property
    def mean_nll(self) -> float:
        return self.sum_nll / self.num_tokens if self.num_tokens else math.nan

    @property
    def value(self) -> float:
        return math.inf if self.mean_nll > MAX_NLL else math.exp(self.mean_nll)

    @property
    def error(self) -> float:
        """The standard error of `value`, if the tokens were independent (as llama.cpp reports it); 0 for one token."""
        if self.num_tokens < 2:
            return 0.0
        variance = self.sum_squares / self.num_tokens - self.mean_nll**2
        return math.sqrt(max(variance, 0.0) / (self.num_tokens - 1)) * self.value

    def after(self, nlls: Sequence[float]) -> Perplexity:
        """With the tokens of one more window."""
        return Perplexity(
            self.num_tokens + len(nlls),
            self.num_windows + 1,
            self.sum_nll + math.fsum(nlls),
            self.sum_squares + math.fsum(nll * nll for nll in nlls),
        )


MAX_NLL = 700.0  # e to the power of more is no float64


def chunks(token_ids: Sequence[int], context: int, bos_id: int | None) -> Iterator[Window]:
    """llama.cpp's windows. `bos_id` replaces the first token of each; None: the model's file asks for none.

    >>> list(chunks([1, 2, 3, 4, 5, 6, 7, 8, 9], 4, None))
    [Window(token_ids=[1, 2, 3, 4], first=3), Window(token_ids=[5, 6, 7, 8], first=3)]
    """
    for start in range(0, len(token_ids) - context + 1, context):
        window = list(token_ids[start : start + context])
        yield Window(window if bos_id is None else [bos_id, *window[1:]], context // 2 + 1)


def strides(token_ids: Sequence[int], context: int, stride: int) -> Iterator[Window]:
    """transformers' windows.

    >>> list(strides([1, 2, 3, 4, 5, 6], 4, 2))
    [Window(token_ids=[1, 2, 3, 4], first=1), Window(token_ids=[3, 4, 5, 6], first=2)]
    """
    seen = 0
    for start in range(0, len(token_ids), stride):
        window = list(token_ids[start : start + context])
        yield Window(window, max(seen - start, 1))
        seen = start + len(window)
        if seen == len(token_ids):
            return


def num_windows(num_tokens: int, context: int, stride: int) -> int:
    """How many windows `strides` makes, or `chunks` if the stride is 0.

    >>> num_windows(9, 4, 0), num_windows(6, 4, 2), num_windows(7, 4, 2), num_windows(3, 4, 2)
    (2, 2, 3, 1)
    """
    if stride == 0:
        return num_tokens // context
    return 1 + max(0, -(-(num_tokens - context) // stride))


def perplexity(
    llm: LLM,
    text: str | Sequence[int],
    *,
    context: int | None = None,
    stride: int = 0,
    max_windows: int = 0,
    on_window: Callable[[Perplexity, int], object] = lambda so_far, total: None,
) -> Perplexity:
    """The perplexity of a text, or of token ids. `stride` 0: llama.cpp's chunks; above: transformers' sliding window.

    `context`: tokens of a window; None: 512, or what the model holds. `max_windows`: stop after that many; 0: no limit.
    `on_window` receives what is known after each, and how many there will be.
    """
    ids, context = _encoded(llm, text), window_size(llm) if context is None else context
    _require(llm, len(ids), context, stride, max_windows)
    bos_id = llm.tokenizer.bos_id if llm.tokenizer is not None and llm.tokenizer.add_bos and isinstance(text, str) else None
    windows = strides(ids, context, stride) if stride else chunks(ids, context, bos_id)
    limit = max_windows or num_windows(len(ids), context, stride)
    total, so_far = min(limit, num_windows(len(ids), context, stride)), Perplexity()
    for nlls in _scored(llm, islice(windows, limit)):
        so_far = so_far.after(nlls)
        on_window(so_far, total)
    return so_far


def window_size(llm: LLM) -> int:
    """The size of a window if none is given."""
    return min(CONTEXT, llm.plan.max_context)


def _scored(llm: LLM, windows: Iterable[Window]) -> Iterator[list[float]]:
    """The negative log-probabilities of each window. A few run at once, and no row of logits outlives its step."""
    ahead: deque[Stream] = deque()
    waiting, call = iter(windows), Call()
    try:
        while True:
            ahead += (_open(llm, window, call) for window in islice(waiting, NUM_AHEAD - len(ahead)))
            if not ahead:
                return
            yield _nlls(ahead[0])
            ahead.popleft()
    finally:
        for stream in ahead:
            stream.close()


def _open(llm: LLM, window: Window, call: Call) -> Stream:
    params = SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=window.first)
    return Stream(llm.runner.submit(window.token_ids, params, call=call))


def _nlls(stream: Stream) -> list[float]:
    deque(stream, maxlen=0)
    if stream.completion.error:
        raise PunaError(f"the text could not be scored: {stream.completion.error}")
    return [-entry.logprob for entry in stream.completion.prompt_logprobs if entry is not None]


def _encoded(llm: LLM, text: str | Sequence[int]) -> list[int]:
    if not isinstance(text, str):
        return checks.token_ids("the text", checks.row("the text", text, "a text, or a row of token ids,"))
    if llm.tokenizer is None:
        raise UsageError("a text needs a tokenizer, and the model has none", hint="Give token ids.")
    return llm.tokenizer.encode(checks.unicode("the text", text), eos=False)


def _require(llm: LLM, num_tokens: int, context: int, stride: int, max_windows: int) -> None:
    """UsageError for settings that do not fit each other, the text or the model."""
    checks.whole("context", context, 4, 1 << 27)
    checks.whole("stride", stride, 0, context)
    checks.whole("max_windows", max_windows, 0, 1 << 27)
    if context > llm.plan.max_context:
        raise ContextLengthError(
            f"context is {context}; the model holds {counted(llm.plan.max_context, 'token')}",
            hint=f"Take a smaller one: context={llm.plan.max_context} (--context {llm.plan.max_context})",
        )
    needed = 2 if stride else context
    if num_tokens < needed:
        raise UsageError(
            f"the text has {counted(num_tokens, 'token')}; at least {needed} are needed",
            hint="Take a longer text, or a smaller context (--context), or a stride (--stride), which scores a rest too.",
        )
