"""puna and other programs on the same model, in turns: what is timed, and how the runs follow each other."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from puna.peers import Peer
from puna.peers.base import LoadedPeer, Measure, Seconds
from puna.peers.pairs import RatePair, alternate, summary
from puna.peers.process import PeerError, loaded_peer
from puna.progress import Reporter

if TYPE_CHECKING:
    from puna.llm import LLM

SEED = 20261201
AFTER_TOKENS = 64  # of an answer that begins after many tokens
VOCABULARY_SHARE = 0.75  # the last ids are often control tokens, or none of the tokenizer's
SLACK = 16  # tokens of a peer's context beyond what a run needs


class Workload(NamedTuple):
    """What is timed: a prompt, or the answer after it.

    >>> Workload.prompt(512).test, Workload.decode(128).test, Workload.decode(64, 1000).test
    ('pp512', 'tg128', 'tg64 @ d1000')
    """

    test: str  # the name that other benchmarks give it
    num_read: int  # tokens of the prompt
    num_written: int  # tokens of the answer; 0: the prompt is timed

    @classmethod
    def prompt(cls, count: int) -> Workload:
        """Reading `count` tokens."""
        return cls(f"pp{count}", count, 0)

    @classmethod
    def decode(cls, count: int, depth: int = 1) -> Workload:
        """Writing `count` tokens after `depth` of a prompt."""
        return cls(f"tg{count}" + f" @ d{depth}" * (depth > 1), depth, count)

    def rate(self, seconds: Seconds) -> float:
        """Tokens per second."""
        return self.num_written / seconds.answer if self.num_written else self.num_read / seconds.prompt


class Rival(NamedTuple):
    """A peer that was asked for."""

    name: str  # in PEERS
    peer: Peer
    python: str = sys.executable  # the Python that has it
    model: Path | None = None  # the model in its own format; None: the file that puna has loaded


@dataclass(frozen=True, slots=True)
class PeerComparison:
    """puna's model, and what is timed with it."""

    llm: LLM
    tests: Sequence[Workload]
    num_pairs: int
    report: Reporter

    def against(self, rival: Rival) -> dict[str, Any]:
        """Load a peer, run the tests in turns with it, and end it. PeerError, which says why, if it cannot run the model."""
        path = rival.model or self.llm.path
        if not rival.peer.can_load(path):
            hint = f"Give it the same model so: --peer-model {rival.name}=PATH"
            raise PeerError(f"it loads {' or '.join(rival.peer.loads)}", hint=hint)
        before = dataclasses.asdict(self.llm.backend.roofline())
        with self._loaded(rival, path) as peer:
            rows = [self._row(test, peer.measure, rival.name) for test in self.tests]
        facts = {"name": rival.name, "version": peer.version, "computes": peer.computes, "model": path, "tests": rows}
        return facts | {"limits_before": before, "limits_after": dataclasses.asdict(self.llm.backend.roofline())}

    @contextmanager
    def _loaded(self, rival: Rival, path: Path) -> Iterator[LoadedPeer]:
        threads, stage = self.llm.backend.info.threads, f"loading {rival.name}"
        context = max(test.num_read + test.num_written for test in self.tests) + SLACK
        self.report.progress(stage, 0, 1)
        with loaded_peer(rival.peer, rival.python, path, threads, context) as peer:
            self.report.progress(stage, 1, 1)
            yield peer

    def _row(self, test: Workload, peer: Measure, name: str) -> dict[str, Any]:
        pairs = self._pairs(test, peer, name)
        return {"test": test.test, "prompt": test.num_read, "answer": test.num_written} | summary(pairs)

    def _pairs(self, test: Workload, peer: Measure, name: str) -> list[RatePair]:
        own, random = own_measure(self.llm), np.random.default_rng(SEED)
        end = max(1, int(self.llm.model.vocab_size * VOCABULARY_SHARE))

        def ids(count: int) -> list[int]:
            """New ones for each pair, so that no program finds a prompt in a cache."""
            return [int(token_id) for token_id in random.integers(0, end, count)]

        questions = [(ids(test.num_read), ids(test.num_written)) for _ in range(self.num_pairs + 1)]
        return alternate(
            lambda question: test.rate(own(*question)),
            lambda question: test.rate(peer(*question)),
            questions,
            lambda number: self.report.progress(f"{test.test} beside {name}", number, len(questions)),
        )


def own_measure(llm: LLM) -> Measure:
    """puna's own runs, which sample their tokens greedily."""
    from puna.request import SamplingParams

    def measure(prompt: Sequence[int], answer: Sequence[int]) -> Seconds:
        timing = llm.generate(list(prompt), SamplingParams(max_tokens=len(answer) + 1, ignore_eos=True)).timing
        return Seconds(timing.first_token_s, timing.total_s - timing.first_token_s)

    return measure
