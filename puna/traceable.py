"""The glass box of a loaded model: trace a run, explore and compare its answers, write a receipt of one, and replay it.

`LLM` inherits these calls. What they do is in `glassbox/`; here it meets a model's runner, its files and its settings.
"""

from __future__ import annotations

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast, overload

from puna import checks
from puna.backends.base import Backend
from puna.calls import CallSettings, Chat, Chats, ChatSettings, Params, Prompt, PromptJob, Prompts, is_conversation, is_prompt
from puna.completion import Completion
from puna.config import EngineConfig
from puna.engine import Engine
from puna.errors import UsageError
from puna.formats.base import Checkpoint
from puna.formats.digest import content_digest, tokenizer_digest
from puna.messages import Messages
from puna.model.spec import ModelConfig
from puna.opening import NO_OPENING
from puna.plan import Plan, kv_bytes, offloaded_bytes, read_by_type
from puna.progress import Reporter
from puna.request import SamplingParams
from puna.runner import Runner
from puna.tokenizers.base import Tokenizer

if TYPE_CHECKING:  # the glass box is imported when a run is looked at: it would take 40 ms of each start
    from puna.glassbox.against import FirstRun, Side
    from puna.glassbox.diff import OtherRun, RunDiff
    from puna.glassbox.explorer import Explorer
    from puna.glassbox.layers import LayerChoice
    from puna.glassbox.receipt import Fingerprint, Receipt
    from puna.glassbox.record import Recording, TracedModel
    from puna.glassbox.replay import Replay, ReplayJob
    from puna.glassbox.trace import Trace


class TraceArguments(TypedDict, total=False):
    """Arguments of a trace besides those of any call; `LLM.trace` explains them."""

    top: int
    first: int | None
    layers: LayerChoice
    max_candidates: int


class TraceSettings(CallSettings, TraceArguments, total=False):
    """Arguments of `LLM.trace`."""


class ChatTraceSettings(ChatSettings, TraceArguments, total=False):
    """Arguments of `LLM.chat_trace`."""


