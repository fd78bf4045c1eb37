"""Runs prompts through the engine step by step, and keeps what each step computed. For one thread, as in a tour."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from puna.llm import LLM
from puna.request import Request, SamplingParams
from puna.sampling import Candidates, History, Row

SALTS = itertools.count()


@dataclass(frozen=True, slots=True)
class ComputedChunk:
    """The tokens first..last-1 of a prompt and its answer, which a step computed. `index`: of the prompt, from 0."""

    index: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One step of the engine."""

    chunks: tuple[ComputedChunk, ...]
    seconds: float

    @property
    def num_tokens(self) -> int:
        return sum(chunk.last - chunk.first for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class EngineRun:
    """What came of some prompts, and how."""

    requests: tuple[Request, ...]
    steps: tuple[EngineStep, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens that passed through the model."""
        return sum(step.num_tokens for step in self.steps)

    @property
    def seconds(self) -> float:
        return sum(step.seconds for step in self.steps)


class ChunkListener:
    """A watcher that keeps only what was computed."""

    def __init__(self, index: int, heard: list[ComputedChunk]) -> None:
        self._index, self._heard = index, heard

    def computed(self, first: int, last: int, num_drafts: int) -> None:
        self._heard.append(ComputedChunk(self._index, first, last))

    def begin(self, logits: Row, history: History) -> None:
        """Not needed here, as the following."""

    def filtered(self, name: str, kept: Candidates) -> None: ...

    def drew(self, name: str, uniform: float) -> None: ...

    def drawn(self, kept: Candidates, uniform: float | None, index: int) -> None: ...

    def end(self, token_id: int) -> None: ...


def run_steps(llm: LLM, prompts: Sequence[Sequence[int]], params: SamplingParams | Sequence[SamplingParams]) -> EngineRun:
    """Run prompts together to their ends, with the same parameters or with their own."""
    heard: list[ComputedChunk] = []
    each = [params] * len(prompts) if isinstance(params, SamplingParams) else params
    requests = [
        llm.engine.add(ids, own, watcher=ChunkListener(index, heard))
        for index, (ids, own) in enumerate(zip(prompts, each, strict=True))
    ]
    return EngineRun(tuple(requests), tuple(_steps(llm, heard)))


def _steps(llm: LLM, heard: list[ComputedChunk]) -> Iterator[EngineStep]:
    while llm.engine.has_work:
        started, before = time.perf_counter(), len(heard)
        llm.engine.step()
        if chunks := heard[before:]:
            yield EngineStep(tuple(chunks), time.perf_counter() - started)


def fresh_salt() -> str:
    """A name under which no K and V are cached yet (`SamplingParams.cache_salt`)."""
    return f"tour {next(SALTS)}"
