"""Thinking: tells a model's reasoning apart from its answer, and ends it when its budget is used up.

Models such as Qwen3, DeepSeek-R1, SmolLM3 and Magistral write what they think between two tags, before the answer. A model thinks
if its chat template knows the tags. As in llama.cpp, only a tag at the very beginning of an answer opens a span, unless the
prompt has opened one; a tag that comes later is text. Spaces and line ends at the borders of the span belong to neither part.

A request without thinking never comes here: the engine decides that when the request is added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal, NamedTuple

from puna.chat import unread_args
from puna.detokenize import longest_beginning
from puna.errors import UsageError
from puna.request import Reasoning, SamplingParams
from puna.sampling import History, Row, TokenSampler
from puna.tokenizers.base import Tokenizer


class ThinkTags(NamedTuple):
    """What begins and what ends a model's thoughts."""

    open: str
    close: str


TAGS = (
    ThinkTags("<think>", "</think>"),  # Qwen3, DeepSeek-R1, SmolLM3, Granite, EXAONE and most others
    ThinkTags("[THINK]", "[/THINK]"),  # Magistral
    ThinkTags("<seed:think>", "</seed:think>"),  # Seed-OSS
    ThinkTags("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
)
SWITCHES = ("enable_thinking", "thinking")  # variables by which templates turn thinking on and off

Part = Literal["before", "inside", "after"]


def tags_of(template: str | None) -> ThinkTags | None:
    """The tags that a chat template knows; None for a model that does not think.

    >>> tags_of("{% set c = c.split('</think>')[-1] %}"), tags_of("{{ messages }}")
    (ThinkTags(open='<think>', close='</think>'), None)
    """
    return next((tags for tags in TAGS if template is not None and (tags.open in template or tags.close in template)), None)


def switch(template: str | None, is_on: bool) -> dict[str, bool]:
    """The template variable that turns thinking on or off. UsageError if the template has none."""
    unread = unread_args(SWITCHES, template)
    known = next((name for name in SWITCHES if name not in unread), None)
    if known is None:
        raise UsageError(
            "the chat template of this model has no switch for thinking",
            hint="If it thinks all the same, limit it: thinking_budget=0 (--thinking-budget 0)." if tags_of(template) else "",
        )
    return {known: is_on}


class Thinking:
    """Splits the text of one request into reasoning and answer, piece by piece; tags may come in any pieces.

    >>> thinking = Thinking(ThinkTags("<think>", "</think>"))
    >>> [thinking.split(piece) for piece in ("<thi", "nk>\\nLlama", "s hum. </th", "ink>\\n", "\\nThey hum.")]
    [('', ''), ('Llama', ''), ('s hum.', ''), ('', ''), ('', 'They hum.')]
    """

    def __init__(
        self, tags: ThinkTags, is_open: bool = False, close_ids: Sequence[int] = (), *, is_constrained: bool = False
    ) -> None:
        self.found = Reasoning(is_present=is_open)
        self.close_ids = close_ids  # what ends a span by force
        self.tags = tags
        self._is_constrained = is_constrained  # then each space of the answer is one that its form asks for
        self._part: Part = "inside" if is_open else "before"
        self._is_trimming = True  # spaces are left out until the next letter
        self._held = ""  # may be a part of a tag, or spaces before one
        self.num_inside = 0  # tokens that came inside a span

    @property
    def is_inside(self) -> bool:
        return self._part == "inside"

    @property
    def has_ended(self) -> bool:
        """Whether what follows is the answer."""
        return self._part == "after"

    @property
    def is_at_tag(self) -> bool:
        """Whether the text so far ends with a part of the closing tag."""
        return self.is_inside and bool(self._held.strip())

    def split(self, text: str, num_tokens: int = 1, is_last: bool = False) -> tuple[str, str]:
        """What the next piece adds to the reasoning, and to the answer. `is_last`: nothing follows."""
        self.found.raw.append(text)
        was_inside, text, self._held = self.is_inside, self._held + text, ""
        self.num_inside += num_tokens * was_inside
        if self._part == "before":
            text = self._opened(text, is_last)
        reasoning = ""
        if self._part == "inside":
            reasoning, text = self._thought(text, is_last)
        self.found.num_tokens += num_tokens * (was_inside or self.is_inside)
        return reasoning, self._trimmed(text) if self._part == "after" else ""

    def _opened(self, text: str, is_last: bool) -> str:
        """The text after an opening tag; all of it, which is then the answer, if it begins with none."""
        start, tag = text.lstrip(), self.tags.open
        if start.startswith(tag):
            self._part, self.found.is_present = "inside", True
            return start.removeprefix(tag)
        if not is_last and tag.startswith(start):
            self._held = text
            return ""
        self._part, self._is_trimming = "after", False
        return text

    def _thought(self, text: str, is_last: bool) -> tuple[str, str]:
        """Reasoning, and what follows the closing tag."""
        thought, found, answer = text.partition(self.tags.close)
        if found or is_last:
            thought = self._trimmed(thought).rstrip()
            if found:
                self._part, self._is_trimming = "after", not self._is_constrained
            return thought, answer
        whole = text[: len(text) - longest_beginning(text, (self.tags.close,))].rstrip()
        self._held = text[len(whole) :]
        return self._trimmed(whole), ""

    def _trimmed(self, text: str) -> str:
        if self._is_trimming:
            text = text.lstrip()
            self._is_trimming = not text
        return text


class Budgeted:
    """Samples as `sampler` does until `budget` tokens were thought; then it closes the span, once."""

    def __init__(self, sampler: TokenSampler, thinking: Thinking, budget: int) -> None:
        self._sampler, self._thinking = sampler, thinking
        self._budget, self._close_ids = budget, list(thinking.close_ids)

    def end(self) -> None:
        """Use up the budget."""
        self._budget = 0

    def sample(self, logits: Row, history: History) -> int:
        thinking = self._thinking
        if thinking.is_inside and thinking.num_inside >= self._budget and not thinking.is_at_tag:
            thinking.found.is_cut = True
        if self._thinking.found.is_cut and self._close_ids:
            return self._close_ids.pop(0)
        return self._sampler.sample(logits, history)


def with_separate_reasoning(params: SamplingParams) -> SamplingParams:
    """The parameters of a chat: reasoning is told apart unless they refuse it."""
    return params if params.separate_reasoning is not None else replace(params, separate_reasoning=True)


def begin_thinking(
    params: SamplingParams,
    prompt_ids: Sequence[int],
    tags: ThinkTags | None,
    tokenizer: Tokenizer | None,
    is_constrained: bool = False,
) -> Thinking | None:
    """The splitter of a request; None if it is not to be split, or the model does not think. UsageError for a budget then.

    A constraint begins after the thoughts (`puna/thinking_first.py`); where the prompt has closed them, at once.
    """
    if not (params.separate_reasoning or params.thinking_budget is not None):
        return None
    if params.thinking_budget is not None and params.separate_reasoning is False:
        raise UsageError("thinking_budget needs separate_reasoning, which is False", hint="Leave one of them out.")
    if tags is None or tokenizer is None:
        if params.thinking_budget is not None:
            raise UsageError(
                "thinking_budget is given, and this model does not think: its chat template has no tags for that",
                hint="Leave thinking_budget (--thinking-budget) out.",
            )
        return None
    line = "" if tokenizer.strips_leading_space() else "\n"  # models write the closing tag on a line of its own
    close_ids = tokenizer.encode(line + tags.close, bos=False, eos=False, special=True)
    place = place_in(prompt_ids, tags, tokenizer)
    if is_constrained and place == "after":
        return None
    return Thinking(tags, place == "inside", close_ids, is_constrained=is_constrained)


def with_budget(
    custom: TokenSampler | None, sampler: TokenSampler, thinking: Thinking, budget: int | None
) -> TokenSampler | None:
    """What samples a request's tokens in place of its `sampler`: `custom`, and within a budget if there is one."""
    return custom if budget is None else Budgeted(custom or sampler, thinking, budget)


def without_thoughts(custom: TokenSampler | None, sampler: TokenSampler, thinking: Thinking) -> TokenSampler:
    """What samples the tokens of a request from now on: it closes the span, or one that opens later, once."""
    if not isinstance(custom, Budgeted):
        return Budgeted(custom or sampler, thinking, 0)
    custom.end()
    return custom


def place_in(prompt_ids: Sequence[int], tags: ThinkTags, tokenizer: Tokenizer) -> Part:
    """Where a prompt ends: inside a span that its last turn opens, after one that it closes, or before any.

    The last turn follows the last control token that is no tag, so that tags in a user's text do not count.
    """
    spelled = control_tags(tags, tokenizer)
    controls = set(tokenizer.special_tokens.values()) - spelled.keys()
    turn = reversed(list(takewhile(lambda token_id: token_id not in controls, reversed(prompt_ids))))
    known = (token_id for token_id in turn if token_id < tokenizer.vocab_size)
    text = b"".join(spelled.get(token_id) or tokenizer.token_bytes(token_id) for token_id in known).decode(errors="replace")
    opened, closed = text.rfind(tags.open), text.rfind(tags.close)
    return "before" if opened == closed else "inside" if opened > closed else "after"


def control_tags(tags: ThinkTags, tokenizer: Tokenizer) -> Mapping[int, bytes]:
    """The tags that are control tokens, which have no text of their own -> their spelling."""
    return {tokenizer.special_tokens[tag]: tag.encode() for tag in tags if tag in tokenizer.special_tokens}
