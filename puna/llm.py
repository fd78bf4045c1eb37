"""LLM puts the parts together. START READING HERE.

`loading.py` opens a path as a checkpoint (`formats/`) with a tokenizer (`tokenizers/`), plans what memory it takes (`plan.py`),
and loads it into a backend (`backends/`), which computes the logits. The engine (`engine.py`) turns prompts into tokens, step
by step, and the runner (`runner.py`) steps it for all threads. What a call takes is in `calls.py`; the calls that look into runs
(trace, explore, compare, replay) are in `traceable.py`.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack, overload

from puna import beam_search, checks, embedding, formats, rerank, samples
from puna.backends.base import Backend, ProcessRank
from puna.batch import SamplingBatch
from puna.beam_search import Beam, BeamSearch, BeamSettings
from puna.calls import (
    BESIDE_FIELDS,
    CHAT_SETTINGS,
    ONE_PROMPT,
    CallSettings,
    Chat,
    Chats,
    ChatSettings,
    Params,
    Prompt,
    PromptJob,
    Prompts,
    as_conversation,
    is_conversation,
    is_prompt,
    require_one_each,
    schema_of,
)
from puna.chat import encode_chat, unread_args
from puna.completion import Completion, state_of
from puna.config import EngineConfig, EngineSettings
from puna.draft_model import ModelDrafter
from puna.embedding import DEFAULT_POOLING, EmbeddingJob, EmbeddingSettings
from puna.engine import Engine
from puna.errors import UsageError
from puna.filters import needed_filters
from puna.formats.base import Checkpoint
from puna.infill import InfillPrompt, encode_infill
from puna.loading import Footprint, Parts, load_beside, load_parts, suggestions_in
from puna.messages import Messages
from puna.model.spec import ModelConfig
from puna.opening import Opening
from puna.plan import Plan
from puna.pooling import Floats, Pooling
from puna.processors import PROCESSORS, checked_processors
from puna.progress import SILENT, BatchProgress, PlainReporter, Reporter
from puna.request import Request, SamplingParams, StepOutput
from puna.rerank import Ranked, RankingJob
from puna.runner import Call, Handle, Runner
from puna.sampling import TokenSampler, require_sampler
from puna.score import OptionIds, OptionScore, encode_options
from puna.suggested import Suggested
from puna.thinking import tags_of, with_separate_reasoning
from puna.tokenizers.base import Tokenizer
from puna.tokenizers.continuation import continuation_ids
from puna.traceable import Traceable
from puna.units import counted
from puna.variables import misspelt


class LLM(Traceable):
    """A loaded model. Any number of threads may use it.

    >>> with LLM() as llm:                                                                         # doctest: +SKIP
    ...     print(llm.chat("What is the capital of Peru?").text)
    The capital of Peru is Lima.
    """

    def __init__(
        self,
        path_or_name: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        tokenizer: str | Path | None = None,
        report: Reporter | None = None,
        check: Callable[[Checkpoint], None] | None = None,
        **settings: Unpack[EngineSettings],
    ) -> None:
        """Load a model: a path, a name in the cache, or None for the small default model.

        `settings` are fields of EngineConfig (`help(EngineConfig)` lists them); they override `config` or, without one, the
        `PUNA_...` variables. `tokenizer` is a file, or a folder with one, to use instead of the model's own. `report` receives
        progress and notices: None writes them to stderr, `puna.progress.SILENT` drops them. `check` receives the opened model
        before its weights are read, and raises to refuse it. A model that does not fit is refused before any memory is
        allocated.

        Under torchrun each process loads its part of the model. Only the first process returns from here; the others take part
        in its steps and end with it (SystemExit).
        """
        if not isinstance(path_or_name, str | Path | None):
            raise checks.refuse("the model", path_or_name, "a path, or the name of a model,")
        if report is not None and not isinstance(report, Reporter):
            raise checks.refuse("report", report, "an object with the methods progress and notice, such as puna.progress.SILENT,")
        if check is not None and not callable(check):
            raise checks.refuse("check", check, "a function of the opened model")
        if ProcessRank.from_env().rank > 0:
            report = SILENT  # only the first process reports
        plain = PlainReporter()
        try:
            told = plain if report is None else report
            for line in misspelt():
                told.notice(line)
            engine_config, tokenizer_file = _engine_config(config, settings), _tokenizer_file(tokenizer)
            self._assemble(load_parts(path_or_name, engine_config, tokenizer_file, told, check), told)
        finally:
            plain.close()

    @classmethod
    def load(
        cls,
        path_or_name: str | Path | None = None,
        config: EngineConfig | None = None,
        *,
        tokenizer: str | Path | None = None,
        report: Reporter | None = None,
        check: Callable[[Checkpoint], None] | None = None,
        **settings: Unpack[EngineSettings],
    ) -> Self:
        """The same as `LLM(...)`."""
        return cls(path_or_name, config, tokenizer=tokenizer, report=report, check=check, **settings)

    @classmethod
    def from_parts(
        cls,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer | None,
        backend: Backend,
        plan: Plan,
        config: EngineConfig,
        footprint: Footprint | None = None,
        report: Reporter = SILENT,
    ) -> Self:
        """An LLM whose backend has already loaded `checkpoint`."""
        llm = cls.__new__(cls)
        llm._assemble(Parts(checkpoint, tokenizer, backend, plan, config, footprint), report)
        return llm

    def _assemble(self, parts: Parts, report: Reporter) -> None:
        checkpoint, plan, config = parts.checkpoint, parts.plan, parts.config
        self.path = checkpoint.path
        self._checkpoint: Checkpoint | None = checkpoint  # until `close`; its weights are mapped files
        self.model: ModelConfig = checkpoint.config
        self._head = checkpoint.head
        self.pooling: Pooling = checkpoint.pooling or DEFAULT_POOLING  # of `embed`
        self.template_args: Mapping[str, Any] = {}  # variables of the chat template for every chat; those of a call win
        self.tokenizer = parts.tokenizer
        self.plan = plan
        self.footprint = parts.footprint
        self.config = config
        self.backend = parts.backend
        self.stored_pages, self._drafter = load_beside(parts, report)
        self.adapter_digests = {adapter.name: adapter.digest for adapter in checkpoint.adapters}
        self.engine = Engine(
            parts.backend,
            parts.tokenizer,
            plan,
            config,
            checkpoint.config,
            source=self.stored_pages,
            drafter=self._drafter,
            adapters=self.adapter_digests,
            report=report,
        )
        self.chat_template = checkpoint.chat_template
        self.runner = Runner(self.engine)
        self.suggested: Suggested = suggestions_in(checkpoint, plan, config)
        self.notices: tuple[str, ...] = (*checkpoint.notices, *self.suggested.lines())  # what users should know
        self._report = report
        self._told: set[str] = set()
        self._has_told_suggested = False
        for notice in checkpoint.notices:
            self._tell(notice)

    def __repr__(self) -> str:
        model = self.model
        state = "closed" if self.runner.is_closed else f"on {self.backend.info.name}"
        name = model.name or self.path.name
        return f"<LLM {name}: {model.architecture}, {model.num_layers} layers, context {self.plan.max_context}, {state}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "an LLM cannot be pickled or copied: its weights and its pages are memory of this process",
            hint="Load it in the process that uses it, with LLM(path); threads of one process can share it.",
        )

    @property
    def chat_template(self) -> str | None:
        """The template of chats: Jinja2 text, or the name of a built-in; None chooses a built-in by the vocabulary."""
        return self._chat_template

    @chat_template.setter
    def chat_template(self, template: str | None) -> None:
        self._chat_template = template
        self.engine.admission.think_tags = tags_of(template)

    @property
    def default_params(self) -> SamplingParams:
        """The parameters of a call that gives none: the model's suggestions, else the defaults of SamplingParams."""
        return SamplingParams(**self.suggested.settings)

    @overload
    def generate(
        self, prompts: str, params: Params = None, *, progress: bool | None = None, **settings: Unpack[CallSettings]
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompts: list[str] | list[list[int]],
        params: Params = None,
        *,
        progress: bool | None = None,
        **settings: Unpack[CallSettings],
    ) -> list[Completion]: ...
    @overload
    def generate(
        self, prompts: Sequence[int], params: Params = None, *, progress: bool | None = None, **settings: Unpack[CallSettings]
    ) -> Completion: ...
    def generate(
        self,
        prompts: Prompt | Prompts,
        params: Params = None,
        *,
        progress: bool | None = None,
        **settings: Unpack[CallSettings],
    ) -> Completion | list[Completion]:
        """Continue one prompt, or each of a list: text or token ids. They run together; each result is the same as alone.

        `settings` are fields of SamplingParams (`help(SamplingParams)` lists them). They override `params` or, without it, what
        the model suggests (`default_params`). `schema` is another name of `json_schema`: with a pydantic model,
        `Completion.parsed` is an instance of it; with a JSON schema, a JSON value. `progress`: whether to show progress through
        a list on stderr; None: if stderr is a terminal.
        """
        completions = _drain(self._open(self.jobs(prompts, params, settings)), progress)
        self.tell_shifted(completions)
        return completions[0] if is_prompt(prompts) else completions

    @overload
    def chat(
        self, messages: Chat, params: Params = None, *, progress: bool | None = None, **settings: Unpack[ChatSettings]
    ) -> Completion: ...
    @overload
    def chat(
        self, messages: list[str] | Sequence[Messages], params: Params = None, *, progress: bool | None = None,
        **settings: Unpack[ChatSettings],
    ) -> list[Completion]: ...  # fmt: skip
    def chat(
        self, messages: Chat | Chats, params: Params = None, *, progress: bool | None = None, **settings: Unpack[ChatSettings]
    ) -> Completion | list[Completion]:
        """Answer one conversation, or each of a list. A conversation is the user's text, or a list of messages.

        A message is a dict {"role": "system" | "developer" | "user" | "assistant" | "tool", "content": text}; the content may
        be a list of parts {"type": "text", "text": ...}, and an assistant's message may have "tool_calls". If the last
        message is the assistant's, it is continued. `settings` are those of `generate` and the arguments of `encode_chat`.
        """
        completions = _drain(self._open(self.chat_jobs(messages, params, settings)), progress)
        self.tell_shifted(completions)
        return completions[0] if is_conversation(messages) else completions

    @overload
    def stream(self, prompts: str, params: Params = None, **settings: Unpack[CallSettings]) -> Stream: ...
    @overload
    def stream(
        self, prompts: list[str] | list[list[int]], params: Params = None, **settings: Unpack[CallSettings]
    ) -> list[Stream]: ...
    @overload
    def stream(self, prompts: Sequence[int], params: Params = None, **settings: Unpack[CallSettings]) -> Stream: ...
    def stream(self, prompts: Prompt | Prompts, params: Params = None, **settings: Unpack[CallSettings]) -> Stream | list[Stream]:
        """Like `generate`, piece by piece. All streams advance together when any of them is read.

        `sampler` samples the tokens instead of `params`: an object with the method `sample(logits, history) -> int`, one for all
        prompts, or a list with one for each. `logits` are the next token's, (vocab_size,); they are overwritten after the call.
        `history` holds the ids so far, `prompt_ids` and `output_ids`. The fields of `params` that end a text still do. An
        exception of a sampler ends its request and is raised; the others go on. `generate` and the chat calls take a sampler too.

        `logits_processors`: functions (ids, logits) -> logits, which change the logits before the filters of `params`: `ids` are
        those of prompt and output so far; a function may change and return the array that it gets, (vocab_size,) float32.

        `opening`: what the answer begins with, whatever the model would say: a text, or token ids. It counts as generated. So any
        answer can be branched: its first ids, another one, and what the model says then.
        """
        streams = self._open(self.jobs(prompts, params, settings))
        return streams[0] if is_prompt(prompts) else streams

    @overload
    def chat_stream(self, messages: Chat, params: Params = None, **settings: Unpack[ChatSettings]) -> Stream: ...
    @overload
    def chat_stream(
        self, messages: list[str] | Sequence[Messages], params: Params = None, **settings: Unpack[ChatSettings]
    ) -> list[Stream]: ...
    def chat_stream(
        self, messages: Chat | Chats, params: Params = None, **settings: Unpack[ChatSettings]
    ) -> Stream | list[Stream]:
        """Like `chat`, piece by piece."""
        streams = self._open(self.chat_jobs(messages, params, settings))
        return streams[0] if is_conversation(messages) else streams

    @overload
    def score(self, prompts: str, options: Sequence[str], *, progress: bool | None = None) -> list[OptionScore]: ...
    @overload
    def score(
        self, prompts: list[str], options: Sequence[str] | Sequence[Sequence[str]], *, progress: bool | None = None
    ) -> list[list[OptionScore]]: ...
    @overload
    def score(
        self, prompts: list[list[int]], options: Sequence[Any], *, progress: bool | None = None
    ) -> list[list[OptionScore]]: ...
    @overload
    def score(
        self, prompts: Sequence[int], options: Sequence[Sequence[int]], *, progress: bool | None = None
    ) -> list[OptionScore]: ...
    def score(
        self, prompts: Prompt | Prompts, options: Sequence[Any], *, progress: bool | None = None
    ) -> list[OptionScore] | list[list[OptionScore]]:
        """How likely each option is after a prompt, in the order given; nothing is sampled.

        Texts, or token ids. For a list of prompts: options for all, or a list of them for each. Each score is the same as alone.

        >>> scores = llm.score("The capital of Peru is", [" Lima", " Oslo"])                          # doctest: +SKIP
        >>> max(scores, key=lambda score: score.mean_logprob).is_greedy                               # doctest: +SKIP
        True
        """
        pairs = self._pairs(prompts, options)
        call = Call()
        first = self._score([row[0] for row in pairs], progress, call)  # leaves each prompt's pages to its other options
        rest = iter(self._score([pair for row in pairs for pair in row[1:]], progress, call))
        scores = [[one, *islice(rest, len(row) - 1)] for one, row in zip(first, pairs, strict=True)]
        return scores[0] if is_prompt(prompts) else scores

    def _pairs(self, prompts: Prompt | Prompts, options: Sequence[Any]) -> list[list[OptionIds]]:
        if is_prompt(prompts):
            return [encode_options(prompts, options, self.tokenizer, self.plan.max_context)]  # type: ignore[arg-type]
        given = checks.row("the options", options, "a list of options, or of such lists,")
        is_shared = len(given) > 0 and is_prompt(given[0])
        each = [given] * len(prompts) if is_shared else given
        require_one_each("list of options", each, len(prompts))
        return [encode_options(*one, self.tokenizer, self.plan.max_context) for one in zip(prompts, each, strict=True)]  # type: ignore[arg-type]

    def _score(self, pairs: list[OptionIds], progress: bool | None, call: Call) -> list[OptionScore]:
        jobs = [PromptJob(pair.prompt_ids + pair.option_ids, pair.params, None) for pair in pairs]
        completions = _drain(self._open(jobs, call), progress) if jobs else []
        return [OptionScore.of(one, len(pair.prompt_ids)) for one, pair in zip(completions, pairs, strict=True)]

    def embed(self, prompts: Prompt | Prompts, **settings: Unpack[EmbeddingSettings]) -> Floats:
        """The embedding of one prompt, or of each of a list.  # (dimensions,), or (prompts, dimensions); float32

        `pooling`: how the hidden states of the tokens become one vector: mean, last, cls (the first); None: as the model's files
        say, else last. `normalize`: scale it to length 1 [True]. `dimensions`: keep only the first so many numbers, for models
        that were trained for that; None: all. `lora_name`: as for `generate`. Embeddings run beside generation; each is the same
        as alone, bit for bit. A prompt that is longer than the context raises ContextLengthError, and an empty text UsageError,
        unless the tokenizer adds a token of its own (BOS), whose embedding it then is.
        """
        rows = embedding.run(self.embedding_job(prompts, settings), self.runner)
        return rows[0] if is_prompt(prompts) else rows

    def beam_search(self, prompt: Prompt, **settings: Unpack[BeamSettings]) -> list[Beam]:
        """The most likely answers to a prompt that beam search finds, the best first; nothing is drawn.

        `width`: beginnings that are kept, and answers that are returned at most. 1..64 [4]. `max_tokens`: of an answer [64].
        `length_penalty`: answers are compared by logprob / tokens ** length_penalty: above 0 favours long ones [1.0].
        `early_stopping`: stop at `width` answers, even if a better one may follow [False]. `ignore_eos`, `stop_ids`: as in
        SamplingParams. The ids are those of transformers' `num_beams`. Each token of each beam is a request of its own.
        """
        ids = self.encode(prompt)
        search = self._beam_rules(beam_search.require_room(ids, self.plan.max_context), settings)
        return [self._spelled(beam, search.stop_ids) for beam in search.search(beam_search.logits_after(self.runner, ids))]

    def _beam_rules(self, room: int, settings: BeamSettings) -> BeamSearch:
        given: dict[str, Any] = dict(settings)
        ignores = checks.flag("ignore_eos", given.pop("ignore_eos", False))
        own = frozenset(self.default_params.stop_ids if self.tokenizer is None else self.tokenizer.stop_ids)
        stop_ids = frozenset(SamplingParams(stop_ids=given.pop("stop_ids", ())).stop_ids) | (frozenset() if ignores else own)
        self.engine.admission.require_ids("stop id", stop_ids)
        if (unknown := checks.unknown_setting(BeamSearch, given)) is not None:
            raise unknown
        search = BeamSearch(**given, stop_ids=stop_ids)
        return dataclasses.replace(search, max_tokens=min(search.max_tokens, room))

    def _spelled(self, beam: Beam, stop_ids: frozenset[int]) -> Beam:
        ids = beam.token_ids[:-1] if beam.token_ids[-1] in stop_ids else beam.token_ids
        return beam if self.tokenizer is None else dataclasses.replace(beam, text=self.tokenizer.decode(ids))

    def rerank(
        self, query: str, documents: Sequence[str], *, instruction: str | None = None, top_n: int | None = None
    ) -> list[Ranked]:
        """Score how well each document answers the query, and sort: the best first.

        A model with a head of its own (`...ForSequenceClassification`, GGUF's `cls.output`) gives its logit or, with two labels,
        the probability of "yes"; any other is asked, and the score is the probability of "yes" against "no". The prompt is
        Qwen3-Reranker's where the model has a chat template, with `instruction` for the task; else query and document follow each
        other. `top_n`: return only so many; None: all. No text may be empty. The documents run together; each score is the same
        as alone.
        """
        count = rerank.checked_count(top_n)
        return rerank.ranked(rerank.run(self.ranking_job(query, documents, instruction), self.runner), count)

    def ranking_job(self, query: str, documents: Sequence[str], instruction: str | None = None) -> RankingJob:
        """What `rerank` submits. All texts are checked and encoded before the first one runs."""
        asked, texts = rerank.checked_texts(query, documents)
        task = rerank.INSTRUCTION if instruction is None else rerank.checked_text("instruction", instruction)
        return self._scoring([self._ranking_prompt(asked, text, task) for text in texts])

    def _scoring(self, prompts: list[list[int]]) -> RankingJob:
        if self._head is None:
            return rerank.AnswerJob(prompts, *rerank.answer_ids(self._tokenizer_for("text")))
        return rerank.HeadJob(prompts, self._head)

    def _ranking_prompt(self, query: str, document: str, instruction: str) -> list[int]:
        tokenizer, template = self._tokenizer_for("text"), self.chat_template
        if template is None:
            return rerank.pair(tokenizer, query, document)
        args = {} if unread_args(rerank.NO_THINKING, template) else rerank.NO_THINKING
        messages = rerank.question(query, document, instruction)
        return encode_chat(messages, tokenizer, template, template_args=args, limit=self.plan.max_context)

    def embedding_job(self, prompts: Prompt | Prompts, settings: EmbeddingSettings) -> EmbeddingJob:
        """What `embed` submits. All prompts are checked and encoded before the first one runs."""
        several: Sequence[Any] = [prompts] if is_prompt(prompts) else prompts
        ids = [self._encoded_to_embed(number, prompt) for number, prompt in enumerate(several)]
        return EmbeddingJob.of(ids, self.model.hidden_size, self.pooling, settings)

    def _encoded_to_embed(self, number: int, prompt: Prompt) -> list[int]:
        """As `encode`, without the BOS that it gives to a prompt of no other id. UsageError where nothing is left."""
        ids, tokenizer = self.encode(prompt), self.tokenizer
        if isinstance(prompt, str) and tokenizer is not None and len(ids) < 2 and not tokenizer.encode(prompt):
            raise embedding.no_tokens(number, prompt)
        return ids

    def encode(self, prompt: Prompt) -> list[int]:
        """A prompt's token ids, with BOS if the model file asks for it or if the prompt has no other id.

        Raises ContextLengthError early for a text, or a row, that has more ids than the context holds.
        """
        if not isinstance(prompt, str):
            return checks.prompt_ids("the prompt", prompt, ONE_PROMPT, self.plan.max_context)
        tokenizer = self._tokenizer_for("text")
        ids = tokenizer.encode(prompt, limit=self.plan.max_context)
        return ids or ([] if tokenizer.bos_id is None else [tokenizer.bos_id])

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of token ids. `skip_special=False` also writes control tokens, as the vocabulary spells them."""
        row = checks.token_ids("the ids", checks.row("the ids", ids, "a row of token ids"))
        return self._tokenizer_for("ids").decode(row, skip_special=skip_special)

    def encode_chat(
        self,
        messages: Chat,
        *,
        template_args: Mapping[str, Any] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """The token ids of a conversation, up to where the answer begins. Raises ContextLengthError as `encode` does.

        `template_args` (or `chat_template_kwargs`, as vLLM calls them): variables of the model's chat template, such as
        {"enable_thinking": False}, or {"tools": [...]} with the JSON schemas of functions that the model may call.
        `continue_final_message`: None continues the last message if it is the assistant's; True requires such a message; False
        refuses it. `add_generation_prompt=False` adds no header for an answer.
        """
        tokenizer = self._tokenizer_for("a conversation")
        return encode_chat(
            as_conversation(messages),
            tokenizer,
            self.chat_template,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            template_args=self._template_args(template_args, chat_template_kwargs),
            limit=self.plan.max_context,
        )

    def encode_infill(self, before: str, after: str) -> InfillPrompt:
        """Ids that ask for the text between two texts, and the ids that end it; UsageError if the model cannot do it.

        >>> prompt = llm.encode_infill("def half(n): return ", " # exactly")                          # doctest: +SKIP
        >>> llm.generate(prompt.token_ids, stop_ids=prompt.stop_ids).text                             # doctest: +SKIP
        'n / 2'
        """
        checks.unicode("the suffix", checks.instance("the suffix", after, str))
        checks.unicode("the prompt", checks.instance("the prompt", before, str))
        return encode_infill(before, after, self._tokenizer_for("text"), limit=self.plan.max_context)

    def close(self) -> None:
        """End all requests and free the memory. Idempotent."""
        if self.stored_pages is not None:
            self.stored_pages.close()
        self.runner.close()
        self.backend.close()
        self._checkpoint = None
        if isinstance(self._drafter, ModelDrafter):
            self._drafter.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # ---- from prompts to streams --------------------------------------------------------------------------------------

    def jobs(self, prompts: Prompt | Prompts, params: Params, settings: CallSettings) -> list[PromptJob]:
        """What `stream` submits. All prompts are checked and encoded before the first one runs."""
        return self._jobs([prompts] if is_prompt(prompts) else prompts, self.encode, params, settings)

    def chat_jobs(self, messages: Chat | Chats, params: Params, settings: ChatSettings) -> list[PromptJob]:
        """What `chat_stream` submits."""
        of_chat: dict[str, Any] = {name: value for name, value in settings.items() if name in CHAT_SETTINGS}
        others = {name: value for name, value in settings.items() if name not in CHAT_SETTINGS}
        encode = partial(self.encode_chat, **of_chat)
        jobs = self._jobs([messages] if is_conversation(messages) else messages, encode, params, others)
        return [job._replace(params=with_separate_reasoning(job.params)) for job in jobs]

    def _jobs(
        self, items: Sequence[Any], encode: Callable[[Any], list[int]], params: Params, settings: Mapping[str, Any]
    ) -> list[PromptJob]:
        sampling = {name: value for name, value in settings.items() if name not in BESIDE_FIELDS}
        each = self._params_of(params, len(items), sampling | schema_of(settings))
        for own in {id(one): one for one in each}.values():
            self.engine.admission.constraints.require(own)  # here, and not in the thread that steps
        samplers = self._samplers_of(settings.get("sampler"), len(items))
        processors = checked_processors(settings.get(PROCESSORS))
        if processors and settings.get("sampler") is not None:
            raise UsageError("a sampler of your own takes the place of all logits_processors", hint="Give one of the two.")
        self._tell_host_samples(each)
        if self.stored_pages is not None:
            self.stored_pages.tell()
        opening = self._opening(settings.get("opening", ()))
        return [PromptJob(encode(item), *own, processors, opening) for item, own in zip(items, zip(each, samplers), strict=True)]

    def _opening(self, given: Any) -> Opening:
        """What an answer begins with."""
        if isinstance(given, str):
            text, limit = checks.unicode("opening", given), self.plan.max_context
            return Opening(tuple(continuation_ids(text, self._tokenizer_for("text"), limit)))
        return Opening(tuple(checks.token_ids("opening", checks.row("opening", given, ONE_PROMPT))))

    def _open(self, jobs: list[PromptJob], call: Call | None = None) -> list[Stream]:
        """One stream per job; none if the engine refuses one."""
        call = call or Call()
        streams = [Stream(samples.submit(self.runner, *job, call=call)) for job in jobs]
        try:
            for stream in streams:
                stream.handle.confirm()
        except BaseException:
            _close(streams)
            raise
        return streams

    def _params_of(self, params: Params, count: int, settings: Mapping[str, Any]) -> list[SamplingParams]:
        """The parameters of each of `count` prompts: `params`, else the model's suggestions; `settings` override both."""
        if params is None:
            own = dataclasses.replace(self.default_params, **settings)
            self._tell_suggested(settings)
            return [own] * count
        if isinstance(params, SamplingParams):
            return [dataclasses.replace(params, **settings)] * count
        each = checks.row("params", params, "SamplingParams, or a list of them, one for each prompt,")
        require_one_each("set of sampling parameters", each, count)
        return [dataclasses.replace(checks.instance("params", own, SamplingParams), **settings) for own in each]

    def _samplers_of(self, given: Any, count: int) -> list[TokenSampler | None]:
        """The caller's sampler of each of `count` prompts, or None."""
        if given is None:
            return [None] * count
        each = given if checks.is_row(given) else [given] * count
        require_one_each("sampler", each, count)
        return [require_sampler(one) for one in each]

    def _template_args(self, given: Mapping[str, Any] | None, by_other_name: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The template variables of a chat. A notice names those that the template never reads."""
        if given is not None and by_other_name is not None:
            raise UsageError("template_args and chat_template_kwargs are two names of one argument", hint="Give one of them.")
        own = by_other_name if given is None else given
        if own is not None and not isinstance(own, Mapping):
            raise checks.refuse("template_args", own, "a dict {name: value}")
        together = {**self.template_args, **(own or {})}
        for name in unread_args(together, self.chat_template) if together else ():
            self._tell(f"the chat template of this model does not read {name}: it has no effect")
        return together

    def tell_shifted(self, completions: Sequence[Completion]) -> None:
        """Report that contexts were shifted, once for a call."""
        if shifted := [one.num_dropped for one in completions if one.num_dropped]:
            answers, tokens = counted(len(shifted), "answer"), counted(sum(shifted), "token")
            self._report.notice(
                f"{answers} filled the context of {self.plan.max_context} tokens and went on without {tokens}, the oldest"
            )

    def _tell_suggested(self, settings: Mapping[str, Any]) -> None:
        """Report once which of the model's suggestions apply besides the caller's `settings`."""
        if not self._has_told_suggested:
            self._has_told_suggested = True
            for line in self.suggested.lines(settings):
                self._report.notice(line)

    def _tell_host_samples(self, params: Sequence[SamplingParams]) -> None:
        """Report once each way of sampling that a device which samples by itself does not have."""
        known = self.backend.filters
        for filters in {needed_filters(own) for own in params} if known else ():
            lacking = [name for name in filters if name not in known]
            if lacking or not SamplingBatch.describes(filters):
                what = f"does not have {', '.join(lacking)}" if lacking else f"does not have the order {', '.join(filters)}"
                self._tell(f"{self.backend.info.name} {what}: the CPU samples, and {self.backend.info.name} waits for it")

    def _tell(self, notice: str) -> None:
        """Report a notice, once, and keep it."""
        if notice not in self._told:
            self._told.add(notice)
            self._report.notice(notice)
        if notice not in self.notices:
            self.notices += (notice,)

    def _tokenizer_for(self, what: str) -> Tokenizer:
        if self.tokenizer is None:
            raise UsageError(f"{self.path} has no tokenizer, so {what} cannot be read", hint=formats.what_to_give(self.notices))
        return self.tokenizer


class Stream(Iterator[StepOutput]):
    """The pieces of one completion as they come; afterwards `completion` is the whole. Closing the stream ends the request.

    Any thread may read or close a stream: each piece goes to one reader, and all readers end when the stream does.
    """

    def __init__(self, handle: Handle) -> None:
        self.handle = handle

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StepOutput:
        try:
            return next(self.handle)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Stream {state_of(self.handle)}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "a Stream cannot be pickled or copied: it belongs to a model in this process",
            hint="Read it to its end, and send its completion.",
        )

    @property
    def request(self) -> Request:
        return self.handle.confirm()

    @property
    def done(self) -> bool:
        """Whether the request has ended."""
        return self.handle.ended_at > 0

    @property
    def completion(self) -> Completion:
        """The whole completion. UsageError until the request has ended."""
        return Completion.of(self.handle)

    def close(self) -> None:
        """End the request if it still runs. Idempotent."""
        self.handle.close()


def _engine_config(config: EngineConfig | None, settings: Mapping[str, Any]) -> EngineConfig:
    if config is None:
        return EngineConfig.from_env(**settings)
    return dataclasses.replace(checks.instance("config", config, EngineConfig), **settings)


def _tokenizer_file(given: str | Path | None) -> Path | None:
    if given is None:
        return None
    if not isinstance(given, (str, Path)):
        raise checks.refuse("tokenizer", given, "the path of a file")
    return Path(given).expanduser()


def _drain(streams: list[Stream], progress: bool | None) -> list[Completion]:
    """Read all streams to their ends. If anything is raised, close them all."""
    is_shown = checks.optional(checks.flag)("progress", progress)
    bar = BatchProgress(len(streams)) if is_shown or (is_shown is None and len(streams) > 1 and sys.stderr.isatty()) else None
    try:
        for stream in streams:
            for _ in stream:
                if bar is not None and bar.is_due:
                    bar.show(*_how_far(streams))
    finally:
        _close(streams)
        if bar is not None:
            bar.end(*_how_far(streams))
    return [stream.completion for stream in streams]


def _how_far(streams: list[Stream]) -> tuple[int, int]:
    """(finished requests, tokens of all requests)"""
    requests = [stream.request for stream in streams]
    return sum(one.finish_reason is not None for one in requests), sum(len(one.output_ids) for one in requests)


def _close(streams: list[Stream]) -> None:
    for stream in streams:
        stream.close()
