"""Sampling parameters, the state of one sequence, and what a step tells of it."""

from __future__ import annotations

import builtins
import enum
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, TypedDict

from puna import checks
from puna.errors import PunaError, UsageError, did_you_mean, first_line
from puna.pooling import Pool
from puna.schemas import JsonSchema, require_size

NO_ADAPTER = -1
# `ModelConfig.prefix_key`; with a salt, (that key, the salt); with a LoRA adapter, (that key, the salt, the adapter's digest).
# Its repr is a part of names on disk.
PrefixKey = int | tuple[int | str, ...]

PLACEHOLDER = -1  # stands for a sampled token that the host has not read yet

MAX_STOPS, MAX_STOP_CHARACTERS, MAX_LOGPROBS, MAX_LOGIT_BIAS, MAX_SAMPLES = 16, 256, 20, 1024, 8
MAX_CHOICES = 1024
CONSTRAINTS = ("json_schema", "json_object", "regex", "choice", "grammar")
MAX_BANNED, MAX_DRY_BREAKERS, MAX_DRY_BREAKER_BYTES = 1024, 64, 40
MAX_SALT_CHARACTERS = 256

# The filters that `samplers` orders, with llama.cpp's names and in its order.
SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
TEMPERATURE_FIRST = (*SAMPLERS[:2], "temperature", *SAMPLERS[2:-1])  # the order of transformers and vLLM
SAMPLER_ALIASES = {  # other names of llama.cpp, with "_" for "-"
    **dict.fromkeys(("typical_p", "typical", "typ"), "typ_p"), "temp": "temperature", "nucleus": "top_p",
}  # fmt: skip
DRY_BREAKERS = ("\n", ":", '"', "*")  # llama.cpp's


class FinishReason(enum.StrEnum):
    STOP = "stop"  # an end-of-text id, a stop id or a stop text
    LENGTH = "length"  # max_tokens reached, or the context is full
    ABORT = "abort"  # the caller gave up
    TIMEOUT = "timeout"  # `SamplingParams.timeout` has passed
    ERROR = "error"  # it failed: logits that are not finite, a sampler that raised, a step that broke; the others continue


