"""LLM: puts the parts together. START READING HERE.

A path becomes a checkpoint (`formats/`), its text a row of ids (`tokenizers/`), its sizes a plan (`plan.py`) that a backend
(`backends/`) carries out. The engine (`engine.py`) turns prompts into tokens step by step, and this file asks it to.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from puna import checks, formats, hub
from puna.backends import backend_spec, choose_device, create_backend
from puna.backends.base import Backend, ProcessPlace
from puna.chat import Message, encode_chat
from puna.config import EngineConfig, ModelConfig
from puna.engine import Engine
from puna.errors import UsageError
from puna.formats.base import Checkpoint
from puna.formats.shards import part_of
from puna.infill import InfillPrompt, encode_infill
from puna.plan import Plan, make_plan
from puna.report import SILENT, Reporter
from puna.request import FinishReason, Request, SamplingParams, StepOutput, TokenLogprob
from puna.tokenizers import build_tokenizer
from puna.tokenizers.base import Tokenizer

ONE_PROMPT = "a text, or a row of token ids,"
Prompt = str | Sequence[int]
Prompts = Sequence[str] | Sequence[Sequence[int]]
Messages = Sequence[Message]
Inbox = deque[tuple[float, StepOutput]]  # with the time of each
Params = SamplingParams | Sequence[SamplingParams] | None  # one for all prompts, or one each; None: the defaults

Settings = TypeVar("Settings", EngineConfig, SamplingParams)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What loading was to take of the device's memory, and what it took."""

    predicted_bytes: int
    actual_bytes: int


