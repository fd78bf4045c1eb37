"""A constraint that begins after the model's thoughts. Until then the model thinks as it likes, as in vLLM and llama.cpp.

What may follow:
* before: the opening tag, or what the constraint allows. A model that does not think is held to it from the first token on;
* inside: any token that neither ends the answer nor holds more than the end of the closing tag;
* after the closing tag: what the constraint allows, from the next token on.

So no answer is without its form, whether the model thinks or not. A prompt may have opened the span.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from puna.constraints import Mask
from puna.spelling import spelling_of
from puna.thinking import Part, ThinkTags, control_tags
from puna.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher


class ThinkingFirst:
    """Takes the place of the matcher of one request's constraint, which is `answer`. `ends`: ids that end an answer."""

    def __init__(self, answer: LLMatcher, ends: Collection[int], tags: ThinkTags, is_open: bool, tokenizer: Tokenizer) -> None:
        self._answer, self._at_start = answer, answer.deep_copy()
        self._open, self._close = tags.open.encode(), tags.close.encode()
        self._controls = control_tags(tags, tokenizer)
        self._spelling = spelling_of(tokenizer)
        self._free = thoughts_of(tokenizer, self._close).copy()  # whether each id may be a thought; the last entry is the end
        self._free[list(ends)] = False
        self._part: Part = "inside" if is_open else "before"
        self._text = b""  # before: all of it; inside: its last bytes, which may begin the closing tag
        self._may_be_answer = True  # whether the text so far is also one that the constraint allows

    # ---- what `Constraint` asks of a matcher --------------------------------------------------------------------------

    def compute_bitmask(self) -> bytes:
        if self._part == "after":
            return self._answer.compute_bitmask()
        return np.packbits(self._thoughts() if self._part == "inside" else self._beginnings(), bitorder="little").tobytes()

    def consume_token(self, token_id: int) -> bool:
        if self._part == "after":
            return self._answer.consume_token(token_id)
        self._text += self._controls.get(token_id) or self._spelling.bytes_of(token_id)
        if self._part == "before":
            self._begin(token_id)
        if self._part == "inside":
            self._think()
        return not self.is_error()

    def compute_ff_tokens(self) -> list[int]:
        return self._answer.compute_ff_tokens() if self._part == "after" else []

    def is_accepting(self) -> bool:
        return self._is_answer and self._answer.is_accepting()

    def is_stopped(self) -> bool:
        return self._is_answer and self._answer.is_stopped()

    def is_error(self) -> bool:
        return self._answer.is_error()

    def get_error(self) -> str:
        return self._answer.get_error()

    # ---- its parts ----------------------------------------------------------------------------------------------------

    @property
    def _is_answer(self) -> bool:
        return self._part == "after" or (self._part == "before" and self._may_be_answer)

    def _begin(self, token_id: int) -> None:
        """Go on after the first tokens of an answer, which may or may not be an opening tag."""
        start = self._text.lstrip()
        if start.startswith(self._open):
            self._part, self._text, self._answer = "inside", start.removeprefix(self._open), self._at_start
            return
        self._may_be_answer = self._may_be_answer and self._answer.try_consume_tokens([token_id]) == 1
        if not self._open.startswith(start):
            self._part = "after"

    def _think(self) -> None:
        if self._text.endswith(self._close):  # no token that may follow holds more
            self._part = "after"
        self._text = self._text[1 - len(self._close) :]

    def _beginnings(self) -> Mask:
        """Whether each id may follow where the answer, or a span, begins."""
        allowed = np.zeros(len(self._free), np.bool_)
        if self._may_be_answer:
            own = np.unpackbits(np.frombuffer(self._answer.compute_bitmask(), np.uint8), bitorder="little")
            allowed |= own[: len(allowed)].view(np.bool_)
        allowed[self._opening(self._open[len(self._text.lstrip()) :])] = True
        return allowed

    def _opening(self, rest: bytes) -> list[int]:
        """The ids that continue the opening tag, of which `rest` is missing."""
        ids, spell = self._spelling.beginning(rest[:1]).tolist(), self._spelling.bytes_of
        spelled = [i for i in ids if rest.startswith(spell(i)) or (spell(i).startswith(rest) and self._close not in spell(i))]
        return spelled + [i for i, tag in self._controls.items() if tag == rest]

    def _thoughts(self) -> Mask:
        """Whether each id may follow inside the span."""
        begun = [n for n in range(1, len(self._close)) if self._text.endswith(self._close[:n])]
        if not begun:
            return self._free
        allowed = self._free.copy()
        for rest in (self._close[n:] for n in begun):
            longer = [i for i in self._spelling.beginning(rest).tolist() if len(self._spelling.bytes_of(i)) > len(rest)]
            allowed[longer] = False
        return allowed


_THOUGHTS: WeakKeyDictionary[Tokenizer, dict[bytes, Mask]] = WeakKeyDictionary()  # to search 100,000 tokens takes 10 ms


def thoughts_of(tokenizer: Tokenizer, close: bytes) -> Mask:
    """Whether each id may be a part of a thought: it holds nothing after a closing tag.  # (vocab_size + 1,); the end may not"""
    known = _THOUGHTS.setdefault(tokenizer, {})
    if close not in known:
        spelling, allowed = spelling_of(tokenizer), np.ones(tokenizer.vocab_size + 1, np.bool_)
        longer = [i for i in spelling.holding(close).tolist() if spelling.bytes_of(i).partition(close)[2]]
        allowed[[*longer, -1]] = False
        known[close] = allowed
    return known[close]