class Biases(Mapping[int, float]):
    """Numbers to add to the logits of some ids: an immutable, hashable dict.

    >>> Biases({7: -1.5}) == {7: -1.5}, hash(Biases({1: 2.0, 3: 4.0})) == hash(Biases({3: 4.0, 1: 2.0}))
    (True, True)
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[int, float] | None = None) -> None:
        self._values = dict(values or {})

    def __getitem__(self, token_id: int) -> float:
        return self._values[token_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return repr(self._values)


@checks.refuse_unknown("each call, such as generate(...) or chat(...), or to SamplingParams(...)")
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is sampled, and when to stop. The defaults are greedy: the same prompt gives the same text.

    Logit bias, suppressed ids and bans come first; then the filters that `samplers` names, in its order; then one draw. If the
    temperature is 0, only the former, the penalties and DRY apply.

    Fields, with what is allowed and the default:
        max_tokens: generate at most this many tokens. 0..2**27, or None: until the model stops or the context is full [256]
        min_tokens: let no end-of-text id, stop id or stop text end it within this many tokens. 0..2**27 [0]
        temperature: 0 takes the most likely token (the lowest id on a tie); above 0 draws. 0..100 [0.0]
        top_k: draw from the k most likely tokens only. 0..2**22; 0: off [0]
        top_p: draw from the most likely tokens that together reach this probability. 0..1; 1: off [1.0]
        min_p: drop tokens less likely than this times the most likely one. 0..1; 0: off [0.0]
        typical_p: draw from the tokens whose surprise is nearest to the entropy, up to this probability. 0..1; 1: off [1.0]
        top_n_sigma: drop tokens whose logit is further than n standard deviations below the largest. 0..100; 0: off [0.0]
        xtc_probability: how often all but the least likely of the likely tokens are dropped. 0..1; 0: off [0.0]
        xtc_threshold: the probability from which XTC calls a token likely. 0..1; above 0.5 none can be dropped [0.1]
        dynatemp_range: the temperature varies by up to this, with the entropy of the tokens. 0..100; 0: off [0.0]
        dynatemp_exponent: above 1 it stays low for longer. 0..100 [1.0]
        mirostat: 2: mirostat 2 replaces all other filters of draws but the temperature; 0: off [0]
        mirostat_tau: the bits of surprise that mirostat aims at. 0..100 [5.0]
        mirostat_eta: how fast mirostat adapts. 0..1 [0.1]
        adaptive_target: prefer tokens near this probability (adaptive-p), after all others. 0..1, or -1: off [-1.0]
        adaptive_decay: how long adaptive-p remembers what it drew. 0 to 0.99 [0.9]
        samplers: the filters that run, in this order, with llama.cpp's names (`SAMPLERS`); None: all, in llama.cpp's order [None]
        repetition_penalty: above 1 makes tokens of prompt and answer less likely (arXiv 1909.05858). 0.01..100 [1.0]
        presence_penalty: subtract this from the logits of the answer's tokens, once (OpenAI). -100..100 [0.0]
        frequency_penalty: the same, times how often each occurred in the answer (OpenAI). -100..100 [0.0]
        penalty_last_n: the penalties count this many tokens before the next one. 0..2**27, or -1: all [-1]
        dry_multiplier: DRY: a token that continues a repetition loses this times base ** (length - allowed). 0..100; 0: off [0.0]
        dry_base: the base of that power. 1..100 [1.75]
        dry_allowed_length: repetitions shorter than this are allowed. 1..2**20 [2]
        dry_penalty_last_n: how many tokens DRY looks back. 0..2**27, or -1: all [64]
        dry_sequence_breakers: texts over which no repetition reaches. At most 64, of 1 to 40 bytes [('\\n', ':', '"', '*')]
        banned_strings: texts that the answer never holds. At most 16 [()]
        bad_words_ids: sequences of token ids that the text never continues with. At most 1024, of at most 1024 ids [()]
        logit_bias: {token id: number to add to its logit}. At most 1024 entries [{}]
        suppress_ids: token ids that are never sampled. At most 1024 [()]
        begin_suppress_ids: token ids that are not sampled as the first token of the answer. At most 1024 [()]
        seed: the same seed draws the same tokens. 0..2**64-1, or None: a new seed for each request [None]
        stop: end before the first of these texts, or at the control token that one spells. A str is one text. At most 16 [()]
        stop_ids: end at any of these token ids, beside the model's own end-of-text ids. At most 1024 [()]
        shown_ids: control tokens, by their ids, that the answer's text spells out. At most 1024 [()]
        include_stop_str_in_output: keep the stop text, or the text of the stop id, at the end of the text (vLLM) [False]
        context_shift: if the context is full, drop the older half of its tokens and go on, instead of ending [False]
        num_keep: with context_shift, never drop these first tokens of the prompt. 0..2**27 [0]
        separate_reasoning: tell <think> spans apart from the answer's text. None: in chats only [None]
        thinking_budget: end a <think> span after this many tokens. 0..2**27, or None: when the model ends it [None]
        ignore_eos: go on where the model would stop [False]
        logprobs: None: off; 0: log-probability of each sampled token; n: of the n most likely tokens too. Up to 20 [None]
        processed_logprobs: with logprobs, also those after all filters: of the distribution that the token is drawn from [False]
        prompt_logprobs: log-probabilities of the prompt's tokens, as logprobs. Up to 20 [None]
        lora_name: one of the model's `lora_modules` changes its weights for this request; None: none does [None]
        prompt_logprobs_start: with prompt_logprobs, only from this token of the prompt on. 0..2**27 [0]
        json_schema: the answer is JSON for this schema (a dict or its text), pydantic model or TypeAdapter. Up to 256 KiB [None]
        json_object: the answer is a JSON object [False]
        regex: the whole answer matches this, which has no look-around and no back-reference. Up to 256 KiB [None]
        choice: the answer is one of these texts. At most 1024, and 256 KiB together [()]
        grammar: the answer follows a grammar in llguidance's Lark, or in GBNF (rules are written with ::=). Up to 256 KiB [None]
        cache_salt: share cached K and V only with requests of the same salt (tenants). A text of up to 256 characters ['']
        n: samples of one prompt, which is computed once; each has a seed of its own, made from `seed`. 1..8 [1]
        best_of: make this many samples, and return the n that are most likely. n..8, or None: n [None]
        priority: requests with a lower number are served earlier; one less is worth 256 steps of waiting. -1000..1000 [0]
        timeout: end after this many seconds, waiting included, with the text so far. 0..10**7, or None: never [None]
    """

    max_tokens: int | None = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dynatemp_range: float = 0.0
    dynatemp_exponent: float = 1.0
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    adaptive_target: float = -1.0
    adaptive_decay: float = 0.9
    samplers: str | Sequence[str] | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = -1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = 64
    dry_sequence_breakers: Sequence[str] = DRY_BREAKERS
    banned_strings: str | Sequence[str] = ()
    bad_words_ids: Sequence[Sequence[int]] = ()
    logit_bias: Mapping[int, float] = field(default_factory=Biases)
    suppress_ids: Collection[int] = ()
    begin_suppress_ids: Collection[int] = ()
    seed: int | None = None
    stop: str | Sequence[str] = ()
    stop_ids: Collection[int] = ()
    shown_ids: Collection[int] = ()
    include_stop_str_in_output: bool = False
    context_shift: bool = False
    num_keep: int = 0
    separate_reasoning: bool | None = None
    thinking_budget: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None
    processed_logprobs: bool = False
    prompt_logprobs: int | None = None
    lora_name: str | None = None
    prompt_logprobs_start: int = 0
    json_schema: Any = None
    json_object: bool = False
    regex: str | None = None
    choice: Sequence[str] = ()
    grammar: str | None = None
    cache_salt: str = ""
    n: int = 1
    best_of: int | None = None
    priority: int = 0
    timeout: float | None = None

    def __post_init__(self) -> None:
        for name, default in _DEFAULTS.items():
            value = getattr(self, name)
            if value is not default:  # most are: their checks would take most of the time
                object.__setattr__(self, name, checked_setting(name, value))
        given = [name for name in CONSTRAINTS if getattr(self, name)]
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are given; an answer follows one of them", hint="Give one.")
        if self.mirostat and self.adaptive_target >= 0:
            raise UsageError("mirostat and adaptive_target both choose the token", hint="Leave one of them out.")
        if self.best_of is not None and self.best_of < self.n:
            raise UsageError(f"best_of is {self.best_of}, which is less than n={self.n}", hint="Raise best_of, or leave it out.")

    @property
    def num_samples(self) -> int:
        """How many samples are made."""
        return self.n if self.best_of is None else self.best_of


