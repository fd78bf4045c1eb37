"""Rerank: how well each document answers a query, by the model's own head or by the logits of "yes" and "no".

A model that was trained to score has a head (`Checkpoint.head`): the hidden state of the prompt's last token times a matrix.
Any other is asked, in Qwen3-Reranker's words (its model card, 2025), and the score is the probability of "yes" against "no".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.embedding import EmbeddingJob, read_all
from puna.errors import UsageError
from puna.formats.base import RankingHead
from puna.messages import Messages
from puna.request import SamplingParams
from puna.runner import Call, Handle, Runner, nobody_listens
from puna.sampling import History, Row, require_finite
from puna.tokenizers.base import Tokenizer

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
NO_THINKING = {"enable_thinking": False}  # Qwen3's template then writes an empty thought before the answer
ONE_TOKEN = SamplingParams(max_tokens=1, ignore_eos=True)
YES, NO = "yes", "no"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document's index in the list that was given, and its score: the higher, the better."""

    index: int
    score: float


def question(query: str, document: str, instruction: str) -> Messages:
    """The conversation that asks about one document."""
    asked = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": asked}]


def pair(tokenizer: Tokenizer, query: str, document: str) -> list[int]:
    """The ids of a query and a document without a chat template: BOS, query, EOS, document, EOS, if there are any."""
    has_eos = tokenizer.eos_id is not None
    return tokenizer.encode(query, eos=has_eos) + tokenizer.encode(document, bos=False, eos=has_eos)


def ranked(scores: Sequence[float], top_n: int | None) -> list[Ranked]:
    """The best documents first; of equal ones the earlier.

    >>> ranked([0.5, 2.0, 0.5], top_n=2)
    [Ranked(index=1, score=2.0), Ranked(index=0, score=0.5)]
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return [Ranked(index, scores[index]) for index in order[:top_n]]


def checked_texts(query: Any, documents: Any) -> tuple[str, list[str]]:
    """UsageError for what is no text, and for one without a word."""
    if isinstance(documents, str):
        raise UsageError("documents is one text; a list of texts is needed", hint="Give [document].")
    texts = [
        _spoken(f"document {number}", one) for number, one in enumerate(checks.row("documents", documents, "a list of texts"))
    ]
    return _spoken("the query", query), texts


def checked_count(top_n: Any) -> int | None:
    """UsageError for what is no number of documents; None: all."""
    return None if top_n is None else checks.whole("top_n", top_n, low=1)


def _spoken(name: str, value: Any) -> str:
    """A text with a word: of an empty one, a score would only look like a judgement."""
    text = checked_text(name, value)
    if not text.strip():
        raise UsageError(f"{name} is empty", hint="Give a text, or leave the document out.")
    return text


def checked_text(name: str, value: Any) -> str:
    return checks.unicode(name, checks.instance(name, value, str))


# ---- by the head ----------------------------------------------------------------------------------------------------


def head_score(hidden: npt.NDArray[np.float64], matrix: npt.NDArray[np.float32], labels: Sequence[str]) -> float:
    """The score of a hidden state: the logit of a head's one label, or the probability of the one of two that says yes.

    >>> head_score(np.array([1.0, 2.0]), np.array([[3.0, 4.0]], np.float32), ())
    11.0
    """
    logits = [math.fsum((row * hidden).tolist()) for row in matrix.astype(np.float64)]
    if len(logits) == 1:
        return logits[0]
    yes = [label.lower() for label in labels].index(YES) if YES in map(str.lower, labels) else 1
    return probability(logits[yes], logits[1 - yes])


@dataclass(slots=True)
class HeadJob:
    """Prompts that are scored by a model's own head."""

    prompts: Sequence[Sequence[int]]
    head: RankingHead
    states: EmbeddingJob = field(init=False)

    def begin(self, runner: Runner, listener: Callable[[Handle], object] = nobody_listens) -> list[Handle]:
        self.states = EmbeddingJob(self.prompts, 0, "last")
        return self.states.begin(runner, listener)

    def scores(self, handles: Sequence[Handle]) -> list[float]:
        matrix = self.head.matrix.dequantize()
        return [head_score(state, matrix, self.head.labels) for state in self.states.vectors(handles)]


def probability(yes: float, no: float) -> float:
    """Of "yes", where the other answer is "no".

    >>> probability(2.0, 2.0), probability(-1000.0, 1000.0)
    (0.5, 0.0)
    """
    return math.exp(-np.logaddexp(0.0, no - yes))


# ---- by yes and no --------------------------------------------------------------------------------------------------


class AnswerLogits:
    """A sampler that only looks: it keeps the logits of two answers."""

    def __init__(self, yes_id: int, no_id: int) -> None:
        self._ids = yes_id, no_id
        self.score = math.nan

    def sample(self, logits: Row, history: History) -> int:
        require_finite(logits)
        self.score = probability(*(float(logits[i]) for i in self._ids))
        return self._ids[0]


def answer_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of "yes" and "no". UsageError if one is no single token."""
    found = [tokenizer.encode(word, bos=False, eos=False) for word in (YES, NO)]
    if any(len(ids) != 1 for ids in found):
        raise UsageError(
            'the model has no head for ranking, and "yes" and "no" are not single tokens of its vocabulary',
            hint="Take a model that was trained to rank, such as Qwen3-Reranker.",
        )
    return found[0][0], found[1][0]


@dataclass(slots=True)
class AnswerJob:
    """Prompts that are scored by the probability of "yes" after each."""

    prompts: Sequence[Sequence[int]]
    yes_id: int
    no_id: int
    samplers: list[AnswerLogits] = field(default_factory=list)

    def begin(self, runner: Runner, listener: Callable[[Handle], object] = nobody_listens) -> list[Handle]:
        self.samplers = [AnswerLogits(self.yes_id, self.no_id) for _ in self.prompts]
        call, pairs = Call(), zip(self.prompts, self.samplers, strict=True)
        return [runner.submit(prompt, ONE_TOKEN, sampler, listener=listener, call=call) for prompt, sampler in pairs]

    def scores(self, handles: Sequence[Handle]) -> list[float]:
        for handle in handles:
            if (fault := handle.confirm().fault) is not None:
                raise fault
        return [sampler.score for sampler in self.samplers]


def answer_scores(runner: Runner, prompts: Sequence[Sequence[int]], yes_id: int, no_id: int) -> list[float]:
    """The probability of "yes" after each prompt."""
    return run(AnswerJob(prompts, yes_id, no_id), runner)


# ---- either ---------------------------------------------------------------------------------------------------------


class RankingJob(Protocol):
    """Prompts to score, one for each document."""

    def begin(self, runner: Runner, listener: Callable[[Handle], object] = nobody_listens) -> list[Handle]:
        """Submit all prompts."""

    def scores(self, handles: Sequence[Handle]) -> list[float]:
        """The scores, once all have ended."""


def run(job: RankingJob, runner: Runner) -> list[float]:
    """The scores of a job, in the order of its prompts."""
    handles = job.begin(runner)
    read_all(handles)
    return job.scores(handles)
