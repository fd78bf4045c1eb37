"""Constraints: which tokens may come next, so that an answer follows a JSON schema, a regex, a list of texts, or a grammar.

`llguidance` (https://github.com/guidance-ai/llguidance) computes the masks; it is imported when a request first asks for a
constraint. A constraint that it refuses, or would apply in part only, is an error before anything is generated.

The end of an answer is puna's own decision: an end-of-text id is allowed exactly where the constraint may end, and where nothing
else can follow, the request ends without one.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from puna import gbnf
from puna.errors import ConstraintError, UsageError
from puna.filters import SUPPRESSED
from puna.history import History, Row
from puna.install import pip
from puna.processors import PROCESSORS
from puna.request import SamplingParams
from puna.sampling import Sampler, TokenSampler, require_finite
from puna.schemas import JsonSchema, multiples_in, require_few_remainders, require_small_numbers, without_surprises
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.continuation import continuation_ids

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

Mask = npt.NDArray[np.bool_]  # (vocab_size,)


class Matcher(Protocol):
    """What a request's constraint asks of llguidance's LLMatcher, or of what stands in its place."""

    def compute_bitmask(self) -> bytes: ...
    def consume_token(self, sampled_token: int, /) -> bool: ...
    def compute_ff_tokens(self) -> list[int]: ...
    def is_accepting(self) -> bool: ...
    def is_stopped(self) -> bool: ...
    def is_error(self) -> bool: ...
    def get_error(self) -> str: ...


MAX_COMPILED, MAX_COMPILED_CHARACTERS = 64, 1 << 20  # constraints kept for later requests; of the longest, one takes 10 MB
STACK_BYTES = 256 << 20  # llguidance recurses into a constraint; the deepest of `schemas.MAX_BYTES` needs 100 MiB and more

# How JSON is written: as Python's json.dumps does. A separator that is fixed costs no token's choice, and a small model cannot
# fill up its answer with spaces. Without \u escapes no name can be written in two ways.
_JSON_STYLE = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "json_allowed_escapes": 'nrbtf\\"',
    "json_allow_general_unicode_escapes": False,
    "coerce_one_of": False,
    "lenient": False,
}


def _json_schema(given: JsonSchema) -> str:
    return _of_schema(without_surprises(given.text))


def in_lark(schema: JsonSchema) -> str:
    """A schema as a term of a Lark grammar, for the same answers as `json_schema` allows."""
    spelled = {**json.loads(without_surprises(schema.text)), "x-guidance": _JSON_STYLE}
    return f"%json {json.dumps(spelled, ensure_ascii=False)}"


def _json_object(given: bool) -> str:
    return _of_schema('{"type": "object"}')


def _of_schema(text: str) -> str:
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(text, overrides=_JSON_STYLE)  # type: ignore[arg-type]


def _regex(given: str) -> str:
    from llguidance import LLMatcher

    if (len(given) - len(given.rstrip("\\"))) % 2:  # llguidance drops such a backslash
        raise ValueError("it ends with a backslash, which escapes nothing")
    return LLMatcher.grammar_from_regex(given)


def _choice(given: Sequence[str]) -> str:
    from llguidance import LLMatcher

    texts = [json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f") for text in given]
    return LLMatcher.grammar_from_lark("start: " + " | ".join(texts))


def _grammar(given: str) -> str:
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import gbnf_to_lark

    if "%json" in given:
        require_small_numbers("grammar", given)
        require_few_remainders("grammar", multiples_in(given))
    lark = gbnf_to_lark(gbnf.respelled(given)) if gbnf.IS_GBNF.search(given) else given
    return LLMatcher.grammar_from_lark(f"{lark}\n{NO_FORCING}")


# Two tokens of a grammar may overlap so that their text is certain and never ends (`start: A A`, `A: "x"+`): llguidance would
# look for its end for ever. So here no text is forced; the masks are the same.
NO_FORCING = '%llguidance {"no_forcing": true}'


# Field of SamplingParams -> the function that makes llguidance's grammar of its value.
GRAMMARS: Mapping[str, Callable[[Any], str]] = {
    "json_schema": _json_schema,
    "json_object": _json_object,
    "regex": _regex,
    "choice": _choice,
    "grammar": _grammar,
}


class Constraints:
    """The constraints of a model's requests, compiled for its vocabulary. Any thread may use it."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._compiled: OrderedDict[tuple[str, Any], LLMatcher] = OrderedDict()  # the latest used last

    def require(self, params: SamplingParams) -> None:
        """Compile the constraint of `params`, if it has one. UsageError if it cannot be met or applied in full."""
        if (wanted := wanted_by(params)) is not None:
            self._copy(*wanted)

    def of(
        self,
        sampler: Sampler,
        custom: TokenSampler | None,
        stop_ids: Collection[int],
        at_start: bool,
        begin: Callable[[LLMatcher, Collection[int]], Matcher] | None = None,
    ) -> Constraint | None:
        """The constraint that the sampler's parameters ask for; None without one. A caller's `custom` sampler samples from what
        it leaves. `at_start`: the answer begins a text. `begin`: makes of its matcher, and the ids that end an answer, the one
        that the request begins with.
        """
        wanted = wanted_by(sampler.params)
        if wanted is None:
            return None
        copy = self._copy(*wanted)
        assert self._tokenizer is not None
        ends, added_spaces = self._vocabulary.ends(stop_ids), self._vocabulary.added_spaces if at_start else None
        matcher: Matcher = copy if begin is None else begin(copy, ends)
        return Constraint(wanted[0], matcher, self._tokenizer.vocab_size, ends, sampler, custom, added_spaces)

    def _copy(self, kind: str, given: Any) -> LLMatcher:
        """A matcher of its own for a request. Who compiles a new constraint makes nobody else wait."""
        with self._lock:
            compiled = self._compiled.get((kind, given))
        if compiled is None:
            compiled = self._compile(kind, given)
        with self._lock:
            self._compiled[kind, given] = compiled
            self._compiled.move_to_end((kind, given))
            while len(self._compiled) > MAX_COMPILED or sum(map(_size, self._compiled)) > MAX_COMPILED_CHARACTERS:
                self._compiled.popitem(last=False)
            return compiled.deep_copy()

    def _compile(self, kind: str, given: Any) -> LLMatcher:
        if self._tokenizer is None:
            raise UsageError(f"{kind} needs a tokenizer, and the model has none")
        return _with_deep_stack(lambda: _compile(kind, given, self._vocabulary.native))

    @cached_property
    def _vocabulary(self) -> MaskVocabulary:
        assert self._tokenizer is not None
        try:
            return MaskVocabulary(self._tokenizer)
        except ModuleNotFoundError as error:  # puna's sources are newer than what was installed for them
            raise UsageError(f"constraints need the package {error.name}", hint=f"{pip()} install {error.name}") from None