class SamplingSettings(TypedDict, total=False):
    """The fields of SamplingParams as keyword arguments; `help(SamplingParams)` says what each one means."""

    max_tokens: int | None
    min_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    dynatemp_range: float
    dynatemp_exponent: float
    mirostat: int
    mirostat_tau: float
    mirostat_eta: float
    adaptive_target: float
    adaptive_decay: float
    samplers: str | Sequence[str] | None
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    penalty_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: Sequence[str]
    banned_strings: str | Sequence[str]
    bad_words_ids: Sequence[Sequence[int]]
    logit_bias: Mapping[int, float]
    suppress_ids: Collection[int]
    begin_suppress_ids: Collection[int]
    seed: int | None
    stop: str | Sequence[str]
    stop_ids: Collection[int]
    shown_ids: Collection[int]
    include_stop_str_in_output: bool
    context_shift: bool
    num_keep: int
    separate_reasoning: bool | None
    thinking_budget: int | None
    ignore_eos: bool
    logprobs: int | None
    processed_logprobs: bool
    prompt_logprobs: int | None
    lora_name: str | None
    prompt_logprobs_start: int
    json_schema: Any
    json_object: bool
    regex: str | None
    choice: Sequence[str]
    grammar: str | None
    cache_salt: str
    n: int
    best_of: int | None
    priority: int
    timeout: float | None


