"""What is asked of the engine, the state of one sequence, and the batch that a backend receives."""

from __future__ import annotations

import enum
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from puna import checks
from puna.errors import UsageError

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float64]
Logits = npt.NDArray[np.float32]  # (rows, vocab_size)

UNREAD = -1  # in the place of an id that a device has chosen and nobody has read yet

MAX_STOPS, MAX_STOP_CHARACTERS, MAX_LOGPROBS, MAX_LOGIT_BIAS = 16, 256, 20, 1024


class FinishReason(enum.StrEnum):
    STOP = "stop"  # an end-of-text id, a stop id or a stop string
    LENGTH = "length"  # max_tokens reached, or the context is full
    ABORT = "abort"  # the caller gave up
    ERROR = "error"  # this sequence failed (logits not finite); the others went on


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen, and when to stop. The defaults are greedy: the same text always.

    Filters run in their written order: logit bias, penalties, temperature, top-k, top-p, min-p, then one draw.
    Presence and frequency penalties count generated tokens (OpenAI); the repetition penalty
    (CTRL, arXiv 1909.05858) counts the prompt too.
    """

    max_tokens: int | None = 256  # None: until the model stops or the context is full
    temperature: float = 0.0  # 0: the most likely token, first index on a tie
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None  # None: a fresh one per request
    stop: Sequence[str] = ()  # the text ends before the first of these; a single text is one of them
    stop_ids: Collection[int] = ()
    ignore_eos: bool = False
    logprobs: int | None = None  # None: off; 0: of the chosen token; n: of the n most likely too
    prompt_logprobs: int | None = None  # the same for the tokens of the prompt

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            object.__setattr__(self, name, check(name, getattr(self, name)))


def _stops(name: str, value: object) -> tuple[str, ...]:
    """A single text is one stop string, as in OpenAI's API."""
    texts = (value,) if isinstance(value, str) else checks.several(name, value, "a text, or a list of texts,")
    if len(texts) > MAX_STOPS:
        raise UsageError(f"{name} holds {len(texts)} texts; at most {MAX_STOPS} are allowed")
    return tuple(_stop(f"{name} {number}", text) for number, text in enumerate(texts))


def _stop(name: str, value: object) -> str:
    text = checks.instance(name, value, str)
    if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
        raise UsageError(f"{name} ({reprlib.repr(text)}) has {len(text)} characters; 1 to {MAX_STOP_CHARACTERS} are allowed")
    return checks.unicode(name, text)


def _stop_ids(name: str, value: object) -> tuple[int, ...]:
    return tuple(checks.token_ids(name, checks.several(name, value, "a list of token ids")))


def _biases(name: str, value: object) -> dict[int, float]:
    if not isinstance(value, Mapping):
        raise checks.refuse(name, value, "a dict {token id: number}")
    if len(value) > MAX_LOGIT_BIAS:
        raise UsageError(f"{name} holds {len(value)} entries; at most {MAX_LOGIT_BIAS} are allowed")
    ids = checks.token_ids(name, value)
    return {i: checks.real(f"{name} of id {i}", bias) for i, bias in zip(ids, value.values())}


# Of each field: what is allowed, and how it is kept.
_CHECKS: Mapping[str, checks.Check] = {
    "max_tokens": checks.optional(partial(checks.whole, low=0, high=1 << 27)),
    "temperature": partial(checks.real, low=0.0, high=100.0),
    "top_k": partial(checks.whole, low=0, high=1 << 22),
    "top_p": partial(checks.real, low=0.0, high=1.0),
    "min_p": partial(checks.real, low=0.0, high=1.0),
    "repetition_penalty": partial(checks.real, low=0.01, high=100.0),
    "presence_penalty": partial(checks.real, low=-100.0, high=100.0),
    "frequency_penalty": partial(checks.real, low=-100.0, high=100.0),
    "logit_bias": _biases,
    "seed": checks.optional(partial(checks.whole, low=0, high=(1 << 64) - 1)),
    "stop": _stops,
    "stop_ids": _stop_ids,
    "ignore_eos": checks.flag,
    "logprobs": checks.optional(partial(checks.whole, low=0, high=MAX_LOGPROBS)),
    "prompt_logprobs": checks.optional(partial(checks.whole, low=0, high=MAX_LOGPROBS)),
}