class Traceable(ABC):
    """A loaded model whose runs can be looked at."""

    path: Path
    model: ModelConfig
    tokenizer: Tokenizer | None
    plan: Plan
    config: EngineConfig
    backend: Backend
    engine: Engine
    runner: Runner
    adapter_digests: Mapping[str, str]
    _checkpoint: Checkpoint | None
    _report: Reporter

    @property
    @abstractmethod
    def default_params(self) -> SamplingParams:
        """The parameters of a call that gives none."""

    @abstractmethod
    def jobs(self, prompts: Prompt | Prompts, params: Params, settings: CallSettings) -> list[PromptJob]:
        """What the runner gets of some prompts."""

    @abstractmethod
    def chat_jobs(self, messages: Chat | Chats, params: Params, settings: ChatSettings) -> list[PromptJob]:
        """What the runner gets of some conversations."""

    @overload
    def trace(self, prompts: str, params: Params = None, **settings: Unpack[TraceSettings]) -> Trace: ...
    @overload
    def trace(
        self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Unpack[TraceSettings]
    ) -> list[Trace]: ...
    @overload
    def trace(self, prompts: Sequence[int], params: Params = None, **settings: Unpack[TraceSettings]) -> Trace: ...
    def trace(self, prompts: Prompt | Prompts, params: Params = None, **settings: Unpack[TraceSettings]) -> Trace | list[Trace]:
        """Like `generate`, but returns all that happened: the prompt's tokens and, for each step, the candidates after the model
        and after each filter, what each removed, the number that was drawn and where it fell, why the answer ended, and times.
        The tokens and the log-probabilities are those of `generate`, bit for bit, with the same seed. A list of prompts runs
        together; each trace shows its row in the padded batch that Meta's `generate` would make of all of them.

        `top`: the most likely candidates that each stage shows; 0: no stages. 0..1000 [10]. `first`: with an `opening`, the
        first of its tokens that is traced; None: none of them is. So an answer that is already there can be looked at: with all
        its ids as the opening, `first=0` and `max_tokens=len(ids)`, the steps are those of the run that made it, if the settings
        are.
        `layers`: where to look inside: a list of steps of the answer, from 0 (-1 is the last token of the prompt); "answer",
        "prompt", "all", or True: the answer's first 8 tokens. There `Trace.layers` has, after each layer, what the model would
        answer (the logit lens), and how each head weighs the positions before. That passes the text through the model once more,
        slowly, by numpy. UsageError for a step before the prompt, InsufficientMemoryError if a layer does not fit as float32.
        [False: nowhere]
        `max_candidates`: a trace leaves out the steps after so many, and says how many; each takes some 300 bytes. [200000]
        """
        from puna.glassbox.record import run

        traces = run(self.recording(prompts, params, settings))
        return traces[0] if is_prompt(prompts) else traces

    @overload
    def chat_trace(self, messages: Chat, params: Params = None, **settings: Unpack[ChatTraceSettings]) -> Trace: ...
    @overload
    def chat_trace(
        self, messages: list[str] | Sequence[Messages], params: Params = None, **settings: Unpack[ChatTraceSettings]
    ) -> list[Trace]: ...
    def chat_trace(
        self, messages: Chat | Chats, params: Params = None, **settings: Unpack[ChatTraceSettings]
    ) -> Trace | list[Trace]:
        """Like `trace`, of the answer to a conversation, as `chat` gives it, or to each of a list."""
        from puna.glassbox.record import run

        traces = run(self.chat_recording(messages, params, settings))
        return traces[0] if is_conversation(messages) else traces

    def recording(self, prompts: Prompt | Prompts, params: Params, settings: TraceSettings) -> Recording:
        """What `trace` runs. All prompts are checked and encoded before the first one runs."""
        own, others = _of_trace(settings)
        return self._recording([prompts] if is_prompt(prompts) else prompts, own, lambda: self.jobs(prompts, params, others))

    def chat_recording(self, messages: Chat | Chats, params: Params, settings: ChatTraceSettings) -> Recording:
        """What `chat_trace` runs."""
        own, others = _of_trace(settings)
        given: Sequence[Any] = [messages] if is_conversation(messages) else messages
        return self._recording(given, own, lambda: self.chat_jobs(messages, params, others))

    def _recording(self, given: Sequence[Any], own: TraceArguments, encode: Callable[[], list[PromptJob]]) -> Recording:
        from puna.glassbox.layers import LayerLook, checked_choice
        from puna.glassbox.record import Recording, text_of
        from puna.glassbox.recorder import MAX_CANDIDATES, MOST_CANDIDATES

        choice = checked_choice(own.get("layers", False))
        look = None if choice is False else LayerLook(self._opened(), choice, self._report)
        top = checks.whole("top", own.get("top", 10), 0, 1000)
        most = checks.whole("max_candidates", own.get("max_candidates", MAX_CANDIDATES), 1, MOST_CANDIDATES)
        started = time.perf_counter()
        jobs = encode()
        seconds = time.perf_counter() - started
        return Recording(
            self.runner, self.traced_model, [traced_from(job, own.get("first")) for job in jobs],
            given=list(map(text_of, given)), tokenizer_s=seconds, top=top, max_candidates=most, look=look,
        )  # fmt: skip

    def explore(self, prompt: Prompt, params: Params = None, *, top: int = 10, **settings: Unpack[CallSettings]) -> Explorer:
        """A tree of answers to a prompt. `Explorer.start` makes the first one; then an answer can be branched at any token, a
        step sampled with other settings, and options ranked. The arguments are those of `trace`; `top`: 1..1000 [10].
        """
        return self._explore(prompt, lambda: self.jobs(prompt, params, settings), is_prompt(prompt), top)

    def chat_explore(self, messages: Chat, params: Params = None, *, top: int = 10, **settings: Unpack[ChatSettings]) -> Explorer:
        """Like `explore`, of the answers to a conversation."""
        return self._explore(messages, lambda: self.chat_jobs(messages, params, settings), is_conversation(messages), top)

    def _explore(self, given: Prompt | Chat, encode: Callable[[], list[PromptJob]], is_one: bool, top: int) -> Explorer:
        from puna.glassbox.explorer import Explorer

        if not is_one:
            raise UsageError("one prompt is explored, and a list of them is given", hint="Explore them one after the other.")
        count, started = checks.whole("top", top, 1, 1000), time.perf_counter()
        (job,) = encode()
        if job.sampler is not None or job.opening.token_ids:
            raise UsageError("an explorer samples by params and begins with nothing", hint="Leave sampler and opening out.")
        seconds, text = time.perf_counter() - started, given if isinstance(given, str) else None
        return Explorer(
            self.runner, self.engine.admission, self.traced_model, job.prompt_ids, job.params, job.processors,
            given=text, tokenizer_s=seconds, top=count,
        )  # fmt: skip

    def diff(
        self,
        prompt: Prompt,
        params: Params = None,
        *,
        other: Traceable | None = None,
        changed: Mapping[str, Any] | None = None,
        **settings: Unpack[CallSettings],
    ) -> RunDiff:
        """Run a prompt here, and again with another model or other settings, and compare: where the answers part, how far the
        models' probabilities are apart for each token of the first answer (KL), and the first layer whose hidden states differ.

        `other`: the model of the second run; None: this one. `changed`: its sampling parameters that differ, such as
        {"temperature": 0.7}; a seed that was drawn for the first run is used for both. UsageError if the vocabularies differ.
        """
        return self._diff(prompt, lambda: self.jobs(prompt, params, settings), is_prompt(prompt), other or self, changed or {})

    def chat_diff(
        self,
        messages: Chat,
        params: Params = None,
        *,
        other: Traceable | None = None,
        changed: Mapping[str, Any] | None = None,
        **settings: Unpack[ChatSettings],
    ) -> RunDiff:
        """Like `diff`, of the answers to a conversation. Both models get the same tokens, by the template of this one."""
        jobs = partial(self.chat_jobs, messages, params, settings)
        return self._diff(messages, jobs, is_conversation(messages), other or self, changed or {})

    def _diff(
        self,
        given: Prompt | Chat,
        encode: Callable[[], list[PromptJob]],
        is_one: bool,
        other: Traceable,
        changed: Mapping[str, Any],
    ) -> RunDiff:
        from puna.glassbox.against import compared

        if not is_one:
            raise UsageError(
                "a comparison is of one prompt, and a list of them is given", hint="Compare them one after the other."
            )
        (job,) = encode()
        first = self.first_run(job)
        name = ", ".join([*([] if other is self else [str(other.path)]), *(f"{key}={value}" for key, value in changed.items())])
        return compared(first, [other.run_against(first, name, changed)])

    def first_run(self, job: PromptJob) -> FirstRun:
        """Run a prompt, and keep what another run is compared with. This model may then be closed."""
        from puna.glassbox.against import first_run

        if job.sampler is not None or job.processors or job.opening != NO_OPENING:
            raise UsageError("a comparison takes no sampler, logits_processors or opening", hint="Leave them out.")
        return first_run(self._side(str(self.path)), job.prompt_ids, job.params)

    def run_against(self, first: FirstRun, name: str, changed: Mapping[str, Any]) -> OtherRun:
        """Run a prompt that another model, or this one, ran first, with `changed` sampling parameters, and compare."""
        from puna.glassbox.against import other_run

        params = dataclasses.replace(first.completion.params or self.default_params, **changed)
        return other_run(first, self._side(name), params, self._report)

    def _side(self, name: str) -> Side:
        from puna.glassbox.against import Side

        plan, checkpoint = self.plan, self._opened()
        source = (str(self.path.resolve()), *self.config.lora)
        return Side(name, self.runner, self.traced_model, checkpoint, plan.weights, plan.kv_type, source)

    def receipt(self, completion: Completion) -> Receipt:
        """All that a finished completion of this model depended on, and its tokens, for `replay`. Reads all weights, once.

        Of several samples (`n`), each has its own: `[llm.receipt(one) for one in completion.choices]`. UsageError for a run that
        samplers or logits processors of the caller's own took part in, or whose thinking somebody ended by hand.
        """
        from puna.glassbox.receipt import Receipt

        info, params = self.backend.info, completion.params
        adapter = self.adapter_digests.get(params.lora_name, "") if params is not None and params.lora_name else ""
        return Receipt.of(completion, str(self.path), self.fingerprint, info.name, info.description, adapter)

    def replay(self, receipt: Receipt) -> Replay:
        """Run the prompt of a receipt again, and compare token for token. UsageError if it is of other weights, or if the adapter
        that it names is another one.

        On another backend, or with another type of weights or K and V, a run may turn where two tokens are nearly as likely:
        `Replay.difference` has the step, both candidates and their margin.
        """
        return self.replay_job(receipt).run()

    def replay_job(self, receipt: Receipt) -> ReplayJob:
        """What `replay` runs. Reads all weights, once."""
        from puna.glassbox.replay import ReplayJob

        receipt.require_same(self.fingerprint, str(self.path), self.adapter_digests)
        receipt.require_tokens(self.model.vocab_size)
        return ReplayJob(self.runner, self.traced_model, receipt)

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """Digests of the weights and of the tokenizer. UsageError once the model is closed."""
        from puna.glassbox.receipt import Fingerprint

        checkpoint = self._opened()
        return Fingerprint(content_digest(checkpoint), tokenizer_digest(checkpoint.tokenizer))

    def _opened(self) -> Checkpoint:
        """The model's file. UsageError once the model is closed."""
        if self._checkpoint is None:
            raise UsageError("the model was closed", hint="Load it again.")
        return self._checkpoint

    @property
    def traced_model(self) -> TracedModel:
        """What a trace says of this model."""
        from puna.glassbox.record import TracedModel

        per_token = kv_bytes(self.model, 1, self.plan.kv_type, self.plan.layout.value_multiple)
        read = sum(read_by_type(self.model, self.plan).values()) + offloaded_bytes(self.plan)
        return TracedModel(str(self.path), self.backend.info.name, self.tokenizer, self.plan.max_context, per_token, read)


def traced_from(job: PromptJob, first: int | None) -> PromptJob:
    """The job, whose opening is traced from token `first` on; None: not at all. UsageError if it has no such token."""
    last = len(job.opening.token_ids)
    if first is None:
        return job
    if not last:
        raise UsageError(f"first is {first}, and the answer has no opening", hint="Give the ids of the answer as the opening.")
    return job._replace(opening=dataclasses.replace(job.opening, sampled_from=checks.whole("first", first, 0, last)))


def _of_trace(settings: Mapping[str, Any]) -> tuple[TraceArguments, Any]:
    """The arguments of a trace, and those of its call."""
    own = {name: value for name, value in settings.items() if name in TraceArguments.__annotations__}
    return cast(TraceArguments, own), {name: value for name, value in settings.items() if name not in own}