def checked_setting(name: str, value: object, shown_as: str = "") -> Any:
    """The checked value of a field of SamplingParams; UsageError if it is not allowed. `shown_as`: another name for the error."""
    return _CHECKS[name](shown_as or name, value)


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


def _ids(name: str, value: object) -> tuple[int, ...]:
    """Token ids, counted before they are copied: a range has any number of them."""
    ids = checks.several(name, value, "a list of token ids")
    if len(ids) > MAX_LOGIT_BIAS:
        raise UsageError(f"{name} holds {len(ids)} ids; at most {MAX_LOGIT_BIAS} are allowed")
    return tuple(checks.token_ids(name, ids))


def _choices(name: str, value: object) -> tuple[str, ...]:
    texts = checks.row(name, value, "a list of texts")
    if len(texts) > MAX_CHOICES:
        raise UsageError(f"{name} holds {len(texts)} texts; at most {MAX_CHOICES} are allowed")
    checked = tuple(_constraint(f"{name} {number}", text) for number, text in enumerate(texts))
    require_size(name, "".join(checked))
    return checked


def _constraint(name: str, value: object) -> str:
    text = checks.instance(name, value, str)
    if not text:
        raise UsageError(f"{name} is empty")
    return require_size(name, text)


def _salt(name: str, value: object) -> str:
    text = checks.instance(name, value, str)
    if len(text) > MAX_SALT_CHARACTERS:
        raise UsageError(f"{name} has {len(text)} characters; at most {MAX_SALT_CHARACTERS} are allowed")
    return checks.unicode(name, text)


def _biases(name: str, value: object) -> Biases:
    if not isinstance(value, Mapping):
        raise checks.refuse(name, value, "a dict {token id: number}")
    if len(value) > MAX_LOGIT_BIAS:
        raise UsageError(f"{name} holds {len(value)} entries; at most {MAX_LOGIT_BIAS} are allowed")
    ids = checks.token_ids(name, value)
    return Biases({i: checks.real(f"{name} of id {i}", bias) for i, bias in zip(ids, value.values())})


def _mirostat(name: str, value: object, low: int, high: int) -> int:
    if (version := checks.whole(name, value, low, high)) == 1:
        raise checks.refuse(name, value, "0 (off) or 2 (mirostat 2)")
    return version


def _adaptive_target(name: str, value: object, low: float, high: float) -> float:
    target = checks.real(name, value, low, high)
    if low < target < 0:
        raise checks.refuse(name, value, "a probability in 0..1, or -1 (off),")
    return target


def _samplers(name: str, value: object) -> tuple[str, ...]:
    """Names in llama.cpp's spelling, as a list, or in one text with ";" or "," between them."""
    given = value.replace(";", ",").split(",") if isinstance(value, str) else checks.row(name, value, "a list of names")
    names = [_sampler(name, one) for one in given if one != ""]
    if twice := next((one for one in names if names.count(one) > 1), None):
        raise UsageError(f"{name} names {twice!r} twice", hint="Name each filter once.")
    return tuple(names)


def _sampler(name: str, value: object) -> str:
    spelled = checks.instance(name, value, str).strip().lower().replace("-", "_")
    found = SAMPLER_ALIASES.get(spelled, spelled)
    if found not in SAMPLERS:
        raise UsageError(
            f"{name} holds {checks.shown(value)}", hint=f"{did_you_mean(found, SAMPLERS)} Known: {', '.join(SAMPLERS)}.".strip()
        )
    return found


