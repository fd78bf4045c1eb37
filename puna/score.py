"""Scoring: how likely a model finds each of several continuations of a prompt. Nothing is sampled.

A text option is encoded together with its prompt, and the option's tokens are what follows the prompt's, because a tokenizer may
treat a word otherwise at the beginning of a text. Spaces at the prompt's end belong to the option, since most tokenizers make
" word" one token. So does the lm-evaluation-harness (`TemplateLM._encode_pair`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from puna import checks
from puna.completion import Completion
from puna.errors import PunaError, UsageError
from puna.request import SamplingParams
from puna.tokenizers.base import Tokenizer

ONE_OPTION = "a text, or a row of token ids,"


@dataclass(frozen=True, slots=True)
class OptionScore:
    """How likely the model finds an option after its prompt: natural logarithms, without temperature and filters."""

    token_ids: tuple[int, ...]  # the option's; at least one
    token_logprobs: tuple[float, ...]  # one per token id
    is_greedy: bool  # whether each token is the most likely one, so that greedy sampling would write this option

    @property
    def logprob(self) -> float:
        """The log-probability of the whole option: the sum over its tokens."""
        return math.fsum(self.token_logprobs)

    @property
    def mean_logprob(self) -> float:
        """The same per token, which does not favour short options."""
        return self.logprob / len(self.token_logprobs)

    @classmethod
    def of(cls, completion: Completion, num_prompt: int) -> Self:
        """From a completion whose prompt is the prompt's `num_prompt` tokens, then the option's. PunaError if it failed,
        UsageError if its time was over before its last token."""
        if completion.error:
            raise PunaError(f"an option could not be scored: {completion.error}")
        entries = [entry for entry in completion.prompt_logprobs[num_prompt:] if entry is not None]
        if len(entries) < len(completion.prompt_ids) - num_prompt:
            raise UsageError("an option could not be scored in the time that the timeout leaves", hint="Set a longer timeout.")
        return cls(
            token_ids=tuple(entry.token_id for entry in entries),
            token_logprobs=tuple(entry.logprob for entry in entries),
            is_greedy=all(entry.top[0][0] == entry.token_id for entry in entries),
        )


class OptionIds(NamedTuple):
    """A prompt and one of its options as token ids."""

    prompt_ids: list[int]
    option_ids: list[int]

    @property
    def params(self) -> SamplingParams:
        """Score the option's tokens; the prompt's may come from the prefix cache."""
        return SamplingParams(max_tokens=0, prompt_logprobs=1, prompt_logprobs_start=len(self.prompt_ids))


def encode_options(
    prompt: str | Sequence[int], options: Sequence[Any], tokenizer: Tokenizer | None, limit: int | None = None
) -> list[OptionIds]:
    """The prompt with each of its options: all texts, or all rows of token ids. UsageError for anything else.

    `limit`: raise ContextLengthError, at once, for a text or a row that surely has more ids; others may exceed it unnoticed.
    """
    given = checks.row("the options", options, "a list of texts, or of rows of token ids,")
    if len(given) == 0:
        raise UsageError("there are no options to score", hint="Give at least one.")
    if not isinstance(prompt, str):
        ids = checks.prompt_ids("the prompt", prompt, ONE_OPTION, limit)
        return [_require_tokens(number, ids, _ids_of(number, option, limit)) for number, option in enumerate(given)]
    if tokenizer is None:
        raise UsageError("a text needs a tokenizer, and the model has none", hint="Give token ids.")
    return [
        _require_tokens(number, *_encode_pair(prompt, _text_of(number, option), tokenizer, limit))
        for number, option in enumerate(given)
    ]


def _encode_pair(prompt: str, option: str, tokenizer: Tokenizer, limit: int | None) -> tuple[list[int], list[int]]:
    """A prompt's ids, and those that an option adds. An empty prompt is the BOS, or else the end-of-text id."""
    before = prompt.rstrip()
    option, prompt = prompt[len(before) :] + option, before
    prompt_ids = tokenizer.encode(prompt, eos=False, limit=limit)
    if not prompt:
        first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        return [] if first is None else [first], tokenizer.encode(option, bos=False, eos=False, limit=limit)
    return prompt_ids, tokenizer.encode(prompt + option, eos=False, limit=limit)[len(prompt_ids) :]


def _require_tokens(number: int, prompt_ids: list[int], option_ids: list[int]) -> OptionIds:
    if not prompt_ids:
        raise UsageError(
            "the prompt has no tokens, so the first token of an option has no context", hint="Give at least one token."
        )
    if not option_ids:
        raise UsageError(
            f"option {number} adds no token to the prompt: it is empty, or the tokenizer merges it with the prompt's last word",
            hint="Let the option begin with a space or a new word, or give token ids.",
        )
    return OptionIds(prompt_ids, option_ids)


def _text_of(number: int, option: Any) -> str:
    if not isinstance(option, str):
        raise checks.refuse(f"option {number}", option, "a text, as the prompt is,")
    return checks.unicode(f"option {number}", option)


def _ids_of(number: int, option: Any, limit: int | None) -> list[int]:
    if isinstance(option, str):
        raise checks.refuse(f"option {number}", option, "a row of token ids, as the prompt is,")
    return checks.prompt_ids(f"option {number}", option, ONE_OPTION, limit)