def allowed_range(name: str) -> tuple[float, float] | None:
    """The least and the greatest value of a number among the sampling parameters; None for those that are no number.

    >>> allowed_range("top_p")
    (0.0, 1.0)
    """
    return checks.limits(_CHECKS[name])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probabilities under the raw logits (no temperature, no filters): the chosen id's, and the n most likely."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True, eq=False)
class Request:
    """One sequence from prompt to finish. The engine owns it; the scheduler reads and writes its counts and pages."""

    id: int
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)  # where asked for; nothing foretells the first token
    num_computed: int = 0  # tokens whose K and V are in the pages
    num_cached: int = 0  # of those, how many came from the prefix cache
    page_ids: list[int] = field(default_factory=list)
    num_unread: int = 0  # ids beyond `output_ids` that a device has chosen, or will have, and nobody has read yet
    wants_more: bool = True  # False: its last token is asked for already
    family: int = 0  # only requests of one family share pages (`RopeConfig.family`)
    finish_reason: FinishReason | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if self.params.prompt_logprobs is not None:
            self.prompt_logprobs.append(None)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids) + self.num_unread

    @property
    def owes_prompt(self) -> bool:
        """Whether log-probabilities of the prompt were asked for and are not all known yet."""
        return 0 < len(self.prompt_logprobs) < len(self.prompt_ids)

    @property
    def logits_from(self) -> int:
        """The first token whose logits are wanted: the last one, or the one before the prompt's next that is owed."""
        return len(self.prompt_logprobs) - 1 if self.owes_prompt else self.num_tokens - 1

    def token_ids(self, first: int, last: int) -> list[int]:
        """Ids first..last-1 of prompt and output taken together; UNREAD for those that are."""
        n = len(self.prompt_ids)
        known = self.prompt_ids[first:last] + self.output_ids[max(first - n, 0) : max(last - n, 0)]
        return known + [UNREAD] * (min(last, self.num_tokens) - first - len(known))


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, ragged: decode rows and prefill chunks together. Sequence s owns token rows starts[s]..starts[s+1]-1.

    A row attends to positions 0..its own of its sequence; the K and V of position p lie in page `page_tables[s, p // page_size]`,
    slot `p % page_size`. The backend writes the batch's K and V before it attends.
    """

    token_ids: IntArray  # (num_tokens,)
    positions: IntArray  # (num_tokens,)
    starts: IntArray  # (num_sequences + 1,)
    page_tables: IntArray  # (num_sequences, max pages of any; unused entries -1)
    logit_rows: IntArray  # (num_logits,) the token rows whose logits are wanted
    prompt_lengths: IntArray  # (num_sequences,) for rotary bases that depend on the text's length (`RopeConfig.angles`)


@dataclass(frozen=True, slots=True)
class Edits:
    """What changes some rows of logits before a choice: biases are added, then what occurred is penalised.

    Edit e is of row `rows[e]`; `ids[starts[e]:starts[e + 1]]` are its ids, each once, and its biases lie likewise. An id that the
    step before chose and nobody has read yet occurred once more than `counts` says: `sources` tells where it stands.
    """

    rows: IntArray  # (num_edits,) ascending
    sources: IntArray  # (num_edits,) an index among the choices of the step before, -1: all ids are counted
    repetition: FloatArray  # (num_edits,)
    presence: FloatArray  # (num_edits,)
    frequency: FloatArray  # (num_edits,)
    starts: IntArray  # (num_edits + 1,)
    ids: IntArray  # (starts[-1],)
    counts: IntArray  # (starts[-1],) how often each was generated; 0: only the prompt has it
    bias_starts: IntArray  # (num_edits + 1,)
    bias_ids: IntArray  # (bias_starts[-1],)
    biases: FloatArray  # (bias_starts[-1],)


@dataclass(frozen=True, slots=True)
class Choices:
    """How a device is to choose the next ids of a step by itself, one for each of the batch's `logit_rows`.

    Temperature 0 takes the most likely id. Where `token_ids` of the batch are UNREAD, `sources` says which of the ids that the
    step before chose stands there.
    """

    sources: IntArray  # (num_tokens,) an index among the choices of the step before, -1: the id is in the batch
    temperature: FloatArray  # (num_logits,), and the others too
    top_k: IntArray
    top_p: FloatArray
    min_p: FloatArray
    uniform: FloatArray  # the number that is drawn with, in [0, 1)
    edits: Edits | None = None  # None: all rows are taken as they are


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one step added to one request: new text (never half a character), new ids, and why it ended, if it did."""

    request_id: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