def _breakers(name: str, value: object) -> tuple[str, ...]:
    texts = checks.several(name, value, "a list of texts")
    if len(texts) > MAX_DRY_BREAKERS:
        raise UsageError(f"{name} holds {len(texts)} texts; at most {MAX_DRY_BREAKERS} are allowed")
    return tuple(_breaker(f"{name} {number}", text) for number, text in enumerate(texts))


def _breaker(name: str, value: object) -> str:
    text = checks.unicode(name, checks.instance(name, value, str))
    if not 1 <= len(text.encode()) <= MAX_DRY_BREAKER_BYTES:
        raise UsageError(
            f"{name} ({reprlib.repr(text)}) has {len(text.encode())} bytes; 1 to {MAX_DRY_BREAKER_BYTES} are allowed"
        )
    return text


def _bad_words(name: str, value: object) -> tuple[tuple[int, ...], ...]:
    sequences = checks.several(name, value, "a list of lists of token ids")
    if len(sequences) > MAX_BANNED:
        raise UsageError(f"{name} holds {len(sequences)} sequences; at most {MAX_BANNED} are allowed")
    found = tuple(_ids(f"each of {name}", one) for one in sequences)
    if () in found:
        raise UsageError(f"{name} holds an empty list", hint="Give at least one id in each.")
    return found


# Each field's check, which also converts the value.
_CHECKS: Mapping[str, checks.Check] = {
    "max_tokens": checks.optional(partial(checks.whole, low=0, high=1 << 27)),
    "min_tokens": partial(checks.whole, low=0, high=1 << 27),
    "temperature": partial(checks.real, low=0.0, high=100.0),
    "top_k": partial(checks.whole, low=0, high=1 << 22),
    "top_p": partial(checks.real, low=0.0, high=1.0),
    "min_p": partial(checks.real, low=0.0, high=1.0),
    "typical_p": partial(checks.real, low=0.0, high=1.0),
    "top_n_sigma": partial(checks.real, low=0.0, high=100.0),
    "xtc_probability": partial(checks.real, low=0.0, high=1.0),
    "xtc_threshold": partial(checks.real, low=0.0, high=1.0),
    "dynatemp_range": partial(checks.real, low=0.0, high=100.0),
    "dynatemp_exponent": partial(checks.real, low=0.0, high=100.0),
    "mirostat": partial(_mirostat, low=0, high=2),
    "mirostat_tau": partial(checks.real, low=0.0, high=100.0),
    "mirostat_eta": partial(checks.real, low=0.0, high=1.0),
    "adaptive_target": partial(_adaptive_target, low=-1.0, high=1.0),
    "adaptive_decay": partial(checks.real, low=0.0, high=0.99),
    "samplers": checks.optional(_samplers),
    "repetition_penalty": partial(checks.real, low=0.01, high=100.0),
    "presence_penalty": partial(checks.real, low=-100.0, high=100.0),
    "frequency_penalty": partial(checks.real, low=-100.0, high=100.0),
    "penalty_last_n": partial(checks.whole, low=-1, high=1 << 27),
    "dry_multiplier": partial(checks.real, low=0.0, high=100.0),
    "dry_base": partial(checks.real, low=1.0, high=100.0),
    "dry_allowed_length": partial(checks.whole, low=1, high=1 << 20),
    "dry_penalty_last_n": partial(checks.whole, low=-1, high=1 << 27),
    "dry_sequence_breakers": _breakers,
    "banned_strings": _stops,
    "bad_words_ids": _bad_words,
    "logit_bias": _biases,
    "suppress_ids": _ids,
    "begin_suppress_ids": _ids,
    "seed": checks.optional(partial(checks.whole, low=0, high=(1 << 64) - 1)),
    "stop": _stops,
    "stop_ids": _ids,
    "shown_ids": _ids,
    "include_stop_str_in_output": checks.flag,
    "context_shift": checks.flag,
    "num_keep": partial(checks.whole, low=0, high=1 << 27),
    "separate_reasoning": checks.optional(checks.flag),
    "thinking_budget": checks.optional(partial(checks.whole, low=0, high=1 << 27)),
    "ignore_eos": checks.flag,
    "logprobs": checks.optional(partial(checks.whole, low=0, high=MAX_LOGPROBS)),
    "processed_logprobs": checks.flag,
    "prompt_logprobs": checks.optional(partial(checks.whole, low=0, high=MAX_LOGPROBS)),
    "lora_name": checks.optional(partial(checks.instance, kind=str)),
    "prompt_logprobs_start": partial(checks.whole, low=0, high=1 << 27),
    "json_schema": checks.optional(JsonSchema.of),
    "json_object": checks.flag,
    "regex": checks.optional(_constraint),
    "choice": _choices,
    "grammar": checks.optional(_constraint),
    "cache_salt": _salt,
    "n": partial(checks.whole, low=1, high=MAX_SAMPLES),
    "best_of": checks.optional(partial(checks.whole, low=1, high=MAX_SAMPLES)),
    "priority": partial(checks.whole, low=-1000, high=1000),
    "timeout": checks.optional(partial(checks.real, low=0.0, high=1e7)),
}
# Each field's default, which its check leaves as it is; MISSING if it is made anew for each object.
_DEFAULTS: Mapping[str, object] = {one.name: one.default for one in fields(SamplingParams)}


