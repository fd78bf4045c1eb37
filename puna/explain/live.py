"""The model of a tour. Each part of it is opened or loaded when the tour first needs it, once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from puna.chat import encode_chat, guessed_template
from puna.detokenize import token_text
from puna.errors import UsageError
from puna.explain.looking import InnerView
from puna.formats import open_checkpoint, what_to_give
from puna.formats.base import Checkpoint, TokenizerSpec
from puna.llm import LLM
from puna.model.spec import ModelConfig
from puna.progress import SILENT, Reporter
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer

FAST = {"speculation": "off"}  # guessed tokens would blur what a tour counts


class LiveModel:
    """A model, its tokenizer and, on demand, its engine.

    `load` makes an LLM with some settings of EngineConfig. `reporter` tells of work that takes seconds.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[dict[str, Any]], LLM],
        tokenizer: Path | None = None,
        reporter: Callable[[], AbstractContextManager[Reporter]] = lambda: nullcontext(SILENT),
    ) -> None:
        self.path, self._load, self._tokenizer_path, self._reporter = path, load, tokenizer, reporter
        self._loaded: list[LLM] = []
        self._view: InnerView | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.path, self._tokenizer_path)

    @property
    def config(self) -> ModelConfig:
        return self.checkpoint.config

    @property
    def name(self) -> str:
        return self.path.stem if self.path.is_file() else self.path.name

    @property
    def spec(self) -> TokenizerSpec:
        """The tokenizer as the file describes it. UsageError if there is none."""
        if self.checkpoint.tokenizer is None:
            hint = what_to_give(self.checkpoint.notices)
            raise UsageError(f"{self.path} has no tokenizer, so a tour has no text to show", hint=hint)
        return self.checkpoint.tokenizer

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return build_tokenizer(self.spec)

    @cached_property
    def llm(self) -> LLM:
        """The model on the device that runs it, without guesses of tokens."""
        return self._opened(FAST)

    def inner_view(self, ids: Sequence[int]) -> InnerView:
        """What a text does inside the model, in float32. The last one is kept."""
        if self._view is None or self._view.ids != tuple(ids):
            with self._reporter() as report:
                self._view = InnerView(self.checkpoint, ids, report)
        return self._view

    def _opened(self, settings: dict[str, Any]) -> LLM:
        llm = self._load(settings)
        self._loaded.append(llm)
        return llm

    def close(self) -> None:
        for llm in self._loaded:
            llm.close()

    @property
    def template(self) -> str | None:
        """The model's chat template, or the name of a built-in one that fits; None if it has none."""
        return self.checkpoint.chat_template or guessed_template(self.tokenizer.special_tokens)

    def chat_ids(self, text: str) -> list[int]:
        """The ids of a question: in the chat template, or alone if the model has none."""
        if self.template is None:
            return self.ids(text)
        return encode_chat([{"role": "user", "content": text}], self.tokenizer, self.template)

    def second_turn_ids(self, question: str, answer: str, next_question: str) -> list[int]:
        """The ids of a conversation that goes on after an answer."""
        if self.template is None:
            return self.ids(f"{question}{answer} {next_question}")
        turns = (("user", question), ("assistant", answer), ("user", next_question))
        return encode_chat([{"role": role, "content": text} for role, text in turns], self.tokenizer, self.template)

    def ids(self, text: str) -> list[int]:
        """The ids of a text, without a template. UsageError for a text that has none."""
        if not (ids := self.tokenizer.encode(text)):
            raise UsageError("TEXT has no tokens", hint="Give another text, or leave TEXT out.")
        return ids

    def plain_ids(self, text: str) -> list[int]:
        """The ids of a text alone, without the BOS that some models want before it."""
        return self.tokenizer.encode(text, bos=False, eos=False)

    def quoted(self, token_id: int) -> str:
        """A token's text in quotes, so that its space is seen; a control token's name."""
        return json.dumps(token_text(self.tokenizer, token_id), ensure_ascii=False)