def wanted_by(params: SamplingParams) -> tuple[str, Any] | None:
    """The field that asks for a constraint, and its value.

    >>> wanted_by(SamplingParams(regex="a+")), wanted_by(SamplingParams())
    (('regex', 'a+'), None)
    """
    return next(((name, value) for name in GRAMMARS if (value := getattr(params, name))), None)


def _size(wanted: tuple[str, Any]) -> int:
    """The length of a constraint's text."""
    given = wanted[1]
    return sum(map(len, given)) if isinstance(given, tuple) else len(getattr(given, "text", str(given)))


def _with_deep_stack(work: Callable[[], LLMatcher]) -> LLMatcher:
    """Do `work` in a thread that has room for deep recursion: a stack that overflows ends the process. No Ctrl-C comes there."""
    with ThreadPoolExecutor(1) as pool:
        with _STACK_SIZE:
            before = threading.stack_size(STACK_BYTES)
            try:
                started = pool.submit(work)
            finally:
                threading.stack_size(before)
        return started.result()


_STACK_SIZE = threading.Lock()  # held by who changes it: the size is the process's


def _compile(kind: str, given: Any, vocabulary: LLTokenizer) -> LLMatcher:
    """The matcher at the beginning of an answer, with its first mask computed. UsageError if it is refused."""
    from llguidance import LLMatcher, LLParserLimits

    try:
        grammar = GRAMMARS[kind](given)
    except Exception as error:  # noqa: BLE001 - the converters raise anything
        raise _refused(kind, str(error)) from None
    matcher = LLMatcher(vocabulary, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
    problem = matcher.get_error() or next(iter(matcher.get_grammar_warnings()), "")
    if not problem:
        is_empty = not any(matcher.compute_bitmask())
        problem = matcher.get_error() or ("nothing can satisfy it" if is_empty else "")
    if problem:
        raise _refused(kind, problem)
    return matcher


def _refused(kind: str, problem: str) -> UsageError:
    return UsageError(f"{kind} is refused: {_first_words(problem)}", hint="An answer could not be held to it. Change it.")


def _first_words(problem: str) -> str:
    """The first line of an error of llguidance, shortened, or what it says of a regex.

    >>> _first_words("at 1(8): unknown name: \\"x\\"\\n   1 | start: x")
    'at 1(8): unknown name: "x"'
    >>> _first_words('at 1(8): invalid regex "(a" (in regex): regex parse error:\\n    (a\\n    ^\\nerror: unclosed group\\n')
    'unclosed group'
    >>> _first_words("panic: called `unwrap()` on an `Err`: PyErr { type: <class 'OSError'>, value: OSError('x'), traceback: ...")
    "OSError('x')"
    """
    if raised := RAISED.search(problem):
        return raised[1]
    lines = problem.strip().splitlines() or ["no reason was given"]
    reason = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    line = PLAIN_WORDS.get(reason, reason)
    return line if len(line) <= 200 else line[:200] + " ..."


RAISED = re.compile(r"PyErr \{ type: .*?, value: (.*?), traceback: ")  # what the tokenizer raised within llguidance
INTERRUPTED = "PyErr { type: <class 'KeyboardInterrupt'>"
PLAIN_WORDS = {"NoExtensionBias": "no text can satisfy it"}  # llguidance's word for it


class MaskVocabulary:
    """A tokenizer's tokens for llguidance, and one more id: the end, which is allowed wherever the constraint may end."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        from llguidance import LLTokenizer, TokenizerWrapper

        self._tokenizer = tokenizer
        self._greedy: Callable[[str], list[int]] = lambda text: []
        self.eos_token_id = tokenizer.vocab_size
        self.bos_token_id = None
        self.tokens = [self._spelled(i) for i in range(tokenizer.vocab_size)] + [CONTROL + b"end of the answer"]
        self.native: LLTokenizer = LLTokenizer(TokenizerWrapper(self))
        self._greedy = self.native.greedy_tokenize

    def _spelled(self, token_id: int) -> bytes:
        """The bytes that the detokenizer writes. A control token has none: a grammar names it, as <|this|>."""
        return self._tokenizer.token_bytes(token_id) or CONTROL + self._tokenizer.piece(token_id).encode()

    def __call__(self, text: str) -> list[int]:
        """How the tokenizer itself spells a text that continues another one. llguidance forces these ids."""
        ids = continuation_ids(text, self._tokenizer)
        is_exact = b"".join(map(self._tokenizer.token_bytes, ids)) == text.encode()
        return ids if is_exact else self._greedy(text)

    def ends(self, stop_ids: Collection[int]) -> list[int]:
        """Of these ids, those without a text: they end an answer. Others may be a part of it."""
        size = self._tokenizer.vocab_size
        return [i for i in stop_ids if i < size and not self._tokenizer.token_bytes(i)]

    @cached_property
    def added_spaces(self) -> Mask:
        """Tokens that lose their first space at the beginning of a text, where a constraint would count it."""
        text = self._tokenizer
        return np.array([text.first_bytes(i) != text.token_bytes(i) for i in range(text.vocab_size)])


# Filters that must see each token: they may remove the only one that can follow, or change with those that are sampled.
EACH_TOKEN = frozenset({PROCESSORS, "bad_words", "banned_strings", "mirostat", "adaptive_p"})
CONTROL = b"\xff"  # llguidance's mark of a control token; no text holds this byte


class Constraint:
    """What may follow in one request, and the sampler of its tokens. Not thread-safe: the engine's thread uses it."""

    def __init__(
        self,
        kind: str,
        matcher: Matcher,
        num_texts: int,
        ends: Sequence[int],
        sampler: Sampler,
        custom: TokenSampler | None,
        added_spaces: Mask | None,
    ) -> None:
        self._kind = kind
        self._matcher = matcher
        self._num_texts = num_texts
        self._ends = list(ends)
        self._sampler = sampler
        self._custom = custom
        self._jumps = sampler.params.logprobs is None and custom is None and EACH_TOKEN.isdisjoint(sampler.filters)
        self._not_first = added_spaces
        self._bits: npt.NDArray[np.uint8] | None = None  # of the next token, once computed
        self._num_accepted = 0

    @property
    def params(self) -> SamplingParams:
        return self._sampler.params

    @property
    def is_over(self) -> bool:
        """Whether nothing can follow, so that the answer ends here. Before `min_tokens` it may not end: `sample` says so."""
        if self._num_accepted < self._sampler.params.min_tokens or self._matcher.is_error():
            return False
        return self._matcher.is_stopped() or (not self._ends and self._may_end() and not self._texts().any())

    def prepare(self) -> None:
        """Compute the next mask, if it is not known: while a device computes the logits, this costs no time."""
        if self._bits is None:
            self._bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")

    def sample(self, logits: Row, history: History) -> int:
        """The next token's id, one that may follow. ConstraintError if there is none.  # (vocab_size,)"""
        require_finite(logits)
        allowed = self._allowed(len(logits))
        if self._matcher.is_error():
            raise self._broken(self._matcher.get_error())
        if not allowed.any():
            raise self._error("no token can follow")
        sampler = self._sampler if self._custom is None else self._custom
        token_id = sampler.sample(_only(allowed, logits), history)
        if not allowed[token_id]:
            raise self._error(f"the sampler chose token {token_id}, which may not follow")
        if self._is_suppressed(token_id, len(history.output_ids)):
            raise self._error(
                f"token {token_id} must follow, but is suppressed",
                hint="See suppress_ids, begin_suppress_ids, logit_bias, and min_tokens, which suppresses the end.",
            )
        return token_id

    def processed(self, logits: Row, history: History) -> Row:
        """As `Sampler.processed`: the constraint is its first filter."""
        return self._sampler.processed(_only(self._allowed(len(logits)), logits), history)

    def sampled_from(self, logits: Row, history: History) -> Row:
        """As `Sampler.sampled_from`."""
        return self._sampler.sampled_from(_only(self._allowed(len(logits)), logits), history)

    def require(self, token_id: int) -> None:
        """ConstraintError if a token that was given may not follow."""
        size = max(self._num_texts, token_id + 1)
        if not self._allowed(size)[token_id]:
            raise self._error(f"token {token_id} was given, and may not follow")

    def accept(self, token_id: int) -> None:
        """Go on to the token after this one, which ends the answer if it is an end."""
        is_end = token_id in self._ends
        if not (is_end and self._may_end()):
            self._matcher.consume_token(token_id)
            self._not_first = None
        if is_end and not self._matcher.is_accepting():  # a grammar can name an end-of-text token: <|im_end|>
            raise self._error(f"the model's end-of-text token {token_id} ends the answer, and the form goes on after it")
        self._bits = None
        self._num_accepted += 1

    def forced(self) -> Sequence[int]:
        """The tokens that must follow, as many as are certain. The mask of each allows nothing else, so to append them without
        sampling gives the tokens that sampling would."""
        if not self._jumps or self._not_first is not None:
            return ()
        ids = self._matcher.compute_ff_tokens()
        wrong = (n for n, token_id in enumerate(ids) if self._is_suppressed(token_id, self._num_accepted + n))
        return ids[: next(wrong, len(ids))]

    def _allowed(self, vocab_size: int) -> Mask:
        """Whether each id may follow. Ids beyond the tokenizer's have no text, and never may."""
        allowed = np.zeros(vocab_size, np.bool_)
        texts = self._texts()[:vocab_size]
        allowed[: len(texts)] = texts
        if self._may_end():
            allowed[self._ends] = True
        return allowed

    def _texts(self) -> Mask:
        self.prepare()
        assert self._bits is not None
        texts = self._bits[: self._num_texts].view(np.bool_)
        return texts if self._not_first is None else texts & ~self._not_first

    def _may_end(self) -> bool:
        self.prepare()
        assert self._bits is not None
        return bool(self._bits[self._num_texts])

    def _is_suppressed(self, token_id: int, num_generated: int) -> bool:
        return self._sampler.phase(num_generated).params.logit_bias.get(token_id, 0.0) <= SUPPRESSED

    def _broken(self, problem: str) -> BaseException:
        """What to raise for an error of the matcher. Ctrl-C may have come while it called the tokenizer, in this thread."""
        return KeyboardInterrupt() if INTERRUPTED in problem else self._error(_first_words(problem))

    def _error(self, problem: str, hint: str = "") -> ConstraintError:
        return ConstraintError(f"{self._kind}: {problem}", hint=hint)


def _only(allowed: Mask, logits: Row) -> Row:
    return np.where(allowed, logits, np.float32(-np.inf))