def allowed_range(name: str) -> tuple[float, float] | None:
    """(least, greatest) value of a numeric sampling parameter; None for one that is not a number.

    >>> allowed_range("top_p")
    (0.0, 1.0)
    """
    return checks.limits(_CHECKS[name])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probabilities under the raw logits (no temperature, no filters): the sampled id's, and the n most likely.

    `text` and `top_texts` are the ids as text ("" without a tokenizer; a control token as the vocabulary spells it). `bytes` and
    `top_bytes` are the exact bytes that they add to a text, which may be a part of a character; b"" for a control token.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()  # (id, log-probability), the most likely first
    text: str = field(default="", compare=False)  # it follows from the id, as do the next three
    top_texts: tuple[str, ...] = field(default=(), compare=False)  # one per entry of `top`
    bytes: builtins.bytes = field(default=b"", compare=False)
    top_bytes: tuple[builtins.bytes, ...] = field(default=(), compare=False)  # one per entry of `top`
    processed: TokenLogprob | None = None  # the same after the filters, if requested; `top` has only ids that they keep


@dataclass(slots=True)
class Reasoning:
    """What is known of a request's reasoning, if that is told apart (`puna/thinking.py`)."""

    is_present: bool = False  # whether a span was opened
    is_cut: bool = False  # whether it was ended by force: by the budget, or by `Engine.end_thinking`
    num_tokens: int = 0  # of the span, its closing tag included
    raw: list[str] = field(default_factory=list)  # the whole text, with the tags