class LLM:
    """A model, loaded.

    >>> with LLM.load() as llm:                                                                    # doctest: +SKIP
    ...     print(llm.chat([{"role": "user", "content": "What is the capital of Peru?"}]).text)
    The capital of Peru is Lima.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer | None,
        backend: Backend,
        plan: Plan,
        config: EngineConfig,
        footprint: Footprint | None = None,
    ) -> None:
        """Of parts already made; `load` makes them."""
        self.path = checkpoint.path
        self.model: ModelConfig = checkpoint.config
        self.chat_template = checkpoint.chat_template
        self.notices: tuple[str, ...] = checkpoint.notices  # what the reader had to say of the model
        self.tokenizer = tokenizer
        self.plan = plan
        self.footprint = footprint
        self.config = config
        self.backend = backend
        self.engine = Engine(backend, tokenizer, plan, config, checkpoint.config)
        self._inboxes: dict[int, Inbox] = {}
        self._abandoned: deque[Request] = deque()
        self._lock = threading.RLock()  # the engine is one thread's at a time
        self._is_closed = False

    @classmethod
    def load(
        cls,
        path_or_name: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        tokenizer: str | Path | None = None,
        report: Reporter = SILENT,
        **settings: Any,
    ) -> Self:
        """Load a model: a path, a name in the cache, or None for the small default model.

        `settings` are fields of EngineConfig, over `config` or, without one, over the `PUNA_...` variables. `tokenizer` is a
        file, or a folder with one, to use instead of the model's own. Whether it fits is known before anything is allocated.

        Where torchrun started several processes, each takes its part of the model, and only in the first does this return: the
        others take part in its steps, and end with it (SystemExit).
        """
        if ProcessPlace.from_env().rank > 0:
            report = SILENT  # the first process tells for all
        config = choose_device(_engine_config(config, settings), report)
        checkpoint = formats.open_checkpoint(hub.resolve(path_or_name, report), tokenizer=_tokenizer_file(tokenizer))
        for notice in checkpoint.notices:
            report.notice(notice)
        spec = checkpoint.tokenizer
        text = None if spec is None else build_tokenizer(spec)
        backend = create_backend(config, report)
        try:
            info, spec_of_device = backend.info, backend_spec(config.device)
            largest = part_of(checkpoint, info.num_ranks - 1, info.num_ranks)  # every process makes the same plan
            plan = make_plan(largest.config, largest.tensors, config, spec_of_device.layouts, info.free_bytes, report)
            held = backend.held_bytes()
            backend.load(part_of(checkpoint, info.rank, info.num_ranks), plan, report)
            predicted = plan.weights_bytes + (plan.kv_bytes if spec_of_device.fills_kv else 0)
            footprint = Footprint(predicted, backend.held_bytes() - held)
        except BaseException:
            backend.close()
            raise
        return cls(checkpoint, text, backend, plan, config, footprint)

    @overload
    def generate(self, prompts: str, params: Params = None, **settings: Any) -> Completion: ...
    @overload
    def generate(self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Any) -> list[Completion]: ...
    @overload
    def generate(self, prompts: Sequence[int], params: Params = None, **settings: Any) -> Completion: ...
    def generate(self, prompts: Prompt | Prompts, params: Params = None, **settings: Any) -> Completion | list[Completion]:
        """Continue one prompt, or each of a list: text or token ids. They run together, and each gives what it gives alone.

        `settings` are fields of SamplingParams, over `params`.
        """
        completions = _drain(self._open(prompts, _is_prompt, self.encode, params, settings))
        return completions[0] if _is_prompt(prompts) else completions

    @overload
    def chat(self, messages: Sequence[Message], params: Params = None, **settings: Any) -> Completion: ...
    @overload
    def chat(self, messages: Sequence[Messages], params: Params = None, **settings: Any) -> list[Completion]: ...
    def chat(
        self, messages: Messages | Sequence[Messages], params: Params = None, **settings: Any
    ) -> Completion | list[Completion]:
        """Answer one conversation, or each of a list: messages {"role": "system" | "user" | "assistant", "content": text}."""
        completions = _drain(self._open(messages, _is_conversation, self.encode_chat, params, settings))
        return completions[0] if _is_conversation(messages) else completions

    @overload
    def stream(self, prompts: str, params: Params = None, **settings: Any) -> Stream: ...
    @overload
    def stream(self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Any) -> list[Stream]: ...
    @overload
    def stream(self, prompts: Sequence[int], params: Params = None, **settings: Any) -> Stream: ...
    def stream(self, prompts: Prompt | Prompts, params: Params = None, **settings: Any) -> Stream | list[Stream]:
        """As `generate`, piece by piece. Several streams run together, whichever is read."""
        streams = self._open(prompts, _is_prompt, self.encode, params, settings)
        return streams[0] if _is_prompt(prompts) else streams

    @overload
    def chat_stream(self, messages: Sequence[Message], params: Params = None, **settings: Any) -> Stream: ...
    @overload
    def chat_stream(self, messages: Sequence[Messages], params: Params = None, **settings: Any) -> list[Stream]: ...
    def chat_stream(
        self, messages: Messages | Sequence[Messages], params: Params = None, **settings: Any
    ) -> Stream | list[Stream]:
        """As `chat`, piece by piece."""
        streams = self._open(messages, _is_conversation, self.encode_chat, params, settings)
        return streams[0] if _is_conversation(messages) else streams

    def encode(self, prompt: Prompt) -> list[int]:
        """A prompt's token ids, with BOS where the model file asks for it, or where nothing else would be left.

        ContextLengthError, before the work, for a text that has certainly more ids than the context holds.
        """
        if not isinstance(prompt, str):
            return checks.token_ids("the prompt", checks.row("the prompt", prompt, ONE_PROMPT))
        tokenizer = self._tokenizer_for("text")
        ids = tokenizer.encode(prompt, limit=self.plan.max_context)
        return ids or ([] if tokenizer.bos_id is None else [tokenizer.bos_id])

    def encode_chat(self, messages: Messages) -> list[int]:
        """The token ids of a conversation, up to where the answer begins. ContextLengthError as in `encode`."""
        tokenizer = self._tokenizer_for("a conversation")
        return encode_chat(messages, tokenizer, self.chat_template, limit=self.plan.max_context)

    def encode_infill(self, before: str, after: str) -> InfillPrompt:
        """Ids that ask for what stands between two texts, and the ids that end it; UsageError where the model cannot.

        >>> prompt = llm.encode_infill("def half(n): return ", " # exactly")                          # doctest: +SKIP
        >>> llm.generate(prompt.token_ids, stop_ids=prompt.stop_ids).text                             # doctest: +SKIP
        'n / 2'
        """
        checks.unicode("the suffix", checks.instance("the suffix", after, str))
        checks.unicode("the prompt", checks.instance("the prompt", before, str))
        return encode_infill(before, after, self._tokenizer_for("text"), limit=self.plan.max_context)

    def close(self) -> None:
        """End what runs and free the memory. Idempotent."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self.engine.abort_all()
                self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _open(
        self,
        given: Any,
        is_one: Callable[[Any], bool],
        encode: Callable[[Any], list[int]],
        params: Params,
        settings: Mapping[str, Any],
    ) -> list[Stream]:
        """A stream for each of what was given. All are checked and encoded before the first one runs."""
        items = [given] if is_one(given) else list(given)
        each = _one_each(params, len(items), settings)
        work = list(zip(map(encode, items), each, strict=True))
        streams: list[Stream] = []
        try:
            for ids, own_params in work:
                streams.append(Stream(self, ids, own_params))
        except BaseException:
            _close(streams)
            raise
        return streams

    def _tokenizer_for(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(f"{self.path} has no tokenizer, so {what} cannot be read", hint=formats.what_to_give(self.notices))
        return self.tokenizer

    def _submit(self, prompt_ids: Sequence[int], params: SamplingParams, inbox: Inbox) -> Request:
        with self._lock:
            if self._is_closed:
                raise UsageError("the model was closed", hint="Load it again.")
            request = self.engine.add(prompt_ids, params)
            self._inboxes[request.id] = inbox
            return request

    def _step(self) -> bool:
        """One step of the engine; each output goes to the stream that waits for it. False: there was nothing to do."""
        with self._lock:
            self._cancel_abandoned()
            had_work = self.engine.has_work
            self._deliver(self.engine.step())
            return had_work

    def _cancel_abandoned(self) -> None:
        """End the requests that nobody waits for; what one still had to say lies in its inbox afterwards."""
        with self._lock:
            while self._abandoned:
                request = self._abandoned.popleft()
                self.engine.abort(request.id)
                self._deliver(self.engine.outputs())
                self._inboxes.pop(request.id, None)

    def _deliver(self, outputs: list[StepOutput]) -> None:
        now = time.perf_counter()
        for output in outputs:
            inbox = self._inboxes.get(output.request_id)
            if inbox is not None:
                inbox.append((now, output))
            if output.finish_reason is not None:
                self._inboxes.pop(output.request_id, None)


class Stream(Iterator[StepOutput]):
    """Pieces of one completion as they come; `completion` is there when the last one was. Closing it early ends the request.

    Any thread may read or close it: each piece goes to one reader, and all readers end when the stream does.
    """

    def __init__(self, llm: LLM, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        self._llm = llm
        self._inbox: Inbox = deque()
        self._pieces: list[str] = []
        self._started = time.perf_counter()
        self._first_token = self._ended = 0.0
        self.request: Request = llm._submit(prompt_ids, params, self._inbox)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepOutput:
        try:
            while True:
                with self._llm._lock:  # given back after each step, so that others are heard
                    if self._inbox:
                        return self._take()
                    if self.done or not self._llm._step():
                        raise StopIteration
        except BaseException:  # the end too
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def done(self) -> bool:
        return self._ended > 0

    @property
    def completion(self) -> Completion:
        """The whole, once the stream has ended."""
        if not self.done:
            raise UsageError("the completion is not finished", hint="Read the stream to its end, or close it.")
        request = self.request
        return Completion(
            text="".join(self._pieces),
            token_ids=tuple(request.output_ids),
            finish_reason=request.finish_reason or FinishReason.ABORT,
            logprobs=tuple(request.logprobs),
            prompt_logprobs=tuple(request.prompt_logprobs),
            prompt_ids=tuple(request.prompt_ids),
            num_cached=request.num_cached,
            seed=request.params.seed if request.params.temperature > 0 else None,
            error=request.error,
            timing=self._timing(),
        )

    def close(self) -> None:
        """End the request if it still runs. Idempotent."""
        if not self.done:
            self._llm._abandoned.append(self.request)  # whoever steps next ends it, even if not we
            with self._llm._lock:
                self._llm._cancel_abandoned()
                while self._inbox:
                    self._take()
                self._ended = self._ended or time.perf_counter()

    def __del__(self) -> None:
        """A stream that nobody reads any more ends its request; at the next step, for this may be called at any moment."""
        if hasattr(self, "request") and not self.done:
            self._llm._abandoned.append(self.request)

    def _take(self) -> StepOutput:
        when, output = self._inbox.popleft()
        self._pieces.append(output.text)
        if output.token_ids and not self._first_token:
            self._first_token = when
        if output.finish_reason is not None:
            self._ended = when
        return output

    def _timing(self) -> Timing:
        request = self.request
        first = (self._first_token or self._ended) - self._started
        num_prefilled = len(request.prompt_ids) - request.num_cached if self._first_token else 0
        return Timing(first, self._ended - self._started, num_prefilled, len(request.output_ids))


@dataclass(frozen=True, slots=True)
class Completion:
    """What became of one prompt. `token_ids` include the id that ended the text; `text` does not."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...]  # one per token id where asked for
    prompt_logprobs: tuple[
        TokenLogprob | None, ...
    ]  # one per prompt id where asked for; None of the first, which nothing foretells
    prompt_ids: tuple[int, ...]
    num_cached: int  # prompt tokens whose K and V were found in the prefix cache
    seed: int | None  # that was used; None: greedy, no number was drawn
    error: str  # why it failed, where finish_reason is "error"
    timing: Timing


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, as the caller saw them: what else ran at the same time is in them."""

    first_token_s: float  # from the request to its first token
    total_s: float
    num_prefilled: int  # prompt tokens that were computed, not found in the prefix cache
    num_generated: int

    @property
    def prefill_per_s(self) -> float:
        """Prompt tokens per second until the first token."""
        return self.num_prefilled / self.first_token_s if self.first_token_s > 0 else 0.0

    @property
    def decode_per_s(self) -> float:
        """Tokens per second after the first one."""
        decode_s = self.total_s - self.first_token_s
        return (self.num_generated - 1) / decode_s if self.num_generated > 1 and decode_s > 0 else 0.0


def _is_prompt(given: Any) -> bool:
    """Text, or a row of ids; not a list of either, and not an empty list. UsageError for what is none of these."""
    if isinstance(given, str):
        return True
    items = checks.row("the prompt", given, f"{ONE_PROMPT} or a list of such prompts,")
    return len(items) > 0 and not isinstance(items[0], str) and not checks.is_row(items[0])


def _is_conversation(given: Any) -> bool:
    """A list of messages; not a list of such lists, and not an empty list. UsageError for what is no list."""
    items = checks.row("the chat", given, "a list of messages, or a list of such lists,")
    return len(items) > 0 and isinstance(items[0], Mapping)


def _one_each(params: Params, count: int, settings: Mapping[str, Any]) -> list[SamplingParams]:
    if params is None or isinstance(params, SamplingParams):
        return [_with(params or SamplingParams(), settings)] * count
    each = checks.row("params", params, "SamplingParams, or a list of them, one for each prompt,")
    if len(each) != count:
        raise UsageError(f"{len(each)} sets of sampling parameters were given for {count} prompts", hint="Give one, or one each.")
    return [_with(checks.instance("params", own, SamplingParams), settings) for own in each]


def _engine_config(config: EngineConfig | None, settings: Mapping[str, Any]) -> EngineConfig:
    if config is None:
        return EngineConfig.from_env(**_known(EngineConfig, settings))
    return _with(checks.instance("config", config, EngineConfig), settings)


def _tokenizer_file(given: str | Path | None) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, (str, Path)):
        raise checks.refuse("tokenizer", given, "the path of a file")
    return Path(given).expanduser()


def _with(config: Settings, settings: Mapping[str, Any]) -> Settings:
    return dataclasses.replace(config, **_known(type(config), settings))


def _known(kind: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    unknown = [name for name in settings if name not in names]
    if unknown:
        raise UsageError(f"unknown setting {unknown[0]!r}", hint=f"Known: {', '.join(names)}.")
    return dict(settings)


def _drain(streams: list[Stream]) -> list[Completion]:
    """Read all to their ends; whatever happens, none runs on."""
    try:
        for stream in streams:
            deque(stream, maxlen=0)
    finally:
        _close(streams)
    return [stream.completion for stream in streams]


def _close(streams: list[Stream]) -> None:
    for stream in streams:
        stream.close()
