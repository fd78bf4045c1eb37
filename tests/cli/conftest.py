"""A model that answers with words it was given, so that the commands can be tested without arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from puna.cli import main
from puna.errors import ContextLengthError
from puna.request import FinishReason, SamplingParams, StepOutput, TokenLogprob
from puna.suggested import NOTHING, Suggested

THOUGHT = "thought:"  # a word of an answer that begins so is reasoning


class FakeTokenizer:
    def __init__(self, *control_tokens: str) -> None:
        self.special_tokens = {text: number for number, text in enumerate(control_tokens)}
        self.vocab_size = 1000

    def piece(self, token_id: int) -> str:
        return f"<{token_id}>"

    def token_bytes(self, token_id: int) -> bytes:
        return b"t%d" % token_id


class FakeStream:
    """Gives the words of an answer one by one; raises `error` in their place when it stands among them."""

    def __init__(
        self, words: Sequence[str | BaseException], prompt_ids: Sequence[int], params: SamplingParams, reason: FinishReason
    ) -> None:
        self.words, self.prompt_ids, self.params, self.reason = words, prompt_ids, params, reason
        self.said: list[str] = []
        self.thought: list[str] = []

    def __enter__(self) -> FakeStream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __iter__(self) -> Iterator[StepOutput]:
        for i, word in enumerate(self.words):
            if isinstance(word, BaseException):
                self.reason = FinishReason.ABORT
                raise word
            if word.startswith(THOUGHT):
                self.thought.append(word.removeprefix(THOUGHT))
                yield StepOutput(1, "", (i,), reasoning=self.thought[-1])
                continue
            self.said.append(word)
            yield StepOutput(1, word, (i,), finish_reason=self.reason if i + 1 == len(self.words) else None)

    @property
    def completion(self) -> Any:
        wants_logprobs = self.params.logprobs is not None
        return SimpleNamespace(
            text="".join(self.said),
            token_ids=tuple(range(len(self.said))),
            finish_reason=self.reason,
            stop_reason=None,
            reasoning="".join(self.thought) or None,
            is_reasoning_cut=False,
            num_dropped=0,
            num_reasoning_tokens=len(self.thought),
            logprobs=tuple(TokenLogprob(i, -0.5, ((i, -0.5),), f"t{i}", (f"t{i}",), b"t", (b"t",)) for i in range(len(self.said)))
            if wants_logprobs
            else (),
            prompt_ids=tuple(self.prompt_ids),
            num_cached=0,
            seed=self.params.seed,
            error="logits are not finite" if self.reason is FinishReason.ERROR else "",
            timing=SimpleNamespace(prefill_per_s=100.0, decode_per_s=50.0, first_token_s=0.01, num_drafted=0, num_accepted=0),
        )


@dataclass
class FakeLLM:
    """Stands in for `puna.llm.LLM`, class and object in one. A token is a character."""

    answer: Sequence[str | BaseException] = ("Pa", "ris", ".")
    reason: FinishReason = FinishReason.STOP
    error: BaseException | None = None  # raised by `load`
    path: Path = Path("fake.gguf")
    chat_template: str | None = None
    tokenizer: Any = field(default_factory=FakeTokenizer)
    footprint: None = None
    plan: Any = field(default_factory=lambda: SimpleNamespace(max_context=1000))
    model: Any = field(default_factory=lambda: SimpleNamespace(max_context=1000))
    suggested: Suggested = NOTHING
    template_args: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[Any, SamplingParams]] = field(default_factory=list)
    loaded: list[tuple[Any, ...]] = field(default_factory=list)
    num_closed: int = 0

    def load(self, path_or_name: str | None, config: Any, *, tokenizer: Path | None, report: Any, check: Any = None) -> FakeLLM:
        self.loaded.append((path_or_name, config, tokenizer))
        if self.error is not None:
            raise self.error
        return self

    def stream(self, prompt: str, params: SamplingParams) -> FakeStream:
        self.asked.append((prompt, params))
        return self._stream(len(prompt), params)

    def chat_stream(self, messages: Sequence[Mapping[str, str]], params: SamplingParams) -> FakeStream:
        self.asked.append(([dict(m) for m in messages], params))
        return self._stream(sum(len(m["content"]) for m in messages), params)

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return list(range(sum(len(m["content"]) for m in messages)))

    def _stream(self, length: int, params: SamplingParams) -> FakeStream:
        if length >= self.plan.max_context:
            raise ContextLengthError(
                f"the prompt has {length} tokens; the context holds {self.plan.max_context}", hint="Shorten it."
            )
        return FakeStream(self.answer, range(length), params, self.reason)

    def __enter__(self) -> FakeLLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.num_closed += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLLM:
    made = FakeLLM()
    monkeypatch.setattr("puna.llm.LLM", made)
    monkeypatch.setenv("PUNA_CACHE", str(tmp_path / "cache"))
    return made


@dataclass
class Result:
    code: int
    out: str
    err: str


class Puna:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys, self._monkeypatch = capsys, monkeypatch

    def __call__(self, *arguments: str, stdin: str = "") -> Result:
        import io

        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode("utf-8", "surrogateescape")), "utf-8"))
        code = main.run(list(arguments))
        out, err = self._capsys.readouterr()
        return Result(code, out, err)


@pytest.fixture
def puna(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Puna:
    return Puna(capsys, monkeypatch)