@dataclass(slots=True, eq=False)
class Request:
    """One sequence from prompt to finish. The engine owns it; the scheduler reads and writes its counts and pages."""

    id: int
    prompt_ids: list[int]
    params: SamplingParams
    output_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)  # if requested; None before the first scored one
    num_computed: int = 0  # tokens whose K and V are in the pages
    num_given: int = 0  # output ids that the answer opens with (`opening.py`)
    num_opened: int = 0  # output ids that were accepted before anything was computed (`opening.py`)
    num_cached: int = 0  # tokens found in the prefix cache when it was first scheduled
    page_ids: list[int] = field(default_factory=list)
    num_stored: int = 0  # further pages, up to this number, are in the page store and not loaded yet
    page_names: list[str] = field(default_factory=list)  # of its first pages, in the page store
    num_published: int = 0  # pages, the first ones, that the prefix cache knows
    num_saved: int = 0  # pages, the first ones, that the page store has, or was given before the prompt's end
    draft_ids: list[int] = field(default_factory=list)  # guesses of its next tokens; the next step may check them
    draft_at: int = 0  # the number of output ids from which on the drafter is asked for guesses
    num_drafted: int = 0  # guesses that steps have checked
    num_accepted: int = 0  # of those, guesses that were right
    num_in_flight: int = 0  # sampled tokens after `output_ids` that the host has not read yet
    is_active: bool = True  # False once its last token has been scheduled
    prefix_key: PrefixKey = 0  # only requests with an equal one share pages
    num_dropped: int = 0  # tokens from `first_dropped` on that context shift has left out
    first_dropped: int = 0
    shifted_length: int = 0  # tokens that were left after the last shift
    reasoning: Reasoning | None = None  # None: it is not told apart from the answer
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None  # the stop id or stop text that ended it; None: the model's own end, or no stop
    fault: Exception | None = None  # why it ended with ERROR
    rank: tuple[int, int] = (0, 0)  # the scheduler's order; the lowest is served first
    leader: Request | None = None  # another sample of this prompt, which computes it for this one
    adapter: int = NO_ADAPTER  # the number of the LoRA adapter that changes the weights for it
    pool: Pool | None = None  # receives the hidden states of the prompt; its tokens then need no logits

    def __post_init__(self) -> None:
        if self.params.prompt_logprobs is not None:  # the first token has no context
            self.prompt_logprobs += [None] * max(self.params.prompt_logprobs_start, 1)

    @property
    def error(self) -> str:
        """`fault` in one line; "" without one."""
        if self.fault is None:
            return ""
        return self.fault.line if isinstance(self.fault, PunaError) else first_line(self.fault, with_kind=True)

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.output_ids) + self.num_in_flight - self.num_dropped

    @property
    def prompt_length(self) -> int:
        """How many of the tokens are computed as a prompt: after a context shift, all that were left then."""
        return self.shifted_length or len(self.prompt_ids)

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether requested log-probabilities of the prompt are still missing."""
        return 0 < len(self.prompt_logprobs) < len(self.prompt_ids)

    @property
    def logits_from(self) -> int:
        """The first token whose logits are needed: the last token, or the one before the next prompt token to score."""
        if self.pool is not None:
            return self.num_tokens
        return len(self.prompt_logprobs) - 1 if self.needs_prompt_logprobs else self.num_tokens - 1

    @property
    def hidden_from(self) -> int:
        """The first token whose hidden state is needed."""
        return self.num_tokens if self.pool is None else self.pool.first_row(self.num_tokens)

    @property
    def needed_from(self) -> int:
        """The first token that must be computed, even if its K and V are known; the last one always."""
        return min(self.logits_from, self.hidden_from)

    def token_ids(self, first: int, last: int) -> list[int]:
        """Ids first..last-1 of prompt and output together, with placeholders for tokens in flight."""
        if self.num_dropped:
            cut, beyond = self.first_dropped, self.num_dropped
            return self._ids(first, min(last, cut)) + self._ids(max(first, cut) + beyond, last + beyond)
        return self._ids(first, last)

    def _ids(self, first: int, last: int) -> list[int]:
        """The same before any context shift."""
        n = len(self.prompt_ids)
        known = self.prompt_ids[first:last] + self.output_ids[max(first - n, 0) : max(last - n, 0)]
        return known + [PLACEHOLDER] * (min(last, self.num_tokens + self.num_dropped) - first - len(known))


@dataclass(frozen=True, slots=True)
class StepOutput:
    """One step's output for one request: new text (never half a character), new ids, and the finish reason if it ended.

    `reasoning` is new text of the model's thoughts, where they are told apart; `text` is the answer's then.
    """

    request_id: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    reasoning: str = ""
    index: int = 0  # which sample, if there are several
